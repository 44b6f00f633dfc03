"""Rows of results that survive a kill: appended one batch at a time, taken up again where they end."""

import csv
import fcntl
import io
import json
import os
import pathlib

from jiqa.errors import UserError
from jiqa.inference.locations import is_address

FIRST, LAST = ("path", "score"), ("width", "height", "seconds", "weights", "head", "error")
WHOLE = ("width", "height")
KINDS = (".csv", ".json", ".parquet")


def check(out):
  """Refuses an output that could not be written, and makes its folder.

  Args:
    out: path as the user gave it.

  Raises:
    UserError: it is a folder, an address or has another ending than KINDS, or its folder cannot be made.
  """
  path = pathlib.Path(out)
  if is_address(str(out)):
    raise UserError(f"--out={out}: rows are written to files only, because they are appended; copy the file afterwards")
  if path.is_dir():
    raise UserError(f"--out={out}: is a folder; expected a file, such as {path / 'scores.csv'}")
  if path.suffix not in KINDS:
    raise UserError(f"--out={out}: expected a name that ends in {', '.join(KINDS)}")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out={out}: its folder cannot be made ({error})") from error
  if not os.access(path.parent, os.W_OK):
    raise UserError(f"--out={out}: the folder {path.parent} cannot be written to")


class Results:
  """The rows of one output file.

  A CSV file is appended to as it is; for JSON and Parquet, which cannot be appended to, rows wait as CSV in FILE.part
  until all are there. Whatever was interrupted, and was not an error, counts as done when the same command runs again.

  Args:
    path: file to write, .csv, .json or .parquet.
    made_by: dict with 'weights' and 'head', the checksums that all rows must have.

  Attributes:
    done: set of the paths that have a score already.

  Raises:
    UserError: the file cannot be written, see `check`; another process writes it; or its rows are no scores, or scores
      of other weights.
  """

  def __init__(self, path, made_by):
    self.path, self.made_by = pathlib.Path(path), made_by
    check(path)
    self._journal = self.path if self.path.suffix == ".csv" else self.path.with_name(self.path.name + ".part")
    try:
      self._lock = _locked(self.path)
    except OSError as error:
      raise UserError(f"--out={path}: cannot be written ({error})") from error
    try:
      earlier = self._take_up()
    except BaseException:
      self._lock.close()
      raise
    self._columns = list(earlier[0]) if earlier else None
    self.done = {row["path"] for row in earlier}
    self._waiting = []
    self._file = open(self._journal, "ab")  # closed in `close`

  def _take_up(self):
    """Brings what is there into order: whole rows, without those that are to be tried again."""
    earlier = self._earlier()
    self._check(earlier)
    write(self._journal, as_csv(list(earlier[0]), earlier) if earlier else b"")
    return earlier

  def _earlier(self):
    """Complete rows without an error that an interrupted or finished run has left."""
    if self._journal.is_file():
      rows = _read_csv(self._journal)
    elif self.path.is_file():
      rows = _read_final(self.path)
    else:
      rows = []
    return [row for row in rows if not row["error"]]

  def _check(self, rows):
    for row in rows:
      for key, value in self.made_by.items():
        if row.get(key) != value:
          raise UserError(
            f"{self.path}: holds scores of other {key} ({row.get(key) or 'none'}; these are {value or 'none'}); choose "
            "another --out, or delete the file"
          )

  def add(self, rows):
    """Appends rows; what was added is there after a kill.

    Args:
      rows: list of dicts with 'path', 'width', 'height', 'seconds', 'error' and, where there is no error, 'score' and
        further columns, the same for all rows.
    """
    rows = [{**row, **self.made_by} for row in rows]
    scored = next((row for row in rows if not row["error"]), None)
    if self._columns is None:
      if scored is None:
        # The columns are not known before there is a score.
        self._waiting += rows
        return
      self._start([key for key in scored if key not in FIRST + LAST])
    self._append(rows)

  def _start(self, further):
    self._columns = [*FIRST, *further, *LAST]
    self._file.write(as_csv(self._columns, []))
    rows, self._waiting = self._waiting, []
    self._append(rows)

  def _append(self, rows):
    if rows:
      self._file.write(as_csv(self._columns, rows, head=False))
      self._file.flush()

  def finish(self, place):
    """Brings all rows into order and writes the final file.

    Args:
      place: function from path to the key that rows are sorted by.

    Returns:
      list of dicts, the rows.
    """
    if self._columns is None:
      self._start([])
    self._file.flush()
    rows = sorted(_read_csv(self._journal), key=lambda row: place(row["path"]))
    if self.path.suffix == ".csv":
      write(self.path, as_csv(self._columns, rows))
    elif self.path.suffix == ".json":
      write(self.path, (json.dumps(_typed(rows), indent=1) + "\n").encode())
    else:
      _write_parquet(self.path, _typed(rows))
    if self._journal != self.path:
      self._journal.unlink()
    return rows

  def close(self):
    """Ends the writing; the rows stay."""
    self._file.close()
    pathlib.Path(self._lock.name).unlink(missing_ok=True)
    self._lock.close()


def _locked(path):
  """A file beside `path` that is locked as long as it is open, whatever ends this process."""
  lock = open(path.with_name(path.name + ".lock"), "ab")  # closed in `close`
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    lock.close()
    raise UserError(f"{path}: another process is writing it; give every process its own --out") from None
  return lock


class _Lines(list):
  """Lines of a CSV file that end in \\n, with both \\n and \\r quoted, of which csv quotes only what ends its lines."""

  def write(self, line):
    self.append(line.removesuffix("\r\n") + "\n")


def as_csv(columns, rows, head=True):
  """Rows, dicts from column to text, as the bytes of a CSV file; names that are not UTF-8 keep their bytes."""
  lines = _Lines()
  writer = csv.DictWriter(lines, columns, restval="", lineterminator="\r\n")
  if head:
    writer.writeheader()
  writer.writerows(rows)
  return "".join(lines).encode("utf-8", "surrogateescape")


def printable(text):
  """Text that any stream and file format takes: bytes of a name that are not UTF-8 are written as \\udc.. ."""
  return text.encode("utf-8", "backslashreplace").decode()


def _read_csv(path):
  """The complete rows of a file whose last line may have been cut off."""
  data = path.read_bytes()
  text = data[: data.rfind(b"\n") + 1].decode("utf-8", "surrogateescape")
  rows = list(csv.reader(io.StringIO(text, newline="")))
  if not rows:
    if not b"path,score,".startswith(data[:11]):  # else the beginning of our own first line, cut off
      raise UserError(f"{path}: holds something else than scores; choose another --out")
    return []
  columns = rows[0]
  if not {*FIRST, *LAST} <= set(columns):
    raise UserError(f"{path}: holds something else than scores; choose another --out")
  return [dict(zip(columns, row, strict=True)) for row in rows[1:] if len(row) == len(columns)]


def _read_final(path):
  """The rows of a finished JSON or Parquet file, as text."""
  try:
    if path.suffix == ".json":
      rows = json.loads(path.read_text())
    else:
      import pandas as pd

      rows = pd.read_parquet(path).astype(object).to_dict("records")
    rows = [{key: _as_text(value) for key, value in row.items()} for row in rows]
    if not all({*FIRST, *LAST} <= set(row) for row in rows):
      raise ValueError("columns are missing")
  except (ValueError, OSError, AttributeError, TypeError) as error:
    raise UserError(f"{path}: holds something else than scores ({error}); choose another --out") from error
  return rows


def _as_text(value):
  return "" if value is None or value != value else str(value)  # nan differs from itself


def _typed(rows):
  """Rows of text with numbers as numbers, and None for what is not there."""
  texts = {"path", "weights", "head", "error"}
  for key in rows[0] if rows else ():
    try:
      for row in rows:
        if row[key] and key not in texts:
          float(row[key])
    except ValueError:
      texts.add(key)

  def typed(key, value):
    if key in texts:
      return printable(value) if value else ("" if key == "error" else None)
    if not value:
      return None
    return int(float(value)) if key in WHOLE else float(value)

  return [{key: typed(key, value) for key, value in row.items()} for row in rows]


def _write_parquet(path, rows):
  try:
    import pandas as pd

    text = io.BytesIO()
    pd.DataFrame(rows).to_parquet(text)
  except ImportError as error:
    raise UserError(f"{path}: Parquet needs pyarrow; pip install pyarrow, or choose .csv. {error}") from error
  write(path, text.getvalue())


def write(path, data):
  """Writes bytes to a file that is there whole or as it was before."""
  partial = path.with_name(f"{path.name}.{os.getpid()}.new")
  partial.write_bytes(data)
  os.replace(partial, path)
