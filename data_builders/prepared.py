"""Looks at prepared sets and says what is damaged in them."""

import concurrent.futures
import os
import pathlib

import tensorflow_datasets as tfds

from data_builders import shards
from data_builders.image_files import check_image
from jiqa.data.schema import AGAIN, tables
from jiqa.errors import UserError

INFO = "dataset_info.json"
NAMED = 5  # damaged records of a set; the others are counted


def prepared_sets(folder):
  """The prepared sets in a folder (one of them, or a data_dir): list of pathlib.Path, sorted."""
  folder = pathlib.Path(folder).expanduser()
  files = (path for depth in range(4) for path in folder.glob("*/" * depth + INFO))
  return sorted(path.parent for path in files if not path.parent.name.startswith("incomplete"))


def examine_prepared(path, decode=False):
  """What is wrong with a prepared set: list of lines, empty where nothing is. With `decode` every record is read."""
  try:
    reader = tfds.builder_from_directory(path)
    located = shards.locate(reader.info)
    labels = tables.prepared(path, reader.info.metadata["labels_sha256"]).image_name
    records = reader.as_data_source(split="all", decoders={"image": tfds.decode.SkipDecoding()})
  except UserError as error:
    return [str(error)]
  except Exception as error:  # readers of labels, metadata and records raise what they like
    return [f"{path}: this prepared set is damaged ({error}); {AGAIN}"]

  def damage(index):
    file, first = next((file, first) for file, first, end in located if first <= index < end)
    try:
      check_image(records[index]["image"], labels[index], decode=True)
    except Exception as error:
      return f"{file}: record {index - first}, {labels[index]}: {error}"
    return None

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    damaged = list(filter(None, pool.map(damage, range(len(records) if decode else 0))))
  more = [f"... and {len(damaged) - NAMED:,} more damaged records"] if len(damaged) > NAMED else []
  return damaged[:NAMED] + more
