"""Batches of images of many sizes: a few padded frames, so that a few compiled programs serve any folder."""

import math

import numpy as np

# Sides of the frames. Consecutive steps differ by a third or a half, so padding at most doubles the pixels.
LADDER = (*(int(base * 2**power) for power in range(5, 11) for base in (1, 1.5)), 2048)
# Beyond the ladder: large images are encoded in tiles that stop where the image does, and padding costs memory alone.
LARGE = 1024
# Pixels beyond which memory matters more than one program more to compile.
HUGE = 2**26
# Every combination of frames is a program to compile. Once so many are in use, an image takes one that holds it.
MAX_BUCKETS = 8


def bucket_side(pixels):
  """The smallest side of the ladder that holds `pixels`; beyond the ladder, the next multiple of LARGE.

  Example:
    >>> bucket_side(300), bucket_side(384), bucket_side(8200)
    (384, 384, 9216)
  """
  for side in LADDER:
    if pixels <= side:
      return side
  return math.ceil(pixels / LARGE) * LARGE


class Buckets:
  """Chooses the frames of images as they come, few for any folder.

  The first MAX_BUCKETS combinations are taken as they are. Then an image takes the smallest one in use that holds all
  its views; where none does, one with sides that are powers of two is added, which the next images can share.
  """

  def __init__(self):
    self.in_use = []

  def choose(self, views):
    """The frames of an image.

    Args:
      views: dict from view name to [h, w, 3], or to [n, h, w, 3], which only images of the same shape share.

    Returns:
      tuple of the shape that each view has in a batch.

    Example:
      >>> Buckets().choose({"full": np.zeros((300, 385, 3)), "half": np.zeros((150, 192, 3))})
      ((384, 512, 3), (192, 256, 3))
    """
    shapes = [view.shape for view in views.values()]
    wanted = _frames(shapes, bucket_side)
    if wanted in self.in_use:
      return wanted
    if len(self.in_use) >= MAX_BUCKETS:
      holding = [frames for frames in self.in_use if _hold(frames, shapes)]
      if holding:
        return min(holding, key=lambda frames: sum(map(math.prod, frames)))
      wanted = self._roomy(shapes)
    self.in_use.append(wanted)
    return wanted

  def _roomy(self, shapes):
    """Buckets of powers of two, as high and wide as any in use as long as that is not large."""
    power = lambda pixels: 2 ** math.ceil(math.log2(max(pixels, 32)))  # noqa: E731
    own = _frames(shapes, power)
    if math.prod(own[0][:-1]) > HUGE:
      return _frames(shapes, bucket_side)
    if len(own[0]) == 4:
      return own
    alike = [frames[0] for frames in self.in_use if len(frames[0]) == 3]
    largest = [power(max(sides)) for sides in zip(*alike, own[0], strict=True)][:2]
    return _frames(shapes, power, largest) if math.prod(largest) <= LADDER[-1] ** 2 else own


def _frames(shapes, side_of, least=(0, 0)):
  """Shapes of the views in a batch: that of the first follows the ladder, the others are reduced as the images are.

  Otherwise an image of 385 pixels, whose half has 192, and one of 500 would need two programs. `least` is the smallest
  height and width of the first.
  """
  frames = []
  for shape in shapes:
    if len(shape) == 4:
      frames.append(shape)
      continue
    sides = [max(n, side) for n, side in zip(shape[:2], least, strict=True)] if not frames else shape[:2]
    if frames and len(frames[0]) == 3:
      sides = [max(n, frame * n // whole) for n, frame, whole in zip(shape, frames[0], shapes[0], strict=True)][:2]
    frames.append((side_of(sides[0]), side_of(sides[1]), shape[2]))
  return tuple(frames)


def _hold(frames, shapes):
  """Whether views of these shapes can be padded to the frames; stacks of crops, [n, h, w, 3], are never padded."""
  return len(frames) == len(shapes) and all(
    frame == shape
    if len(frame) == 4
    else len(shape) == 3 and all(n <= side for n, side in zip(shape, frame, strict=True))
    for frame, shape in zip(frames, shapes, strict=True)
  )


def pad_to(image, height, width):
  """Pads [h, w, 3] with zeros at the bottom and right to [height, width, 3]."""
  return np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)))


def bucketed_batches(items, pixels_per_batch, multiple, choice=None):
  """Collects items into batches whose views share their frames.

  Args:
    items: iterable of (index, views); views is a dict from view name to [h, w, 3] uint8, or to [n, h, w, 3], which is
      stacked with others of its shape.
    pixels_per_batch: a batch is closed when its first view's frames hold this many pixels.
    multiple: batch sizes are rounded up to a multiple of this (the number of devices).
    choice: Buckets that earlier calls have used, whose programs are compiled; None: new ones.

  Yields:
    (indices [n], batch): batch has for every view `name` [b, H, W, 3] uint8 and `name_size` [b, 2] int32 (or `name`
    [b, n, h, w, 3] alone), b >= n; rows from n on repeat row 0 and are to be dropped. One frame always gives the same
    b, so it compiles one program.
  """
  waiting, choice = {}, choice or Buckets()
  for index, views in items:
    frames = choice.choose(views)
    capacity = math.ceil(max(1, pixels_per_batch // math.prod(frames[0][:-1])) / multiple) * multiple
    group = waiting.setdefault((frames, capacity), [])
    group.append((index, views))
    if len(group) == capacity:
      yield _stack(waiting.pop((frames, capacity)), frames, capacity)
  for (frames, capacity), group in waiting.items():
    yield _stack(group, frames, capacity)


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
