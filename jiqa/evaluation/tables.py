"""Score tables: one row an image, one column a method, read from CSV or Parquet with errors that name the row."""

import pathlib

import numpy as np
import pandas as pd

from jiqa.errors import UserError

NAME = "image_name"


def read(path):
  """Reads a `.csv` or `.parquet` table as a pandas.DataFrame; a UserError where it is missing, empty or no table."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"{path}: no such file; expected a CSV or Parquet table with one row an image")
  try:
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, skipinitialspace=True)
  except (ValueError, OSError, pd.errors.ParserError) as error:  # a file of bytes raises a ValueError too
    raise UserError(f"{path}: not a readable table: {error}") from error
  if not len(table):
    raise UserError(f"{path}: the table has no rows")
  table = table.rename(columns=str)
  if len(table.columns) == 1 and (found := next((mark for mark in ";\t|" if mark in table.columns[0]), None)):
    raise UserError(
      f"{path}: its columns are separated by {found!r}; expected commas: save the table as such a CSV file"
    )
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
  """The scores of every method, dict from column to `numbers`; without `columns` all of numbers but those `used`."""
  numeric = [c for c in table.columns if c not in {NAME, *used} and table[c].dtype.kind in "fiu"]
  if not (columns or numeric):
    raise UserError(f"{path}: no column of scores; name it, there are {', '.join(map(repr, table.columns))}")
  return {column: numbers(table, column, path, empty) for column in columns or numeric}


def by_name(table, path):
  """The table with its image names as index; a UserError where one stands in two rows."""
  table = table.set_index(words(table, NAME, path))
  if len(twice := table.index[table.index.duplicated()]):
    raise UserError(f"{path}: image {twice.min()!r} stands in more than one row")
  return table


def join(table, path, source, default):
  """Takes a column from the table itself, or from another file matched by image name.

  source is a column of the table; a file with `image_name` and the column `default`; or FILE:COLUMN. Returns the table
  that has the column, and its name; a UserError where there is neither, or an image has no partner.
  """
  if source in table:
    return table, source
  file, _, column = source.partition(":") if not pathlib.Path(source).is_file() else (source, "", "")
  if not pathlib.Path(file).is_file():
    columns = ", ".join(map(repr, table.columns))
    raise UserError(f"{source!r} is neither a column of {path} ({columns}) nor a file")
  other, column = read(file), column or default
  _require(other, column, file)
  rows = matched(other, file, by_name(table, path).index, path)
  return table.assign(**{column: rows[column].to_numpy()}), column


def matched(other, file, names, path):
  """The rows of a table, read from `file`, of the images `names` of another; a UserError where one is missing."""
  other = by_name(other, file)
  if len(missing := names.difference(other.index)):
    raise UserError(f"{file}: {len(missing)} image(s) of {path} are missing, the first is {missing[0]!r}")
  return other.loc[names]


def _require(table, column, path):
  if column not in table:
    raise UserError(f"{path}: no column {column!r}; there are {', '.join(map(repr, table.columns))}")
