"""MoCo-v2's augmentations as pure functions on the accelerator, reproducible from a key.

Chen et al. 2020 (arXiv 2003.04297), with the ranges of torchvision's transforms: random resized crop, horizontal flip,
colour jitter, grayscale, Gaussian blur. Images are [h, w, 3] float32 in [0, 1]; map over a batch with `jax.vmap`. Where
Pillow rounds to 8 bits between two steps we do not, and the blur is a Gaussian, where Pillow's is three box filters.
"""

import math

import jax
import jax.numpy as jnp

ATTEMPTS = 10
BLUR_REACH = 6  # pixels, three times the largest sigma
_EXACT = jax.lax.Precision.HIGHEST


def moco_v2(key, image, size, side):
  """One view of an image.

  Args:
    key: jax PRNG key.
    image: [h, w, 3] float32 in [0, 1], padded.
    size: [2] int32, height and width that are image.
    side: of the view, pixels.

  Returns:
    [side, side, 3] float32 in [0, 1].
  """
  crop_key, jitter_key, gray_key, blur_key, flip_key = jax.random.split(key, 5)
  view = resized_crop(image, *draw_crop(crop_key, size), side)
  view = _sometimes(jitter_key, 0.8, color_jitter, view)
  view = _sometimes(gray_key, 0.2, lambda _, x: jnp.broadcast_to(luma(x), x.shape), view)
  view = _sometimes(blur_key, 0.5, random_blur, view)
  return _sometimes(flip_key, 0.5, lambda _, x: x[:, ::-1], view)


def _sometimes(key, probability, function, image):
  decide, key = jax.random.split(key)
  return jnp.where(jax.random.bernoulli(decide, probability), function(key, image), image)


def draw_crop(key, size, area=(0.2, 1.0), ratio=(3 / 4, 4 / 3)):
  """Place and size of a random resized crop, as torchvision draws it.

  Ten times a share of the area and a ratio of the sides (uniform in its logarithm) are drawn; the first rectangle that
  fits is taken. If none fits, it is the largest centred one whose ratio is allowed.

  Args:
    key: jax PRNG key.
    size: [2] int32, height and width of the image.
    area: smallest and largest share of the image's area.
    ratio: smallest and largest width over height.

  Returns:
    (corner [2] float32, extent [2] float32): whole numbers of pixels, y before x.
  """
  area_key, ratio_key, place_key = jax.random.split(key, 3)
  size = size.astype(jnp.float32)
  areas = jax.random.uniform(area_key, (ATTEMPTS,), minval=area[0], maxval=area[1]) * size.prod()
  ratios = jnp.exp(jax.random.uniform(ratio_key, (ATTEMPTS,), minval=math.log(ratio[0]), maxval=math.log(ratio[1])))
  extents = jnp.round(jnp.stack([jnp.sqrt(areas / ratios), jnp.sqrt(areas * ratios)], -1))
  fits = ((extents > 0) & (extents <= size)).all(-1)
  own = size[1] / size[0]
  widest = jnp.where(
    own < ratio[0],
    jnp.stack([jnp.round(size[1] / ratio[0]), size[1]]),
    jnp.where(own > ratio[1], jnp.stack([size[0], jnp.round(size[0] * ratio[1])]), size),
  )
  anywhere = jnp.floor(jax.random.uniform(place_key, (2,)) * (size - extents[fits.argmax()] + 1))
  extent = jnp.where(fits.any(), extents[fits.argmax()], widest)
  return jnp.where(fits.any(), anywhere, jnp.floor((size - widest) / 2)), extent


def resized_crop(image, corner, extent, side):
  """Cuts a rectangle and brings it to a square as Pillow does: bilinear, antialiased where it is reduced.

  Args:
    image: [h, w, 3] float32.
    corner, extent: [2] float32, whole numbers of pixels, y before x.
    side: pixels.

  Returns:
    [side, side, 3] float32.
  """
  rows, columns = (_triangle_matrix(corner[a], extent[a], image.shape[a], side) for a in (0, 1))
  return jnp.einsum("ih,hwc,jw->ijc", rows, image, columns, precision=_EXACT)


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
  return jnp.tensordot(image, jnp.array([0.299, 0.587, 0.114]), 1, precision=_EXACT)[..., None]


def color_jitter(key, image, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1):
  """Changes brightness, contrast, saturation and hue, in random order.

  Args:
    key: jax PRNG key.
    image: [h, w, 3] float32 in [0, 1].
    brightness, contrast, saturation: the factor is uniform in 1 - x .. 1 + x.
    hue: the shift is uniform in -x .. x turns.

  Returns:
    [h, w, 3] float32 in [0, 1].
  """
  factor_key, hue_key, order_key = jax.random.split(key, 3)
  reach = jnp.array([brightness, contrast, saturation])
  factors = 1 + reach * jax.random.uniform(factor_key, (3,), minval=-1, maxval=1)
  turn = jax.random.uniform(hue_key, minval=-hue, maxval=hue)
  for step in jax.random.permutation(order_key, 4):
    changes = (
      adjust_brightness(image, factors[0]), adjust_contrast(image, factors[1]),
      adjust_saturation(image, factors[2]), shift_hue(image, turn),
    )  # fmt: skip
    image = jnp.select([step == i for i in range(4)], changes)
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
  """Turns the hue of HSV.

  Args:
    image: [h, w, 3] float32 in [0, 1].
    turn: [] float, 1 is a whole turn.

  Returns:
    [h, w, 3] float32.

  Example:
    >>> shift_hue(jnp.array([[[1.0, 0.0, 0.0]]]), 1 / 3).round(3).tolist()
    [[[0.0, 1.0, 0.0]]]
  """
  red, green, blue = jnp.moveaxis(image, -1, 0)
  value, least = image.max(-1), image.min(-1)
  chroma = value - least
  safe = jnp.where(chroma > 0, chroma, 1)
  sixths = jnp.select(
    [value == red, value == green], [(green - blue) / safe, 2 + (blue - red) / safe], 4 + (red - green) / safe
  )
  sixths = 6 * turn + sixths
  # Smith 1978: each channel falls from `value` by chroma over one sixth of the circle, rests, and rises again.
  channels = [
    value - chroma * jnp.clip(jnp.minimum(phase, 4 - phase), 0, 1)
    for phase in (jnp.mod(start + sixths, 6) for start in (5, 3, 1))
  ]
  return jnp.stack(channels, -1)


def random_blur(key, image, sigma=(0.1, 2.0)):
  """Gaussian blur whose sigma is uniform in a range, pixels; see `blur`."""
  return blur(image, jax.random.uniform(key, minval=sigma[0], maxval=sigma[1]))


def blur(image, sigma):
  """Gaussian blur with replicated edges.

  Args:
    image: [h, w, 3] float32.
    sigma: [] float > 0, pixels, at most 2.

  Returns:
    [h, w, 3] float32.
  """
  taps = jnp.arange(-BLUR_REACH, BLUR_REACH + 1)
  weights = jnp.exp(-0.5 * (taps / sigma) ** 2)
  weights = weights / weights.sum()
  for axis in (0, 1):
    padding = [(BLUR_REACH, BLUR_REACH) if a == axis else (0, 0) for a in range(3)]
    padded = jnp.pad(image, padding, mode="edge")
    image = sum(
      weights[i] * jax.lax.slice_in_dim(padded, i, i + image.shape[axis], axis=axis) for i in range(len(taps))
    )
  return image
