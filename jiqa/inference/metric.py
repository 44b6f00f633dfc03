"""The metric: images in, scores out, in batches of padded frames on all devices."""

import collections
import hashlib
import os
import time
from concurrent import futures
from typing import NamedTuple

import numpy as np

from jiqa.errors import UserError
from jiqa.inference.buckets import Buckets, bucketed_batches
from jiqa.inference.inputs import as_items, load
from jiqa.runtime import host_memory

# Pixels of a batch. A CPU computes one image a device as fast as many; an accelerator wants its memory filled.
PIXELS_PER_BATCH = {"cpu": 1}
ON_ACCELERATORS = 2**24
# Batches, and bytes of them, that may wait for their program while others compute.
MOST_HELD, MOST_HELD_BYTES = 4, 2**27
# Images after which freed memory is given back, which takes less than a hundredth of their time.
BETWEEN_GIVING_BACK = 64
SEVERAL = "+"  # between the checksums of several networks


class Scored(NamedTuple):
  """One image's result.

  Attributes:
    index: place among the items.
    name: of the item.
    outputs: dict of NumPy values, 'score' float or 'features' [d] among them; None where there is an error.
    height, width: pixels.
    seconds: of reading and decoding, and this image's part of its batch.
    error: text, '' where there is none.
    crops: of how many crops the score is; 0 where the image was seen as a whole.
  """

  index: int
  name: str
  outputs: dict | None
  height: int
  width: int
  seconds: float
  error: str = ""
  crops: int = 0


class Scores:
  """Scores of n images, in the order in which they were handed over.

  Attributes:
    names: list of n str.
    score: [n] float64.
    columns: dict from name to [n, ...] array of whatever else the model says.
  """

  def __init__(self, names, score, columns):
    self.names, self.score, self.columns = names, score, columns

  def __len__(self):
    return len(self.names)

  def __float__(self):
    """The score of a single image."""
    if len(self) != 1:
      raise TypeError(f"{len(self)} scores are not one number; use .score")
    return float(self.score[0])

  def __repr__(self):
    shown = ", ".join(f"{name}: {score:.4g}" for name, score in zip(self.names[:3], self.score[:3], strict=True))
    return f"Scores({shown}{', ...' if len(self) > 3 else ''})"


class Metric:
  """What `jiqa.load` returns: call it with images.

  Args:
    models: list of `Model`; the features of several are joined in this order.
    head: Head or None; needed where the models give features and no score.
    mesh: the devices.

  Attributes:
    card: dict of plain values: what it was trained on and how, range and direction of the score, input policy, licence.
    weights_sha256: checksum of the weights, of several joined by +.
    head_sha256: checksum of the head, "" where there is none.
  """

  def __init__(self, models, head, mesh, card):
    self.models, self.head, self.mesh, self.card = models, head, mesh, card
    self.weights_sha256 = SEVERAL.join(model.card["weights_sha256"] for model in models)
    self.head_sha256 = "" if head is None else _checksum(head)
    self._frames = Buckets()

  def check_scores(self):
    """Raises a UserError where there is neither a score in what the model gives nor a head that makes one."""
    how = "Fit one to your own ratings with `jiqa fit`, or name one: --head=FILE, jiqa.load(head=FILE)"
    if self.head is None and len(self.models) > 1:
      names = " and ".join(str(model.folder) for model in self.models)
      raise UserError(f"{names}: the score of several networks is that of a head for their joined features. {how}")
    if self.head is None and "score" not in self.models[0].gives():
      raise UserError(f"{self.models[0].folder}: gives features; a score needs a head. {how}")

  def __call__(self, images):
    """Scores images.

    Args:
      images: an image or a list of images of any sizes: path or address, PIL image, [h, w, 3] array (NumPy, JAX) of
        uint8 or of floats in [0, 1]; or a [n, h, w, 3] array.

    Returns:
      Scores.

    Raises:
      UserError: naming the image that cannot be read or has a wrong shape, type or range; or the model gives
        features and there is no head.
    """
    self.check_scores()
    items, rows = self._all(images)
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0] if name not in ("score", "features")}
    return Scores([item.name for item in items], np.array([row["score"] for row in rows], np.float64), columns)

  def features(self, images):
    """Features of images, before any head.

    Args:
      images: as for a call.

    Returns:
      [n, d] float32.

    Raises:
      UserError: as for a call; or the model gives no features.
    """
    self.check_features()
    rows = self._all(images)[1]
    return np.stack([row["features"] for row in rows])

  def check_features(self):
    """Raises a UserError where a model gives no features."""
    for model in self.models:
      if "features" not in model.gives():
        raise UserError(f"{model.folder}: method {model.name!r} gives scores and no features")

  def likeliest(self, outputs):
    """The likeliest class, and its probability, of every answer of one image that is a distribution over classes."""
    return probabilities(outputs)

  def _all(self, images):
    items, rows = as_items(images), {}
    for found in self.stream(items):
      if found.error:
        raise UserError(found.error)
      rows[found.index] = found.outputs
    return items, [rows[i] for i in range(len(items))]

  def stream(self, items, threads=None):
    """Scores items one batch after the other, in bounded memory; decodes ahead of the devices in threads.

    Args:
      items: iterable of inputs.Item; those of a generator are taken as they are needed.
      threads: that read and decode; None: one a core, at most 16.

    Yields:
      Scored, in the order in which batches are complete. What cannot be read is yielded with an error.
    """
    pixels = PIXELS_PER_BATCH.get(self.mesh.devices.flat[0].platform, ON_ACCELERATORS)
    unread, read = collections.deque(), {}

    def readable():
      for index, item, (views, size, seconds, error) in ahead(enumerate(items), self._read, threads):
        if error:
          unread.append(Scored(index, item.name, None, *size, seconds, error))
        else:
          crops = max(len(view) if view.ndim == 4 else 0 for view in views.values())
          read[index] = item.name, size, seconds, crops
          yield index, views

    def finished(indices, outputs, started):
      outputs = self._finish([{name: np.asarray(x) for name, x in part.items()} for part in outputs], len(indices))
      share = (time.perf_counter() - started) / len(indices)
      for row, index in enumerate(indices):
        name, size, seconds, crops = read.pop(index)
        own = {key: value[row] for key, value in outputs.items()}
        yield Scored(index, name, own, *size, seconds + share, crops=crops)

    # The device computes one batch while the results of the one before are fetched.
    running, since = None, 0
    for indices, parts, programs in self._in_turn(bucketed_batches(readable(), pixels, self.mesh.size, self._frames)):
      started = time.perf_counter()
      outputs = [program(part) for program, part in zip(programs, parts, strict=True)]
      if running:
        yield from finished(*running)
      running, since = (indices, outputs, started), since + len(indices)
      if since >= BETWEEN_GIVING_BACK:
        since = 0
        host_memory.give_back()
      while unread:
        yield unread.popleft()
    if running:
      yield from finished(*running)
    yield from unread

  def _in_turn(self, batches):
    """Batches with the programs that predict them; those whose programs are still being made let others pass.

    Args:
      batches: from `bucketed_batches`.

    Yields:
      (indices, list with the batch of every model, list of their programs, see `Model.program`).
    """
    held = collections.deque()
    for indices, batch in batches:
      parts = [_of(batch, number) for number in range(len(self.models))]
      held.append((indices, parts, [model.program(part) for model, part in zip(self.models, parts, strict=True)]))
      yield from _released(held, MOST_HELD, MOST_HELD_BYTES)
    yield from _released(held, 0, 0)

  def _read(self, item):
    """(views, (height, width), seconds, error) of an item; in a thread."""
    started = time.perf_counter()
    size, views, told = (0, 0), None, ""
    try:
      image = load(item)
      size = image.shape[:2]
      views = {
        f"{number}:{name}": view
        for number, model in enumerate(self.models)
        for name, view in model.method.preprocess_eval(image).items()
      }
    except UserError as error:
      told = str(error) if size == (0, 0) else f"{item.name}: {error}"
    return views, size, time.perf_counter() - started, told

  def _finish(self, outputs, count):
    """Outputs of all models, whole batches, to those of the metric, `count` rows."""
    outputs = [{name: value[:count] for name, value in part.items()} for part in outputs]
    joined = dict(outputs[0]) if len(outputs) == 1 else {}
    if all("features" in part for part in outputs):
      joined["features"] = np.concatenate([part["features"] for part in outputs], 1)
    if self.head is not None:
      joined["score"] = self.head(joined["features"])
    return joined


def _checksum(head):
  digest = hashlib.sha256()
  for part in (head.weights, head.mean, head.scale, head.intercept):
    digest.update(np.ascontiguousarray(part, np.float64).tobytes())
  return digest.hexdigest()[:16]


def _released(held, most, most_bytes):
  """Takes out of `held` what can be computed, and waits for a program as long as more is held than may be."""
  while held:
    missing = [[program for program in programs if not program.done()] for _, _, programs in held]
    place = next((place for place, waits in enumerate(missing) if not waits), None)
    size = sum(array.nbytes for _, parts, _ in held for part in parts for array in part.values())
    if place is None:
      if len(held) <= most and size <= most_bytes:
        return
      futures.wait([program for waits in missing for program in waits], return_when=futures.FIRST_COMPLETED)
      continue
    indices, parts, programs = held[place]
    del held[place]
    yield indices, parts, [program.result() for program in programs]


def _of(batch, number):
  """The views of one model, under its own names for them."""
  prefix = f"{number}:"
  return {name.removeprefix(prefix): views for name, views in batch.items() if name.startswith(prefix)}


def ahead(numbered, function, threads=None):
  """Calls a function in threads, a few items ahead of whoever takes the results.

  Args:
    numbered: iterable of (index, item).
    function: of an item.
    threads: int; None: one a core, at most 16.

  Yields:
    (index, item, result), in order.
  """
  threads = threads or min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), 16)
  waiting = collections.deque()
  pool = futures.ThreadPoolExecutor(threads)
  try:
    for index, item in numbered:
      waiting.append((index, item, pool.submit(function, item)))
      if len(waiting) > 2 * threads:
        index, item, result = waiting.popleft()
        yield index, item, result.result()
    while waiting:
      index, item, result = waiting.popleft()
      yield index, item, result.result()
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


def probabilities(outputs):
  """The answers of an image that are probabilities over named classes.

  Args:
    outputs: dict of one image's outputs.

  Returns:
    dict from name, such as 'scene', to (likeliest class, its probability).

  Example:
    >>> probabilities({"score": 3.0, "scene": np.eye(9)[2]})
    {'scene': ('human', 1.0)}
  """
  from jiqa.methods.liqe._prompts import TASKS  # reads tables, which takes pandas

  return {
    name: (TASKS[name][int(np.argmax(outputs[name]))], float(np.max(outputs[name])))
    for name in ("scene", "distortion")
    if name in outputs
  }
