"""The crops that LIQE sees: windows on a grid, taken one by one, so that no image is ever unfolded whole."""

import warnings

import numpy as np

from jiqa.data.crops import cut
from jiqa.data.decode import check_enlarged, resize
from jiqa.distortions import resample
from jiqa.models import layers

POLICIES = ("official", "uniform", "pyiqa")


def adaptive_resize(image, side=768):
  """Reduces an image whose shorter side exceeds `side` pixels to that; never enlarges.

  As published: Pillow's antialiased bilinear filter, the longer side rounded down.
  """
  return resize(image, *_reduced(*image.shape[:2], side))


def _reduced(height, width, side):
  short = min(height, width)
  return (height, width) if short <= side else [side if n == short else int(side * n / short) for n in (height, width)]


def at_least(image, side):
  """Enlarges an image whose shorter side is less than `side` pixels until it is, and warns.

  A UserError where it is so thin that it would become huge, see `decode.check_enlarged`.
  """
  return resize(image, *_enlarged(*image.shape[:2], side))


def _enlarged(height, width, side):
  short = min(height, width)
  if short >= side:
    return height, width
  smaller = f"an image of {width}x{height} pixels is smaller than the {side} pixels that the network sees"
  warnings.warn(f"{smaller}; it is enlarged, which blurs it", stacklevel=2)
  size = [max(side, round(n * side / short)) for n in (height, width)]
  check_enlarged((height, width), size)
  return size


def stride_of(height, width, policy):
  """The distance of the grid's windows: 48 pixels for large images, else 32; pyiqa's is always 32."""
  return 48 if policy != "pyiqa" and max(height, width) >= 1024 else 32


def grid(height, width, crop, stride):
  """How many windows of a grid fit below and beside each other."""
  return (height - crop) // stride + 1, (width - crop) // stride + 1


def spread(height, width, crop, count):
  """Corners [count, 2] (top, left) of windows in rows and columns from edge to edge, arranged to cover most."""

  def covered(length, n):
    step = (length - crop) / max(n - 1, 1)
    return crop + (n - 1) * min(crop, step)

  divisors = [n for n in range(1, count + 1) if count % n == 0]
  rows = max(divisors, key=lambda n: covered(height, n) * covered(width, count // n))

  def starts(length, n):
    return np.round(np.linspace(0, length - crop, n)).astype(int) if n > 1 else [(length - crop) // 2]

  return np.stack(np.meshgrid(starts(height, rows), starts(width, count // rows), indexing="ij"), -1).reshape(-1, 2)


def corners(height, width, crop, count, policy):
  """Where the windows of a test image, at least as large as one, are: [n, 2] int, top and left, n <= count.

  A grid with fewer windows gives all it has, where the published code fails. The policy "official" takes every
  (N // count)-th of the N windows of the grid, row by row from the top left (as published, the bottom is not reached);
  "pyiqa" the same on the grid of stride 32; "uniform": see `spread`.
  """
  if policy == "uniform":
    return spread(height, width, crop, count)
  stride = stride_of(height, width, policy)
  shape = grid(height, width, crop, stride)
  total = shape[0] * shape[1]
  index = np.arange(min(count, total)) * max(total // count, 1)
  return np.stack(np.unravel_index(index, shape), -1) * stride


def eval_crops(image, crop, count, policy, side=768):
  """The windows that are scored, a function of the image alone: [n, crop, crop, 3] uint8, n <= count.

  The image [h, w, 3] uint8 is brought to size first: "pyiqa" leaves large ones as they are. The rest as for `corners`.
  """
  image = _sized(image, crop, policy, side)
  return cut(image, corners(*image.shape[:2], crop, count, policy), crop)


def float_crops(images, crop, count, policy, side=768):
  """`eval_crops` of images [b, h, w, 3] float in [0, 1], traceable: [b, n, crop, crop, 3]."""
  size = images.shape[1:3] if policy == "pyiqa" else _reduced(*images.shape[1:3], side)
  images = resample.to_size(images, *_enlarged(*size, crop), "linear")
  return layers.cut(images, corners(*images.shape[1:3], crop, count, policy), crop)


def train_crops(image, crop, count, policy, rng, side=768):
  """Windows to train on, [count, crop, crop, 3] uint8: of the image or its mirror image, drawn with replacement.

  Drawn from the grid, with policy "uniform" from anywhere; otherwise as `eval_crops`.
  """
  image = _sized(image, crop, policy, side)
  if rng.random() < 0.5:
    image = image[:, ::-1]
  height, width = image.shape[:2]
  stride = 1 if policy == "uniform" else stride_of(height, width, policy)
  shape = grid(height, width, crop, stride)
  index = rng.integers(shape[0] * shape[1], size=count)
  return cut(image, np.stack(np.unravel_index(index, shape), -1) * stride, crop)


def _sized(image, crop, policy, side):
  return at_least(image if policy == "pyiqa" else adaptive_resize(image, side), crop)
