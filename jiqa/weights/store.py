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

from jiqa.errors import UserError

WEIGHTS, CARD = "weights.safetensors", "card.json"


def flatten(tree, prefix=""):
  """Nested dicts to one dict from path to leaf, sorted; keys are names (str) or places in a list (int).

  Example:
    >>> flatten({"layer1": {0: {"kernel": 7}}, "head": {"0": 8}}, "params/")
    {'params/head/0': 8, 'params/layer1[0]/kernel': 7}
  """
  flat = {}

  def visit(node, path):
    if not isinstance(node, dict):
      flat[path] = node
      return
    for key, child in node.items():
      step = f"[{key}]" if isinstance(key, int) else f"/{key}" if path else key
      visit(child, path + step)

  visit(tree, prefix.rstrip("/"))
  return dict(sorted(flat.items()))


def unflatten(flat):
  """The inverse of `flatten`.

  Example:
    >>> unflatten({"layer1[0]/kernel": 7, "head/0": 8})
    {'layer1': {0: {'kernel': 7}}, 'head': {'0': 8}}
  """
  tree = {}
  for path, leaf in flat.items():
    keys = []
    for part in path.split("/"):
      name, *places = re.split(r"\[(\d+)\]", part)
      keys += [name, *map(int, places[::2])]
    node = tree
    for key in keys[:-1]:
      node = node.setdefault(key, {})
    node[keys[-1]] = leaf
  return tree


def checksum(params, stats):
  """The first 16 hex digits of the SHA-256 of all arrays, their paths, types and shapes, in the order of the paths."""
  digest = hashlib.sha256()
  for path, leaf in flatten({"params": params, "stats": stats}).items():
    leaf = np.asarray(leaf, order="C")
    digest.update(f"{path} {leaf.dtype.str} {leaf.shape}\n".encode())
    digest.update(leaf.tobytes())
  return digest.hexdigest()[:16]


def save_weights(directory, params, stats, card):
  """Writes a folder of weights; it appears when it is complete.

  Args:
    directory: folder to make. An earlier folder of weights is replaced, any other is left alone.
    params, stats: nested dicts of arrays, see `flatten`.
    card: dict of plain values: where the weights are from.

  Returns:
    The card as written, with 'weights_sha256', 'tensors' and 'parameters'.

  Raises:
    UserError: the folder holds something else.
  """
  directory = pathlib.Path(directory)
  if directory.exists() and not (directory / CARD).is_file() and any(directory.iterdir()):
    raise UserError(f"{directory}: exists and holds no {CARD}, so it is no folder of weights; choose another one")
  arrays = {path: np.asarray(leaf, order="C") for path, leaf in flatten({"params": params, "stats": stats}).items()}
  numbers = sum(leaf.size for path, leaf in arrays.items() if path.startswith("params/"))
  card = {**card, "weights_sha256": checksum(params, stats), "tensors": len(arrays), "parameters": int(numbers)}
  partial, old = (directory.with_name(f"{directory.name}.{end}") for end in ("part", "old"))
  if (old / CARD).is_file() and not directory.exists():
    os.replace(old, directory)  # an earlier call was interrupted between its two renamings
  for left_over in (partial, old):
    shutil.rmtree(left_over, ignore_errors=True)
  partial.mkdir(parents=True)
  safetensors.numpy.save_file(arrays, partial / WEIGHTS)
  (partial / CARD).write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
  if directory.exists():
    os.replace(directory, old)
  os.replace(partial, directory)
  shutil.rmtree(old, ignore_errors=True)
  return card


def load_weights(directory):
  """Reads a folder that `save_weights` wrote and checks that it is what its card says.

  Returns:
    (params, stats, card): nested dicts of NumPy arrays, and the card.

  Raises:
    UserError: there is no such folder, or it is damaged.
  """
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
  except (ValueError, KeyError, TypeError, OSError, AttributeError, safetensors.SafetensorError) as error:
    raise UserError(f"{directory}: cannot be read as weights ({error}); convert the checkpoint again") from error
  params, stats = tree.get("params", {}), tree.get("stats", {})
  actual = checksum(params, stats)
  if actual != expected:
    raise UserError(
      f"{directory / WEIGHTS}: checksum {actual}, but {CARD} says {expected}; convert the checkpoint again"
    )
  return params, stats, card


def adopt(own, loaded, *, inside="", optional=()):
  """Loaded arrays in place of a module's own.

  Args:
    own: nested dict of arrays or jax.ShapeDtypeStruct: what the module has.
    loaded: nested dict of arrays.
    inside: path within both trees, such as "encoder", to which this is restricted; the rest of `own` stays.
    optional: beginnings of paths which `own` has and `loaded` may lack; they stay as they are.

  Returns:
    `own` with the arrays of `loaded`.

  Raises:
    UserError: naming the paths that are missing, surplus or of another shape.

  Example:
    >>> own = {"encoder": {"a": np.zeros(2)}, "head": {"b": np.zeros(1)}}
    >>> adopt(own, {"encoder": {"a": np.ones(2)}}, inside="encoder")
    {'encoder': {'a': array([1., 1.])}, 'head': {'b': array([0.])}}
  """

  def part(tree):
    return {k: v for k, v in flatten(tree).items() if not inside or re.match(re.escape(inside) + r"(/|\[|$)", k)}

  ours, theirs = part(own), part(loaded)
  required = {k: v for k, v in ours.items() if k in theirs or not k.startswith(tuple(optional))}
  problems = misfit(required, theirs)
  if problems:
    raise UserError(f"the weights do not fit this model: {problems}")
  return unflatten(flatten(own) | {k: np.asarray(v).astype(ours[k].dtype) for k, v in theirs.items()})


def misfit(expected, given):
  """What keeps one dict of things with shapes from being like another, as text; '' where nothing does."""
  shapes = [
    f"{name} {tuple(np.shape(given[name]))} instead of {tuple(expected[name].shape)}"
    for name in sorted(expected.keys() & given)
    if tuple(np.shape(given[name])) != tuple(expected[name].shape)
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
