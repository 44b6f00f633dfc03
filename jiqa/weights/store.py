"""Weights as a folder: `weights.safetensors` with the arrays and `card.json` that says where they are from.

Names of arrays are paths of our modules: `params/encoder/layer1[0]/conv1/kernel` is `params["encoder"]["layer1"][0]
["conv1"]["kernel"]`; `stats/...` are running statistics. A number in brackets is a place in a list, a bare one a name.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil

import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from jiqa import durable
from jiqa.errors import UserError

WEIGHTS, CARD = "weights.safetensors", "card.json"


def flatten(tree):
  """Nested dicts to one dict from path to leaf, sorted; keys are names (str) or places in a list (int).

  Example:
    >>> flatten({"layer1": {0: {"kernel": 7}}, "head": {"0": 8}})
    {'head/0': 8, 'layer1[0]/kernel': 7}
  """

  def path(keys):
    return "".join(f"[{key}]" if isinstance(key, int) else f"/{key}" for key in keys).removeprefix("/")

  return dict(sorted((path(keys), leaf) for keys, leaf in flatten_dict(tree).items()))


def unflatten(flat):
  """The inverse of `flatten`.

  Example:
    >>> unflatten({"layer1[0]/kernel": 7, "head/0": 8})
    {'layer1': {0: {'kernel': 7}}, 'head': {'0': 8}}
  """

  def keys(path):
    return tuple(int(place) if place else name for place, name in re.findall(r"\[(\d+)\]|([^/\[]+)", path))

  return unflatten_dict({keys(path): leaf for path, leaf in flat.items()})


def checksum(params, stats):
  """The first 16 hex digits of the SHA-256 of all arrays, their paths, types and shapes, in the order of the paths."""
  digest = hashlib.sha256()
  for path, leaf in flatten({"params": params, "stats": stats}).items():
    leaf = np.asarray(leaf, order="C")
    digest.update(f"{path} {leaf.dtype.str} {leaf.shape}\n".encode())
    digest.update(leaf.tobytes())
  return digest.hexdigest()[:16]


def save_weights(directory, params, stats, card):
  """Writes nested dicts of arrays and a card of plain values as a folder, which appears when it is complete.

  An earlier folder of weights is replaced; for any other that is not empty there is a UserError. Returns the card as
  written, with 'weights_sha256', 'tensors' and 'parameters'.
  """
  directory = pathlib.Path(directory)
  holds_other = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
  if holds_other and not (directory / CARD).is_file():
    raise UserError(f"{directory}: exists and holds no {CARD}, so it is no folder of weights; choose another one")
  arrays = {path: np.asarray(leaf, order="C") for path, leaf in flatten({"params": params, "stats": stats}).items()}
  numbers = sum(leaf.size for leaf in flatten(params).values())
  card = {**card, "weights_sha256": checksum(params, stats), "tensors": len(arrays), "parameters": numbers}
  partial, old = (directory.with_name(f"{directory.name}.{end}") for end in ("part", "old"))
  if (old / CARD).is_file() and not directory.exists():
    os.replace(old, directory)  # an earlier call was interrupted between its two renamings
  for left_over in (partial, old):
    shutil.rmtree(left_over, ignore_errors=True)
  partial.mkdir(parents=True)
  (partial / WEIGHTS).write_bytes(safetensors.numpy.save(arrays))  # its save_file lets nobody else read the file
  (partial / CARD).write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
  if directory.exists():
    os.replace(directory, old)
  durable.replace(partial, directory)
  shutil.rmtree(old, ignore_errors=True)
  return card


def load_weights(directory):
  """(params, stats, card) of a folder of weights; UserError where there is none, or it is not what its card says."""
  directory = pathlib.Path(directory)
  for name in (WEIGHTS, CARD):
    if not (directory / name).is_file():
      raise UserError(
        f"{directory / name}: not there. A folder of weights holds {WEIGHTS} and {CARD}; `jiqa convert` makes one from "
        "a published checkpoint."
      )
  try:
    card = json.loads((directory / CARD).read_text())
    expected = card["weights_sha256"]
    tree = unflatten(safetensors.numpy.load_file(directory / WEIGHTS))
  except (ValueError, LookupError, TypeError, OSError, RecursionError, safetensors.SafetensorError) as error:
    raise UserError(f"{directory}: cannot be read as weights ({error}); convert the checkpoint again") from error
  params, stats = tree.get("params", {}), tree.get("stats", {})
  if (sha := checksum(params, stats)) != expected:
    raise UserError(f"{directory / WEIGHTS}: checksum {sha}, but {CARD} says {expected}; convert the checkpoint again")
  check_finite(tree, directory / WEIGHTS)
  return params, stats, card


def check_finite(tree, path):
  """Raises a UserError, with the name of the first, where arrays of a tree hold NaN or infinity."""
  for name, leaf in flatten(tree).items():
    if not np.isfinite(leaf).all():
      raise UserError(f"{path}: {name} holds values that are not finite: nothing can be predicted by them; use others")


def adopt(fresh, loaded, *, optional=()):
  """A module's nested dict of arrays, those of `loaded` in place of its own.

  What begins with a path of `optional` may be missing from `loaded` and stays; any other path that is missing, surplus
  or of another shape is named in a UserError.

  Example:
    >>> fresh = {"encoder": {"a": np.zeros(2)}, "head": {"b": np.zeros(1)}}
    >>> adopt(fresh, {"encoder": {"a": np.ones(2)}}, optional=("head",))
    {'encoder': {'a': array([1., 1.])}, 'head': {'b': array([0.])}}
  """
  ours, theirs = flatten(fresh), flatten(loaded)
  required = {path: leaf for path, leaf in ours.items() if path in theirs or not path.startswith(tuple(optional))}
  if problems := misfit(required, theirs):
    raise UserError(f"the weights do not fit this model: {problems}")
  return unflatten(ours | {path: np.asarray(leaf).astype(ours[path].dtype) for path, leaf in theirs.items()})


def misfit(expected, given):
  """What keeps one dict of things with shapes from being like another, as text; '' where nothing does."""
  shapes = [
    f"{name} {np.shape(given[name])} instead of {tuple(expected[name].shape)}"
    for name in sorted(expected.keys() & given)
    if np.shape(given[name]) != tuple(expected[name].shape)
  ]
  return describe_misfit(sorted(expected.keys() - given), sorted(given.keys() - expected), shapes)


def describe_misfit(missing, surplus, shapes, most=40):
  """One line a kind of misfit, each with the names; what is more than `most` names is counted.

  Example:
    >>> print(describe_misfit(["a", "b"], [], ["c (1,) instead of (2,)"]))
    2 missing: a, b
    1 of another shape: c (1,) instead of (2,)
  """
  lines = []
  for names, what in ((missing, "missing"), (surplus, "surplus"), (shapes, "of another shape")):
    if names:
      more = f", ... and {len(names) - most} more" if len(names) > most else ""
      lines.append(f"{len(names)} {what}: " + ", ".join(names[:most]) + more)
  return "\n".join(lines)
