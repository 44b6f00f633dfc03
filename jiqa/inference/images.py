"""Images as a caller may hand them over: files, PIL images, arrays. All become [h, w, 3] uint8."""

import os
import pathlib
import threading
from typing import NamedTuple

import numpy as np
from PIL import Image

from jiqa.data.decode import decode_rgb, to_rgb
from jiqa.errors import UserError
from jiqa.inference import locations

_ONE_AT_A_TIME = threading.Lock()


class Item(NamedTuple):
  """One image to score.

  Attributes:
    name: what results and errors call it.
    source: path or address as text, the bytes of a file, or the image itself; or a UserError that says why there is
      none.
  """

  name: str
  source: object


def load(item):
  """The pixels of an item.

  Args:
    item: Item.

  Returns:
    [h, w, 3] uint8.

  Raises:
    UserError: naming the item and what is wrong with it.
  """
  name, source = item
  if isinstance(source, UserError):
    raise source
  if isinstance(source, (str, os.PathLike)):
    return decode_rgb(locations.read_bytes(os.fspath(source)), name)
  if isinstance(source, bytes):
    return decode_rgb(source, name)
  if isinstance(source, Image.Image):
    return _from_pil(source, name)
  return _from_array(source, name)


def _from_pil(image, name):
  # PIL decodes an opened file when its pixels are first asked for, and not safely in two threads at once; the caller
  # may have handed over one image several times.
  with _ONE_AT_A_TIME:
    return to_rgb(image, name)


def _from_array(array, name):
  try:
    array = np.asarray(array)
  except Exception as error:
    raise UserError(f"{name}: {type(array).__name__} is no image ({error}); {EXPECTED}") from error
  if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
    raise UserError(f"{name}: has the shape {array.shape}; expected [height, width, 3]")
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
  if low < 0 or high > 1:
    raise UserError(
      f"{name}: float pixels from {low:g} to {high:g}; expected [0, 1]. Divide by 255, or hand over uint8."
    )
  return np.round(array * 255).astype(np.uint8)


EXPECTED = "expected a path, a PIL image, or [height, width, 3] of uint8 or of floats in [0, 1]"


def as_items(images):
  """What a caller handed over, as a list of items.

  Args:
    images: an image or a list (or other iterable) of images: path or address, PIL image, [h, w, 3] array of uint8
      or of floats in [0, 1]; a [n, h, w, 3] array counts as n images.

  Returns:
    list of Item; paths are called by their own names, others "image 0", "image 1", ...

  Raises:
    UserError: there is no image, or a path is a folder.
  """
  single = isinstance(images, (str, os.PathLike, Image.Image)) or getattr(images, "ndim", None) == 3
  images = [images] if single else list(images)
  if not images:
    raise UserError("no image to score")
  items = []
  for i, image in enumerate(images):
    path = isinstance(image, (str, os.PathLike))
    if path and pathlib.Path(image).is_dir():
      raise UserError(f"{image}: is a folder; list its images with jiqa.inference.locations.expand([{str(image)!r}])")
    items.append(Item(os.fspath(image) if path else f"image {i}", image))
  return items
