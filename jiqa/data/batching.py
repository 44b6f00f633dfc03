"""Batches of images of many sizes: a few padded frames, so that a few compiled programs serve any folder."""

import math

import numpy as np

# Sides of the frames. Consecutive steps differ by a third or a half, so padding at most doubles the pixels and a
# folder of photographs from the usual cameras needs a handful of frames.
LADDER = tuple(int(base * 2**power) for power in range(5, 14) for base in (1, 1.5))


def frame_side(pixels):
  """The smallest side of the ladder that holds `pixels`; beyond the ladder, the next multiple of 4096.

  Example:
    >>> frame_side(300), frame_side(384), frame_side(20000)
    (384, 384, 20480)
  """
  for side in LADDER:
    if pixels <= side:
      return side
  return math.ceil(pixels / 4096) * 4096


def pad_to(image, height, width):
  """Pads [h, w, 3] with zeros at the bottom and right to [height, width, 3]."""
  return np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)))


def framed_batches(items, pixels_per_batch, multiple):
  """Collects items into batches whose views share their frames.

  Args:
    items: iterable of (index, views); views is a dict from view name to [h, w, 3] uint8, or to [n, h, w, 3] of one
      shape for all images, which is stacked as it is.
    pixels_per_batch: a batch is closed when its first view's frames hold this many pixels.
    multiple: batch sizes are rounded up to a multiple of this (the number of devices).

  Yields:
    (indices [n], batch): batch has for every view `name` [b, H, W, 3] uint8 and `name_size` [b, 2] int32 (or `name`
    [b, n, h, w, 3] alone), b >= n; rows from n on repeat row 0 and are to be dropped. One frame always gives the same
    b, so it compiles one program.
  """
  waiting = {}
  for index, views in items:
    frames = tuple(_frame(view) for view in views.values())
    capacity = math.ceil(max(1, pixels_per_batch // math.prod(frames[0][:-1])) / multiple) * multiple
    group = waiting.setdefault((frames, capacity), [])
    group.append((index, views))
    if len(group) == capacity:
      yield _stack(waiting.pop((frames, capacity)), frames, capacity)
  for (frames, capacity), group in waiting.items():
    yield _stack(group, frames, capacity)


def _frame(view):
  """The shape that a view has in a batch."""
  if view.ndim == 4:
    return view.shape
  return frame_side(view.shape[0]), frame_side(view.shape[1]), view.shape[2]


def _stack(group, frames, capacity):
  rows = [views for _, views in group] + [group[0][1]] * (capacity - len(group))
  batch = {}
  for frame, name in zip(frames, rows[0], strict=True):
    if len(frame) == 4:
      batch[name] = np.stack([views[name] for views in rows])
    else:
      batch[name] = np.stack([pad_to(views[name], *frame[:2]) for views in rows])
      batch[name + "_size"] = np.array([views[name].shape[:2] for views in rows], np.int32)
  return [index for index, _ in group], batch
