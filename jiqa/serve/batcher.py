"""Brings the images of all requests together: one bounded queue, one thread that decodes and scores batches."""

import collections
import concurrent.futures
import dataclasses
import logging
import math
import threading
import time

from jiqa.data.decode import decode_rgb
from jiqa.errors import UserError
from jiqa.serve.limits import formats

LOG = logging.getLogger("jiqa.serve")
NAMELESS = "image"  # the answer has its name
LONGEST_WAIT = 60  # seconds that a refused client is asked to wait, at most


class Full(Exception):
  """No room for so many images now; `retry_after` is a guess in seconds."""

  def __init__(self, retry_after):
    super().__init__(f"try again in {retry_after} s")
    self.retry_after = retry_after


@dataclasses.dataclass
class _Job:
  image: object
  saliency: bool
  future: concurrent.futures.Future


class Batcher:
  """A queue before a function that scores.

  While one batch is on the device, images of any number of requests gather and form the next one: no image waits
  for company, and a busy server scores larger batches.

  Args:
    score: function (list of [h, w, 3] uint8, list of bool: saliency wanted) -> list with a dict for every
      image, or a UserError in its place. The images of a batch that fails as a whole are scored one by one.
    limits: Limits.
  """

  def __init__(self, score, limits):
    self._score, self._limits = score, limits
    self._jobs, self._changed = collections.deque(), threading.Condition()
    self._unfinished, self._closing, self._seconds_each = 0, False, 0.1
    self._thread = threading.Thread(target=self._run, name="jiqa-scores", daemon=True)

  def start(self):
    self._thread.start()

  @property
  def alive(self):
    """True while images are scored."""
    return self._thread.is_alive() and not self._closing

  @property
  def unfinished(self):
    """Number of images that wait or are being scored."""
    return self._unfinished

  def check_room(self, images=1):
    """Raises Full unless so many images could be submitted now."""
    if self._closing:
      raise Full(LONGEST_WAIT)
    if self._unfinished + images > self._limits.images_waiting:
      raise Full(min(LONGEST_WAIT, max(1, math.ceil(self._unfinished * self._seconds_each / 2))))

  def submit(self, images, saliency=False):
    """Queues all of these images or none.

    Args:
      images: list of upload.Image.
      saliency: whether a map is wanted.

    Returns:
      list of concurrent.futures.Future; cancelling one that waits takes it out. Their results are what `score` gave;
      their exception is a UserError, whatever happened.

    Raises:
      Full: there is no room for all.
    """
    with self._changed:
      self.check_room(len(images))
      jobs = [_Job(image, saliency, concurrent.futures.Future()) for image in images]
      self._jobs.extend(jobs)
      self._unfinished += len(jobs)
      self._changed.notify()
    return [job.future for job in jobs]

  def close(self):
    """Takes nothing more, scores what waits, and returns when that is done."""
    with self._changed:
      self._closing = True
      self._changed.notify()
    if self._thread.is_alive():
      self._thread.join()

  def _run(self):
    while True:
      with self._changed:
        self._changed.wait_for(lambda: self._jobs or self._closing)
        if not self._jobs:
          return
        taken = self._take()
      started = time.perf_counter()
      jobs = [job for job in taken if job.future.set_running_or_notify_cancel()]
      self._answer(jobs)
      with self._changed:
        self._unfinished -= len(taken)
        if jobs:
          self._seconds_each += 0.3 * ((time.perf_counter() - started) / len(jobs) - self._seconds_each)

  def _take(self):
    taken, pixels = [], 0
    while self._jobs and len(taken) < self._limits.batch_images:
      image = self._jobs[0].image
      pixels += image.width * image.height
      if taken and pixels > self._limits.batch_pixels:
        break
      taken.append(self._jobs.popleft())
    return taken

  def _answer(self, jobs):
    images = []
    for job in jobs:
      try:
        images.append((job, decode_rgb(job.image.data, NAMELESS, formats())))
      except Exception as error:
        job.future.set_exception(_told(error))
      job.image.data = b""
    if images and not self._try(images):
      for one in images:
        self._try([one])

  def _try(self, images):
    """Scores decoded images; False where several failed together and should be tried one by one."""
    try:
      rows = self._score([image for _, image in images], [job.saliency for job, _ in images])
    except Exception as error:
      if len(images) > 1:
        return False
      images[0][0].future.set_exception(_told(error))
      return True
    for (job, _), row in zip(images, rows, strict=True):
      (job.future.set_exception if isinstance(row, UserError) else job.future.set_result)(row)
    return True


def _told(error):
  """What the sender is told of an exception: the reason if it is the image's fault, else only that it failed."""
  if isinstance(error, UserError):
    return UserError(str(error).removeprefix(f"{NAMELESS}: "))
  LOG.error("an image could not be scored", exc_info=error)
  return UserError("could not be scored because of an error in the server, whose log has the details")
