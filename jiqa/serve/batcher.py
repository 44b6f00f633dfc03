"""Brings the images of all requests together: one bounded queue, whose batches a worker scores one after the other."""

import asyncio
import collections
import math
import time
from typing import NamedTuple

from jiqa.serve.upload import Image, busy
from jiqa.serve.worker import LOG, Lost, failure

LONGEST_WAIT = 60  # seconds that a refused client is asked to wait, at most
FAREWELL = 5  # seconds that the last batch has, once nobody waits for it
PAUSE = 5  # seconds between attempts to start a worker that cannot be started


class _Job(NamedTuple):
  image: Image
  saliency: bool
  future: asyncio.Future
  alone: bool = False  # in a batch of its own, because one of several took too long


class Batcher:
  """A queue before a `Worker`, or what scores like one, which is called in a thread.

  While one batch is on the device, images of any number of requests gather and form the next one: no image waits
  for company, and a busy server scores larger batches. `unfinished` is the number of images that wait or are being
  scored, `status` "ok", "restarting" while a worker is started anew, "stopping" once nothing more is taken.
  """

  def __init__(self, worker, limits):
    self._scorer, self._limits = worker, limits
    self.unfinished, self.status = 0, "ok"
    self._jobs, self._worker, self._seconds_each = collections.deque(), None, 0.1

  def check_room(self, images=1):
    """Raises Refused (503) unless so many images could be submitted now."""
    if self.status == "stopping":
      raise busy(LONGEST_WAIT)
    if self.unfinished + images > self._limits.images_waiting:
      raise busy(min(LONGEST_WAIT, max(1, math.ceil(self.unfinished * self._seconds_each / 2))))

  def submit(self, images, saliency=False):
    """Queues a list of upload.Image, all or, where there is no room for them (Refused), none.

    Returns a list of asyncio.Future of what `score` gives for an image; cancelling one that waits takes it out.
    """
    self.check_room(len(images))
    loop = asyncio.get_running_loop()
    jobs = [_Job(image, saliency, loop.create_future()) for image in images]
    self._jobs.extend(jobs)
    self.unfinished += len(jobs)
    if self._worker is None or self._worker.done():
      self._worker = asyncio.create_task(self._work())
    return [job.future for job in jobs]

  async def close(self):
    """Takes nothing more, and returns when all that waits is scored or FAREWELL seconds have passed."""
    self.status = "stopping"
    if self._worker is not None:
      await asyncio.wait([self._worker], timeout=FAREWELL)
    self._scorer.stop()

  async def _work(self):
    while self._jobs:
      batch = self._take()
      jobs = [job for job in batch if not job.future.cancelled()]
      if jobs:
        await self._score(jobs)
      self.unfinished -= len(batch)

  async def _score(self, jobs):
    started = time.perf_counter()
    files, saliency = [job.image.data for job in jobs], [job.saliency for job in jobs]
    try:
      rows = await asyncio.to_thread(self._scorer.score, files, saliency)
    except Exception as error:
      LOG.error("a batch of %d images was lost: %s", len(jobs), error)
      rows = [{"error": f"could not be scored: {error}"}] if isinstance(error, Lost) else [failure(error)]
      await self._restart()
    if len(rows) < len(jobs):  # whose fault it was shows when each is scored alone
      self._jobs.extendleft(job._replace(alone=True) for job in reversed(jobs))
      self.unfinished += len(jobs)
      return
    for job, row in zip(jobs, rows, strict=True):
      job.image.data = b""
      if not job.future.cancelled():
        job.future.set_result(row)
    self._seconds_each += 0.3 * ((time.perf_counter() - started) / len(jobs) - self._seconds_each)

  async def _restart(self):
    while self.status != "stopping":
      self.status = "restarting"
      try:
        await asyncio.to_thread(self._scorer.restart)
      except Exception:
        LOG.exception("the process that scores cannot be started")
        await asyncio.sleep(PAUSE)
      else:
        self.status = "ok" if self.status == "restarting" else self.status
        return

  def _take(self):
    batch, pixels = [], 0
    while self._jobs and len(batch) < self._limits.batch_images:
      image = self._jobs[0].image
      pixels += image.width * image.height
      if batch and (pixels > self._limits.batch_pixels or batch[-1].alone or self._jobs[0].alone):
        break
      batch.append(self._jobs.popleft())
    return batch
