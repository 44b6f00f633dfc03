"""How fast a run is and what keeps it from being faster: model FLOPs, rates, waits, traces of the profiler."""

import contextlib
import math
import time

import jax

# Dense bfloat16 operations a second of one device as jax counts devices, from the vendors' data sheets, by the
# beginning of jax's device_kind.
PEAK_FLOPS = {
  "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5p": 459e12, "TPU v5": 459e12,
  "TPU v6 lite": 918e12, "TPU v6e": 918e12,
  "NVIDIA A100": 312e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA H100": 989e12, "NVIDIA H200": 989e12, "NVIDIA L4": 121e12,
  "NVIDIA RTX A4000": 76.7e12,
}  # fmt: skip
# What prepares pixels, inside `jax.named_scope("augment")`; covariances for normalisation; what config.remat computes a
# second time.
_NOT_COUNTED = ("augment", "statistics", "rematted_computation")


def peak_flops(device_kind):
  """Operations a second of a device; None where no data sheet is known, as for CPUs."""
  names = [name for name in PEAK_FLOPS if device_kind.startswith(name)]
  return PEAK_FLOPS[max(names, key=len)] if names else None


def count_flops(jaxpr, scope=""):
  """Model FLOPs of a traced program on all devices, as papers count them: matrix products and convolutions.

  Of branches the dearest counts, of a while loop one turn. `scope` are the names that the program stands in.

  >>> count_flops(jax.make_jaxpr(lambda x: x @ x)(jax.numpy.ones((10, 10))))
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
      numbers, kernel = parameters["dimension_numbers"], equation.invars[1].aval.shape
      taps = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])
      # A strided convolution's gradient puts zeros between its pixels; operations on them do not count.
      total += 2.0 * equation.outvars[0].aval.size * taps / math.prod(parameters["lhs_dilation"])
    else:
      programs = [x for x in jax.tree.leaves(list(parameters.values())) if hasattr(x, "eqns") or hasattr(x, "jaxpr")]
      inner = [count_flops(program, names) for program in programs]
      total += max(inner, default=0.0) if name == "cond" else sum(inner) * parameters.get("length", 1)
  return total


class Throughput:
  """Rates between one record and the next; `flops` are those of a step on all devices."""

  def __init__(self, images_per_step, flops, mesh, prefetch):
    self._images, self._flops, self._prefetch = images_per_step, flops, prefetch
    self._devices = mesh.local_devices
    self._peak = mesh.size * (peak_flops(mesh.devices.flat[0].device_kind) or 0)
    self.skip()

  def skip(self):
    """What has passed since the last record does not count as training."""
    self._since, self._steps, self._waited = time.perf_counter(), 0, self._prefetch.waited

  def step(self):
    """Counts one finished step."""
    self._steps += 1

  def read(self):
    """What has been measured since the last record, dict of floats.

    'input_wait' is the share of the time in which the host waited for a batch, at least that in which the devices did;
    'mfu' the share of the devices' peak, where that is known; 'device_memory_bytes' the most that one device has held.
    """
    seconds = time.perf_counter() - self._since
    rate = self._steps / seconds
    values = {
      "images_per_second": round(self._images * rate, 2),
      "input_wait": round((self._prefetch.waited - self._waited) / seconds, 4),
      "tflops_per_second": float(f"{self._flops * rate / 1e12:.4g}"),
    }
    if self._peak:
      values["mfu"] = round(self._flops * rate / self._peak, 4)
    if memory := [statistics["peak_bytes_in_use"] for x in self._devices if (statistics := x.memory_stats())]:
      values["device_memory_bytes"] = max(memory)
    self.skip()
    return values


class Trace(contextlib.ExitStack):
  """Records the sixth to eighth step from `start` on into `folder`, if that is given, for TensorBoard or XProf."""

  def __init__(self, folder, start):
    super().__init__()
    self._folder, self._first = folder, start + 5

  def before(self, step, finished):
    """Starts or ends the recording before `step`, when the devices have computed the arrays `finished`."""
    if self._folder is not None and step in (self._first, self._first + 3):
      jax.block_until_ready(finished)
      self.close()
      if step == self._first:
        self.enter_context(jax.profiler.trace(str(self._folder)))
