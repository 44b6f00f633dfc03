"""Rows of results that survive a kill: appended one by one, and continued where they end."""

import contextlib
import csv
import datetime
import fcntl
import importlib.util
import io
import json
import os
import pathlib
import re
import time
import types

from jiqa.errors import UserError
from jiqa.evaluation.outputs import not_plain_text, plain_text, write_bytes
from jiqa.inference import video
from jiqa.inference.inputs import is_address

FIRST, LAST = ("path", "score"), ("width", "height", "seconds", "file", "weights", "head", "error")
TEXTS, INTEGERS = ("path", "file", "weights", "head", "error"), ("width", "height")
SUFFIXES = (".csv", ".json", ".parquet")
SYNC_SECONDS = 10  # of work that a power cut may cost


def check(out, suffixes=SUFFIXES):
  """Makes the folder of an output file; a UserError says why the file could not be written."""
  path = pathlib.Path(out)
  if is_address(str(out)):
    problem = "is written to files only; copy the file afterwards"
  elif path.is_dir():
    problem = f"is a folder; expected a file, such as {path / 'out'}{suffixes[0]}"
  elif path.suffix not in suffixes:
    problem = f"expected a name that ends in {', '.join(suffixes)}"
  elif path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
    problem = "Parquet needs pyarrow: pip install 'pyarrow>=17', or choose .csv"
  else:
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      if os.access(path.parent, os.W_OK):
        return
      problem = "its folder cannot be written to"
    except OSError as error:
      problem = f"its folder cannot be made ({error})"
  raise UserError(f"--out={out}: {problem}")


def stamp(path):
  """Text that changes when the file behind a row (of a frame the video) is replaced; '' for what is no file."""
  try:
    status = os.stat(video.split_frame(path)[0])
  except (OSError, ValueError):
    return ""
  modified = datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC)
  return f"{status.st_size} bytes, {modified:%Y-%m-%dT%H:%M:%S.%fZ}"


class Results:
  """The rows of one output file; a UserError where it cannot be written or holds something else than scores.

  A CSV file is appended to as it is. JSON and Parquet cannot be appended to: their rows wait as CSV in FILE.part until
  all are there. Rows with a score are `done` when the same command runs again, a set of paths; rows with an error, or
  whose file has changed since (`changed`, their number), are not. `made_by` is a dict of 'weights' and 'head', the
  checksums that all rows must have. With `overwrite` nothing of an earlier run is kept.
  """

  def __init__(self, path, made_by, overwrite=False):
    check(path)
    self.path, self._made_by = pathlib.Path(path), made_by
    self._journal = self.path if self.path.suffix == ".csv" else self.path.with_name(self.path.name + ".part")
    self._lock = _locked(self.path)
    try:
      rows = self._resume(overwrite)
      self._file = open(self._journal, "ab")  # closed in `close`
    except BaseException:
      self._unlock()
      raise
    self._synced = time.monotonic()
    self.done = {row["path"] for row in rows}
    self._columns, self._waiting = list(rows[0]) if rows else None, []

  def _resume(self, overwrite):
    """The scored rows of an earlier run; the journal then holds them and nothing else."""
    rows = []
    if self._journal.is_file() and not overwrite:
      rows = _read_csv(self._journal)
    elif self.path.is_file() and not overwrite:
      rows = _read_final(self.path)
    rows = [row for row in rows if not row["error"]]
    for row in rows:
      for key, value in self._made_by.items():
        if row[key] != value:
          raise UserError(
            f"{self.path}: holds scores of other {key} ({row[key] or 'none'}; these are {value or 'none'}); choose "
            "another --out, or --overwrite"
          )
    current = [row for row in rows if stamp(row["path"]) in ("", row["file"])]
    self.changed, rows = len(rows) - len(current), current
    write_bytes(self._journal, as_csv(rows[0], rows) if rows else b"")
    return rows

  def add(self, row):
    """Appends a row, a dict, see `command.as_row`; after a kill it is still there, and soon after a power cut."""
    self._waiting.append({**row, **self._made_by})
    if self._columns or not row["error"]:  # the columns are not known before there is a score
      self._write_waiting(row)

  def _write_waiting(self, like=()):
    header = self._columns is None
    self._columns = self._columns or [*FIRST, *(key for key in like if key not in FIRST + LAST), *LAST]
    self._file.write(as_csv(self._columns, self._waiting, header=header))
    self._file.flush()
    if time.monotonic() > self._synced + SYNC_SECONDS:
      os.fsync(self._file.fileno())
      self._synced = time.monotonic()
    self._waiting = []

  def finish(self, key):
    """Writes the final file, its rows sorted by `key(path)`; returns them, dicts from column to text."""
    self._write_waiting()
    rows = sorted(_read_csv(self._journal), key=lambda row: key(row["path"]))
    if self.path.suffix == ".csv":
      write_bytes(self.path, as_csv(self._columns, rows))
    else:
      write_bytes(self.path, _typed_file(rows, self.path.suffix))
      self._journal.unlink()
    return rows

  def close(self):
    """Ends the writing; the rows stay."""
    with contextlib.suppress(OSError):  # what is left on a full disk is half a row, which is known already
      self._file.close()
    self._unlock()

  def _unlock(self):
    pathlib.Path(self._lock.name).unlink(missing_ok=True)
    self._lock.close()


def _locked(path):
  """A file beside `path` that is locked as long as it is open, whatever ends this process."""
  while True:
    try:
      lock = open(path.with_name(path.name + ".lock"), "ab")  # closed in `Results.close`
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(f"{path}: another process is writing it; give every process its own --out") from None
    except OSError as error:
      raise UserError(f"--out={path}: cannot be written ({error})") from error
    if os.fstat(lock.fileno()).st_nlink:  # else its holder has removed it since: a lock that nobody else sees
      return lock


def as_csv(columns, rows, header=True):
  """Rows, dicts from column to text, as the bytes of a CSV file; names that are not UTF-8 keep their bytes.

  Text that begins like a formula gets a ' before it, see `plain_text`.
  """
  lines = []
  # Lines end in \n, but csv quotes both \r and \n inside a value only if lines end in both.
  file = types.SimpleNamespace(write=lambda line: lines.append(line.removesuffix("\r\n") + "\n"))
  writer = csv.DictWriter(file, columns, restval="", lineterminator="\r\n")
  if header:
    writer.writeheader()
  writer.writerows({key: plain_text(value) for key, value in row.items()} for row in rows)
  return "".join(lines).encode("utf-8", "surrogateescape")


def printable(text):
  """Text that any stream and file format takes: bytes of a name that are not UTF-8 are written as \\udc.. ."""
  return text.encode("utf-8", "backslashreplace").decode()


def _read_csv(path):
  """The complete rows, as text; the last line may be cut off anywhere."""
  data = path.read_bytes()
  text = data[: data.rfind(b"\n") + 1].decode("utf-8", "surrogateescape")
  header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
  if not header and b"path,score,".startswith(data[:11]):  # empty, or our own first line cut off
    return []
  if not {*FIRST, *LAST} <= set(header):
    raise UserError(f"{path}: holds something else than scores; choose another --out")
  rows = (map(not_plain_text, row) for row in rows if len(row) == len(header))
  return [dict(zip(header, row, strict=True)) for row in rows]


def _read_final(path):
  """The rows of a finished JSON or Parquet file, as text."""
  try:
    if path.suffix == ".json":
      rows = json.loads(path.read_text())
    else:
      import pyarrow.parquet as pq

      rows = pq.read_table(path).to_pylist()
    if not all({*FIRST, *LAST} <= row.keys() for row in rows):
      raise ValueError("columns are missing")
  except (ValueError, OSError, AttributeError, TypeError) as error:
    raise UserError(f"{path}: holds something else than scores ({error}); choose another --out") from error
  rows = [
    {key: "" if value in (None, "") or value != value else str(value) for key, value in row.items()} for row in rows
  ]
  return [{**row, "path": _name(row["path"])} for row in rows]


def _name(text):
  """The name of which `printable` made a text, unless there is a file that is called like the text."""
  name = re.sub(r"\\u(dc[89a-f][0-9a-f])", lambda match: chr(int(match[1], 16)), text)
  return text if os.path.exists(video.split_frame(text)[0]) else name


def _typed_file(rows, suffix):
  """Rows of text as a JSON or Parquet file with numbers as numbers, and None for what is missing."""
  columns = {key: typed(key, [row[key] for row in rows]) for key in (rows[0] if rows else ())}
  if suffix == ".json":
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return (json.dumps(rows, indent=1) + "\n").encode()
  import pyarrow as pa
  import pyarrow.parquet as pq

  pq.write_table(pa.table(columns), file := io.BytesIO())
  return file.getvalue()


def typed(key, texts):
  """A column of text as numbers where it holds such, and None for what is missing."""
  try:
    if key not in TEXTS:
      numbers = [float(text) if text else None for text in texts]
      return [number if number is None else int(number) for number in numbers] if key in INTEGERS else numbers
  except ValueError:  # a column of text
    pass
  return [printable(text) if text or key == "error" else None for text in texts]
