"""`jiqa convert`: a published checkpoint to a folder of weights, and back."""

import hashlib
import pathlib

import numpy as np
import safetensors.numpy

from jiqa.errors import UserError
from jiqa.weights import clip, deit, reiqa, rename
from jiqa.weights.store import load_weights, save_weights

SOURCES = {**reiqa.SOURCES, **clip.SOURCES, **deit.SOURCES}


def source_of(name):
  """The `Source` of a name; UserError for an unknown one."""
  if name not in SOURCES:
    raise UserError(f"there is no source {name!r}; expected one of {', '.join(SOURCES)}")
  return SOURCES[name]


def convert(name, path, out):
  """Converts a checkpoint file.

  Args:
    name: a key of `SOURCES`.
    path: the file, see `rename.read_checkpoint`.
    out: folder to write, see `store.save_weights`.

  Returns:
    The card.

  Raises:
    UserError: the file is not what the name says, listing missing and surplus tensors, or cannot be read.
  """
  source, path = source_of(name), pathlib.Path(path)
  word = next((word for word in source.not_named if word in path.name), None)
  if word:
    raise UserError(
      f"{path}: its name says {word}, but {name} is {source.what}. The files hold the same tensors and "
      "cannot be told apart by them; rename the file if its name is wrong."
    )
  tensors = source.adapt(rename.read_checkpoint(path))
  used = source.used(tensors)
  try:
    converted = rename.to_ours(used, source.tensors(), source.what)
  except UserError as error:
    raise UserError(f"{path}: {error}{_guess(tensors, name)}") from None
  return save_weights(
    out,
    converted.params,
    converted.stats,
    {
      **source.card,
      "source": name,
      "file": path.name,
      "file_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
      "tensors_read": len(used),
      "left_out": converted.left_out,
      "ignored": sorted(set(tensors) - set(used)),
      "probe": summary(source.features(converted.params, converted.stats)),
    },
  )


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
  """Writes a folder of weights in the layout of the published checkpoint.

  Args:
    name: a key of `SOURCES`.
    directory: folder of weights.
    out: file to write: `.safetensors`, or any other name for a file of torch, which then must be installed.
    read: function from `directory` to (params, stats, card), for folders of another kind.

  Returns:
    Number of tensors written.

  Raises:
    UserError: the weights have another layout, or torch is needed and not installed.
  """
  source, out = source_of(name), pathlib.Path(out)
  params, stats, card = read(directory)
  tensors = rename.to_theirs(params, stats, source.tensors(), card.get("left_out", {}))
  tensors = {source.prefix + key: value for key, value in tensors.items()}
  partial = out.with_name(out.name + ".part")
  out.parent.mkdir(parents=True, exist_ok=True)
  if out.suffix == ".safetensors":
    safetensors.numpy.save_file(tensors, partial)
  else:
    rename.save_torch({source.wrapper: tensors} if source.wrapper else tensors, partial)
  partial.replace(out)
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
