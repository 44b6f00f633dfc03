"""Windows and half scales of decoded images: the pixels that travel to the accelerator."""

import numpy as np

from jiqa.data.decode import resize


def half_scale(image):
  """[h, w, 3] uint8 to [h // 2, w // 2, 3], at least one pixel: by Pillow's antialiased bicubic."""
  return resize(image, *(max(side // 2, 1) for side in image.shape[:2]), "BICUBIC")


def cut(image, corners, side):
  """Windows [n, side, side, 3] of an image [h, w, 3] at n (top, left) corners."""
  return np.stack([image[top : top + side, left : left + side] for top, left in corners])


def random_window(image, side, least, rng):
  """Cuts a window of `side` x `side` pixels out of an image [h, w, 3] uint8 at a random place.

  A side shorter than the window is kept whole; the rest is filled by mirroring, which adds no edges that a distortion
  could act on. A dict of 'image' [side, side, 3] uint8 and 'size' [2] int32 (height, width), the part that is real: at
  least `least`, an image shorter than that counts its mirrored pixels as real.
  """
  height, width = image.shape[:2]
  top = rng.integers(max(height - side, 0) + 1)
  left = rng.integers(max(width - side, 0) + 1)
  window = image[top : top + side, left : left + side]
  size = np.clip(window.shape[:2], least, side).astype(np.int32)
  if window.shape[:2] != (side, side):
    window = np.pad(window, [(0, side - n) for n in window.shape[:2]] + [(0, 0)], mode="symmetric")
  return {"image": np.ascontiguousarray(window), "size": size}
