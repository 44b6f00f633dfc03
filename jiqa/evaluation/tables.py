"""Score tables: one row an image, one column a method, with errors that name the row."""

import contextlib
import csv
import functools
import itertools
import os
import pathlib
import sys
from typing import NamedTuple

import numpy as np
import pandas as pd

from jiqa.errors import UserError
from jiqa.evaluation.outputs import not_plain_text

NAME = "image_name"
NAMES = (NAME, "path", "Image Name")  # the columns that may hold it: ours, that of `jiqa score`, that of BIQ2021
SCORED = {"score", "weights", "error"}  # columns that show that `jiqa score` wrote a table
EMPTY = ["", "nan", "NaN"]  # cells of text that hold nothing; "NA" and "None" may be names
NO_NUMBER = ["NA", "N/A", "n/a", "#N/A", "<NA>", "None", "NULL", "null"]  # what holds nothing in a column of numbers
READERS = {".parquet": pd.read_parquet, ".json": functools.partial(pd.read_json, dtype=False)}
# As text first: 001 and 1 are two names, whatever pandas takes for a number or a missing value.
_AS_TEXT = {"skipinitialspace": True, "dtype": str, "keep_default_na": False, "na_values": EMPTY}


class Column(NamedTuple):
  """A column of values in the order of a table of scores, from that table or another file, see `join`."""

  table: pd.DataFrame
  name: str
  path: str  # the file that holds it
  taken: str  # the column of the table of scores that is therefore no method's

  def numbers(self):
    return numbers(*self[:3])

  def words(self):
    return words(*self[:3])


def read(path, name=None):
  """Reads a `.csv`, `.json` or `.parquet` table as a pandas.DataFrame, its image names as column NAME.

  `name` is the column that holds them where there is such a one; else the first of NAMES. The columns of a CSV file are
  text, nan where a cell holds nothing; the index counts the file's rows. Of what `jiqa score` wrote, rows without a
  score are left out, which standard error says. A UserError where it is missing, empty or no table.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"{path}: no such file; expected a CSV, JSON or Parquet table with one row an image")
  try:
    reader = READERS.get(path.suffix.lower())
    table = reader(path) if reader else pd.read_csv(path, **_AS_TEXT)
    if not (reader or isinstance(table.index, pd.RangeIndex)):  # pandas takes the first cells for the index
      raise ValueError("its rows hold more cells than its head")
  except (ValueError, OSError, pd.errors.ParserError) as error:  # a file of bytes raises a ValueError too
    raise UserError(f"{path}: not a readable table: {error}") from error
  if not len(table):
    raise UserError(f"{path}: the table has no rows")
  table = table.reset_index(drop=True).rename(columns=str)
  if len(table.columns) == 1 and (separator := next((mark for mark in ";\t|" if mark in table.columns[0]), None)):
    raise UserError(
      f"{path}: its columns are separated by {separator!r}; expected commas: save the table as such a CSV file"
    )
  column = next((known for known in (name, *NAMES) if known in table), NAME)
  if column != NAME:
    table = table.drop(columns=NAME, errors="ignore").rename(columns={column: NAME})
  if {NAME, *SCORED} <= set(table):
    if missing := int(table["score"].isna().sum()):
      print(f"jiqa: {path}: {missing} of {len(table)} rows have an error and no score; left out", file=sys.stderr)
    table = table[table["score"].notna()].assign(**{NAME: lambda rows: rows[NAME].map(not_plain_text)})
  return table


def numbers(table, column, path, empty=False):
  """A column of numbers [n] float64; with `empty` an empty cell is nan, else a UserError like any other value.

  Here and below table and path are what `read` returned, and of which file; a missing column is a UserError.
  """
  _require(table, column, path)
  cells = table[column].mask(table[column].isin(NO_NUMBER))
  values = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)
  broken = np.flatnonzero(~np.isfinite(values) & ~(empty & cells.isna().to_numpy()))
  if len(broken):
    value = table[column].iloc[broken[0]]
    what = "nothing" if pd.isna(value) else repr(value if isinstance(value, str) else float(value))
    raise UserError(
      f"{path}: column {column!r} holds {what} in {place(table, broken[0], path)}, expected a number"
      f" ({len(broken)} such row(s)); fill in the value or leave the row out"
    )
  return values


def place(table, row, path):
  """Where in its file a row (a position in the table) stands, for messages: 'line 4 (a.png)'."""
  number = int(table.index[row])
  where = f"row {number + 1}"
  with (
    contextlib.suppress(OSError, ValueError, csv.Error, StopIteration),  # compressed, or changed since
    open(path, newline="", encoding="utf-8-sig") as file,
  ):
    lines = csv.reader(() if pathlib.Path(path).suffix.lower() in READERS else file)
    # As pandas counts: the head is no row, nor are blank lines.
    filled = (lines.line_num for cells in lines if len(cells) > 1 or "".join(cells).strip())
    where = f"line {next(itertools.islice(filled, number + 1, None))}"
  return where + (f" ({table[NAME].iloc[row]})" if NAME in table else "")


def words(table, column, path):
  """A column of text [n] str, '' for an empty cell; a UserError where it is missing."""
  _require(table, column, path)
  return table[column].astype(str).where(table[column].notna(), "").to_numpy(str)


def methods(table, path, used, columns=(), empty=False, mos=None):
  """The scores of every method, dict from column to `numbers`; without `columns` all of numbers but those `used`.

  What `jiqa score` wrote beside its score is no method's, nor are columns without a name and `human_columns`.
  """
  used = {NAME, *used, *human_columns(mos, path, columns)}
  free = [column for column in table.columns if column not in used and not column.startswith("Unnamed: ")]
  if {NAME, *SCORED} <= set(table):
    free = [column for column in free if column == "score"]
  numeric = [column for column in free if _numeric(table[column])]
  if not (columns or numeric):
    raise UserError(f"{path}: no column of scores; name it, there are {', '.join(map(repr, table.columns))}")
  return {column: numbers(table, column, path, empty) for column in columns or numeric}


def human_columns(mos, path, columns=()):
  """The columns of a file, one or none, that hold the human scores, a `Column`; a UserError where it is in `columns`.

  As a method's they would be compared with themselves.
  """
  if mos is None or not os.path.samefile(mos.path, path):
    return set()
  if mos.name in columns:
    raise UserError(f"{path}: column {mos.name!r} holds the human scores; name another column for a method's")
  return {mos.name}


def pool(table, files, used, columns=(), name=None, mos=None):
  """`methods` of one or several files on the images of `table`, which was read from the first of them.

  The column `score` of one of several files is called after the file; a UserError where two methods have one name.
  """
  scores = {}
  for file in files:
    rows = table if file is files[0] else matched(read(file, name), file, unique_names(table, files[0]), files[0])
    by_method = methods(rows, file, used, columns, mos=mos)
    if list(by_method) == ["score"] and len(files) > 1:
      by_method = {pathlib.Path(file).stem: by_method["score"]}
    if twice := sorted(set(by_method) & set(scores)):
      raise UserError(f"{file}: the method {twice[0]!r} has been read already; rename it")
    scores |= by_method
  return scores


def unique_names(table, path):
  """The image names of a table as a pandas.Index; a UserError where one stands in two rows."""
  names = pd.Index(words(table, NAME, path))
  if len(twice := names[names.duplicated()]):
    raise UserError(f"{path}: image {twice.min()!r} stands in more than one row")
  return names


def join(table, path, source, default, name=None):
  """The `Column` of a table of scores, read from `path`, that `source` means; it may stand in another file.

  source is a column of the table; a file with image names, see `read`, and the column `default`, perhaps in capitals;
  or FILE:COLUMN, see `matched`. What the table itself has under the name `default` then does not count. A UserError
  where there is neither, or an image has no partner.
  """
  if source in table:
    return Column(table, source, path, source)
  file, _, column = source.partition(":") if not pathlib.Path(source).is_file() else (source, "", "")
  if not pathlib.Path(file).is_file():
    columns = ", ".join(map(repr, table.columns))
    raise UserError(f"{source!r} is neither a column of {path} ({columns}) nor a file, nor FILE:COLUMN")
  other = read(file, name)
  column = column or (default.upper() if default.upper() in other and default not in other else default)
  _require(other, column, file)
  return Column(matched(other, file, unique_names(table, path), path), column, file, default)


def matched(other, file, names, path):
  """The rows of a table, read from `file`, of the images `names` of another, in that order.

  Two names agree where they are the same, or where the longer one ends in a / and the shorter one: photos/scene/1.jpg
  is scene/1.jpg, or else 1.jpg. A UserError where an image is missing, a name is the end of two, or two of `names` have
  one row.
  """
  index = unique_names(other, file)
  partners = index.get_indexer([next((end for end in _ends(name) if end in index), name) for name in names])
  if (partners < 0).any():
    missing = names[partners < 0]
    sought, rows = set(missing), {}
    for row, name in enumerate(index):
      for end in sought.intersection(_ends(name)):
        rows.setdefault(end, []).append(row)
    if lost := sorted(sought - set(rows)):
      raise UserError(
        f"{file}: {len(lost)} image(s) of {path} are missing, the first is {lost[0]!r}; names agree where they are the "
        "same, or where the longer one ends in a / and the shorter one"
      )
    if several := [name for name in missing if len(rows[name]) > 1]:
      both = " and ".join(repr(index[row]) for row in rows[several[0]][:2])
      raise UserError(f"{path}: {several[0]!r} is the end of {both} of {file}; write whole names")
    partners[partners < 0] = [rows[name][0] for name in missing]
  if len(twice := names[pd.Index(partners).duplicated()]):
    raise UserError(f"{file}: {twice[0]!r} of {path} and another image both end like one name; write whole names")
  return other.iloc[partners]


def _ends(name):
  """The name, and what is left of it without its first folder, without its first two, and so on."""
  yield name
  while "/" in name:
    name = name.partition("/")[2]
    yield name


def _numeric(column):
  """Whether all that a column holds are numbers; one that holds nothing is such a column, too."""
  if column.dtype.kind in "biufc":
    return column.dtype.kind in "fiu"
  cells = column.mask(column.isin(NO_NUMBER)).dropna()
  return bool(pd.to_numeric(cells, errors="coerce").notna().all())


def _require(table, column, path):
  if column not in table:
    raise UserError(f"{path}: no column {column!r}; there are {', '.join(map(repr, table.columns))}")
