"""Brings the images of all requests together: one bounded queue, batches decoded and scored in a thread."""

import asyncio
import collections
import logging
import math
import time
from typing import NamedTuple

from jiqa.data.decode import decode_rgb
from jiqa.errors import UserError
from jiqa.serve.upload import Image, busy, formats

LOG = logging.getLogger("jiqa.serve")
LONGEST_WAIT = 60  # seconds that a refused client is asked to wait, at most


class _Job(NamedTuple):
  image: Image
  saliency: bool
  future: asyncio.Future


class Batcher:
  """A queue before `score`, which is called as `Backend.score` in a thread.

  While one batch is on the device, images of any number of requests gather and form the next one: no image waits
  for company, and a busy server scores larger batches. `unfinished` is the number of images that wait or are being
  scored, `closing` True once nothing more is taken.
  """

  def __init__(self, score, limits):
    self._score, self._limits = score, limits
    self.unfinished, self.closing = 0, False
    self._jobs, self._worker, self._seconds_each = collections.deque(), None, 0.1

  def check_room(self, images=1):
    """Raises Refused (503) unless so many images could be submitted now."""
    if self.closing:
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
    """Takes nothing more and returns when all that waits is scored."""
    self.closing = True
    if self._worker is not None:
      await self._worker

  async def _work(self):
    while self._jobs:
      batch = self._take()
      jobs = [job for job in batch if not job.future.cancelled()]
      started = time.perf_counter()
      rows = await asyncio.to_thread(self._rows, jobs)
      for job, row in zip(jobs, rows, strict=True):
        if not job.future.cancelled():
          job.future.set_result(row)
      self.unfinished -= len(batch)
      if jobs:
        self._seconds_each += 0.3 * ((time.perf_counter() - started) / len(jobs) - self._seconds_each)

  def _take(self):
    batch, pixels = [], 0
    while self._jobs and len(batch) < self._limits.batch_images:
      image = self._jobs[0].image
      pixels += image.width * image.height
      if batch and pixels > self._limits.batch_pixels:
        break
      batch.append(self._jobs.popleft())
    return batch

  def _rows(self, jobs):
    """Decodes and scores; a dict for every job."""
    rows, images = {}, {}
    for i, job in enumerate(jobs):
      try:
        images[i] = decode_rgb(job.image.data, "image", formats())
      except Exception as error:
        rows[i] = _failure(error)
      job.image.data = b""
    scored = self._scored(list(images.values()), [jobs[i].saliency for i in images])
    rows |= zip(images, scored, strict=True)
    return [rows[i] for i in range(len(jobs))]

  def _scored(self, images, saliency):
    """Scores decoded images together, or one by one where that fails."""
    try:
      return self._score(images, saliency) if images else []
    except Exception as error:
      if len(images) == 1:
        return [_failure(error)]
    return [row for pair in zip(images, saliency, strict=True) for row in self._scored(*([one] for one in pair))]


def _failure(error):
  """What the sender is told of an exception: the reason if it is the image's fault, else only that it failed."""
  if isinstance(error, UserError):
    return {"error": str(error).removeprefix("image: ")}
  LOG.error("an image could not be scored", exc_info=error)
  return {"error": "could not be scored because of an error in the server, whose log has the details"}
