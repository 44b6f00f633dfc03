"""Published checkpoints to our parameters and back: one reader of files, one renamer driven by a table per source.

A table is a list of `Rule`s, one for every tensor of the checkpoint. The renamer is strict: every rule must find its
tensor with the right shape, and every tensor of the file its rule.
"""

import argparse
import collections
import pathlib
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from jiqa.errors import UserError
from jiqa.weights.store import describe_misfit, flatten, unflatten

# Where training scripts put the weights among other things, in the order in which they are looked for.
WRAPPERS = ("state_dict", "model_state_dict", "model", "params", "net")
# What wrappers of torch put before every name.
PREFIXES = ("_orig_mod.", "module.", "clip_model.", "model.")


class Transform(NamedTuple):
  """How an array changes between two layouts: two functions of arrays, each the other's inverse."""

  to_ours: object
  to_theirs: object


SAME = Transform(lambda x: x, lambda x: x)
CONV = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))  # OIHW and HWIO
LINEAR = Transform(np.transpose, np.transpose)  # [out, in] and [in, out]


class Rule(NamedTuple):
  """One tensor of a checkpoint.

  Attributes:
    theirs: its name in the checkpoint, prefixes stripped.
    ours: its path in our trees, such as "params/encoder/conv1/kernel" (see `store.flatten`); "" for a number that we
      do not use, which is noted on the card and written back on the way back.
    shape: its shape in the checkpoint.
    transform: `Transform` to our layout.
  """

  theirs: str
  ours: str
  shape: tuple
  transform: Transform = SAME


class Converted(NamedTuple):
  """Nested dicts of float32 arrays under our names, and the numbers that have no place there, by their name."""

  params: dict
  stats: dict
  left_out: dict


def to_ours(tensors, rules, what):
  """Renames the tensors of a checkpoint.

  Args:
    tensors: dict from name to array, see `read_checkpoint`.
    rules: list of `Rule`.
    what: what the checkpoint is meant to be, for messages.

  Returns:
    `Converted`.

  Raises:
    UserError: listing the missing and surplus names and the wrong shapes.
  """
  misfit = compare(tensors, rules)
  if misfit:
    raise UserError(f"this is not {what}: {len(tensors)} tensors, expected {len(rules)}\n{misfit}")
  flat, left_out = {}, {}
  for rule in rules:
    value = np.asarray(tensors[rule.theirs])
    if not rule.ours:
      left_out[rule.theirs] = value.item()
    else:
      flat[rule.ours] = np.asarray(rule.transform.to_ours(value.astype(np.float32)), order="C")
      if not np.isfinite(flat[rule.ours]).all():
        raise UserError(f"the checkpoint's tensor {rule.theirs} holds values that are not finite; download it again")
  tree = unflatten(flat)
  return Converted(tree.get("params", {}), tree.get("stats", {}), left_out)


def to_theirs(params, stats, rules, left_out):
  """The inverse of `to_ours`.

  Args:
    params, stats: nested dicts of arrays under our names.
    rules: list of `Rule`.
    left_out: dict from name to number, see `Converted`; 0 where it does not say.

  Returns:
    dict from name to float32 array (int64 for the numbers).

  Raises:
    UserError: naming our paths that the rules do not know, or lack.
  """
  # Places in a list may have become text, as checkpoints of a run keep them.
  plain = lambda path: path.replace("[", "/").replace("]", "")  # noqa: E731
  flat = {plain(path): leaf for path, leaf in flatten({"params": params, "stats": stats}).items()}
  wanted = {plain(rule.ours) for rule in rules if rule.ours}
  missing, surplus = sorted(wanted - set(flat)), sorted(set(flat) - wanted)
  if missing or surplus:
    raise UserError("these weights have another layout than the table:\n" + describe_misfit(missing, surplus, []))
  tensors = {}
  for rule in rules:
    if rule.ours:
      tensors[rule.theirs] = np.asarray(
        rule.transform.to_theirs(np.asarray(flat[plain(rule.ours)], np.float32)), order="C"
      )
    else:
      tensors[rule.theirs] = np.asarray(left_out.get(rule.theirs, 0), np.int64).reshape(rule.shape)
  return tensors


def compare(tensors, rules):
  """What keeps a checkpoint from being what a table says, as text; '' where it fits."""
  names = {rule.theirs for rule in rules}
  missing = [rule.theirs for rule in rules if rule.theirs not in tensors]
  surplus = sorted(set(tensors) - names)
  shapes = [
    f"{rule.theirs} {np.shape(tensors[rule.theirs])} instead of {rule.shape}"
    for rule in rules
    if rule.theirs in tensors and tuple(np.shape(tensors[rule.theirs])) != tuple(rule.shape)
  ]
  return describe_misfit(missing, surplus, shapes)


def read_checkpoint(path):
  """The tensors of a checkpoint file, unwrapped.

  Args:
    path: `.safetensors`; or a file of torch (zip, legacy pickle or TorchScript), for which torch must be installed.
      Pickles are read without running code from them.

  Returns:
    dict from name to NumPy array. What stands beside the weights (optimiser, epoch) is left out, and so are the
    prefixes that wrappers put before every name.

  Raises:
    UserError: there is no such file, it cannot be read or holds no tensors, or torch is needed and not installed.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"{path}: no such file")
  found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
  tensors = {name: value for name, value in _unwrap(found).items() if isinstance(value, np.ndarray)}
  if not tensors:
    raise UserError(f"{path}: holds no tensors; expected a checkpoint of weights")
  for prefix in PREFIXES:
    if all(name.startswith(prefix) for name in tensors):
      tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
  return tensors


def _unwrap(found):
  """The dict that holds the tensors, wherever a training script has put it."""
  for key in WRAPPERS:
    inner = found.get(key)
    if isinstance(inner, dict) and any(isinstance(value, np.ndarray) for value in inner.values()):
      return inner
  return found


def _read_safetensors(path):
  try:
    return safetensors.numpy.load_file(path)
  except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
    raise UserError(f"{path}: damaged, or no safetensors file ({error})") from error


def _read_torch(path):
  torch = _torch(path)

  def plain(value):
    if isinstance(value, torch.Tensor):
      value = value.detach().cpu()
      return (value.float() if value.is_floating_point() else value).numpy()
    return {key: plain(inner) for key, inner in value.items()} if isinstance(value, dict) else value

  try:
    # Training scripts save their options beside the weights.
    with torch.serialization.safe_globals([argparse.Namespace, collections.defaultdict]):
      found = torch.load(path, map_location="cpu", weights_only=True)
  except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for files that it cannot read
    try:
      found = torch.jit.load(path, map_location="cpu").state_dict()
    except Exception:
      raise UserError(f"{path}: cannot be read as weights ({str(error).splitlines()[0]})") from error
  if isinstance(found, torch.nn.Module) or not isinstance(found, dict):
    raise UserError(f"{path}: holds a {type(found).__name__}, expected a dict of tensors")
  return plain(found)


def save_torch(tree, path):
  """Writes a dict of NumPy arrays, nested or not, as a file of torch.

  Raises:
    UserError: torch is not installed.
  """
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
