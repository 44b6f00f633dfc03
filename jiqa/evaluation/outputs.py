"""Files that are complete or not there: written under another name, then renamed."""

import csv
import io
import os
import pathlib


def write_bytes(path, data):
  """Writes a file, making its folder; an earlier one is replaced when the new one is complete.

  Args:
    path: the file.
    data: bytes.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + ".new")
  partial.write_bytes(data)
  os.replace(partial, path)


def write_csv(path, rows):
  """Writes rows as CSV, see `write_bytes`.

  Args:
    path: the file.
    rows: sequences of text and numbers, the first one the head.
  """
  buffer = io.StringIO()
  csv.writer(buffer, lineterminator="\n").writerows(rows)
  write_bytes(path, buffer.getvalue().encode())
