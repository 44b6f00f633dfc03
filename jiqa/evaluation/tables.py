"""Score tables: one row an image, one column a method, read from CSV or Parquet with errors that name the row."""

import pathlib

import numpy as np

from jiqa.errors import UserError

NAME = "image_name"


def read(path):
  """Reads a `.csv` or `.parquet` table of scores.

  Returns:
    pandas.DataFrame, names of columns as str.

  Raises:
    UserError: the file is missing, empty or not a table.
  """
  import pandas as pd

  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"{path}: no such file; expected a CSV or Parquet table with one row an image")
  try:
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, skipinitialspace=True)
  except (ValueError, OSError, pd.errors.ParserError) as error:  # a file of bytes raises a ValueError too
    raise UserError(f"{path}: not a readable table: {error}") from error
  if not len(table):
    raise UserError(f"{path}: the table has no rows")
  return table.rename(columns=str)


def numbers(table, column, path, empty=False):
  """A column of finite numbers.

  Args:
    table: what `read` returned.
    column: its name.
    path: for the messages.
    empty: whether a cell may be empty; it is nan then.

  Returns:
    [n] float64.

  Raises:
    UserError: the column is missing, or a value is not a finite number.
  """
  import pandas as pd

  require(table, column, path)
  values = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
  broken = np.flatnonzero(~np.isfinite(values) & ~(empty & table[column].isna()))
  if len(broken):
    row = broken[0]
    name = f" ({table[NAME].iloc[row]})" if NAME in table else ""
    raise UserError(
      f"{path}: column {column!r} holds {table[column].iloc[row]!r} in line {row + 2}{name}, expected a number"
      f" ({len(broken)} such row(s)); fill in the value or leave the row out"
    )
  return values


def words(table, column, path):
  """A column of text [n] str, '' for an empty cell; a UserError where it is missing."""
  require(table, column, path)
  return table[column].fillna("").astype(str).to_numpy(str)


def numeric(table, used):
  """The columns of numbers but those in `used`."""
  return [c for c in table.columns if c not in {NAME, *used} and table[c].dtype.kind in "fiu"]


def require(table, column, path):
  """Raises a UserError that lists the columns where `column` is not one of them."""
  if column not in table:
    raise UserError(f"{path}: no column {column!r}; there are {', '.join(map(repr, table.columns))}")


def unique_names(table, path):
  """The image names [n] str; a UserError where one stands in two rows."""
  names = words(table, NAME, path)
  values, counts = np.unique(names, return_counts=True)
  if (counts > 1).any():
    raise UserError(f"{path}: image {str(values[counts > 1][0])!r} stands in more than one row")
  return names


def matched(other, names, path, first):
  """The rows of another table, read from `path`, that belong to the images `names` of the table `first`.

  Raises:
    UserError: a name occurs twice, or an image is missing.
  """
  missing = np.setdiff1d(names, unique_names(other, path))
  if len(missing):
    raise UserError(f"{path}: {len(missing)} image(s) of {first} are missing, the first is {str(missing[0])!r}")
  return other.set_index(words(other, NAME, path)).loc[names]


def join(table, path, source, default):
  """Takes a column from the table itself, or from another file matched by image name.

  Args:
    table: what `read` returned.
    path: its file, for the messages.
    source: a column of the table; a file with the columns `image_name` and `default`; or FILE:COLUMN.
    default: the column of that file.

  Returns:
    (table that has the column, name of the column).

  Raises:
    UserError: neither exists, a name occurs twice, or an image has no partner.
  """
  if source in table:
    return table, source
  file, _, column = source.partition(":") if not pathlib.Path(source).is_file() else (source, "", "")
  if not pathlib.Path(file).is_file():
    columns = ", ".join(map(repr, table.columns))
    raise UserError(f"{source!r} is neither a column of {path} ({columns}) nor a file")
  column = column or default
  other = read(file)
  require(other, column, file)
  rows = matched(other, unique_names(table, path), file, path)
  return table.assign(**{column: rows[column].to_numpy()}), column
