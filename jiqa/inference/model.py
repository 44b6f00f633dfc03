"""One network with its weights, ready to predict."""

from concurrent import futures

import jax
import numpy as np
from ml_collections import ConfigDict

from jiqa.errors import UserError
from jiqa.inference import loading
from jiqa.methods import build_method
from jiqa.methods.base import Method
from jiqa.runtime.sharding import batch_sharding, put_batch, replicated
from jiqa.runtime.state import new_state
from jiqa.weights.store import checksum, describe_misfit, flatten


class Model:
  """A method, its weights on the devices, and its jitted prediction.

  Args:
    folder: see `loading.find`.
    mesh: the devices.

  Attributes:
    method: see methods/base.py.
    name: of the method.
    card: dict of plain values: where the weights are from, and 'weights_sha256'.
    heads: dict from database to a file of heads that lies beside the weights.
    config: dict of plain values.

  Raises:
    UserError: the folder holds no weights, or they do not fit the method.
  """

  def __init__(self, folder, mesh):
    found = loading.find(folder)
    self.folder, self.config, self.heads = found.folder, found.config, found.heads
    self.mesh, self.name = mesh, found.config.get("method")
    self.method = _method(found, mesh)
    state = _state(self.method, found, mesh)
    own = checksum(*jax.tree.map(np.asarray, (state.params, state.stats)))
    self.card = {"weights_sha256": own, **found.card}
    # What most methods prepare is nothing, which need not be compiled.
    prepares = type(self.method).prepare is not Method.prepare
    self._state = jax.jit(self.method.prepare)(state) if prepares else state
    self._predict, self._gives = jax.jit(self.method.predict), None
    self._programs, self._maker = {}, futures.ThreadPoolExecutor(1, "jiqa-compiles")

  def __call__(self, batch):
    """Predicts a batch of views; returns at once, the arrays are still being computed.

    Args:
      batch: dict of NumPy arrays, see `Method.predict`.

    Returns:
      dict of jax arrays [b, ...].
    """
    return self.program(batch).result()(batch)

  def program(self, batch):
    """The compiled prediction for batches of one shape, made in a thread while other programs compute.

    Args:
      batch: dict of NumPy arrays, see `Method.predict`.

    Returns:
      concurrent.futures.Future of a function from such a batch to dict of jax arrays [b, ...]; the function returns at
      once, the arrays are still being computed.
    """
    shapes = tuple((name, array.shape, array.dtype) for name, array in batch.items())
    if shapes not in self._programs:
      self._programs[shapes] = self._maker.submit(self._compiled, shapes)
    return self._programs[shapes]

  def _compiled(self, shapes):
    place = batch_sharding(self.mesh)
    like = {name: jax.ShapeDtypeStruct(shape, dtype, sharding=place) for name, shape, dtype in shapes}
    compiled = self._predict.lower(self._state, like).compile()
    return lambda batch: compiled(self._state, put_batch(batch, self.mesh))

  def gives(self):
    """What it predicts, found without computing anything: dict from name to the shape of one image's entry."""
    if self._gives is None:
      found = jax.eval_shape(self.method.predict, self._state, self._some_batch())
      self._gives = {name: array.shape[1:] for name, array in found.items()}
    return self._gives

  def _some_batch(self):
    views = self.method.preprocess_eval(np.full((256, 256, 3), 127, np.uint8))
    batch = {}
    for name, view in views.items():
      batch[name] = np.stack([view] * self.mesh.size)
      if view.ndim == 3:
        batch[name + "_size"] = np.full((self.mesh.size, 2), view.shape[:2], np.int32)
    return batch

  @property
  def state(self):
    """The prepared State, for those who export it."""
    return self._state


def _method(found, mesh):
  config = ConfigDict(found.config)
  if "method" not in config:
    raise UserError(f"{found.folder}: its config names no method")
  # Of training only; they must not stand in the way of any number of devices.
  neutral = {"batch_size": mesh.size, "bn_groups": 1, "every_scale": True}
  config.update({key: value for key, value in neutral.items() if key in config})
  try:
    return build_method(config, mesh.size)
  except (ValueError, AttributeError, KeyError) as error:
    raise UserError(f"{found.folder}: its config does not fit this version of jiqa ({error})") from error


def _state(method, found, mesh):
  """A State with the arrays that were found; nothing is initialised where all that predictions read is there."""
  like = jax.eval_shape(lambda key: method.init(key, mesh), jax.random.key(0))
  try:
    if found.extra is None and like.extra and "extra" not in method.training_only:
      # What the method derives from its weights; it would start at random what they lack.
      lacking = sorted(set(flatten(like.params)) - set(flatten(found.params)))
      if lacking:
        raise UserError("the weights do not fit this model: " + describe_misfit(lacking, [], []))
      return method.init(jax.random.key(0), mesh, (found.params, found.stats))
    trees = {name: getattr(like, name) for name in ("params", "stats", "extra")}
    trees = {name: tree for name, tree in trees.items() if name not in method.training_only}
    fitted = {name: _fitted(tree, getattr(found, name), name, method.training_only) for name, tree in trees.items()}
  except UserError as error:
    raise UserError(f"{found.folder}: {error}") from error
  return jax.device_put(new_state(**fitted), replicated(mesh))


def _fitted(own, loaded, name, unread):
  """`loaded` with the keys of `own`, checked; of what predictions do not read, zeros where it is missing."""
  named = _named(own, loaded or {})
  ours, flat = flatten(own), flatten(named)
  missing = [f"{name}/{path}" for path in ours if path not in flat and not f"{name}/{path}".startswith(tuple(unread))]
  surplus = [f"{name}/{path}" for path in flat if path not in ours]
  shapes = [
    f"{name}/{path} {np.shape(flat[path])} instead of {leaf.shape}"
    for path, leaf in ours.items()
    if path in flat and np.shape(flat[path]) != leaf.shape
  ]
  if missing or surplus or shapes:
    raise UserError("the weights do not fit this model: " + describe_misfit(missing, surplus, shapes))

  def fill(node, loaded):
    if not isinstance(node, dict):
      return np.zeros(node.shape, node.dtype) if loaded is None else np.asarray(loaded, node.dtype)
    return {key: fill(child, None if loaded is None else loaded.get(key)) for key, child in node.items()}

  return fill(own, named)


def _named(own, loaded):
  """`loaded` with places in lists as numbers where `own` has them so; a checkpoint keeps all keys as text."""
  if not isinstance(own, dict) or not isinstance(loaded, dict):
    return loaded
  keys = {str(key): key for key in own}
  return {keys.get(str(key), key): _named(own.get(keys.get(str(key))), value) for key, value in loaded.items()}
