"""Batches on the devices before the step asks for them."""

import contextlib
import queue
import threading
import time

from jiqa.runtime.sharding import put_batch


class Prefetch:
  """Moves batches, dicts of NumPy arrays, to the devices in a thread while steps run; `next` gives them.

  At most two wait there besides the one in use: one in the queue, one in the thread's hand. What the thread raises, the
  consumer gets, after the batches that came before. `waited` are the seconds for which it has waited so far.
  """

  def __init__(self, batches, mesh):
    self._batches, self._mesh, self._queue = batches, mesh, queue.Queue(1)
    self._closed, self.waited = False, 0.0
    self._thread = threading.Thread(target=self._fill, name="prefetch", daemon=True)

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *_):
    self._closed = True
    with contextlib.suppress(queue.Empty):
      self._queue.get_nowait()  # a thread that waits for room can go on, and end
    self._thread.join(timeout=5)  # one that hangs in a read must not keep the run from ending

  def __next__(self):
    start = time.perf_counter()
    batch, error = self._queue.get()
    self.waited += time.perf_counter() - start
    if error is not None:
      raise error
    return batch

  def _fill(self):
    try:
      while not self._closed:
        self._queue.put((put_batch(next(self._batches), self._mesh), None))
    except BaseException as error:  # whatever ends this thread must reach the one that waits for it
      self._queue.put((None, error))
