"""Prepared databases as random-access sources of records."""

import os
import pathlib
import sys

import tensorflow_datasets as tfds

import data_builders
from jiqa.data.object_store import local_data_dir
from jiqa.data.schema import AGAIN, COLUMNS, NUMBER_COLUMNS, tables
from jiqa.errors import UserError, brief


def open_database(name, data_dir=None, score="mos"):
  """Opens a prepared database; one that needs no download (demo) is prepared on first use.

  Args:
    name: "koniq10k", a variant such as "koniq10k/512x384", or a set of your own such as "image_folder/crops".
    data_dir: where prepared sets lie; None takes $TFDS_DATA_DIR, else TFDS's ~/tensorflow_datasets. Of an object store
      (gs://...) a copy is made on this host.
    score: what the column mos then holds: "mos", or "raw_score" where the release has another scale than its mean
      opinion (KonIQ-10k's z-scores); elsewhere the two agree up to the direction.

  Raises:
    UserError: unknown name, or not prepared; says where the release can be had and the command that prepares it.
  """
  full_name = data_builders.make_builder(name).info.full_name  # with the variant and the version
  builder = data_builders.make_builder(name, local_data_dir(full_name, data_dir or os.environ.get("TFDS_DATA_DIR")))
  if not builder.MANUAL and not builder.is_prepared:  # it needs nothing but installed packages
    print(f"{name}: preparing it in {builder.data_dir}", file=sys.stderr)
    builder.download_and_prepare()
  if not builder.is_prepared:
    raise UserError(
      f"the database {name} is not prepared in {builder.data_dir_root}. {builder.MANUAL}\n"
      f"Download page: {builder.PAGE or 'none'}\n"
      f"Then: {builder.prepare_command()}"
    )
  return Database(name, builder.data_dir, score)


def check_name(name):
  """Raises a UserError, with the nearest name, for a database or variant that does not exist; reads nothing."""
  data_builders.make_builder(name)


class Database:
  """A prepared database: `len`, random access to records, and the labels of all of them without reading a pixel.

  Pickles as its path, so that data-loading workers can open it anew.

  Attributes:
    table: DataFrame of COLUMNS, see jiqa/data/schema, aligned with the records.
    domains: list of str, the part of the database each image is from, '' where it has no parts.
    metadata: dict: title, kind, score, direction and raw_range (of raw_score), range (of mos), licence, citation, page,
      images, references, complete, labels_sha256, skipped.
    label: what `mos` is, such as "DMOS, turned: higher is better, [0, 1]", '' for a set without scores.
    shorter_side: pixels that the field's evaluations resize the shorter side to, 0 for none.
  """

  def __init__(self, name, path, score="mos"):
    self.name, self.path, self._score = name, pathlib.Path(path).absolute(), score
    builder_class = data_builders.builder_class(name)
    try:
      reader = tfds.builder_from_directory(self.path)
      self.metadata = dict(reader.info.metadata)
      table = tables.prepared(self.path, self.metadata["labels_sha256"])
      numbers = {column: table[column].to_numpy(dtype=str).astype(float) for column in NUMBER_COLUMNS}
      self.table = table.assign(**numbers, level=table.level.astype(int))[list(COLUMNS)]
      self._shards = builder_class.locate_shards(reader.info)
      self._records = reader.as_data_source(split="all", decoders={"image": tfds.decode.SkipDecoding()})
    except UserError:
      raise
    except Exception as error:  # readers of labels, metadata and records raise what they like
      raise UserError(f"{self.path}: this prepared set is damaged ({brief(error)}); {AGAIN}") from error
    self.shorter_side = builder_class.SHORTER_SIDE
    if score not in ("mos", "raw_score"):
      raise UserError(f"config.score is {score!r}; expected mos or raw_score")
    if score == "raw_score" and builder_class.MOS_RANGE:  # the deviations are of the other scale
      self.table = self.table.assign(mos=self.table.raw_score, mos_std=float("nan"))
      self.metadata["range"] = self.metadata["raw_range"]
    self.domains = [builder_class.domain(image_name) for image_name in self.table.image_name]
    self.label = ""
    if self.metadata["range"]:
      low, high = self.metadata["range"]
      turned = ", turned" if self.metadata["direction"] == "lower" else ""
      self.label = f"{builder_class.UNIT}{turned}: higher is better, [{low:.4g}, {high:.4g}]"
    self._columns = {column: self.table[column].tolist() for column in self.table}

  def __len__(self):
    return len(self.table)

  def __getitem__(self, index):
    """One record: the label columns and `image`, the bytes of the image file."""
    index = range(len(self))[index]  # negative ones, too
    row = {column: values[index] for column, values in self._columns.items()}
    try:
      record = self._records[index]
      if record["image_name"].decode() != row["image_name"]:
        raise ValueError(f"it is called {record['image_name']!r}")
    except Exception as error:  # what a damaged shard makes the reader raise has no common type
      file, first = next((file, first) for file, first, end in self._shards if first <= index < end)
      place = f"{file}: record {index - first}, {row['image_name']}"
      raise UserError(f"{place}, cannot be read ({brief(error)}); {AGAIN}") from error
    return {"image": record["image"], **row}

  def __reduce__(self):
    return Database, (self.name, self.path, self._score)

  def __repr__(self):
    return f"Database({self.name!r}, {len(self)} images, {str(self.path)!r})"
