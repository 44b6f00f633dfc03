"""Prepared databases as random-access sources of records."""

import os
import pathlib
import shlex

import pandas as pd
import tensorflow_datasets as tfds
from rich.console import Console

from data_builders import builder_class
from data_builders.base import COLUMNS, LABELS_FILE, NUMBER_COLUMNS
from data_builders.prepare import make_builder, prepare
from jiqa.data.bucket import at_hand
from jiqa.errors import UserError


def open_database(name, data_dir=None):
  """Opens a prepared database; one that needs no download (demo) is prepared on first use.

  Args:
    name: "koniq10k", a variant such as "koniq10k/512x384", or a set of your own such as "image_folder/crops".
    data_dir: where prepared sets lie; None takes $TFDS_DATA_DIR, else TFDS's ~/tensorflow_datasets. Of a bucket
      (gs://...) a copy is made on this host.

  Returns:
    Database.

  Raises:
    UserError: unknown name, or not prepared; says where the release can be had and the command that prepares it.
  """
  builder = make_builder(name, at_hand(name, data_dir or os.environ.get("TFDS_DATA_DIR")))
  path = pathlib.Path(builder.data_dir)
  if not builder.MANUAL and not (path / LABELS_FILE).exists():  # it needs nothing but installed packages
    prepare(name, data_dir=builder.data_dir_root, console=Console(stderr=True))
  if not (path / LABELS_FILE).exists():
    raise UserError(
      f"the database {name} is not prepared in {builder.data_dir_root}. {builder.MANUAL}\n"
      f"Download page: {builder.PAGE or 'none'}\n"
      f"Then: {prepare_command(name, builder.data_dir_root)}"
    )
  return Database(name, path)


def prepare_command(name, data_dir, manual_dir="FOLDER"):
  """The command that prepares a database.

  Args:
    name: as `open_database`.
    data_dir: where prepared sets lie.
    manual_dir: the unpacked release.

  Returns:
    Text for a shell.

  Example:
    >>> prepare_command("koniq10k/512x384", "/data", "/mnt/koniq")
    'python -m data_builders.koniq10k --variant=512x384 --manual_dir=/mnt/koniq --data_dir=/data'
  """
  database, _, variant = name.partition("/")
  cls = make_builder(name, data_dir)
  parts = ["python", "-m", f"data_builders.{database}"]
  if variant:
    parts.append(f"--name={variant}" if cls.OWN_NAME else f"--variant={variant}")
  if cls.MANUAL:
    parts.append(f"--manual_dir={manual_dir}")
  return shlex.join([*parts, f"--data_dir={data_dir}"])


def read_labels(path):
  """The label columns of a prepared set, every digit as the label files had it.

  Args:
    path: pathlib.Path of the prepared set.

  Returns:
    DataFrame with COLUMNS: text ('' if none), float64 (NaN if none), int64 level (-1 if none).
  """
  # As text first: what the columns mean must not depend on what pandas takes for a missing value.
  table = pd.read_csv(path / LABELS_FILE, dtype=str, keep_default_na=False, na_filter=False)
  numbers = {column: table[column].to_numpy(dtype=str).astype(float) for column in NUMBER_COLUMNS}
  table = table.assign(**numbers, level=table.level.astype(int))
  return table[list(COLUMNS)]


class Database:
  """A prepared database: `len`, random access to records, and the labels of all of them without reading a pixel.

  Pickles as its path, so that data-loading workers can open it anew.

  Attributes:
    name: as given to `open_database`.
    path: folder of the prepared set.
    table: DataFrame aligned with the records: image_name, reference_name ('' if none), raw_score, mos (higher is
      better, NaN if unlabelled), mos_std (NaN if none), distortion, level (0..4, -1 if none), split ('' if none).
    domains: list of str, the part of the database each image is from, '' where it has no parts.
    metadata: dict: title, kind, score, range (of mos), raw_range and direction (of raw_score), licence, citation, page,
      images, references, complete, labels_sha256, skipped.
  """

  def __init__(self, name, path):
    self.name = name
    self.path = pathlib.Path(path).absolute()
    self.table = read_labels(self.path)
    builder = tfds.builder_from_directory(self.path)
    self.metadata = dict(builder.info.metadata)
    self._records = builder.as_data_source(split="all", decoders={"image": tfds.decode.SkipDecoding()})
    if len(self._records) != len(self.table):
      raise UserError(
        f"{self.path}: {len(self._records)} records but {len(self.table)} labels; delete the folder and prepare again."
      )
    self.domains = [builder_class(name).domain(image_name) for image_name in self.table.image_name]
    self._columns = {column: self.table[column].tolist() for column in self.table}

  def __len__(self):
    return len(self.table)

  def __getitem__(self, index):
    """One record: the label columns and `image`, the bytes of the image file."""
    record = self._records[index]
    row = {column: values[index] for column, values in self._columns.items()}
    if record["image_name"].decode() != row["image_name"]:
      raise UserError(f"{self.path}: record {index} is not {row['image_name']}; delete the folder and prepare again.")
    return {"image": record["image"], **row}

  def __reduce__(self):
    return Database, (self.name, self.path)

  def __repr__(self):
    return f"Database({self.name!r}, {len(self)} images, {str(self.path)!r})"
