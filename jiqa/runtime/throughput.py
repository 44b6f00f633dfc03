"""How fast a run is, and what keeps it from being faster."""

import time

import jax

from jiqa.runtime import flops


class Throughput:
  """Measures between records.

  Args:
    images_per_step: int.
    operations: model FLOPs of a step on all devices, see `flops.count`.
    mesh: the devices of the run.
    prefetch: Prefetch.
  """

  def __init__(self, images_per_step, operations, mesh, prefetch):
    devices = list(mesh.devices.flat)
    self._images, self._operations, self._prefetch = images_per_step, operations, prefetch
    self._devices, self._peak = devices, flops.peak(devices[0].device_kind)
    self._own = [device for device in devices if device.process_index == jax.process_index()]
    self.skip()

  def skip(self):
    """What has passed since the last record does not count as training."""
    self._since, self._steps, self._waited = time.perf_counter(), 0, self._prefetch.waited

  def step(self):
    """Counts one finished step."""
    self._steps += 1

  def read(self):
    """What has been measured since the last record.

    Returns:
      dict of floats: 'images_per_second'; 'input_wait', the share of the time in which the host waited for a batch, at
      least as large as the share in which the devices did; 'tflops_per_second' of all devices, model FLOPs only; 'mfu',
      the same as a share of the devices' peak, where that is known; 'device_memory_bytes', the most that one device has
      held so far, where the backend says it.
    """
    seconds = time.perf_counter() - self._since
    rate = self._steps / seconds
    values = {
      "images_per_second": round(self._images * rate, 2),
      "input_wait": round((self._prefetch.waited - self._waited) / seconds, 4),
      "tflops_per_second": float(f"{self._operations * rate / 1e12:.4g}"),
    }
    if self._peak:
      values["mfu"] = round(self._operations * rate / (self._peak * len(self._devices)), 4)
    memory = [statistics["peak_bytes_in_use"] for x in self._own if (statistics := x.memory_stats())]
    if memory:
      values["device_memory_bytes"] = max(memory)
    self.skip()
    return values
