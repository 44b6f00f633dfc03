"""Score tables: one row an image, one column a method, read from CSV or Parquet with errors that name the row."""

import pathlib

import numpy as np

from jiqa.errors import UserError

NAME = "image_name"


def read(path):
  """Reads a table of scores.

  Args:
    path: `.csv` or `.parquet` file.

  Returns:
    pandas.DataFrame, text columns as str.

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


def numbers(table, column, path):
  """A column of finite numbers.

  Args:
    table: what `read` returned.
    column: its name.
    path: for the messages.

  Returns:
    [n] float64.

  Raises:
    UserError: the column is missing, or a value is empty or not a finite number.
  """
  import pandas as pd

  require(table, column, path)
  values = pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64)
  broken = np.flatnonzero(~np.isfinite(values))
  if len(broken):
    row = broken[0]
    name = f" ({table[NAME].iloc[row]})" if NAME in table else ""
    raise UserError(
      f"{path}: column {column!r} holds {table[column].iloc[row]!r} in line {row + 2}{name}, expected a number"
      f" ({len(broken)} such row(s)); fill in the value or leave the row out"
    )
  return values


def words(table, column, path):
  """A column of text; an empty cell is ''.

  Args:
    table: what `read` returned.
    column: its name.
    path: for the messages.

  Returns:
    [n] str.

  Raises:
    UserError: the column is missing.
  """
  require(table, column, path)
  return table[column].fillna("").astype(str).to_numpy(str)


def require(table, column, path):
  """Raises a UserError that lists the columns where `column` is not one of them."""
  if column not in table:
    raise UserError(f"{path}: no column {column!r}; there are {', '.join(map(repr, table.columns))}")


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
  for part, name in ((table, path), (other, file)):
    require(part, NAME, name)
    twice = part[NAME][part[NAME].duplicated()]
    if len(twice):
      raise UserError(f"{name}: image {twice.iloc[0]!r} stands in more than one row")
  require(other, column, file)
  missing = np.setdiff1d(table[NAME].astype(str), other[NAME].astype(str))
  if len(missing):
    raise UserError(f"{file}: {len(missing)} image(s) of {path} are missing, the first is {missing[0]!r}")
  values = other.set_index(other[NAME].astype(str))[column].loc[table[NAME].astype(str)].to_numpy()
  return table.assign(**{column: values}), column
