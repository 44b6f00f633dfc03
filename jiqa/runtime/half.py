"""Parameters kept at the precision of float16, as the published training of LIQE keeps them.

There the weights themselves are float16: they are cast up for the optimiser's step and back after it, so an update of
less than half the distance to the next float16 number is lost. That is most updates of most weights at its learning
rate, and part of what the method does.
"""

import jax
import jax.numpy as jnp
import optax

# What CLIP keeps in float32 beside its layer norms.
FULL = ("token_embedding", "positional_embedding", "class_embedding", "logit_scale")
SMALLEST_NORMAL, SUBNORMAL_STEP = 2.0**-14, 2.0**-24


def round_to_half(x):
  """The nearest numbers that float16 has, halfway cases to even, as float32; XLA may leave out a cast there and back.

  Args:
    x: float32 array.

  Returns:
    float32 array; infinite beyond 65,504.

  Example:
    >>> round_to_half(jnp.float32(0.1)).item(), round_to_half(jnp.float32(1e-7)).item()
    (0.0999755859375, 1.1920928955078125e-07)
  """
  normal = jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)
  small = jnp.round(x / SUBNORMAL_STEP) * SUBNORMAL_STEP
  return jnp.where(jnp.abs(x) < SMALLEST_NORMAL, small, normal)


def half_set(params):
  """True for what CLIP's published training keeps in float16: products' kernels and biases, and both projections.

  Args:
    params: nested dict of arrays.

  Returns:
    The same with bools.

  Example:
    >>> half_set({"ln_1": {"scale": 1, "bias": 1}, "attn": {"kernel": 1, "bias": 1}, "positional_embedding": 1})
    {'ln_1': {'bias': False, 'scale': False}, 'attn': {'kernel': True, 'bias': True}, 'positional_embedding': False}
  """

  def visit(node, name):
    if not isinstance(node, dict):
      return name not in FULL
    if "scale" in node or name in FULL:  # a layer norm, or an embedding
      return jax.tree.map(lambda _: False, node)
    return {key: visit(child, key) for key, child in node.items()}

  return visit(params, "")


def round_half_set(params):
  """Parameters with those of `half_set` rounded to float16."""
  return jax.tree.map(lambda p, half: round_to_half(p) if half else p, params, half_set(params))


def half_rounding():
  """A gradient transformation, the last of a chain: updates that lead to parameters rounded by `round_half_set`."""

  def update(updates, state, params):
    rounded = round_half_set(optax.apply_updates(params, updates))
    # The difference of two float16 numbers, and its sum with the first, are exact in float32 but for the very largest.
    halves = half_set(params)
    return jax.tree.map(lambda u, r, p, half: r - p if half else u, updates, rounded, params, halves), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
