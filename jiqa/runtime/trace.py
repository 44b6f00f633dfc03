"""A trace of a few steps for TensorBoard's or XProf's profiler, asked for with --profile."""

import jax

FIRST, COUNT = 5, 3


class Trace:
  """Records steps FIRST to FIRST + COUNT - 1 of this process, when the first ones have warmed up.

  Args:
    folder: where the trace goes; None records nothing.
    start: first step of this process.
  """

  def __init__(self, folder, start):
    self._folder, self._first, self._runs = folder, start + FIRST, False

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._end()

  def before(self, step, finished):
    """Starts or ends the recording; call before every step.

    Args:
      step: int.
      finished: arrays of the step before: the recording starts and ends when the devices are done with them.
    """
    if self._folder is not None and step == self._first:
      jax.block_until_ready(finished)
      jax.profiler.start_trace(str(self._folder))
      self._runs = True
    elif step == self._first + COUNT:
      jax.block_until_ready(finished)
      self._end()

  def _end(self):
    if self._runs:
      jax.profiler.stop_trace()
      self._runs = False
