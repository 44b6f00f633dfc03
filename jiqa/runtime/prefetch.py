"""Batches on the devices before the step asks for them."""

import queue
import threading
import time

from jiqa.runtime.sharding import put_batch


class Prefetch:
  """Moves batches to the devices in a thread of its own while steps run.

  At most two wait there besides the one in use: one in line, one in the thread's hand. What the thread raises, the
  consumer gets, after the batches that came before.

  Args:
    batches: iterator over dicts of NumPy arrays.
    mesh: the devices.

  Attributes:
    waited: seconds for which the consumer has waited for batches so far.
  """

  def __init__(self, batches, mesh):
    self._batches, self._mesh = batches, mesh
    self._line, self._closed = queue.Queue(1), threading.Event()
    self.waited = 0.0
    self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *_):
    self._closed.set()
    self._thread.join(timeout=5)  # a thread that hangs in a read must not keep the run from ending

  def __iter__(self):
    return self

  def __next__(self):
    start = time.perf_counter()
    batch, error = self._line.get()
    self.waited += time.perf_counter() - start
    if error is not None:
      raise error
    return batch

  def _run(self):
    while not self._closed.is_set():
      try:
        item = put_batch(next(self._batches), self._mesh), None
      except BaseException as error:  # whatever ends this thread must reach the one that waits for it
        item = None, error
      while not self._closed.is_set():
        try:
          self._line.put(item, timeout=0.1)
          break
        except queue.Full:
          continue
      if item[1] is not None:
        return
