"""What every label table must pass before a set is written."""

import posixpath

import numpy as np
import pandas as pd

from data_builders.folders import resolve
from jiqa.data.schema import COLUMNS, NUMBER_COLUMNS, SPLITS, TEXT_COLUMNS, tables
from jiqa.errors import UserError

LEVELS = (-1, 0, 1, 2, 3, 4)
DEFAULTS = {"reference_name": "", "mos_std": np.nan, "distortion": "", "level": -1, "split": "", "raw_score": np.nan}


def checked_table(builder, root):
  """The label table of a release, refused where it contradicts itself, the declared range or the disk.

  Args:
    builder: a `data_builders.base.Builder`.
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
  table = labels.assign(**{column: value for column, value in DEFAULTS.items() if column not in labels})
  _check_names(builder, table, root)
  _check_splits_and_levels(table)
  if builder.SCORE:
    _check_scores(builder, table)
  if "mos" not in table:
    raw = table.raw_score.astype(float)
    table["mos"] = raw if builder.DIRECTION == "higher" else builder.FLIP - raw
  if builder.SCORE:
    _compare_with_published(builder, table, root)
  order = table.split.map({split: i for i, split in enumerate(("", *SPLITS))})
  table = table.assign(_order=order).sort_values(["_order", "image_name"], kind="stable")
  types = {column: float for column in NUMBER_COLUMNS} | {"level": int} | {column: str for column in TEXT_COLUMNS}
  return table.astype(types)[list(COLUMNS)].reset_index(drop=True)


def _check_names(builder, table, root):
  """Replaces the image names by their spelling on disk; refuses those that are missing, unwritable or listed twice."""
  for name in table.image_name:
    try:
      name.encode()
    except UnicodeEncodeError as error:
      raise UserError(f"{name!r}: the file's name is not Unicode; rename the file.") from error
  resolved = resolve(builder.image_folder(root), table.image_name, table["where"])
  table["image_name"] = [posixpath.normpath(name) for name in resolved]  # ./a.png and b/../a.png are a.png
  repeated = table[table.image_name.duplicated(keep=False)]
  if len(repeated):
    name = repeated.image_name.iloc[0]
    first, second = repeated["where"][repeated.image_name == name].iloc[:2]
    raise UserError(f"{second}: {name} is listed a second time, first in {first}; remove one of the rows.")


def _check_splits_and_levels(table):
  if (row := _first(table, ~table.split.isin(["", *SPLITS]))) is not None:
    raise UserError(f"{row['where']}: {row.image_name} is in the split {row.split!r}, expected {', '.join(SPLITS)}.")
  if (row := _first(table, ~table.level.astype(float).isin(LEVELS))) is not None:
    raise UserError(f"{row['where']}: {row.image_name} has the level {row.level}, expected 0..4, or -1 for none.")


def _check_scores(builder, table):
  low, high = builder.RAW_RANGE
  # What is not between is out of range, NaN too.
  if (row := _first(table, ~table.raw_score.astype(float).between(low, high))) is not None:
    raise UserError(
      f"{row['where']}: {row.image_name} has the score {row.raw_score}, but {builder.name} scores lie in "
      f"{low:g}..{high:g} ({builder.SCORE}). Is the label file the official one, are its columns in the official order?"
    )
  deviation = table.mos_std.astype(float)
  if (row := _first(table, (deviation < 0) | (deviation > builder.STD_MAX))) is not None:
    raise UserError(
      f"{row['where']}: {row.image_name} has the standard deviation {row.mos_std}, but in {builder.name} they lie in "
      f"0..{builder.STD_MAX:g}; are the columns in the official order?"
    )


def _first(table, bad):
  """The first row for which `bad` holds, or None."""
  return table[bad].iloc[0] if bad.any() else None


def _compare_with_published(builder, table, root):
  if builder.IMAGES is None or len(table) < builder.IMAGES:
    return
  if len(table) > builder.IMAGES:
    raise UserError(
      f"{root}: {len(table):,} labelled images, but {builder.name} has {builder.IMAGES:,}; the label "
      f"file has extra rows, the last is {table['where'].iloc[-1]}."
    )
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
  for protocol in tables.published_protocols(builder.name):
    splits = tables.rows(protocol, builder.name, table.image_name.tolist()).splits.to_numpy()
    torn = pd.Series(splits).groupby(table.reference_name.to_numpy()).nunique()
    if (torn > 1).any():
      raise UserError(
        f"{root}: the images of the reference {torn.idxmax()} are in different parts of the published {protocol} "
        "splits; the label files pair images with the wrong references."
      )
