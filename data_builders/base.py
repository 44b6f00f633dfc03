"""What every database here has in common: what its numbers mean, and how it is prepared.

A database is a subclass of `Builder` in a file of its own: class attributes say what it is, `labels` reads its official
label files. What they say is checked against the disk (checks.py) and the image *files* are written as TFDS ArrayRecord
shards (shards.py): nothing is decoded, so nothing is re-encoded and TensorFlow is never needed.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import shlex
import shutil
import tempfile

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from data_builders import shards
from data_builders.checks import checked_table
from data_builders.folders import find_root
from jiqa.data.schema import LABELS_FILE, NUMBER_COLUMNS, TEXT_COLUMNS
from jiqa.errors import UserError


def default_data_dir():
  """Where prepared sets lie unless said otherwise: $TFDS_DATA_DIR, else TFDS's ~/tensorflow_datasets."""
  return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


class LocalInfo(tfds.core.DatasetInfo):
  """TFDS's description of a set, without the look into Google's bucket (and the temporary folder that it leaves)."""

  def initialize_from_bucket(self):
    """Nothing of ours is there."""


class Builder(FileReaderBuilder, skip_registration=True):
  """A TFDS builder of one database.

  Subclasses set the attributes below and define `labels`.

  Attributes:
    TITLE: one line: what the images are.
    KIND: "authentic", "synthetic", "generated", "restored", "unlabelled" or "your own".
    PAGE: where the official release can be had.
    MANUAL: which archives to fetch and the tree to unpack them to; '' where nothing is needed.
    LICENCE: terms, as far as they are stated.
    CITATION: authors, title, venue, year.
    SCORE: what `raw_score` is; '' for a set without scores.
    SHORTER_SIDE: pixels that the field's evaluations resize the shorter side of an image to; 0: none.
    UNIT: what `mos` counts, in a word or two.
    DIRECTION: "higher" or "lower": which raw score means better quality.
    RAW_RANGE: (low, high), which a raw score can never leave.
    FLIP: where DIRECTION is "lower", mos = FLIP - raw_score.
    MOS_RANGE: (low, high) of mos where `labels` gives a column `mos` on another scale than raw_score.
    STD_MAX: no mos_std of the release is larger.
    IMAGES, REFERENCES: how many the complete release has; None where that is not fixed.
    MEAN: mean mos of the complete release, rounded; None where not known.
    OFFICIAL_SPLIT: the release says which images train and which test.
    LABEL_SHA256: (name, checksum) of the label files of which one is known.
    TOP: names of the release's top folder; `--manual-dir` may be that folder or the one it lies in.
    MARKS: files or folders that must be in the top folder, whatever their case; a tuple stands for alternatives.
    USER_NAMED: the user names each prepared set of this kind ("image_folder/NAME").
    SKIPS_DAMAGED: leave out files that are no image, with a count, instead of refusing the whole set.
  """

  VERSION = tfds.core.Version("1.0.0")
  TITLE = KIND = PAGE = MANUAL = LICENCE = CITATION = SCORE = ""
  UNIT = "MOS"
  DIRECTION = "higher"
  RAW_RANGE = (-np.inf, np.inf)
  FLIP = MOS_RANGE = None
  STD_MAX = np.inf
  IMAGES = REFERENCES = MEAN = None
  OFFICIAL_SPLIT = False
  SHORTER_SIDE = 0
  LABEL_SHA256 = ()
  TOP = ()
  MARKS = ()
  USER_NAMED = False
  SKIPS_DAMAGED = False

  def __init_subclass__(cls, **kwargs):
    # The name is the file's. The package tells TFDS where the files are, so that no class needs to be imported first.
    cls.name = cls.__module__.rpartition(".")[2]
    super().__init_subclass__(skip_registration=True, **kwargs)

  def __init__(self, *, data_dir=None, config=None, **kwargs):
    if config is None or isinstance(config, str):
      config = self._config(config)
    with _quiet():
      super().__init__(data_dir=os.fspath(data_dir or default_data_dir()), config=config, **kwargs)

  def _config(self, variant):
    known = {config.name: config for config in self.BUILDER_CONFIGS}
    if self.USER_NAMED:
      if not variant:
        raise UserError(f"{self.name}: give the set a name, --name=NAME; it is then called {self.name}/NAME.")
      if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", variant):
        raise UserError(
          f"{self.name}: a set's name has letters, digits, dots, dashes and underscores, not {variant!r}."
        )
      return tfds.core.BuilderConfig(name=variant)
    if variant and variant not in known:
      variants = f"the variants {', '.join(known)}" if known else "no variants"
      raise UserError(f"{self.name}/{variant}: {self.name} has {variants}.")
    return known.get(variant)

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

  locate_shards = staticmethod(shards.locate)

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

  @property
  def is_prepared(self):
    """Whether the complete set lies in `data_dir`."""
    return (pathlib.Path(self.data_dir) / LABELS_FILE).exists()

  def prepare_command(self, manual_dir="FOLDER"):
    """The command that prepares the set from the unpacked release in `manual_dir`, for a shell."""
    variant = self.builder_config and self.builder_config not in self.BUILDER_CONFIGS[:1]
    command = ["jiqa", "prepare", f"{self.name}/{self.builder_config.name}" if variant else self.name]
    if self.MANUAL:
      command.append(f"--manual-dir={manual_dir}")
    return shlex.join([*command, f"--data-dir={self.data_dir_root}"])

  def download_and_prepare(self, *, strict=False, workers=None, console=None, file_format="array_record", **kwargs):
    """As TFDS, but always with random access, and without a folder for downloads: nothing is downloaded.

    Args:
      strict: refuse a set with damaged files even where the builder leaves them out.
      workers: threads; None takes one a core.
      console: rich Console for the progress bar; None shows none.
      file_format, kwargs: as TFDS.

    Raises:
      UserError: anything wrong with the release, or the folder cannot be written; nothing half-written stays behind.
    """
    if file_format != "array_record":
      raise UserError(f"{self.name} is prepared as array_record, which has random access, not as {file_format}.")
    self._skip_damaged, self._workers = self.SKIPS_DAMAGED and not strict, workers
    staging = shards.staging_folder(self)
    with (
      _progress(f"preparing {self.name}", console) as self._progress,
      self._clean_failure(),
      _quiet(),
      # Processes of one run all open the sets that prepare themselves: the first does it for the others.
      shards.locked(staging, wait=not self.MANUAL),
      tempfile.TemporaryDirectory() as unused,
    ):
      if self.MANUAL or not self.is_prepared:
        super().download_and_prepare(file_format=file_format, **{"download_dir": unused} | kwargs)
        shutil.rmtree(staging, ignore_errors=True)

  def _download_and_prepare(self, dl_manager, download_config):
    with self.root(download_config.manual_dir) as root:
      table = self.table(root)
      self._progress(total=len(table))
      splits, skipped = shards.write(
        self, self.image_folder(root), table, workers=self._workers, skip_damaged=self._skip_damaged,
        advance=lambda count: self._progress(advance=count), beam=download_config,
      )  # fmt: skip
    self.info.set_splits(tfds.core.splits.SplitDict(splits))
    table = table[~table.image_name.isin(skipped)]
    text = table.to_csv(index=False, na_rep="nan", lineterminator="\n")
    (pathlib.Path(self.data_dir) / LABELS_FILE).write_text(text, encoding="utf-8")
    self.info.metadata.update(
      self.metadata(),
      images=len(table),
      references=int(table.reference_name[table.reference_name != ""].nunique()),
      complete=self.IMAGES is None or len(table) == self.IMAGES,
      labels_sha256=hashlib.sha256(text.encode()).hexdigest(),
      skipped=list(skipped.values()),
    )

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

  @contextlib.contextmanager
  def _clean_failure(self):
    """Turns what the disk says into a UserError and removes folders left empty."""
    root, path = pathlib.Path(self.data_dir_root), pathlib.Path(self.data_dir)
    try:
      yield
    except OSError as error:
      raise UserError(
        f"{root}: cannot write the prepared {self.name} ({error.strerror or error}). Free space or give another "
        "--data-dir, then run the same command again; nothing was left behind."
      ) from error
    finally:
      for folder in path.parents[: len(path.relative_to(root).parts) - 1]:
        if folder.is_dir() and [entry.name for entry in folder.iterdir()] == [".config"]:
          shutil.rmtree(folder / ".config")  # where TFDS notes which variant is the default
        with contextlib.suppress(OSError):
          folder.rmdir()  # only where it is empty

  def _log_download_bytes(self):
    """TFDS prints the size of a download here; there is none."""

  def _log_download_done(self):
    """TFDS prints that the download is done here."""


@contextlib.contextmanager
def _progress(description, console):
  """Yields a function that sets the `total` of a progress bar or lets it `advance`."""
  columns = (
    SpinnerColumn(),
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
  )
  with Progress(*columns, console=console or Console(quiet=True), transient=True) as bar:
    task = bar.add_task(description, total=None)
    yield lambda **changes: bar.update(task, **changes)


@contextlib.contextmanager
def _quiet():
  """TFDS narrates at warning level what is normal here (variants of the user's, its own progress bars)."""
  level = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  tfds.disable_progress_bar()
  try:
    yield
  finally:
    logging.set_verbosity(level)
