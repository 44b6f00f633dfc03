"""Files of results, complete or not there, and what their cells may hold."""

import csv
import io
import math
import pathlib
import re

import numpy as np

from jiqa import durable


def write_bytes(path, data):
  """Writes bytes to a file, making its folder; an earlier file is replaced when the new one is complete."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  durable.write(path, data)


def plain_text(value):
  """A cell that no spreadsheet runs: text that begins like a formula, and is no number, gets a ' before it."""
  formula = isinstance(value, str) and re.match(r"'*(?:[=@\t\r]|[+\-](?!([\d.]+(e[-+]?\d+)?|inf)$))", value)
  return f"'{value}" if formula else value


def not_plain_text(value):
  """The text of which `plain_text` made a cell."""
  return value[1:] if plain_text(value[1:]) == value else value


def write_csv(path, rows):
  """Writes rows of text and numbers as CSV, the first one the head; see `write_bytes` and `plain_text`."""
  buffer = io.StringIO()
  csv.writer(buffer, lineterminator="\n").writerows([map(plain_text, row) for row in rows])
  write_bytes(path, buffer.getvalue().encode())


def write_npz(path, **arrays):
  """Writes arrays as an .npz file, see `write_bytes`."""
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  write_bytes(path, buffer.getvalue())


def plain(value):
  """A result as JSON can hold it: arrays as lists, keys as text, None for a number that is not finite."""
  if isinstance(value, dict):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, (np.ndarray, np.generic)):
    value = value.tolist()
  if isinstance(value, (list, tuple)):
    return [plain(item) for item in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
