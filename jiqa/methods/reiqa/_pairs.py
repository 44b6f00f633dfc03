"""Crop pairs of Re-IQA's quality expert: where the two crops of a version lie, and the exchange of half of them.

What is not called official is what the paper intends, as we read it; with `config.compat = "official"` the errors of
the published code are kept, which docs/reiqa.md lists. Versions of one image are [v, h, w, 3], of which `frame`, [2]
int32 (height, width), is image; `crop` is the side of the crops, pixels.
"""

import jax
import jax.numpy as jnp


def draw_offset(key, crop):
  """Displacement of the second crop as the published rule draws it: (far, near), [] int32 pixels.

  Far, along one axis, is 70 to 90 % of the crop; near such that the crops share 10 to 30 % of their area.
  """
  far_key, near_key = jax.random.split(key)
  # Integer arithmetic, since 0.7 and 0.9 are no binary fractions: far in [0.7, 0.9) crop.
  far = jax.random.randint(far_key, (), -(-7 * crop // 10), -(-9 * crop // 10))
  most_near = jnp.maximum(0.0, (0.9 * crop * crop - crop * far) / (crop - far))
  return far, jnp.floor(jax.random.uniform(near_key) * jnp.floor(most_near)).astype(jnp.int32)


def pair_offsets(key, crop, frame):
  """Displacement of the second crop of a pair from the first, [2] int32 in y and x, pixels, signed.

  Which axis is the far one, and both directions, are drawn at random. What the frame cannot hold is shortened.
  """
  draw_key, axis_key, sign_key = jax.random.split(key, 3)
  far, near = draw_offset(draw_key, crop)
  offset = jnp.where(jax.random.bernoulli(axis_key), jnp.stack([far, near]), jnp.stack([near, far]))
  offset = jnp.minimum(offset, frame - crop)
  return offset * jnp.where(jax.random.bernoulli(sign_key, shape=(2,)), 1, -1)


def crop_pair(key, versions, frame, crop):
  """The same pair of crops of every version of one image: [2, v, crop, crop, 3]."""
  offset_key, place_key = jax.random.split(key)
  offset = pair_offsets(offset_key, crop, frame)
  free = frame - crop - jnp.abs(offset)
  corner = jnp.floor(jax.random.uniform(place_key, (2,)) * (free + 1)).astype(jnp.int32)
  first = corner + jnp.maximum(-offset, 0)
  return jnp.stack([_window(versions, first, crop), _window(versions, first + offset, crop)])


def half_swap(pairs, versions):
  """Exchanges the crops of some versions ([v] bool) of pairs [2, v, ...]: negatives then show a query's place too."""
  swap = versions.reshape(1, -1, *([1] * (pairs.ndim - 2)))
  return jnp.where(swap, pairs[::-1], pairs)


def looks_pristine(versions):
  """Which versions [b, v, h, w, 3] uint8 one cannot tell from the first, [b, v] bool: no value differs by over 2."""
  return jnp.abs(versions.astype(jnp.int32) - versions[:, :1]).max((2, 3, 4)) <= 2


def official_pair(key, versions, frame, crop, swapped):
  """The published crops of one image, exchanged in place where `swapped` ([v] bool), and what this leaves behind.

  (pairs [2, v, crop, crop, 3], versions): spoiled where the pair lay inside the image; an image too small for it was
  copied into black bars first.
  """
  offset_key, place_key = jax.random.split(key)
  offset = jnp.stack(draw_offset(offset_key, crop))
  window = crop + offset[0]
  fits = (frame >= window).all()
  anywhere = jnp.floor(jax.random.uniform(place_key, (2,)) * (frame - window + 1)).astype(jnp.int32)
  centre = jnp.where(frame < window, -((window - frame) // 2), jnp.round((frame - window) / 2).astype(jnp.int32))
  first = jnp.where(fits, anywhere, centre) + crop
  rows, columns = (jnp.arange(n) < frame[axis] for axis, n in enumerate(versions.shape[1:3]))
  inside = jnp.where((rows[:, None] & columns)[None, :, :, None], versions, 0)
  canvas = jnp.pad(inside, ((0, 0), (crop, crop), (crop, crop), (0, 0)))
  exchanged = exchange_in_place(canvas, first, first + offset, crop)
  canvas = jnp.where(swapped[:, None, None, None], exchanged, canvas)
  pairs = jnp.stack([_window(canvas, first, crop), _window(canvas, first + offset, crop)])
  return pairs, jnp.where(fits, canvas[:, crop:-crop, crop:-crop], versions)


def exchange_in_place(images, first, second, crop):
  """Exchanges two windows of images [v, h, w, 3], upper left corners [2] int32, by sums and differences in place.

  Where the windows overlap, the second step reads what the first has changed already: the exchange goes wrong there.
  """
  images = _paste(images, _window(images, first, crop) + _window(images, second, crop), first)
  images = _paste(images, _window(images, first, crop) - _window(images, second, crop), second)
  return _paste(images, _window(images, first, crop) - _window(images, second, crop), first)


def official_half(versions, frame):
  """The published half scale of versions [v, h, w, 3]: bicubic, a = -0.75, corners aligned, not antialiased.

  Of the result [v, h // 2, w // 2, 3] only `frame` // 2 is image.
  """
  rows, columns = (_bicubic_matrix(n, frame[axis]) for axis, n in enumerate(versions.shape[1:3]))
  return jnp.einsum("ih,vhwc,jw->vijc", rows, versions, columns, precision="highest")


def _bicubic_matrix(length, real):
  """[length // 2, length] weights that bring the first `real` of `length` places to real // 2."""
  out = jnp.arange(length // 2)
  place = out * ((real - 1) / jnp.maximum(real // 2 - 1, 1))
  base = jnp.floor(place).astype(jnp.int32)
  weights = jnp.zeros((length // 2, length))
  for tap in range(-1, 3):
    distance = jnp.abs(tap - (place - base))
    near = (1.25 * distance - 2.25) * distance**2 + 1
    far = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
    at = jnp.clip(base + tap, 0, real - 1)
    weights += jax.nn.one_hot(at, length) * jnp.where(distance <= 1, near, far)[:, None]
  return weights


def _window(images, at, crop):
  return jax.lax.dynamic_slice(images, (0, at[0], at[1], 0), (images.shape[0], crop, crop, images.shape[3]))


def _paste(images, window, at):
  return jax.lax.dynamic_update_slice(images, window, (0, at[0], at[1], 0))
