"""What every database here has in common: the schema of a record, what its numbers mean, and how it is prepared.

A database is a subclass of `Builder` in a file of its own: class attributes say what it is, `labels` reads its official
label files. This class checks what they say against the disk, and writes TFDS ArrayRecord shards of the image *files*:
nothing is decoded, so nothing is re-encoded and TensorFlow is never needed.
"""

import contextlib
import dataclasses
import hashlib
import pathlib
import tempfile

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds

from data_builders import shards
from data_builders.folders import find_root, resolve
from jiqa.data.splits import tables
from jiqa.errors import UserError

TEXT_COLUMNS = ("image_name", "reference_name", "distortion", "split")
NUMBER_COLUMNS = ("raw_score", "mos", "mos_std")
COLUMNS = ("image_name", "reference_name", "raw_score", "mos", "mos_std", "distortion", "level", "split")
SPLITS = ("train", "validation", "test")
# The label columns of a prepared set, aligned with its records; float64 as the label files have them.
LABELS_FILE = "labels.csv"


class LocalInfo(tfds.core.DatasetInfo):
  """TFDS's description of a set, without the look into Google's bucket (and the temporary folder that it leaves)."""

  def initialize_from_bucket(self):
    """Nothing of ours is there."""


class Builder(tfds.core.ShardBasedBuilder, skip_registration=True):
  """A TFDS builder of one database.

  Subclasses set the attributes below and define `labels`.

  Attributes:
    TITLE: one line: what the images are.
    KIND: "authentic", "synthetic", "generated", "restored", "unlabelled" or "your own".
    PAGE: where the official release can be had.
    MANUAL: which archives to fetch and the tree to unpack them to; the user reads it when something is missing.
    LICENCE: terms, as far as they are stated.
    CITATION: authors, title, venue, year.
    SCORE: what `raw_score` is; '' for a set without scores.
    DIRECTION: "higher" or "lower": which raw score means better quality.
    RAW_RANGE: (low, high), which a raw score can never leave.
    FLIP: where DIRECTION is "lower", mos = FLIP - raw_score.
    MOS_RANGE: (low, high) of mos where `labels` gives a column `mos` of its own, on another scale than raw_score.
    STD_MAX: no mos_std of the release is larger.
    IMAGES, REFERENCES: how many the complete release has; None where that is not fixed.
    MEAN: mean mos of the complete release, rounded; None where not known.
    OFFICIAL_SPLIT: the release says which images train and which test.
    LABEL_SHA256: (name, checksum) of the label files of which one is known.
    TOP: names of the release's top folder; `--manual_dir` may be that folder or the one it lies in.
    MARKS: files or folders that must be in the top folder, whatever their case; a tuple stands for alternatives.
    OWN_NAME: the user names each prepared set of this kind ("image_folder/NAME").
    SKIPS_DAMAGED: leave out files that are no image, with a count, instead of refusing the whole set.
  """

  VERSION = tfds.core.Version("1.0.0")
  TITLE = KIND = PAGE = MANUAL = LICENCE = CITATION = SCORE = ""
  DIRECTION = "higher"
  RAW_RANGE = (-np.inf, np.inf)
  FLIP = MOS_RANGE = None
  STD_MAX = np.inf
  IMAGES = REFERENCES = MEAN = None
  OFFICIAL_SPLIT = False
  LABEL_SHA256 = ()
  TOP = ()
  MARKS = ()
  OWN_NAME = False
  SKIPS_DAMAGED = False

  def __init_subclass__(cls, **kwargs):
    # The name is the file's. TFDS keeps one global registry by name, and its own catalogue has some of ours.
    cls.name = cls.__module__.rpartition(".")[2]
    super().__init_subclass__(skip_registration=True, **kwargs)

  def __init__(self, **kwargs):
    super().__init__(**kwargs)
    self.workers = None
    self.started = lambda total: None
    self.advance = lambda count: None
    self.skipped = ()

  def labels(self, root):
    """Reads the official label files.

    Args:
      root: pathlib.Path, the release's top folder.

    Returns:
      DataFrame with one row an image: `image_name` (path below `root`, case does not matter), `raw_score` unless the
      set has no scores, `where` (file and line of the row, for error messages), and of `reference_name`, `mos_std`,
      `distortion`, `level`, `split` ("train", "validation", "test") what the database has.
    """
    raise NotImplementedError

  def image_folder(self, root):
    """The folder that `image_name` is relative to, where it is not `root`."""
    return root

  @staticmethod
  def domain(image_name):
    """Which part of the database an image is from (a collection, a generator), where its name says so; else ''."""
    del image_name
    return ""

  @contextlib.contextmanager
  def root(self, manual_dir):
    """Yields the release's top folder, found in or below `manual_dir`."""
    yield find_root(manual_dir, self)

  def metadata(self):
    """What travels with the prepared set: a dict of strings, numbers and lists."""
    return {
      "database": self.name,
      "variant": self.builder_config.name if self.builder_config else "",
      "title": self.TITLE,
      "kind": self.KIND,
      "page": self.PAGE,
      "manual": self.MANUAL,
      "licence": self.LICENCE,
      "citation": self.CITATION,
      "score": self.SCORE,
      "direction": self.DIRECTION if self.SCORE else "",
      "range": list(self.mos_range()) if self.SCORE else [],
      "raw_range": list(self.RAW_RANGE) if self.SCORE else [],
      "published_images": self.IMAGES,
    }

  def mos_range(self):
    """(low, high) of `mos`, higher is better."""
    if self.MOS_RANGE:
      return self.MOS_RANGE
    low, high = self.RAW_RANGE
    return (low, high) if self.DIRECTION == "higher" else (self.FLIP - high, self.FLIP - low)

  def table(self, root):
    """The label table of the release in `root`, checked against the disk: see `checked_table`."""
    return checked_table(self, pathlib.Path(root))

  def _info(self):
    return LocalInfo(
      builder=self,
      description=self.TITLE,
      homepage=self.PAGE,
      citation=self.CITATION,
      license=self.LICENCE,
      metadata=tfds.core.MetadataDict(self.metadata()),
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(None, None, 3)),
          **{column: tfds.features.Text() for column in TEXT_COLUMNS},
          # TFDS stores floats in 32 bits; labels.csv has all digits.
          **{column: tfds.features.Scalar(np.float32) for column in NUMBER_COLUMNS},
          "level": tfds.features.Scalar(np.int32),
        }
      ),
    )

  def download_and_prepare(self, *, file_format="array_record", **kwargs):
    """As TFDS, but always with random access, and without a folder for downloads: nothing is downloaded."""
    if file_format != "array_record":
      raise UserError(f"{self.name} is prepared as array_record, which has random access, not as {file_format}.")
    with tempfile.TemporaryDirectory() as unused:
      super().download_and_prepare(file_format=file_format, **{"download_dir": unused} | kwargs)

  def _download_and_prepare(self, dl_manager, download_config):
    with self.root(download_config.manual_dir) as root:
      table = self.table(root)
      self.started(len(table))
      if download_config.beam_runner is None:
        table, infos, self.skipped = shards.write(
          self, self.image_folder(root), table, workers=self.workers, advance=self.advance
        )
        self.info.set_splits(tfds.core.splits.SplitDict(infos))
      else:
        self._pending = shards.plan(self.image_folder(root), table)
        super()._download_and_prepare(dl_manager, download_config)
        # TFDS sorts the shards' lengths by their numbers as text, which is wrong from the eleventh shard on.
        self.info.set_splits(tfds.core.splits.SplitDict(shards.planned_splits(self, self._pending)))
    text = table.to_csv(index=False, na_rep="nan", lineterminator="\n")
    (pathlib.Path(self.data_dir) / LABELS_FILE).write_text(text, encoding="utf-8")
    self.info.metadata.update(
      self.metadata(),
      images=len(table),
      references=int(table.reference_name[table.reference_name != ""].nunique()),
      complete=self.IMAGES is None or len(table) == self.IMAGES,
      labels_sha256=hashlib.sha256(text.encode()).hexdigest(),
      skipped=list(self.skipped),
    )

  def _log_download_bytes(self):
    """TFDS prints the size of a download here; there is none."""

  def _log_download_done(self):
    """TFDS prints that the download is done here."""

  def _shard_iterators_per_split(self, dl_manager):
    del dl_manager
    generators = {}
    for shard in self._pending:
      generators.setdefault(shard.split, []).append(ShardExamples(shard.root, shard.rows))
    return generators

  def _example_writer(self):
    return shards.UncompressedWriter(self.info.file_format)


@dataclasses.dataclass(frozen=True)
class ShardExamples:
  """The examples of one shard as TFDS on Beam asks for them; small and picklable."""

  root: str
  rows: tuple

  def __call__(self):
    for row in self.rows:
      yield row["image_name"], shards.example(pathlib.Path(self.root), row)


def checked_table(builder, root):
  """The label table of a release, refused where it contradicts itself, the declared range or the disk.

  Args:
    builder: a `Builder`.
    root: pathlib.Path, the release's top folder.

  Returns:
    DataFrame with the columns COLUMNS, ordered by split and image name; the order of the prepared records.

  Raises:
    UserError: no images; an image that is listed twice or missing on disk; a score that is no number or out of range;
      more images than were published; a complete set whose mean is not the known one (columns swapped?).
  """
  labels = builder.labels(root)
  if labels.empty:
    raise UserError(f"{root}: no images found for {builder.name}.\n{builder.MANUAL}")
  defaults = {"reference_name": "", "mos_std": np.nan, "distortion": "", "level": -1, "split": "", "raw_score": np.nan}
  table = labels.assign(**{column: value for column, value in defaults.items() if column not in labels})
  _refuse_unwritable(table)
  table["image_name"] = resolve(builder.image_folder(root), table.image_name, table["where"])
  _refuse_duplicates(table)
  _refuse_unknown_parts(table)
  if builder.SCORE:
    _refuse_bad_scores(builder, table)
  if "mos" not in table:
    raw = table.raw_score.astype(float)
    table["mos"] = raw if builder.DIRECTION == "higher" else builder.FLIP - raw
  if builder.SCORE:
    _compare_with_published(builder, table, root)
  order = {split: i for i, split in enumerate(("", *SPLITS))}
  table = table.assign(_split=table.split.map(order)).sort_values(["_split", "image_name"], kind="stable")
  types = {column: float for column in NUMBER_COLUMNS} | {"level": int} | {column: str for column in TEXT_COLUMNS}
  return table.astype(types)[list(COLUMNS)].reset_index(drop=True)


def _refuse_unwritable(table):
  for name in table.image_name:
    try:
      name.encode()
    except UnicodeEncodeError as error:
      raise UserError(f"{name!r}: the file's name is not Unicode; rename the file.") from error


def _refuse_duplicates(table):
  twice = table.image_name.duplicated(keep=False)
  if twice.any():
    name = table.image_name[twice].iloc[0]
    rows = table["where"][table.image_name == name]
    raise UserError(f"{rows.iloc[1]}: {name} is listed a second time, first in {rows.iloc[0]}; remove one of the rows.")


def _refuse_unknown_parts(table):
  unknown = ~table.split.isin(["", *SPLITS])
  if unknown.any():
    row = table[unknown].iloc[0]
    raise UserError(f"{row['where']}: {row.image_name} is in the split {row.split!r}, expected {', '.join(SPLITS)}.")
  level = table.level.astype(float)
  if not level.isin([-1, 0, 1, 2, 3, 4]).all():
    row = table[~level.isin([-1, 0, 1, 2, 3, 4])].iloc[0]
    raise UserError(f"{row['where']}: {row.image_name} has the level {row.level}, expected 0..4, or -1 for none.")


def _refuse_bad_scores(builder, table):
  low, high = builder.RAW_RANGE
  score = table.raw_score.astype(float)
  bad = ~((score >= low) & (score <= high))  # true for NaN
  if bad.any():
    row = table[bad].iloc[0]
    raise UserError(
      f"{row['where']}: {row.image_name} has the score {row.raw_score}, but {builder.name} scores lie in "
      f"{low:g}..{high:g} ({builder.SCORE}). Is the label file the official one, are its columns in the official order?"
    )
  deviation = table.mos_std.astype(float)
  bad = (deviation < 0) | (deviation > builder.STD_MAX)
  if bad.any():
    row = table[bad].iloc[0]
    raise UserError(
      f"{row['where']}: {row.image_name} has the standard deviation {row.mos_std}, but in {builder.name} they lie in "
      f"0..{builder.STD_MAX:g}; are the columns in the official order?"
    )


def _compare_with_published(builder, table, root):
  if builder.IMAGES is None:
    return
  if len(table) > builder.IMAGES:
    raise UserError(
      f"{root}: {len(table):,} labelled images, but {builder.name} has {builder.IMAGES:,}; the label "
      f"file has extra rows, the last is {table['where'].iloc[-1]}."
    )
  if len(table) < builder.IMAGES:
    return
  mean = table.mos.mean()
  if builder.MEAN is not None and abs(mean - builder.MEAN) > 0.01 * abs(builder.MEAN):
    raise UserError(
      f"{root}: the mean score of {builder.name} is {mean:.4g}, known is {builder.MEAN:.4g}; the label file is not the "
      "official one, or its columns are swapped."
    )
  if builder.REFERENCES is not None:
    _check_references(builder, table, root)


def _check_references(builder, table, root):
  """Refuses reference names that belong to other images: they would put the same content on both sides of a split."""
  count = table.reference_name.nunique()
  if count != builder.REFERENCES:
    raise UserError(f"{root}: {count} different references, but {builder.name} has {builder.REFERENCES}.")
  for protocol in ("liqe", "arniqa"):
    if tables.path(protocol, builder.name).exists():
      parts = tables.rows(protocol, builder.name, table.image_name.tolist()).splits.to_numpy()
      torn = pd.Series(parts).groupby(table.reference_name.to_numpy()).nunique()
      if (torn > 1).any():
        raise UserError(
          f"{root}: the images of the reference {torn.idxmax()} are in different parts of the published {protocol} "
          "splits; the label files pair images with the wrong references."
        )
