"""Batches of images of many sizes: every image is padded to one of a fixed list of sizes, its bucket.

An image takes the smallest bucket that holds it, whatever came before it, and a bucket is one program to compile.
"""

import math

import numpy as np

# The longer side of a bucket. Consecutive ones differ by a half at most; 640 and 1280 are those of many photographs.
SIDES = (32, 48, 64, 96, 128, 192, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
# Shorter to longer side, in quarters: 3/4 holds most photographs. More shapes pad less and take longer to compile.
QUARTERS = (3, 4)
# Beyond SIDES large images are encoded in tiles that stop where the image does: padding costs memory alone.
LARGE = 1024
# The shorter side of a thin image beyond SIDES, of which tiles take as much as there is.
THIN = (128, 512)


def bucket_of(height, width):
  """The bucket of an image: (height, width) of the least area, of the shapes above, that holds it.

  Example:
    >>> bucket_of(384, 512), bucket_of(500, 375), bucket_of(30, 500), bucket_of(8200, 100)
    ((384, 512), (512, 384), (384, 512), (9216, 128))
  """
  if max(height, width) > SIDES[-1]:
    return tuple(min(side for side in (*THIN, -(-n // LARGE) * LARGE) if side >= n) for n in (height, width))
  shapes = ((side * quarters // 4, side) for side in SIDES for quarters in QUARTERS)
  holding = (shape for shape in shapes if shape[0] >= min(height, width) and shape[1] >= max(height, width))
  short, long = min(holding, key=math.prod)
  return (short, long) if height <= width else (long, short)


def shapes_of(inputs):
  """The shapes in a batch of one image's entries, a dict from name to [h, w, 3] or to [n, h, w, 3], never padded.

  The first padded entry has its own bucket; those that are the same image reduced have that bucket reduced, else an
  image of 385 pixels, whose half has 192, and one of 500 would need two programs.

  Example:
    >>> shapes_of({"full": np.zeros((300, 385, 3)), "half": np.zeros((150, 192, 3))})
    ((384, 512, 3), (192, 256, 3))
  """
  shapes, first = [], None
  for shape in (array.shape for array in inputs.values()):
    if len(shape) == 4:
      shapes.append(shape)
      continue
    bucket = bucket_of(*shape[:2])
    if first is None:
      first = shape, bucket
    else:
      reduced = max(n // m for n, m in zip(first[0][:2], shape[:2], strict=True))
      like_first = tuple(side // max(reduced, 1) for side in first[1])
      if all(n <= side for n, side in zip(shape, like_first, strict=False)):
        bucket = like_first
    shapes.append((*bucket, shape[2]))
  return tuple(shapes)


def bucketed_batches(items, pixels_per_batch, multiple):
  """Collects images into batches of one bucket.

  Args:
    items: iterable of (index, inputs), see `shapes_of`.
    pixels_per_batch: a batch is closed when its first entry holds this many padded pixels.
    multiple: batch sizes are rounded up to a multiple of this, the number of devices.

  Yields:
    (indices [n], batch): batch has for every padded entry `name` [b, H, W, 3] and `name_size` [b, 2] int32 (for others
    `name` [b, n, h, w, 3] alone), b >= n; rows from n on repeat row 0 and are to be dropped. A bucket always gives the
    same b.
  """
  waiting = {}
  for index, inputs in items:
    shapes = shapes_of(inputs)
    capacity = math.ceil(max(1, pixels_per_batch // math.prod(shapes[0][:-1])) / multiple) * multiple
    group = waiting.setdefault((shapes, capacity), [])
    group.append((index, inputs))
    if len(group) == capacity:
      yield _stack(waiting.pop((shapes, capacity)), shapes, capacity)
  for (shapes, capacity), group in waiting.items():
    yield _stack(group, shapes, capacity)


def _stack(group, shapes, capacity):
  rows = [inputs for _, inputs in group] + [group[0][1]] * (capacity - len(group))
  batch = {}
  for shape, name in zip(shapes, rows[0], strict=True):
    if len(shape) == 4:
      batch[name] = np.stack([inputs[name] for inputs in rows])
      continue
    batch[name] = np.zeros((capacity, *shape), rows[0][name].dtype)
    for row, inputs in zip(batch[name], rows, strict=True):
      row[: inputs[name].shape[0], : inputs[name].shape[1]] = inputs[name]
    batch[name + "_size"] = np.array([inputs[name].shape[:2] for inputs in rows], np.int32)
  return [index for index, _ in group], batch
