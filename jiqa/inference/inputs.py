"""Images as users name them (files, folders, patterns, lists, addresses) and hand them over (paths, bytes, arrays)."""

import glob
import os
import pathlib
import re
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from jiqa.data import sandbox
from jiqa.data.decode import check_size, decode_rgb, to_rgb
from jiqa.data.schema import passed_over
from jiqa.errors import UserError

# What folders and patterns are searched for; a file that is named itself may have any ending.
SUFFIXES = (
  ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm",
  ".jp2", ".j2k", ".jpx", ".avif", ".tga",
)  # fmt: skip
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
SHARD = re.compile(r"\.(tar|tar\.gz|tgz|parquet|tfrecord|array_record)(-[\d*?]+-of-[\d*?]+|\*)?$", re.IGNORECASE)
EXPECTED = (
  "expected a path or address, a folder, the bytes of a file, a PIL image, or an array [height, width, 3], or "
  "[height, width] of gray, of uint8 or of floats in [0, 1]"
)
WEB = ("http://", "https://")
MAX_BYTES = 2**29  # of a download of an image or a video
TIMEOUT, DEADLINE = 30, 600  # seconds without a byte, and of a whole download
ROUNDING = 1e-6  # by which a computed pixel may leave [0, 1]
_PIL_LOCK = threading.Lock()


class Item(NamedTuple):
  """One image to score: `source` is a path or address, the bytes of a file, a PIL image, an array, or a UserError."""

  name: str  # in results and errors
  source: object
  sandbox: bool = False  # decode bytes and files where they can do no harm, see data/sandbox.py


def as_items(images):
  """The items of what `Metric.__call__` takes; paths are called by their own names, others "image 0", "image 1", ..."""
  single = isinstance(images, (str, os.PathLike, bytes, Image.Image)) or getattr(images, "ndim", None) in (2, 3)
  if not single and not isinstance(images, Iterable):
    raise TypeError(f"{type(images).__name__} is no image; {EXPECTED}, or a list of such")
  items = []
  for i, image in enumerate([images] if single else images):
    if not isinstance(image, (str, os.PathLike)):
      if not (isinstance(image, (bytes, Image.Image)) or hasattr(image, "ndim")):
        raise TypeError(f"image {i}: {type(image).__name__} is no image; {EXPECTED}")
      items.append(Item(f"image {i}", image))
    elif os.path.isdir(image):
      items += [Item(path, path) for path in expand([image]) if path.lower().endswith(SUFFIXES)]
    else:
      items.append(Item(os.fspath(image), image))
  if not items:
    raise UserError("no image to score")
  return items


def load(item):
  """The pixels of an item: [h, w, 3] uint8; a UserError names it and says what is wrong with it."""
  name, source, sandboxed = item
  if isinstance(source, UserError):
    raise source
  if isinstance(source, (str, os.PathLike)):
    source = read_bytes(os.fspath(source))
  if isinstance(source, bytes):
    return sandbox.decode(source, name) if sandboxed else decode_rgb(source, name)
  if isinstance(source, Image.Image):
    check_size(*source.size, name)
    # PIL decodes an opened file when its pixels are first asked for, and not safely in two threads at once; one image
    # may have been handed over several times.
    with _PIL_LOCK:
      return to_rgb(source, name)
  return _from_array(source, name)


def _from_array(array, name):
  try:
    array = np.asarray(array)
  except Exception as error:
    raise UserError(f"{name}: {type(array).__name__} is no image ({error}); {EXPECTED}") from error
  if array.ndim == 2:
    array = np.repeat(array[..., None], 3, axis=2)
  if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
    raise UserError(f"{name}: has the shape {array.shape}; expected [height, width, 3], or [height, width] of gray")
  check_size(array.shape[1], array.shape[0], name)
  if array.dtype == np.uint8:
    return array
  # By kind and name: bfloat16 is a float that NumPy does not know as one.
  if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
    raise UserError(f"{name}: holds {array.dtype}; {EXPECTED}")
  array = array.astype(np.float32)
  if not np.isfinite(array).all():
    y, x, channel = np.argwhere(~np.isfinite(array))[0]
    raise UserError(f"{name}: holds {array[y, x, channel]} at row {y}, column {x}, channel {channel}")
  low, high = array.min(), array.max()
  if low < -ROUNDING or high > 1 + ROUNDING:
    raise UserError(f"{name}: float pixels from {low!s} to {high!s}; expected [0, 1]. Divide by 255, or pass uint8.")
  return np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)


def is_address(name):
  """True for https://..., gs://..., s3://... and the like; C:/a.jpg is a path."""
  return "://" in name


def read_bytes(name, most=None):
  """The bytes of a file or of what an address gives; a UserError says why they cannot be read.

  Of a web address at most so many, by default MAX_BYTES.
  """
  try:
    if name.startswith(WEB):
      return _download(name, most or MAX_BYTES)
    return _store(name).cat_file(name) if is_address(name) else pathlib.Path(name).read_bytes()
  except FileNotFoundError as error:
    raise UserError(f"{name}: no such file") from error
  except IsADirectoryError as error:
    raise UserError(f"{name}: is a folder") from error
  except UserError:
    raise
  except Exception as error:  # every store has exceptions of its own
    raise UserError(f"{name}: cannot be read ({type(error).__name__}: {error})") from error


def _download(address, most):
  # Not through fsspec: its http needs aiohttp, and bounds neither size nor time.
  quoted = urllib.parse.quote(address, safe="%/:?#[]@!$&'()*+,;=~")  # what is not ASCII, and blanks
  request = urllib.request.Request(quoted, headers={"User-Agent": "jiqa"})
  try:
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
      end, data = time.monotonic() + DEADLINE, bytearray()
      while len(data) <= most and (more := response.read1(2**16)):
        data += more
        if time.monotonic() > end:
          raise UserError(f"{address}: has not arrived within {DEADLINE} seconds; download it first")
  except urllib.error.HTTPError as error:
    raise UserError(f"{address}: the server answers {error.code} {error.reason}") from error
  if len(data) > most:
    raise UserError(f"{address}: more than {most:,} bytes")
  if response.length:  # `read1` says nothing of it
    raise UserError(f"{address}: the connection ended {response.length:,} bytes too early; try again")
  return bytes(data)


def _store(address):
  """The fsspec file system of an address."""
  import fsspec

  protocol = address.partition("://")[0]
  try:
    return fsspec.filesystem(protocol)
  except (ImportError, ValueError) as error:
    raise UserError(f"{address}: {protocol}:// is not known ({error}); try pip install 'fsspec[{protocol}]'") from error


def expand(names):
  """Lists the images and videos behind the names a user gives.

  Args:
    names: files, folders (searched to their bottom), patterns such as "*.jpg" or "**/*.png", addresses (http, gs, s3,
      ...; patterns and folders in stores), "@FILE" for a text file with one name a line, "-" for such lines on standard
      input. Empty lines and those that begin with "# " are skipped, as are names that begin with a dot.

  Returns:
    list of str: every file once, in the order of the names, those of a folder or pattern sorted. A file that does not
    exist is kept, and so is a line of a list that looks like a pattern and matches nothing: reading them reports it.

  Raises:
    UserError: a folder or a pattern holds no image, a list is missing, or there is nothing at all.
  """
  paths = list(dict.fromkeys(path for name in map(os.fspath, names) for path in _expand(name)))
  if not paths:
    raise UserError("nothing to score: no file was named")
  return paths


def check(names):
  """Raises a UserError where all of the names that `expand` takes are of files, and none of them exists."""
  plain = [
    name for name in names if name != "-" and name[:1] != "@" and not is_address(name) and not glob.has_magic(name)
  ]
  if len(plain) == len(names) > 0 and not any(map(os.path.exists, plain)):
    raise UserError(f"{plain[0]}: no such file" + (f", and none of {len(plain) - 1} others" if plain[1:] else ""))


def _expand(name, from_list=False):
  if name == "-" or name.startswith("@"):
    if from_list:
      raise UserError(f"{name}: a list cannot hold another list")
    return [path for line in _lines(name) for path in _expand(line, from_list=True)]
  if name.startswith(WEB):
    return [name]
  if is_address(name):
    return _in_store(name)
  if os.path.isdir(name):
    pattern = os.path.join(glob.escape(name), "**")
  elif glob.has_magic(name) and not os.path.exists(name):
    pattern = name
  else:
    return [name]
  paths = _matching(pattern)
  if unread := passed_over(paths):
    print(f"jiqa: {name}: {unread}", file=sys.stderr)
  paths = filter(os.path.isfile, paths)
  return _media(paths, name, otherwise=[name] if from_list and pattern == name else ())


def _matching(pattern):
  """The paths that match a pattern, as of `glob.glob`; but ** enters every folder once, whatever links lead to it."""
  head, *tail = re.split(r"(?<![^/])\*\*(?:/+|$)", pattern, maxsplit=1)
  if not tail:
    return glob.glob(pattern)
  paths, entered = [], set()
  for top in glob.glob(os.path.dirname(head)) if head else [""]:
    links = [top or os.curdir]
    for link in links:  # which grows: what links lead to comes after what lies in the folder itself
      for parent, folders, files in os.walk(link):
        real, parent = os.path.realpath(parent), os.path.join(parent, "").removeprefix("" if top else "./")
        folders[:] = [] if real in entered else sorted(name for name in folders if not name.startswith("."))
        links += [parent + name for name in folders if os.path.islink(parent + name)]
        if real not in entered and tail[0]:
          paths += _matching(glob.escape(parent) + tail[0])
        elif real not in entered:
          paths += [parent + name for name in files if not name.startswith(".")]
        entered.add(real)
  return paths


def are_shards(names):
  """Whether the names are those of shards, see `shards.py`; a UserError where some are and some are not."""
  shards = [name for name in names if SHARD.search(name)]
  if shards and len(shards) < len(names):
    raise UserError(f"{shards[0]} is a shard of many images; score shards and files by two commands")
  return bool(shards)


def _lines(name):
  """The names in a list, without comments."""
  path = pathlib.Path(name[1:])
  if name != "-" and not path.is_file():
    raise UserError(f"{path}: no such list; expected a text file with one name a line")
  data = sys.stdin.buffer.read() if name == "-" else path.read_bytes()
  names = [line.strip() for line in data.decode("utf-8-sig", "surrogateescape").split("\n")]
  return [name for name in names if name and not f"{name} ".startswith("# ")]


def _in_store(address):
  store, protocol = _store(address), address.partition("://")[0]
  try:
    if glob.has_magic(address):
      paths = store.glob(address)
    elif store.isdir(address):
      paths = store.find(address)
    else:
      return [address]
  except Exception as error:  # every store has exceptions of its own
    raise UserError(f"{address}: cannot be listed ({type(error).__name__}: {error})") from error
  return _media((path if is_address(path) else f"{protocol}://{path}" for path in paths), address)


def _media(paths, name, otherwise=()):
  """Images and videos among the paths that a name stands for, sorted; a UserError where there is nothing."""
  media = sorted(path for path in paths if path.lower().endswith(SUFFIXES + VIDEO_SUFFIXES)) or otherwise
  if not media:
    raise UserError(f"{name}: holds no image ({', '.join(SUFFIXES)}) and no video")
  return media


def shard(names, text):
  """One process's share of a list: of "i/n" every n-th name from the i-th on, i from 0 to n - 1."""
  numbers = re.fullmatch(r"(\d+)/(\d+)", text, re.ASCII)
  if not numbers or int(numbers[1]) >= int(numbers[2]):
    raise UserError(f"--shard is {text!r}; expected i/n with i from 0 to n - 1, such as 0/4")
  return names[int(numbers[1]) :: int(numbers[2])]
