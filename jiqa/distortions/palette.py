"""Fewer colours and fewer grey levels, with a palette fitted to every image by Lloyd's algorithm (1982).

It minimises what KADID-10k's rgb2ind and multithresh do, so palettes agree in kind, not colour by colour.
"""

import jax
import jax.numpy as jnp

from jiqa.distortions.planes import finish

_SAMPLES = 64  # the palette is fitted to at most 64 x 64 pixels of a regular grid
_ITERATIONS = 12


def _sample(planes):
  """[b, n, 3]: the pixels of a regular grid."""
  rows, columns = (-(-planes.shape[axis] // _SAMPLES) for axis in (1, 3))
  return jnp.swapaxes(planes[:, ::rows, :, ::columns], 2, 3).reshape(planes.shape[0], -1, 3)


def _fit(points, palette, alive):
  """Moves every entry of a palette [b, k, c] to the mean of the nearest of points [b, n, c]; alive: [b, k], in use."""

  def move(_, palette):
    score = jnp.einsum("bnc,bkc->bnk", points, palette, precision="highest") - jnp.sum(palette**2, -1)[:, None] / 2
    nearest = jnp.argmax(jnp.where(alive[:, None], score, -jnp.inf), axis=-1)
    member = jax.nn.one_hot(nearest, palette.shape[1])
    size = jnp.sum(member, axis=1)[..., None]
    mean = jnp.einsum("bnk,bnc->bkc", member, points, precision="highest") / jnp.maximum(size, 1)
    return jnp.where(size > 0, mean, palette)

  return jax.lax.fori_loop(0, _ITERATIONS, move, palette)


def color_quantization(planes, levels, seeds=None, compat="fixed", strengths=(64, 48, 32, 16, 8)):
  """Replaces every colour by the nearest of a few; strengths: their number. The gradient is that of the palette."""
  count = jnp.array(strengths)[levels][:, None]
  entries = jnp.arange(max(strengths))
  points = _sample(planes)
  # Start from the colours at equal steps of the luma's distribution.
  order = jnp.argsort(points @ jnp.asarray([0.299, 0.587, 0.114], jnp.float32), axis=1)
  start = jnp.clip(((entries + 0.5) / count * points.shape[1]).astype(jnp.int32), 0, points.shape[1] - 1)
  start = jnp.take_along_axis(points, jnp.take_along_axis(order, start, axis=1)[..., None], axis=1)
  palette = _fit(points, start, entries < count)

  def compare(i, carry):
    best, chosen = carry
    entry = palette[:, jnp.stack([i, i])][:, 0].reshape(-1, 1, 3, 1)  # read twice: see planes.by_level
    products = (planes - 0.5 * entry) * entry  # summed over colours: half of |planes|^2 - |planes - entry|^2
    score = products[:, :, 0:1] + products[:, :, 1:2] + products[:, :, 2:3]
    better = (score > best) & (i < count)[..., None, None]
    return jnp.where(better, score, best), jnp.where(better, entry, chosen)

  start = jnp.full(planes[:, :, :1].shape, -jnp.inf), planes
  _, chosen = jax.lax.fori_loop(0, max(strengths), compare, start)
  return finish(chosen)


def quantization(planes, levels, seeds=None, compat="fixed", strengths=(20, 16, 13, 10, 7)):
  """Replaces every value of every channel by the nearest of a few grey levels; strengths: their number."""
  count = jnp.array(strengths)[levels][:, None]
  entries = jnp.arange(max(strengths))
  points = _sample(planes).reshape(planes.shape[0], -1)[:, ::3, None]  # every third value, the channels in turn
  start = jnp.minimum((entries + 0.5) / count, 1)[..., None]
  palette = jnp.sort(jnp.where(entries < count, _fit(points, start, entries < count)[..., 0], jnp.inf), axis=1)
  # Entries out of use repeat the last one, and their thresholds are never passed.
  last = jnp.take_along_axis(palette, count - 1, axis=1)
  filled = jnp.minimum(palette, last)
  result = filled[:, 0].reshape(-1, 1, 1, 1)
  for i in range(max(strengths) - 1):
    low, high = (filled[:, j].reshape(-1, 1, 1, 1) for j in (i, i + 1))
    result = jnp.where(planes > (low + high) / 2, jnp.maximum(high, result), result)
  return finish(result)
