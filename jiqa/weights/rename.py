"""Published checkpoints to our parameters and back: one reader of files, one renamer driven by a few rules per source.

A `Rule` is a regular expression over the paths of our network; together they name every tensor of the checkpoint. The
renamer is strict: each must be in the file with the right shape, and nothing else.
"""

import argparse
import collections
import functools
import pathlib
import re
import zipfile
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from jiqa.errors import UserError
from jiqa.runtime.state import split_module
from jiqa.weights.store import describe_misfit, flatten, misfit, unflatten

# Where training scripts put the weights among other things, in the order in which they are looked for.
WRAPPERS = ("state_dict", "model_state_dict", "model", "params", "net")
# What wrappers of torch put before every name.
PREFIXES = ("_orig_mod.", "module.", "clip_model.", "model.")

# Layouts: as it is; [out, in, ...] in torch and [..., in, out] here; a number that we do not use, which is noted on the
# card and written back on the way back.
SAME, KERNEL, NUMBER = "same", "kernel", "number"


class Rule(NamedTuple):
  """What tensors are called whose paths, such as "params/encoder/layer1[0]/conv1/kernel", an expression matches."""

  ours: str  # the regular expression, for the whole path
  theirs: str  # the name in the checkpoint: a template in which \1 is the first group, written with dots
  layout: str = SAME  # SAME, KERNEL or NUMBER; a NUMBER is a tensor beside the one of the path


class Tensor(NamedTuple):
  """One tensor of a checkpoint."""

  theirs: str
  ours: str  # our path; "" for a NUMBER
  shape: tuple  # in the checkpoint
  layout: str = SAME


@functools.cache
def expand(network, rules):
  """Every tensor of a checkpoint, a tuple of `Tensor`.

  Args:
    network: function () -> nnx module.
    rules: tuple of `Rule`; of several that match a path the first counts, and those of NUMBERs before it.

  Raises:
    ValueError: no rule matches a path.
  """
  _, params, stats = split_module(nnx.eval_shape(network))
  tensors = []
  for path, leaf in flatten({"params": params, "stats": stats}).items():
    for rule in rules:
      match = re.fullmatch(rule.ours, path)
      if not match:
        continue
      theirs = _plain(match.expand(rule.theirs)).replace("/", ".")
      if rule.layout == NUMBER:
        tensors.append(Tensor(theirs, "", (), NUMBER))
      else:
        shape = _to_theirs(np.broadcast_to(0, leaf.shape), rule.layout).shape
        tensors.append(Tensor(theirs, path, shape, rule.layout))
        break
    else:
      raise ValueError(f"no rule says what {path} is called in the checkpoint")
  return tuple(tensors)


def _plain(path):
  """A path in which places in lists are names, as checkpoints of a run keep them."""
  return path.replace("[", "/").replace("]", "")


def _to_ours(x, layout):
  return np.moveaxis(x, (1, 0), (-2, -1)) if layout == KERNEL else x


def _to_theirs(x, layout):
  return np.moveaxis(x, (-2, -1), (1, 0)) if layout == KERNEL else x


class Converted(NamedTuple):
  """Nested dicts of float32 arrays under our names, and the numbers that have no place there, by their name."""

  params: dict
  stats: dict
  left_out: dict


def to_ours(tensors, table, what):
  """Renames the tensors of a checkpoint.

  Args:
    tensors: dict from name to array, see `read_checkpoint`.
    table: tuple of `Tensor`, see `expand`.
    what: what the checkpoint is meant to be, for messages.

  Returns:
    `Converted`.

  Raises:
    UserError: listing the missing and surplus names and the wrong shapes.
  """
  problems = compare(tensors, table)
  if problems:
    raise UserError(f"this is not {what}: {len(tensors)} tensors, expected {len(table)}\n{problems}")
  flat, left_out = {}, {}
  for tensor in table:
    value = np.asarray(tensors[tensor.theirs])
    if tensor.layout == NUMBER:
      left_out[tensor.theirs] = value.item()
      continue
    flat[tensor.ours] = np.asarray(_to_ours(value.astype(np.float32), tensor.layout), order="C")
    if not np.isfinite(flat[tensor.ours]).all():
      raise UserError(f"the checkpoint's tensor {tensor.theirs} holds values that are not finite; download it again")
  tree = unflatten(flat)
  return Converted(tree.get("params", {}), tree.get("stats", {}), left_out)


def to_theirs(params, stats, table, left_out):
  """The inverse of `to_ours`.

  Args:
    params, stats: nested dicts of arrays under our names.
    table: tuple of `Tensor`.
    left_out: dict from name to number, see `Converted`; 0 where it does not say.

  Returns:
    dict from name to float32 array, int64 for numbers.

  Raises:
    UserError: naming our paths that the table does not know, or lacks.
  """
  flat = {_plain(path): leaf for path, leaf in flatten({"params": params, "stats": stats}).items()}
  paths = {_plain(tensor.ours) for tensor in table if tensor.ours}
  missing, surplus = sorted(paths - set(flat)), sorted(set(flat) - paths)
  if missing or surplus:
    raise UserError("these weights have another layout than the table:\n" + describe_misfit(missing, surplus, []))
  tensors = {}
  for tensor in table:
    if tensor.layout == NUMBER:
      value = np.asarray(left_out.get(tensor.theirs, 0), np.int64)
    else:
      value = _to_theirs(np.asarray(flat[_plain(tensor.ours)], np.float32), tensor.layout)
    tensors[tensor.theirs] = np.asarray(value, order="C")
  return tensors


def compare(tensors, table):
  """What keeps a checkpoint from being what a table says, as text; '' where it fits."""
  return misfit({tensor.theirs: tensor for tensor in table}, tensors)


def respell(tensors, spellings):
  """A dict whose names are changed by pairs of a regular expression and what takes the place of its matches, in turn.

  Example:
    >>> respell({"blocks.3.ls2.gamma": 7}, [(r"ls([12])\\.gamma", r"gamma_\\1")])
    {'blocks.3.gamma_2': 7}
  """
  respelled = {}
  for name, value in tensors.items():
    for pattern, template in spellings:
      name = re.sub(pattern, template, name)
    respelled[name] = value
  return respelled


def read_checkpoint(path):
  """The tensors of a checkpoint file, unwrapped.

  Args:
    path: `.safetensors`; or a file of torch (zip or legacy pickle), for which torch must be installed. No code from
      the file is run, so TorchScript is refused.

  Returns:
    dict from name to NumPy array, without what stands beside the weights and the prefixes of wrappers.

  Raises:
    UserError: there is no such file, it cannot be read or holds no tensors, or torch is needed and not installed.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"{path}: no such file")
  tree = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
  tensors = {name: value for name, value in _unwrap(tree).items() if isinstance(value, np.ndarray)}
  if not tensors:
    raise UserError(f"{path}: holds no tensors; expected a checkpoint of weights")
  for prefix in PREFIXES:
    if all(name.startswith(prefix) for name in tensors):
      tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
  return tensors


def _unwrap(tree):
  """The dict that holds the tensors, wherever a training script has put it."""
  for key in WRAPPERS:
    inner = tree.get(key)
    if isinstance(inner, dict) and any(isinstance(value, np.ndarray) for value in inner.values()):
      return inner
  return tree


def _read_safetensors(path):
  try:
    return safetensors.numpy.load_file(path)
  except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
    raise UserError(f"{path}: damaged, or no safetensors file ({error})") from error


def _read_torch(path):
  if _is_torchscript(path):
    raise UserError(
      f"{path}: a TorchScript program, which would have to be run to be read. If you trust it, write its weights to a "
      f"file of their own with torch, torch.save(torch.jit.load({path.name!r}, map_location='cpu').state_dict(), "
      "'weights.pt'), and convert that; for CLIP, transformers' model.safetensors needs none of this"
    )
  torch = _torch(path)

  def plain(value):
    if isinstance(value, torch.Tensor):
      value = value.detach().cpu()
      return (value.float() if value.is_floating_point() else value).numpy()
    return {key: plain(inner) for key, inner in value.items()} if isinstance(value, dict) else value

  try:
    # Training scripts save their options beside the weights.
    with torch.serialization.safe_globals([argparse.Namespace, collections.defaultdict]):
      tree = torch.load(path, map_location="cpu", weights_only=True)
  except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for files that it cannot read
    raise UserError(f"{path}: cannot be read as weights ({str(error).splitlines()[0]})") from error
  if not isinstance(tree, dict):
    raise UserError(f"{path}: holds a {type(tree).__name__}, expected a dict of tensors")
  return plain(tree)


def _is_torchscript(path):
  try:
    with zipfile.ZipFile(path) as archive:
      return any(name.endswith("/constants.pkl") for name in archive.namelist())
  except zipfile.BadZipFile:
    return False


def save_torch(tree, path):
  """Writes a dict of NumPy arrays, nested or not, as a file of torch; UserError where torch is not installed."""
  torch = _torch(path)

  def tensors(value):
    return {key: tensors(part) for key, part in value.items()} if isinstance(value, dict) else torch.from_numpy(value)

  torch.save(tensors(tree), path)


def _torch(path):
  try:
    import torch
  except ImportError as error:
    raise UserError(
      f"{path}: a file of torch needs torch; pip install 'jiqa[convert]', or use .safetensors, which needs nothing"
    ) from error
  return torch
