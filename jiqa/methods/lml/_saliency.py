"""How much a network looks at parts of an image."""

import jax
import jax.numpy as jnp

_EXACT = jax.lax.Precision.HIGHEST


def attention_map(attention, percentile=100.0):
  """Class attention [b, heads, g * g] float32 as a map over a square image: [b, g, g], of sum 1 before the cut.

  Values above a percentile of their map are cut off (100: none): single patches of pretrained networks collect
  attention whatever they show. A ValueError where the number of patches is no square.
  """
  b, _, patches = attention.shape
  side = round(patches**0.5)
  if side * side != patches:
    raise ValueError(f"{patches} patches are no square image")
  mean = attention.mean(1)
  mean = mean / mean.sum(-1, keepdims=True)
  if percentile < 100:
    mean = jnp.minimum(mean, jnp.percentile(mean, percentile, axis=-1, keepdims=True))
  return mean.reshape(b, side, side)


def box_means(maps, boxes):
  """The means [b, k] of maps [b, g, g] float32 inside boxes; cells count by the area that lies inside.

  The boxes, [b, k, 4] float32, are (top, left, bottom, right) as fractions of height and width.
  """
  side = maps.shape[-1]
  cells = jnp.arange(side)

  def cover(first, last):
    """[b, k] in cells to [b, k, g]: how much of every cell lies between."""
    inside = jnp.minimum(last[..., None], cells + 1) - jnp.maximum(first[..., None], cells)
    return jnp.maximum(inside, 0)

  top, left, bottom, right = jnp.moveaxis(boxes * side, -1, 0)
  rows, columns = cover(top, bottom), cover(left, right)
  total = jnp.einsum("bky,byx,bkx->bk", rows, maps, columns, precision=_EXACT)
  return total / (rows.sum(-1) * columns.sum(-1))
