"""Where images lie: files, folders, patterns, lists, addresses on the web and in object stores."""

import glob
import os
import pathlib
import sys
import urllib.error
import urllib.parse
import urllib.request

from jiqa.errors import UserError

# What folders and patterns are searched for; a file that is named itself may have any ending.
SUFFIXES = (
  ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm",
  ".jp2", ".j2k", ".jpx", ".avif", ".tga",
)  # fmt: skip
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
MAX_BYTES = 2**29  # of a download
TIMEOUT = 30  # seconds


def is_address(name):
  """True for https://..., gs://..., s3://... and the like.

  Example:
    >>> is_address("s3://bucket/a.jpg"), is_address("C:/a.jpg"), is_address("a.jpg")
    (True, False, False)
  """
  return "://" in name


def read_bytes(name):
  """The bytes of a file or of what an address gives.

  Args:
    name: path or address.

  Returns:
    bytes.

  Raises:
    UserError: naming it and why it cannot be read.
  """
  try:
    if not is_address(name):
      return pathlib.Path(name).read_bytes()
    if name.startswith(("http://", "https://")):
      return _download(name)
    return _filesystem(name).cat_file(name)
  except FileNotFoundError as error:
    raise UserError(f"{name}: no such file") from error
  except IsADirectoryError as error:
    raise UserError(f"{name}: is a folder") from error
  except UserError:
    raise
  except Exception as error:  # every store has exceptions of its own
    raise UserError(f"{name}: cannot be read ({type(error).__name__}: {error})") from error


def _download(address):
  quoted = urllib.parse.quote(address, safe="%/:?#[]@!$&'()*+,;=~")  # what is no ASCII, and blanks
  request = urllib.request.Request(quoted, headers={"User-Agent": "jiqa"})
  try:
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
      data = answer.read(MAX_BYTES + 1)
  except urllib.error.HTTPError as error:
    raise UserError(f"{address}: the server answers {error.code} {error.reason}") from error
  if len(data) > MAX_BYTES:
    raise UserError(f"{address}: more than {MAX_BYTES:,} bytes")
  return data


def _filesystem(address):
  """The fsspec file system of an address."""
  kind = address.partition("://")[0]
  try:
    import fsspec

    return fsspec.filesystem(kind)
  except ImportError as error:
    raise UserError(
      f"{address}: needs a package that is not installed ({error}); pip install 'jiqa[remote]'"
    ) from error
  except ValueError as error:
    raise UserError(f"{address}: {kind}:// is not known ({error})") from error


def expand(names):
  """Images and videos behind the names a user gives.

  Args:
    names: files, folders (searched to their bottom for images and videos), patterns such as "*.jpg" or "**/*.png",
      addresses (http, https, gs, s3, ...; patterns and folders in stores), "@FILE" for a text file with one name a
      line, "-" for such lines on standard input. Empty lines and those that begin with "# " are passed over, as are
      files and folders whose names begin with a dot.

  Returns:
    list of str: every file once, in the order of the names, those of a folder or pattern sorted. A file that is named
    and does not exist is kept, and so is a line of a list that looks like a pattern and matches nothing: it is reported
    like any other that cannot be read.

  Raises:
    UserError: a folder or a pattern holds no image, a list is missing, or there is nothing at all.
  """
  found = {}
  for name in map(os.fspath, names):
    for path in _expand(name):
      found.setdefault(path)
  if not found:
    raise UserError("nothing to score: no file was named")
  return list(found)


def _expand(name):
  if name == "-":
    return _lines(sys.stdin)
  if name.startswith("@"):
    path = pathlib.Path(name[1:])
    if not path.is_file():
      raise UserError(f"{path}: no such list; expected a text file with one name a line")
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
      return _lines(file)
  if is_address(name):
    return [name] if name.startswith(("http://", "https://")) else _in_store(name)
  if os.path.isdir(name):
    found = _matching(os.path.join(glob.escape(name), "**"))
  elif glob.has_magic(name) and not os.path.exists(name):
    found = _matching(name)
  else:
    return [name]
  if not found:
    raise UserError(f"{name}: holds no image ({', '.join(SUFFIXES)}) and no video")
  return found


def _matching(pattern):
  return sorted(path for path in glob.iglob(pattern, recursive=True) if _wanted(path))


def _lines(file):
  names = [line.strip() for line in file]
  return [path for name in names if name and not f"{name} ".startswith("# ") for path in _expand_listed(name)]


def _expand_listed(name):
  if name == "-" or name.startswith("@"):
    raise UserError(f"{name}: a list cannot hold another list")
  if glob.has_magic(name) and not is_address(name) and not os.path.exists(name):
    return _matching(name) or [name]
  return _expand(name)


def _wanted(path):
  return path.lower().endswith(SUFFIXES + VIDEO_SUFFIXES) and os.path.isfile(path)


def _in_store(address):
  files, kind = _filesystem(address), address.partition("://")[0]
  try:
    if glob.has_magic(address):
      found = [path for path in files.glob(address) if path.lower().endswith(SUFFIXES + VIDEO_SUFFIXES)]
    elif files.isdir(address):
      found = [path for path in files.find(address) if path.lower().endswith(SUFFIXES + VIDEO_SUFFIXES)]
    else:
      return [address]
  except Exception as error:  # every store has exceptions of its own
    raise UserError(f"{address}: cannot be listed ({type(error).__name__}: {error})") from error
  if not found:
    raise UserError(f"{address}: holds no image ({', '.join(SUFFIXES)})")
  return sorted(path if is_address(path) else f"{kind}://{path}" for path in found)


def shard(names, text):
  """One process's part of the names.

  Args:
    names: list of str.
    text: "i/n", i from 0 to n - 1: every n-th name from the i-th on.

  Returns:
    list of str.

  Raises:
    UserError: if text is no such thing.

  Example:
    >>> shard(["a", "b", "c"], "1/2")
    ['b']
  """
  first, _, count = text.partition("/")
  numbers = all(part.isascii() and part.isdigit() for part in (first, count))
  if not (numbers and int(first) < int(count)):
    raise UserError(f"--shard is {text!r}; expected i/n with i from 0 to n - 1, such as 0/4")
  return names[int(first) :: int(count)]
