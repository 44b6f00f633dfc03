"""Published checkpoints to our parameters and back: what torch calls our arrays, and the files that it keeps them in.

The attributes of our networks are named as in the checkpoints, so that a few regular expressions say the rest. Renaming
is strict: each tensor must be in the file with the right shape, and nothing else.
"""

import argparse
import collections
import functools
import pathlib
import re
import zipfile
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from flax import nnx

from jiqa.errors import UserError
from jiqa.runtime.state import split_module
from jiqa.weights.store import describe_misfit, flatten, misfit, unflatten

# Where training scripts put the weights among other things, in the order in which they are looked for.
WRAPPERS = ("state_dict", "model_state_dict", "model", "params", "net")
# What wrappers of torch put before every name, one inside the other in any order.
PREFIXES = ("_orig_mod.", "module.", "clip_model.", "model.")

# From our paths, such as "params/layer1[0]/conv1/kernel", to torch's names; pairs as those of `respell`.
TORCH = (
  (r"^(params|stats)/", ""), (r"[\[/]", "."), (r"\]", ""), (r"\.(kernel|scale)$", ".weight"),
  (r"\.in_proj\.(weight|bias)$", r".in_proj_\1"), (r"\.(mean|var)$", r".running_\1"),
)  # fmt: skip


class Tensor(NamedTuple):
  """One tensor of a checkpoint."""

  theirs: str
  ours: str  # our path; "" for a counter, which we do not use: it is noted on the card and written on the way back
  shape: tuple  # in the checkpoint


def respell(tensors, spellings):
  """A dict whose names are changed by pairs of a regular expression and what takes the place of its matches, in turn.

  Example:
    >>> respell({"blocks.3.ls2.gamma": 7}, [(r"ls([12])\\.gamma", r"gamma_\\1")])
    {'blocks.3.gamma_2': 7}
  """
  for pattern, template in spellings:
    tensors = {re.sub(pattern, template, name): value for name, value in tensors.items()}
  return tensors


@functools.cache
def expand(network, spellings=(), counters=False):
  """Every tensor of a checkpoint, a tuple of `Tensor`; network: function () -> nnx module.

  Spellings say how names differ from those that `TORCH` gives; with counters there is one in every batch normalisation.
  """
  _, params, stats = split_module(nnx.eval_shape(network))
  leaves, tensors = flatten({"params": params, "stats": stats}), []
  for (path, leaf), name in zip(leaves.items(), respell(leaves, (*TORCH, *spellings)), strict=True):
    if counters and path.endswith("/mean"):
      tensors.append(Tensor(name.replace("running_mean", "num_batches_tracked"), "", ()))
    tensors.append(Tensor(name, path, _to_theirs(path, np.broadcast_to(0, leaf.shape)).shape))
  return tuple(tensors)


def _to_theirs(path, x, axes=((-2, -1), (1, 0))):
  """Kernels are [..., in, out] here and [out, in, ...] in torch; with the axes reversed, the way back."""
  return np.moveaxis(x, *axes) if path.endswith("/kernel") else x


def to_ours(tensors, table, what):
  """The tensors of a checkpoint (see `read_checkpoint`), which is meant to be `what`, under our names.

  Returns (params, stats, counters): nested dicts of float32 arrays, and a dict from name to int. A UserError lists the
  names that are missing and surplus and the shapes that are wrong, or names a tensor that is not finite.
  """
  if problems := compare(tensors, table):
    raise UserError(f"this is not {what}: {len(tensors)} tensors, expected {len(table)}\n{problems}")
  flat, counters = {}, {}
  for name, path, _ in table:
    value = np.asarray(tensors[name])
    if not path:
      counters[name] = value.item()
      continue
    flat[path] = np.asarray(_to_theirs(path, value.astype(np.float32), ((1, 0), (-2, -1))), order="C")
    if not np.isfinite(flat[path]).all():
      raise UserError(f"the checkpoint's tensor {name} holds values that are not finite; download it again")
  tree = unflatten(flat)
  return tree.get("params", {}), tree.get("stats", {}), counters


def to_theirs(params, stats, table, counters):
  """The inverse of `to_ours`: dict from name to float32 array, int64 for counters, 0 where `counters` lacks one.

  Places in lists may be text, as a run's checkpoint keeps them. Paths that the table lacks or has besides are named in
  a UserError.
  """

  def plain(path):
    return path.replace("[", "/").replace("]", "")

  flat = {plain(path): leaf for path, leaf in flatten({"params": params, "stats": stats}).items()}
  paths = {plain(tensor.ours) for tensor in table if tensor.ours}
  if problems := describe_misfit(sorted(paths - set(flat)), sorted(set(flat) - paths), []):
    raise UserError(f"these weights have another layout than the table:\n{problems}")
  tensors = {}
  for name, path, _ in table:
    if path:
      tensors[name] = np.asarray(_to_theirs(path, np.asarray(flat[plain(path)], np.float32)), order="C")
    else:
      tensors[name] = np.asarray(counters.get(name, 0), np.int64)
  return tensors


def compare(tensors, table):
  """What keeps a checkpoint from being what a table says, as text; '' where it fits."""
  return misfit({tensor.theirs: tensor for tensor in table}, tensors)


def read_checkpoint(path):
  """Dict from name to NumPy array of a checkpoint file, without what stands beside them and the prefixes of wrappers.

  The file is `.safetensors`, or one of torch (zip or legacy pickle), for which torch must be installed. No code from it
  is run, so TorchScript is refused. Whatever keeps it from being read is a UserError.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"{path}: no such file")
  if path.suffix == ".safetensors":
    try:
      tree = safetensors.numpy.load_file(path)
    except Exception as error:  # NumPy lacks types that the file may have: an AttributeError
      raise UserError(f"{path}: damaged, no safetensors file, or of types that NumPy lacks ({error})") from error
  else:
    tree = _read_torch(path)
  wrapped = [_arrays(tree[key]) for key in WRAPPERS if isinstance(tree.get(key), dict)]
  tensors = next(filter(None, wrapped), _arrays(tree))
  if not tensors:
    raise UserError(f"{path}: holds no tensors; expected a checkpoint of weights")
  while prefix := next((start for start in PREFIXES if all(name.startswith(start) for name in tensors)), ""):
    tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
  return tensors


def _arrays(tree):
  return {name: value for name, value in tree.items() if isinstance(value, np.ndarray) and isinstance(name, str)}


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
      tree = plain(torch.load(path, map_location="cpu", weights_only=True))
  except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for files that it cannot read
    why = (str(error) or type(error).__name__).splitlines()[0]
    raise UserError(f"{path}: cannot be read as weights ({why})") from error
  if not isinstance(tree, dict):
    raise UserError(f"{path}: holds a {type(tree).__name__}, expected a dict of tensors")
  return tree


def _is_torchscript(path):
  try:
    with zipfile.ZipFile(path) as archive:
      return any(name.endswith("/constants.pkl") for name in archive.namelist())
  except zipfile.BadZipFile:
    return False


def write_checkpoint(tensors, path, wrapper):
  """Writes a dict of NumPy arrays as `.safetensors`, or by any other name as a file of torch, there below `wrapper`."""
  partial = path.with_name(path.name + ".part")
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".safetensors":
    partial.write_bytes(safetensors.numpy.save(tensors))  # its save_file lets nobody else read the file
  else:
    torch = _torch(path)
    tensors = {name: torch.from_numpy(value) for name, value in tensors.items()}
    torch.save({wrapper: tensors} if wrapper else tensors, partial)
  partial.replace(path)


def _torch(path):
  try:
    import torch
  except ImportError as error:
    advice = "pip install torch, or use .safetensors, which needs nothing"
    raise UserError(f"{path}: a file of torch needs torch; {advice}") from error
  return torch
