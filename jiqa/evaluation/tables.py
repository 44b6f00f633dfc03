"""Score tables: one row an image, one column a method, with errors that name the row."""

import pathlib
import sys

import numpy as np
import pandas as pd

from jiqa.errors import UserError
from jiqa.evaluation.outputs import not_plain_text

NAME = "image_name"
NAMES = (NAME, "path", "Image Name")  # the columns that may hold it: ours, that of `jiqa score`, that of BIQ2021
SCORED = {"score", "weights", "error"}  # columns that show that `jiqa score` wrote a table
READERS = {".parquet": pd.read_parquet, ".json": pd.read_json}


def read(path, name=None):
  """Reads a `.csv`, `.json` or `.parquet` table as a pandas.DataFrame, its image names as column NAME.

  `name` is the column that holds them where there is such a one; else the first of NAMES. Of what `jiqa score` wrote,
  rows without a score are left out, which standard error says. A UserError where it is missing, empty or no table.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"{path}: no such file; expected a CSV, JSON or Parquet table with one row an image")
  try:
    reader = READERS.get(path.suffix)
    table = reader(path) if reader else pd.read_csv(path, skipinitialspace=True)
  except (ValueError, OSError, pd.errors.ParserError) as error:  # a file of bytes raises a ValueError too
    raise UserError(f"{path}: not a readable table: {error}") from error
  if not len(table):
    raise UserError(f"{path}: the table has no rows")
  table = table.rename(columns=str)
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
  values = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
  broken = np.flatnonzero(~np.isfinite(values) & ~(empty & table[column].isna()))
  if len(broken):
    row = broken[0]
    place = f"line {row + 2}" + (f" ({table[NAME].iloc[row]})" if NAME in table else "")
    raise UserError(
      f"{path}: column {column!r} holds {table[column].iloc[row]!r} in {place}, expected a number"
      f" ({len(broken)} such row(s)); fill in the value or leave the row out"
    )
  return values


def words(table, column, path):
  """A column of text [n] str, '' for an empty cell; a UserError where it is missing."""
  _require(table, column, path)
  return table[column].fillna("").astype(str).to_numpy(str)


def methods(table, path, used, columns=(), empty=False):
  """The scores of every method, dict from column to `numbers`; without `columns` all of numbers but those `used`.

  What `jiqa score` wrote beside its score is no method's.
  """
  numeric = [c for c in table.columns if c not in {NAME, *used} and table[c].dtype.kind in "fiu"]
  if {NAME, *SCORED} <= set(table):
    numeric = ["score"]
  if not (columns or numeric):
    raise UserError(f"{path}: no column of scores; name it, there are {', '.join(map(repr, table.columns))}")
  return {column: numbers(table, column, path, empty) for column in columns or numeric}


def pool(table, files, used, columns=(), name=None):
  """`methods` of one or several files on the images of `table`, which was read from the first of them.

  The column `score` of one of several files is called after the file; a UserError where two methods have one name.
  """
  scores = {}
  for file in files:
    rows = table if file is files[0] else matched(read(file, name), file, by_name(table, files[0]).index, files[0])
    by_method = methods(rows, file, used, columns)
    if list(by_method) == ["score"] and len(files) > 1:
      by_method = {pathlib.Path(file).stem: by_method["score"]}
    if twice := sorted(set(by_method) & set(scores)):
      raise UserError(f"{file}: the method {twice[0]!r} has been read already; rename it")
    scores |= by_method
  return scores


def by_name(table, path):
  """The table with its image names as index; a UserError where one stands in two rows."""
  table = table.set_index(words(table, NAME, path))
  if len(twice := table.index[table.index.duplicated()]):
    raise UserError(f"{path}: image {twice.min()!r} stands in more than one row")
  return table


def join(table, path, source, default, name=None):
  """Takes a column from the table itself, or from another file, see `matched`.

  source is a column of the table; a file with image names, see `read`, and the column `default`, perhaps in capitals;
  or FILE:COLUMN. Returns the table that has the column, and its name; a UserError where there is neither, or an image
  has no partner.
  """
  if source in table:
    return table, source
  file, _, column = source.partition(":") if not pathlib.Path(source).is_file() else (source, "", "")
  if not pathlib.Path(file).is_file():
    columns = ", ".join(map(repr, table.columns))
    raise UserError(f"{source!r} is neither a column of {path} ({columns}) nor a file, nor FILE:COLUMN")
  other = read(file, name)
  column = column or (default.upper() if default.upper() in other and default not in other else default)
  _require(other, column, file)
  rows = matched(other, file, by_name(table, path).index, path)
  return table.assign(**{column: rows[column].to_numpy()}), column


def matched(other, file, names, path):
  """The rows of a table, read from `file`, of the images `names` of another, in that order.

  A name that is not there is that of a path's end: photos/scene/1.jpg is scene/1.jpg, or 1.jpg. A UserError where an
  image is missing, or two of `names` have one row.
  """
  other, partners = by_name(other, file), []
  for name in names:
    while name not in other.index and "/" in name:
      name = name.partition("/")[2]
    partners.append(name)
  partners = pd.Index(partners)
  if len(missing := names[~partners.isin(other.index)]):
    raise UserError(
      f"{file}: {len(missing)} image(s) of {path} are missing, the first is {missing.min()!r}; names agree where they "
      "are the same, or where the longer one ends in a / and the shorter one"
    )
  if len(twice := names[partners.duplicated()]):
    raise UserError(f"{file}: {twice[0]!r} of {path} and another image both end like one name; write whole names")
  return other.loc[partners]


def _require(table, column, path):
  if column not in table:
    raise UserError(f"{path}: no column {column!r}; there are {', '.join(map(repr, table.columns))}")
