"""The metric in a process of its own, which is killed and started anew when it takes too long or dies."""

import logging
import multiprocessing
import os
import signal

from jiqa.data.decode import decode_rgb
from jiqa.errors import UserError
from jiqa.serve.upload import formats

LOG = logging.getLogger("jiqa.serve")
START_SECONDS = 300  # for loading a metric and compiling its first program
FACTS = ("name", "weights_sha256", "card", "scale", "saliency")  # of a backend
# A forked process would share locks of threads that it does not have.
CONTEXT = multiprocessing.get_context("spawn")


class Lost(Exception):
  """The process was over its deadline, or is gone; the message is for whoever sent the images."""


class Worker:
  """A backend, made by `make()` in a process of its own, that scores the bytes of files; has the backend's FACTS.

  One caller at a time. `make` must be picklable; a UserError that it or the warming up raises is raised here.
  """

  def __init__(self, make, seconds):
    self._make, self._seconds, self._process = make, seconds, None
    self.restart()

  def restart(self):
    """Kills the process, if there is one, and returns when a new one can score."""
    self.stop()
    self._pipe, theirs = CONTEXT.Pipe()
    self._process = CONTEXT.Process(target=_work, args=(theirs, self._make), name="jiqa-worker", daemon=True)
    self._process.start()
    theirs.close()
    facts = self._answer(START_SECONDS)
    if isinstance(facts, UserError):
      raise facts
    for key, value in facts.items():
      setattr(self, key, value)

  def score(self, files, saliency):
    """What `score_files` gives; raises Lost, after which `restart` is needed."""
    try:
      self._pipe.send((files, saliency))
    except OSError as error:
      raise Lost("the process that scores ended") from error
    return self._answer(self._seconds)

  def stop(self):
    """Ends the process at once; a `score` that waits for it raises Lost."""
    if self._process:
      self._process.kill()
      self._process.join()

  def _answer(self, seconds):
    try:
      if not self._pipe.poll(seconds):
        raise Lost(f"took longer than {seconds:g} s")
      return self._pipe.recv()
    except (EOFError, OSError) as error:
      raise Lost("the process that scores ended") from error


def _work(pipe, make):
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the server decides
  try:
    backend = make()
    backend.warm_up()
    pipe.send({key: getattr(backend, key) for key in FACTS})
  except UserError as error:
    pipe.send(error)
    return
  try:
    while True:
      pipe.send(score_files(backend.score, *pipe.recv()))
  except (EOFError, OSError):  # the server is gone
    os._exit(0)


def score_files(score, files, saliency):
  """Decodes the bytes of files and scores them with `score`, see `Backend.score`; a dict for every file."""
  rows, images = {}, {}
  for i, data in enumerate(files):
    try:
      images[i] = decode_rgb(data, "image", formats())
    except Exception as error:
      rows[i] = failure(error)
  scored = _scored(score, list(images.values()), [saliency[i] for i in images])
  rows |= zip(images, scored, strict=True)
  return [rows[i] for i in range(len(files))]


def _scored(score, images, saliency):
  """Scores decoded images together, or one by one where that fails."""
  try:
    return score(images, saliency) if images else []
  except Exception as error:
    if len(images) == 1:
      return [failure(error)]
  return [row for pair in zip(images, saliency, strict=True) for row in _scored(score, *([one] for one in pair))]


def failure(error):
  """What the sender is told of an exception: the reason if it is the image's fault, else only that it failed."""
  if isinstance(error, UserError):
    return {"error": str(error).removeprefix("image: ")}
  LOG.error("an image could not be scored", exc_info=error)
  return {"error": "could not be scored because of an error in the server, whose log has the details"}
