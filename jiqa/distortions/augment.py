"""MoCo-v2's augmentations (Chen et al. 2020, arXiv 2003.04297) as pure functions on the accelerator.

The ranges are those of torchvision's transforms. Images are [h, w, 3] float32 in [0, 1]; map over a batch with
`jax.vmap`. Unlike Pillow we do not round between two steps, and the blur is a Gaussian, not three box filters.
"""

import math

import jax
import jax.numpy as jnp

ATTEMPTS = 10
BLUR_REACH = 6  # pixels, three times the largest sigma


def moco_v2(key, image, size, side):
  """One view, [side, side, 3], of a padded image of which `size` [2] (height, width) is real."""
  crop_key, jitter_key, gray_key, blur_key, flip_key = jax.random.split(key, 5)
  view = resized_crop(image, *draw_crop(crop_key, size), side)
  view = _sometimes(jitter_key, 0.8, color_jitter, view)
  view = _sometimes(gray_key, 0.2, lambda _, x: jnp.broadcast_to(luma(x), x.shape), view)
  view = _sometimes(blur_key, 0.5, lambda key, x: blur(x, jax.random.uniform(key, minval=0.1, maxval=2.0)), view)
  return _sometimes(flip_key, 0.5, lambda _, x: x[:, ::-1], view)


def _sometimes(key, probability, function, image):
  decide, key = jax.random.split(key)
  return jnp.where(jax.random.bernoulli(decide, probability), function(key, image), image)


def draw_crop(key, size, area=(0.2, 1.0), ratio=(3 / 4, 4 / 3)):
  """Corner [2] and size [2] of a random resized crop as torchvision draws it: whole float32 pixels, y before x.

  A share of the area and a ratio of width over height (uniform in its logarithm) are drawn ten times; the first
  rectangle that fits `size` [2] is taken. If none fits, it is the largest centred one whose ratio is allowed.
  """
  area_key, ratio_key, place_key = jax.random.split(key, 3)
  size = size.astype(jnp.float32)
  areas = jax.random.uniform(area_key, (ATTEMPTS,), minval=area[0], maxval=area[1]) * size.prod()
  ratios = jnp.exp(jax.random.uniform(ratio_key, (ATTEMPTS,), minval=math.log(ratio[0]), maxval=math.log(ratio[1])))
  extents = jnp.round(jnp.stack([jnp.sqrt(areas / ratios), jnp.sqrt(areas * ratios)], -1))
  fits = ((extents > 0) & (extents <= size)).all(-1)
  image_ratio = size[1] / size[0]
  widest = jnp.where(image_ratio > ratio[1], jnp.stack([size[0], jnp.round(size[0] * ratio[1])]), size)
  widest = jnp.where(image_ratio < ratio[0], jnp.stack([jnp.round(size[1] / ratio[0]), size[1]]), widest)
  anywhere = jnp.floor(jax.random.uniform(place_key, (2,)) * (size - extents[fits.argmax()] + 1))
  extent = jnp.where(fits.any(), extents[fits.argmax()], widest)
  return jnp.where(fits.any(), anywhere, jnp.floor((size - widest) / 2)), extent


def resized_crop(image, corner, extent, side):
  """Cuts a rectangle from `draw_crop` and brings it to [side, side, 3] as Pillow does: bilinear, antialiased."""
  # `jax.image.scale_and_translate` would let pixels beside the rectangle in.
  rows, columns = (_triangle_matrix(corner[a], extent[a], image.shape[a], side) for a in (0, 1))
  return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision="highest")


def _triangle_matrix(start, extent, length, side):
  """[side, length] weights: a triangle of half width max(1, extent / side) around the centre of every new pixel."""
  step = extent / side
  centre = start + (jnp.arange(side) + 0.5) * step
  place = jnp.arange(length) + 0.5
  weights = jnp.maximum(1 - jnp.abs(place - centre[:, None]) / jnp.maximum(step, 1), 0)
  weights = jnp.where((place > start) & (place < start + extent), weights, 0)
  return weights / weights.sum(1, keepdims=True)


def luma(image):
  """[h, w, 3] to [h, w, 1]: 0.299 R + 0.587 G + 0.114 B."""
  return jnp.tensordot(image, jnp.array([0.299, 0.587, 0.114]), 1, precision="highest")[..., None]


def color_jitter(key, image, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1):
  """Changes brightness, contrast, saturation (factors in 1 - x .. 1 + x) and hue (-x .. x turns), in random order."""
  factor_key, hue_key, order_key = jax.random.split(key, 3)
  reach = jnp.array([brightness, contrast, saturation])
  factors = 1 + reach * jax.random.uniform(factor_key, (3,), minval=-1, maxval=1)
  turn = jax.random.uniform(hue_key, minval=-hue, maxval=hue)
  adjustments = (adjust_brightness, adjust_contrast, adjust_saturation, shift_hue)
  for step in jax.random.permutation(order_key, 4):
    adjusted = [adjust(image, factor) for adjust, factor in zip(adjustments, (*factors, turn), strict=True)]
    image = jnp.select([step == i for i in range(4)], adjusted)
  return image


def adjust_brightness(image, factor):
  """Blends with black: factor 1 leaves the image as it is."""
  return jnp.clip(image * factor, 0, 1)


def adjust_contrast(image, factor):
  """Blends with the mean luma of the image, which Pillow rounds to 8 bits."""
  mean = jnp.floor(luma(image).mean() * 255 + 0.5) / 255
  return jnp.clip(mean + factor * (image - mean), 0, 1)


def adjust_saturation(image, factor):
  """Blends with the luma of every pixel."""
  gray = luma(image)
  return jnp.clip(gray + factor * (image - gray), 0, 1)


def shift_hue(image, turn):
  """Turns the hue of HSV; 1 is a whole turn: a third of it makes red green."""
  red, green, blue = jnp.moveaxis(image, -1, 0)
  value, least = image.max(-1), image.min(-1)
  chroma = value - least
  safe = jnp.where(chroma > 0, chroma, 1)
  choices = [(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe]
  sixths = 6 * turn + jnp.select([value == red, value == green], choices[:2], choices[2])
  # Smith 1978: each channel falls from `value` by chroma over one sixth of the circle, rests, and rises again.
  channels = [
    value - chroma * jnp.clip(jnp.minimum(phase, 4 - phase), 0, 1)
    for phase in (jnp.mod(start + sixths, 6) for start in (5, 3, 1))
  ]
  return jnp.stack(channels, -1)


def blur(image, sigma):
  """Gaussian blur with replicated edges; sigma: pixels, at most 2."""
  taps = jnp.arange(-BLUR_REACH, BLUR_REACH + 1)
  weights = jnp.exp(-0.5 * (taps / sigma) ** 2)
  weights = weights / weights.sum()
  for axis in (0, 1):
    padding = [(BLUR_REACH, BLUR_REACH) if a == axis else (0, 0) for a in range(3)]
    padded = jnp.pad(image, padding, mode="edge")
    windows = [jax.lax.slice_in_dim(padded, i, i + image.shape[axis], axis=axis) for i in range(len(taps))]
    image = sum(weights[i] * window for i, window in enumerate(windows))
  return image
