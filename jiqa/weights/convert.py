"""`jiqa convert`: a published checkpoint to a folder of weights, and back."""

import hashlib
import pathlib

import numpy as np

from jiqa.errors import UserError
from jiqa.weights import clip, deit, efficientnet, reiqa, rename
from jiqa.weights.store import load_weights, save_weights

SOURCES = {**reiqa.SOURCES, **clip.SOURCES, **deit.SOURCES, **efficientnet.SOURCES}


def source_of(name):
  """The `Source` of a name; UserError for an unknown one."""
  if name not in SOURCES:
    raise UserError(f"there is no source {name!r}; expected one of {', '.join(SOURCES)}")
  return SOURCES[name]


def convert(name, path, out):
  """Converts the checkpoint file of a source (None: that of an installed package) to a folder of weights.

  Returns the card. A file that is not what the name says is a UserError that lists missing and surplus tensors.
  """
  source = source_of(name)
  if path is None and source.installed is None:
    raise UserError(f"{name}: name the FILE to convert, {source.what}; no package brings it")
  path = pathlib.Path(path or source.installed())
  if word := next((word for word in source.not_named if word in path.name), None):
    raise UserError(
      f"{path}: its name says {word}, but {name} is {source.what}. The files hold the same tensors and "
      "cannot be told apart by them; rename the file if its name is wrong."
    )
  tensors = source.adapt(rename.read_checkpoint(path))
  used = source.used(tensors)
  try:
    params, stats, counters = rename.to_ours(used, source.tensors(), source.what)
  except UserError as error:
    raise UserError(f"{path}: {error}{_guess(tensors, name)}") from None
  card = {
    **source.card, "source": name,
    "file": path.name, "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    "tensors_read": len(used), "left_out": counters, "ignored": sorted(set(tensors) - set(used)),
    "probe": summary(source.features(params, stats)),
  }  # fmt: skip
  return save_weights(out, params, stats, card)


def _guess(tensors, name):
  """Which source the tensors fit instead, as the end of a message."""
  for other, source in SOURCES.items():
    if other != name and not rename.compare(source.used(tensors), source.tensors()):
      return f"\nIt fits {other}: {source.what}."
  return ""


def summary(features):
  """What is kept of the probe's features, with 7 digits.

  Example:
    >>> summary(np.array([3.0, 4.0]))
    {'mean': 3.5, 'norm': 5.0, 'first': [3.0, 4.0]}
  """
  values = np.asarray(features, np.float64)
  mean, norm, *first = (float(f"{value:.7g}") for value in (values.mean(), np.linalg.norm(values), *values[:4]))
  return {"mean": mean, "norm": norm, "first": first}


def convert_back(name, directory, out, read=load_weights):
  """Writes a folder of weights as the published checkpoint, see `rename.write_checkpoint`; returns how many tensors.

  `read` maps a folder of another kind to (params, stats, card).
  """
  source = source_of(name)
  params, stats, card = read(directory)
  tensors = rename.to_theirs(params, stats, source.tensors(), card.get("left_out", {}))
  tensors = {source.prefix + key: value for key, value in tensors.items()}
  rename.write_checkpoint(tensors, pathlib.Path(out), source.wrapper)
  return len(tensors)


def describe(card):
  """What `jiqa convert` prints of a card."""
  probe = card["probe"]
  first = ", ".join(f"{value:.6g}" for value in probe["first"])
  return (
    f"{card['tensors_read']} tensors read, {card['tensors']} arrays written with {card['parameters']:,} parameters "
    f"({len(card['left_out'])} counters noted, {len(card['ignored'])} tensors not used)\n"
    f"checksum {card['weights_sha256']}\n"
    f"features of the probe image: mean {probe['mean']:.6g}, norm {probe['norm']:.6g}, first {first}"
  )
