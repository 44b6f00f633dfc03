"""Networks from folders: weights with a card, or the working directory of a training run."""

import contextlib
import functools
import hashlib
import importlib
import json
import os
import pathlib
import re
import uuid
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jiqa import durable, methods
from jiqa.errors import UserError
from jiqa.inference import startup
from jiqa.inference.heads import BESIDE
from jiqa.inference.inputs import is_address, read_bytes
from jiqa.inference.predictor import Network
from jiqa.runtime.sharding import make_mesh, replicated
from jiqa.runtime.state import new_state
from jiqa.runtime.workdir import read_config
from jiqa.weights.store import CARD, WEIGHTS, check_finite, checksum, flatten, load_weights, misfit

RUN_CONFIG, PIN = "config.json", "@sha256:"
LARGEST_WEIGHTS = 2**33  # bytes of a download; those of CLIP's ViT-B/32 are 0.6e9 in float32


class Folder(NamedTuple):
  """What a folder of weights or the working directory of a run holds."""

  path: pathlib.Path
  config: dict  # plain values, of the run that trained the weights
  trees: dict  # nested dicts of NumPy arrays: 'params' and 'stats', and of a run the 'extra' of its State
  card: dict  # plain values: where the weights are from

  @property
  def is_run(self):
    """True for the working directory of a run."""
    return "extra" in self.trees


def pinned(name):
  """The path of a folder of weights; of FOLDER@sha256:DIGEST that of a copy of exactly those files, in the cache.

  An address needs a DIGEST: `cat weights.safetensors card.json head.safetensors | sha256sum`, the last where there is
  one. A UserError where the files have another; nothing in them is looked at before.
  """
  name, pin, digest = os.fspath(name).partition(PIN)
  if not pin and not is_address(name):
    return pathlib.Path(name)
  if not re.fullmatch("[0-9a-f]{64}", digest):
    raise UserError(f"{name}{pin}{digest}: expected {name}{PIN} and the 64 digits that its owner has published")
  copy, files, sha = startup.cache() / "weights" / digest, {}, hashlib.sha256()
  source = str(copy if copy.is_dir() else name).rstrip("/")
  for file in (WEIGHTS, CARD, BESIDE):
    with contextlib.suppress(UserError) if file == BESIDE else contextlib.nullcontext():
      files[file] = read_bytes(f"{source}/{file}", LARGEST_WEIGHTS)
      sha.update(files[file])
    if CARD in files and sha.hexdigest() == digest:
      break
  else:
    raise UserError(f"{source}: its files are not those of {digest}, but of {sha.hexdigest()}; they are not used")
  if not copy.is_dir():
    partial = copy.with_name(f"{digest}.{uuid.uuid4().hex}.part")
    partial.mkdir(parents=True)
    for file, data in files.items():
      (partial / file).write_bytes(data)
    with contextlib.suppress(OSError):  # another process was faster
      durable.replace(partial, copy)
  return copy


def read_folder(folder):
  """The `Folder` that `pinned` finds; a UserError where there are neither weights nor a run, or they are damaged."""
  folder = pinned(folder)
  if folder.is_file():
    raise UserError(
      f"{folder}: is a file; expected a folder of weights or of a run. A published checkpoint becomes one with "
      "`jiqa convert SOURCE FILE OUT`; `jiqa convert list` shows the sources."
    )
  if not folder.is_dir():
    raise UserError(f"{folder}: no such folder of weights or of a run; a name of `jiqa models` is given as --model")
  if (folder / CARD).is_file():
    params, stats, card = load_weights(folder)
    config = card["config"] if "config" in card else _published_config(folder, card)
    return Folder(folder, config, {"params": params, "stats": stats}, card)
  if not (folder / RUN_CONFIG).is_file():
    neither = f"neither a folder of weights ({CARD} is missing) nor the --workdir of a run ({RUN_CONFIG} is missing)"
    raise UserError(f"{folder}: {neither}")
  from jiqa.runtime.checkpoint import read_arrays  # needs Orbax, which takes most of a second

  config = read_config(folder / RUN_CONFIG)
  which = "best" if config.get("evaluation", {}).get("checkpoint") == "best" else "newest"
  step, trees = read_arrays(folder / {"best": "best", "newest": "checkpoints"}[which])
  return Folder(folder, config, trees, {"run": folder.name, "step": step, "checkpoint": which})


def _published_config(folder, card):
  """The config with which the weights of a converted checkpoint predict."""
  for name in methods.names():
    for published in methods.method_class(name).published:
      if published["card"] == {key: card[key] for key in ("model", "expert") if key in card}:
        file, _, variant = published["config"].partition(":")
        get_config = importlib.import_module(f"configs.{file}").get_config
        config = json.loads((get_config(variant) if variant else get_config()).to_json_best_effort())
        # Published weights are float32; half precision would be seen in the third digit of a score.
        precision = {"dtype": "float32"} if "dtype" in config else {}
        return config | {key: card[key] for key in published["keys"]} | precision
  raise UserError(
    f"{folder / CARD}: has no entry 'config', and no method predicts with weights of model {card.get('model')!r}, "
    f"expert {card.get('expert')!r}; they start a training (--config.init_from)"
  )


def read_weights(folder):
  """(params, stats, card) of a folder of weights, or what predicts of a run, see `store.load_weights`."""
  if (pathlib.Path(folder) / CARD).is_file() or not (pathlib.Path(folder) / RUN_CONFIG).is_file():
    return load_weights(folder)
  read = read_folder(folder)
  return *_weights(_method(read, make_mesh(jax.local_devices()[:1])), read), read.card


class Model(Network):
  """A Network on local devices, read from a folder, see `read_folder`; a UserError where its weights do not fit.

  Attributes:
    folder: pathlib.Path.
    name: of the method, as configs have it.
    family: the paper's name, which all its methods share.
    card: dict of plain values: where the weights are from, and 'weights_sha256'.
    config: dict of plain values.
  """

  def __init__(self, folder, mesh):
    read = read_folder(folder)
    self.folder, self.config = read.path, read.config
    self.name = read.config.get("method")
    self.family = methods.names().get(self.name, f".{self.name}.").split(".")[-2]
    method = _method(read, mesh)
    params, stats = _weights(method, read)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    self.card = {"weights_sha256": checksum(params, stats), "parameters": parameters, **read.card}
    params, stats = jax.device_put((params, stats), replicated(mesh))
    super().__init__(method, (params, stats, jax.jit(method.precompute)(params, stats)), mesh)

  def explain(self, image):
    """What the score of an image [h, w, 3] uint8 is made of, see `Method.explain`; the method must have it."""
    return self.method.explain(*self._explaining, image)

  @functools.cached_property
  def _explaining(self):
    """What predicts, but with the `extra` of a run, which scoring does not need."""
    params, stats, _ = self.weights
    read = read_folder(self.folder)
    extra = _state(self.method, read).extra if read.is_run else None
    return params, stats, self.method.precompute(params, stats, extra)


def _method(read, mesh):
  if "method" not in read.config:
    raise UserError(f"{read.path}: its config names no method")
  try:
    return methods.build_method(ConfigDict(read.config), mesh)
  except (ValueError, AttributeError, KeyError) as error:
    raise UserError(f"{read.path}: its config does not fit this version of jiqa ({error})") from error


def _weights(method, read):
  """(params, stats) that predict, as NumPy arrays."""
  if read.is_run:
    params, stats = jax.tree.map(np.asarray, method.weights(_state(method, read)))
    check_finite({"params": params, "stats": stats}, read.path)
    return params, stats
  like = jax.eval_shape(method.weights, method.state_shapes())
  return tuple(
    _fitted(tree, name, read, method.training_only) for tree, name in zip(like, ("params", "stats"), strict=True)
  )


def _state(method, read):
  like = method.state_shapes()
  return new_state(**{name: _fitted(getattr(like, name), name, read) for name in read.trees})


def _fitted(like, name, read, optional=()):
  """The tree `name` of a folder with the keys and types of `like`, whatever precision it was stored in.

  Zeros where something optional is missing; a UserError for any other misfit.
  """
  loaded = _named(like, read.trees[name])
  expected, given = flatten({name: like}), flatten({name: loaded})
  problems = misfit({k: v for k, v in expected.items() if k in given or not k.startswith(optional)}, given)
  if problems:
    raise UserError(f"{read.path}: the weights do not fit this model: {problems}")

  def fill(node, loaded):
    if not isinstance(node, dict):
      return np.zeros(node.shape, node.dtype) if loaded is None else np.asarray(loaded, node.dtype)
    return {key: fill(child, None if loaded is None else loaded.get(key)) for key, child in node.items()}

  return fill(like, loaded)


def _named(like, loaded):
  """`loaded` with positions in lists as numbers where `like` has them so; a checkpoint keeps all keys as text."""
  if not isinstance(like, dict) or not isinstance(loaded, dict):
    return loaded
  keys = {str(key): key for key in like}
  return {keys.get(str(key), key): _named(like.get(keys.get(str(key))), value) for key, value in loaded.items()}
