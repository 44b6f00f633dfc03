"""Reading label files so that an error can name the row."""

import csv
import io
import itertools
import math

import numpy as np
import openpyxl
import scipy.io
import xlrd

from jiqa.errors import UserError

# A sheet's header stands within these rows; above it there may be notes.
SHEET_HEADER_ROWS = 20


class Row(dict):
  """One row of a table: its cells by the names of the columns.

  Attributes:
    where: file and line, for messages.
  """

  def __init__(self, cells, where):
    super().__init__(cells)
    self.where = where

  def number(self, column):
    """The finite number in a column; a UserError, which names the row, where there is none."""
    return number(self[column], self.where, column)


def read_text(path):
  """The text of a file without its byte-order mark; a UserError where it cannot be read or is not UTF-8."""
  try:
    return path.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: not a UTF-8 text file ({error}).") from error
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror}).") from error


def read_lines(path):
  """[(line, "FILE line N")] of the lines of a text file that are not blank; errors as for `read_text`."""
  lines = enumerate(read_text(path).splitlines(), start=1)
  return [(line, f"{path.name} line {i}") for i, line in lines if line.strip()]


def read_csv(path, columns):
  """Rows of a text table with a header; byte-order marks, CRLF and empty trailing columns are taken as they come.

  Args:
    path: pathlib.Path.
    columns: names that the header must have, in any place.

  Returns:
    List of Row of text.

  Raises:
    UserError: not text, no such column, two columns of one name, a quotation mark that is not closed (what follows
      would be one cell), or a row with another number of cells than the header.
  """
  reader, lines = csv.reader(io.StringIO(read_text(path), newline=""), strict=True), []
  try:
    for cells in reader:
      lines.append((cells, reader.line_num))
  except csv.Error as error:
    start = lines[-1][1] + 1 if lines else 1
    raise UserError(f"{path}: the row from line {start} on is no CSV ({error}); check its quotation marks.") from error
  header = [cell.strip() for cell in _without_empty_tail(lines[0][0] if lines else [])]
  if len(header) == 1 and (mark := next((mark for mark in ";\t|" if mark in header[0]), None)):
    raise UserError(f"{path}: its columns are separated by {mark!r}; expected commas: save it as such a CSV file.")
  absent = [column for column in columns if column not in header]
  if absent:
    raise UserError(f"{path}: no column {absent[0]!r}; the header is {header}, expected {list(columns)}.")
  if twice := next((name for i, name in enumerate(header) if name and name in header[:i]), None):
    raise UserError(f"{path}: two columns are called {twice!r}; rename or remove one of them.")
  rows = []
  for cells, line in lines[1:]:
    cells = cells[: len(header)] + _without_empty_tail(cells[len(header) :])
    if not any(cell.strip() for cell in cells):
      continue
    where = f"{path.name} line {line}"
    if len(cells) != len(header):
      raise UserError(f"{path}: {where} has {len(cells)} cells where the header has {len(header)}.")
    rows.append(Row(zip(header, map(str.strip, cells), strict=True), where))
  return rows


def number(text, where, what):
  """The float in a cell of a label file, text or number; a UserError says `where` and `what` if it is not finite."""
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


def read_sheet(path, sheet, columns):
  """Rows below the header of an Excel sheet, old (.xls) or new (.xlsx); the header may stand some rows down.

  Args:
    path: pathlib.Path.
    sheet: name of the sheet, or None for the first.
    columns: names that the header row must have.

  Returns:
    List of Row of cell values, None or '' where blank.

  Raises:
    UserError: no Excel file, no such sheet, or no row with these columns.
  """
  try:
    cells = _xls_cells(path, sheet) if path.suffix.lower() == ".xls" else _xlsx_cells(path, sheet)
  except KeyError as error:
    raise UserError(f"{path}: no sheet {sheet!r} ({error}).") from error
  except Exception as error:  # the readers raise BadZipFile, XLRDError, InvalidFileException, ...
    raise UserError(f"{path}: not a readable Excel file ({type(error).__name__}: {error}).") from error
  headers = [[str(cell).strip() if cell is not None else "" for cell in row] for row in cells[:SHEET_HEADER_ROWS]]
  top = next((i for i, names in enumerate(headers) if set(columns) <= set(names)), None)
  if top is None:
    raise UserError(f"{path}: no row has the columns {', '.join(columns)}; is this the official file?")
  names = headers[top]
  rows = []
  for i, values in enumerate(cells[top + 1 :], start=top + 2):
    cells = itertools.zip_longest(names, values)  # a row may end before its blank cells
    row = Row([(name, value) for name, value in cells if name], f"{path.name} row {i}")
    if any(row.get(column) not in (None, "") for column in columns):
      rows.append(row)
  return rows


def _xlsx_cells(path, sheet):
  with path.open("rb") as file:
    book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    return [list(row) for row in (book[sheet] if sheet else book.worksheets[0]).iter_rows(values_only=True)]


def _xls_cells(path, sheet):
  book = xlrd.open_workbook(path)
  if sheet and sheet not in book.sheet_names():
    raise KeyError(", ".join(book.sheet_names()))
  page = book.sheet_by_name(sheet) if sheet else book.sheet_by_index(0)
  return [page.row_values(i) for i in range(page.nrows)]


def read_mat(path, variables):
  """Variables of a MATLAB file as flat arrays.

  Args:
    path: pathlib.Path.
    variables: their names.

  Returns:
    List of [n] arrays, in the order of `variables`; cells of text as str.

  Raises:
    UserError: not a MATLAB file, or a variable is not in it.
  """
  try:
    content = scipy.io.loadmat(path)
  except Exception as error:  # ValueError, MatReadError, NotImplementedError (v7.3), zlib.error, ...
    raise UserError(f"{path}: not a readable MATLAB file ({type(error).__name__}: {error}).") from error
  absent = [name for name in variables if name not in content]
  if absent:
    present = ", ".join(name for name in content if not name.startswith("__"))
    raise UserError(f"{path}: no variable {absent[0]!r}, only {present}; is this the official file?")
  return [_flat(content[name]) for name in variables]


def _flat(array):
  """[n] array; text cells, which MATLAB nests, as str."""
  flat = np.asarray(array).ravel()
  return np.array([_text(cell) for cell in flat], dtype=object) if flat.dtype == object else flat


def _text(cell):
  while isinstance(cell, np.ndarray):
    cell = cell.ravel()[0] if cell.size else ""
  return str(cell)
