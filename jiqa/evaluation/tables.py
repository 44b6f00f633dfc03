"""Score tables: one row an image, one column a method, read from CSV or Parquet with errors that name the row."""

import pathlib

import numpy as np

from jiqa.errors import UserError

NAME = "image_name"


def read(path):
  """Reads a `.csv` or `.parquet` table as a pandas.DataFrame; a UserError where it is missing, empty or no table."""
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

  table and path are what `read` returned, and of which file. With `empty` an empty cell is nan.

  Returns:
    [n] float64; a missing column or another value is a UserError.
  """
  import pandas as pd

  _require(table, column, path)
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
  _require(table, column, path)
  return table[column].fillna("").astype(str).to_numpy(str)


def methods(table, path, used, columns=(), empty=False):
  """The scores of every method: dict from column to `numbers`.

  Without `columns` these are all columns of numbers but those in `used`; a UserError where there is none.
  """
  numeric = [c for c in table.columns if c not in {NAME, *used} and table[c].dtype.kind in "fiu"]
  if not (columns or numeric):
    raise UserError(f"{path}: no column of scores; name it, there are {', '.join(map(repr, table.columns))}")
  return {column: numbers(table, column, path, empty) for column in columns or numeric}


def by_name(table, path):
  """The table with its image names as index; a UserError where one stands in two rows."""
  names = words(table, NAME, path)
  values, counts = np.unique(names, return_counts=True)
  if (counts > 1).any():
    raise UserError(f"{path}: image {str(values[counts > 1][0])!r} stands in more than one row")
  return table.set_index(names)


def join(table, path, source, default):
  """Takes a column from the table itself, or from another file matched by image name.

  Args:
    table, path: what `read` returned, and of which file.
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
  _require(other, column, file)
  rows = matched(other, file, by_name(table, path).index, path)
  return table.assign(**{column: rows[column].to_numpy()}), column


def matched(other, file, names, path):
  """The rows of a table, read from `file`, of the images `names` of another; a UserError where one is missing."""
  other = by_name(other, file)
  missing = names.difference(other.index)
  if len(missing):
    raise UserError(f"{file}: {len(missing)} image(s) of {path} are missing, the first is {missing[0]!r}")
  return other.loc[names]


def _require(table, column, path):
  if column not in table:
    raise UserError(f"{path}: no column {column!r}; there are {', '.join(map(repr, table.columns))}")
