"""Images in, predictions out: the one loop that validation, evaluation, scoring, heads and the server share.

Threads read, decode and preprocess; batches of one bucket go to all devices; programs are compiled in a thread while
other batches compute.
"""

import collections
import functools
import os
import sys
import time
from concurrent import futures
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from jiqa.errors import UserError
from jiqa.inference.buckets import bucketed_batches
from jiqa.inference.inputs import Item, load
from jiqa.runtime import host_memory
from jiqa.runtime.distributed import all_gather_rows, is_main
from jiqa.runtime.sharding import batch_sharding, local_mesh, on_local_devices, put_batch

# Pixels of a batch. A CPU computes one image a device as fast as many; an accelerator wants its memory filled.
PIXELS_ON_CPU, PIXELS_ON_ACCELERATORS = 1, 2**24
# Batches, and bytes of them, that may wait for their program while others compute.
MAX_HELD, MAX_HELD_BYTES = 4, 2**27
# Images after which freed memory is given back, which takes less than a hundredth of their time.
IMAGES_BETWEEN_TRIMS = 64


class Prediction(NamedTuple):
  """What is predicted of one image; sorted, predictions stand in the order of the items."""

  index: int  # position among the items
  name: str  # of the item
  outputs: dict | None  # of NumPy values, 'score' float or 'features' [d] among them; None where there is an error
  height: int
  width: int
  seconds: float  # of reading and decoding, and this image's share of its batch
  error: str = ""  # '' where there is none
  crops: int = 0  # of how many crops the score is; 0 where the image was seen as a whole


class Programs:
  """The compiled predictions of a method on local devices, one for every shape of a batch, whatever the weights."""

  def __init__(self, method, mesh):
    self.mesh, self._predict = mesh, jax.jit(method.predict)
    self.precompute = jax.jit(method.precompute)
    self._programs, self._compiler = {}, futures.ThreadPoolExecutor(1, "compile")

  def __call__(self, weights, batch):
    """A Future of the program for batches like this one, compiled in a thread."""
    shapes = tuple((name, array.shape, array.dtype) for name, array in batch.items())
    if shapes not in self._programs:
      sharding = batch_sharding(self.mesh)
      like = {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, shape, dtype in shapes}
      self._programs[shapes] = self._compiler.submit(lambda: self._predict.lower(*weights, like).compile())
    return self._programs[shapes]


class Network:
  """A method with the weights that predict, on the local devices.

  Weights are (params, stats, extra), see `Method.predict`, replicated over the mesh; networks of the same method may
  share their `Programs`.
  """

  def __init__(self, method, weights, mesh, programs=None):
    self.method, self.weights, self.mesh = method, weights, mesh
    self.programs = programs or Programs(method, mesh)

  @classmethod
  def of_state(cls, method, state, mesh, programs=None):
    """That of a State of a run; all processes must call this, because they precompute together."""
    programs = programs or Programs(method, local_mesh(mesh))
    params, stats = method.weights(state)
    weights = params, stats, programs.precompute(params, stats, state.extra)
    return cls(method, on_local_devices(weights, mesh), programs.mesh, programs)

  def preprocess(self, image):
    """What it needs of an image, see `Method.preprocess_eval`; a protocol may show it something else: views.py."""
    return self.method.preprocess_eval(image)

  def program(self, batch):
    """Future of a function from such a batch to dict of jax arrays [b, ...], which are still being computed."""
    return self.programs(self.weights, batch)

  def run(self, program, batch):
    """Calls what `program` has given."""
    return program(*self.weights, put_batch(batch, self.mesh))

  @functools.cached_property
  def outputs(self):
    """What it predicts, found without computing: dict from name to the shape of one image's entry."""
    inputs = self.method.preprocess_eval(np.full((256, 256, 3), 127, np.uint8))
    ((_, batch),) = bucketed_batches([(0, inputs)], 1, self.mesh.size)
    shapes = jax.eval_shape(self.method.predict, *self.weights, batch)
    return {name: array.shape[1:] for name, array in shapes.items()}


def stream(networks, items, *, head=None, pixels_per_batch=None, threads=None):
  """Predicts items batch after batch in bounded memory.

  Args:
    networks: list of Network on one mesh; features of several are joined in this order.
    items: iterable of inputs.Item; those of a generator are taken as they are needed.
    head: Head for the (joined) features, or None.
    pixels_per_batch: at most; None: what suits the kind of device.
    threads: that read and decode; None: one a core, at most 16.

  Yields:
    Prediction, in the order in which batches are complete. What cannot be read is yielded with an error.
  """
  mesh = networks[0].mesh
  on_cpu = mesh.devices.flat[0].platform == "cpu"
  suits = PIXELS_ON_CPU if on_cpu else PIXELS_ON_ACCELERATORS
  pixels_per_batch = min(suits, pixels_per_batch or suits)
  failed, waiting = collections.deque(), {}

  def readable():
    for prediction, inputs in _ahead(items, networks, threads):
      if prediction.error:
        failed.append(prediction)
      else:
        waiting[prediction.index] = prediction
        yield prediction.index, inputs

  def launch(parts, programs):
    return [network.run(*call) for network, *call in zip(networks, programs, parts, strict=True)]

  def finished(indices, launched, started):
    outputs = [{name: np.asarray(x)[: len(indices)] for name, x in part.items()} for part in launched.result()]
    outputs = _joined(outputs, head)
    share = (time.perf_counter() - started) / len(indices)
    for row, index in enumerate(indices):
      prediction, predicted = waiting.pop(index), {name: x[row] for name, x in outputs.items()}
      yield _finite(prediction._replace(outputs=predicted, seconds=prediction.seconds + share))

  # A CPU device computes in the thread that calls it and leaves cores idle. Accelerators compute one batch while the
  # results of the one before are fetched; several devices must get all programs in one order, from one thread.
  launchers = _cores() if on_cpu and mesh.size == 1 else 1
  running, untrimmed = collections.deque(), 0
  with futures.ThreadPoolExecutor(launchers, "launch") as pool:
    for indices, *call in _compiled(networks, bucketed_batches(readable(), pixels_per_batch, mesh.size)):
      running.append((indices, pool.submit(launch, *call), time.perf_counter()))
      if len(running) > launchers:
        yield from finished(*running.popleft())
      untrimmed += len(indices)
      if untrimmed >= IMAGES_BETWEEN_TRIMS:
        untrimmed = 0
        host_memory.give_back()
      while failed:
        yield failed.popleft()
    while running:
      yield from finished(*running.popleft())
  yield from failed


def predict_database(network, database, positions, what, pixels_per_batch=None):
  """Predicts records of a database; of several processes each predicts a share, and all get all rows.

  Args:
    network, pixels_per_batch: see `stream`; of a run config.evaluation.pixels_per_batch.
    database: random-access source of records with 'image' and 'image_name'.
    positions: [n] int, the records to predict.
    what: shown on the progress bar.

  Returns:
    dict of NumPy arrays [n, ...], rows in the order of `positions`; a UserError names an image that cannot be read.
  """
  # As many for every process: the last is predicted again where they do not divide evenly.
  padded = np.pad(positions, (0, -len(positions) % jax.process_count()), mode="edge")
  mine = padded[jax.process_index() :: jax.process_count()]
  records = (database[int(i)] for i in mine)
  items = (Item(record["image_name"], record["image"]) for record in records)
  outputs = {}
  hidden = not (is_main() and sys.stderr.isatty())
  predictions = stream([network], items, pixels_per_batch=pixels_per_batch)
  for prediction in track(predictions, what, len(mine), console=Console(file=sys.stderr), disable=hidden):
    if prediction.error:
      raise UserError(prediction.error)
    for name, value in prediction.outputs.items():
      if name not in outputs:
        outputs[name] = np.empty((len(mine), *np.shape(value)), value.dtype)
      outputs[name][prediction.index] = value
  return all_gather_rows(outputs, len(positions))


def _compiled(networks, batches):
  """(indices, batch of every network, its program); batches whose programs are being compiled let others pass."""
  held = collections.deque()
  for indices, batch in batches:
    parts = [{} for _ in networks]
    for name, array in batch.items():
      number, _, name = name.partition(":")
      parts[int(number)][name] = array
    held.append((indices, parts, [network.program(part) for network, part in zip(networks, parts, strict=True)]))
    yield from _ready(held, MAX_HELD, MAX_HELD_BYTES)
  yield from _ready(held, 0, 0)


def _ready(held, most, most_bytes):
  """Takes what can be computed out of `held`, and waits for a program as long as more is held than may be."""
  while held:
    missing = [[program for program in programs if not program.done()] for _, _, programs in held]
    position = next((position for position, programs in enumerate(missing) if not programs), None)
    size = sum(array.nbytes for _, parts, _ in held for part in parts for array in part.values())
    if position is None:
      if len(held) <= most and size <= most_bytes:
        return
      futures.wait([program for programs in missing for program in programs], return_when=futures.FIRST_COMPLETED)
      continue
    indices, parts, programs = held[position]
    del held[position]
    yield indices, parts, [program.result() for program in programs]


def _finite(prediction):
  """A prediction, or in place of its outputs an error where they are no numbers."""
  wrong = [name for name in ("score", "features") if not np.isfinite(prediction.outputs.get(name, 0)).all()]
  if not wrong:
    return prediction
  error = f"{prediction.name}: {wrong[0]} not finite: the image, or the weights, are out of the ordinary"
  return prediction._replace(outputs=None, error=error)


def _joined(outputs, head):
  joined = dict(outputs[0]) if len(outputs) == 1 else {}
  if all("features" in part for part in outputs):
    joined["features"] = np.concatenate([part["features"] for part in outputs], 1)
  if head is not None:
    joined["score"] = head(joined["features"])
  return joined


def _preprocess(networks, index, item):
  """(Prediction that lacks its outputs, inputs of all networks) of an item; in a thread."""
  started = time.perf_counter()
  size, inputs, error = (0, 0), {}, ""
  try:
    image = load(item)
    size = image.shape[:2]
    inputs = {
      f"{number}:{name}": array
      for number, network in enumerate(networks)
      for name, array in network.preprocess(image).items()
    }
  except UserError as refusal:
    error = str(refusal) if size == (0, 0) else f"{item.name}: {refusal}"
  crops = max((len(array) for array in inputs.values() if array.ndim == 4), default=0)
  return Prediction(index, item.name, None, *size, time.perf_counter() - started, error, crops), inputs


def _ahead(items, networks, threads=None):
  """What `_preprocess` gives, in order; threads work a few items ahead of whoever takes them."""
  threads = threads or _cores()
  submitted = collections.deque()
  pool = futures.ThreadPoolExecutor(threads)
  try:
    for index, item in enumerate(items):
      submitted.append(pool.submit(_preprocess, networks, index, item))
      if len(submitted) > 2 * threads:
        yield submitted.popleft().result()
    while submitted:
      yield submitted.popleft().result()
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


def _cores():
  """How many threads are worth having: one a core, at most 16."""
  return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), 16)
