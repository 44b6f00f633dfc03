"""Reading label files so that an error can name the row."""

import csv
import io
import math

from jiqa.errors import UserError


def read_csv(path, columns, *, delimiter=","):
  """Rows of a text table with a header; byte-order marks, CRLF and empty trailing columns are taken as they come.

  Args:
    path: pathlib.Path.
    columns: names that the header must have, in any place.
    delimiter: between the cells.

  Returns:
    (rows, where): list of dicts from column name to text, and for each its "file line n".

  Raises:
    UserError: not text, no such column, or a row with another number of cells than the header.
  """
  try:
    text = path.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: not a UTF-8 text file ({error}).") from error
  reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
  header = [cell.strip() for cell in _without_empty_tail(next(reader, []))]
  absent = [column for column in columns if column not in header]
  if absent:
    raise UserError(f"{path}: no column {absent[0]!r}; the header is {header}, expected {list(columns)}.")
  rows, where = [], []
  for cells in reader:
    cells = cells[: len(header)] + _without_empty_tail(cells[len(header) :])
    if not any(cell.strip() for cell in cells):
      continue
    row = f"{path.name} line {reader.line_num}"
    if len(cells) != len(header):
      raise UserError(f"{path}: {row} has {len(cells)} cells where the header has {len(header)}.")
    rows.append({column: cell.strip() for column, cell in zip(header, cells, strict=True)})
    where.append(row)
  return rows, where


def number(text, where, what):
  """A finite number from a label file.

  Args:
    text: the cell, as text or number.
    where: file and line.
    what: what the number is.

  Returns:
    float.

  Raises:
    UserError: no number, NaN or infinite; names the row.
  """
  try:
    value = float(text)
  except (TypeError, ValueError):
    value = math.nan
  if not math.isfinite(value):
    raise UserError(f"{where}: the {what} is {text!r}, expected a finite number.")
  return value


def _without_empty_tail(cells):
  while cells and not cells[-1].strip():
    cells = cells[:-1]
  return cells
