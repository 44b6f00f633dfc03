"""Arithmetic of a step, counted from its definition; what the accelerators could do at best.

Counted are matrix products and convolutions, a multiplication and an addition as two operations, as papers count model
FLOPs: not what is computed a second time to save memory (`config.remat`), and nothing inside
`jax.named_scope(AUGMENT)`, which prepares pixels. A ResNet's stem counts as it is computed, with 64 taps for 49 (see
resnet.Stem): 0.9 % of a ResNet-50.
"""

import math

AUGMENT = "augment"
_NOT_COUNTED = (AUGMENT, "rematted_computation")

# Dense bfloat16 operations a second of one device as jax counts devices, from the vendors' data sheets, by the
# beginning of jax's device_kind.
PEAK = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5p": 459e12,
  "TPU v5": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "NVIDIA A100": 312e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H200": 989e12,
  "NVIDIA L4": 121e12,
}


def peak(device_kind):
  """Operations a second of a device; None where no data sheet is known, as for CPUs.

  Example:
    >>> peak("NVIDIA H100 80GB HBM3"), peak("cpu")
    (989000000000000.0, None)
  """
  known = [name for name in PEAK if device_kind.startswith(name)]
  return PEAK[max(known, key=len)] if known else None


def count(jaxpr, scope=""):
  """Operations of a traced program, on all devices together.

  Args:
    jaxpr: ClosedJaxpr or Jaxpr, such as `jax.jit(f).trace(x).jaxpr`. Of branches the dearest counts, of a while
      loop one turn.
    scope: the names that the program stands in already.

  Returns:
    float.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> count(jax.make_jaxpr(lambda x: x @ x)(jnp.ones((10, 10))))
    2000.0
  """
  total = 0.0
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    names = f"{scope}/{equation.source_info.name_stack}"
    if any(word in names for word in _NOT_COUNTED):
      continue
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
      (contracted, _), _ = parameters["dimension_numbers"]
      left = equation.invars[0].aval.shape
      total += 2.0 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    elif name == "conv_general_dilated":
      total += _convolution(equation)
    else:
      inner = [count(part, names) for part in _programs(parameters)]
      total += max(inner, default=0.0) if name == "cond" else sum(inner) * parameters.get("length", 1)
  return total


def _programs(parameters):
  for value in parameters.values():
    for part in value if isinstance(value, tuple | list) else (value,):
      if hasattr(part, "eqns") or hasattr(part, "jaxpr"):
        yield part


def _convolution(equation):
  """Operations of a convolution, without those on the zeros that a strided one's gradient puts between its pixels."""
  numbers = equation.params["dimension_numbers"]
  kernel = equation.invars[1].aval.shape
  taps = math.prod(kernel[axis] for axis in numbers.rhs_spec[2:]) * kernel[numbers.rhs_spec[1]]
  return 2.0 * equation.outvars[0].aval.size * taps / math.prod(equation.params["lhs_dilation"])
