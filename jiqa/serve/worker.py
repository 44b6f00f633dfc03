"""The metric in a process of its own, which is killed and started anew when it takes too long or dies."""

import logging
import multiprocessing
import signal

from jiqa.data import sandbox
from jiqa.errors import UserError
from jiqa.serve.upload import formats

LOG = logging.getLogger("jiqa.serve")
START_SECONDS = 300  # for loading a metric and compiling its first program
FACTS = ("name", "weights_sha256", "card", "scale", "saliency")  # of a backend
# A forked process would inherit locks of threads that it does not have.
CONTEXT = multiprocessing.get_context("spawn")


class Lost(UserError):
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
    vars(self).update(facts)

  def score(self, files, saliency):
    """What `score_files` gives; raises Lost, after which `restart` is needed."""
    return self._answer(self._seconds, (files, saliency))

  def stop(self):
    """Ends the process at once; a `score` that waits for it raises Lost."""
    if self._process:
      self._process.kill()
      self._process.join()

  def _answer(self, seconds, question=None):
    try:
      if question:
        self._pipe.send(question)
      if self._pipe.poll(seconds):
        return self._pipe.recv()
    except (EOFError, OSError) as error:
      raise Lost("the process that scores ended") from error
    raise Lost(f"took longer than {seconds:g} s")


def _work(pipe, make):
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the server decides
  try:
    backend = make()
    backend.warm_up()
    pipe.send({key: getattr(backend, key) for key in FACTS})
    while True:
      pipe.send(score_files(backend.score, *pipe.recv()))
  except UserError as error:
    pipe.send(error)
  except (EOFError, ConnectionError):
    pass  # the server is gone


def score_files(score, files, saliency):
  """Decodes the bytes of files and scores them with `score`, see `Backend.score`.

  A dict for every file; an empty list where several fail together, which may be the fault of one.
  """
  rows, images = {}, {}
  for i, data in enumerate(files):
    try:
      images[i] = sandbox.decode(data, "image", formats())
    except Exception as error:
      rows[i] = failure(error)
  try:
    scored = score(list(images.values()), [saliency[i] for i in images]) if images else []
  except Exception as error:
    if len(files) > 1:
      return []
    scored = [failure(error)]
  rows |= zip(images, scored, strict=True)
  return [rows[i] for i in range(len(files))]


def failure(error):
  """What the sender learns of an exception: the reason if it is the image's fault, else only that it failed."""
  if isinstance(error, UserError):
    return {"error": str(error).removeprefix("image: ")}
  LOG.error("an image could not be scored", exc_info=error)
  return {"error": "could not be scored because of an error in the server, whose log has the details"}
