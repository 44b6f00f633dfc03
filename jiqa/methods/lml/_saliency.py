"""How much a network looks at parts of an image."""

import jax
import jax.numpy as jnp

_EXACT = jax.lax.Precision.HIGHEST


def attention_map(attention, percentile=100.0):
  """Class attention as a map over the image.

  Args:
    attention: [b, heads, t] float32, what the class token looks at, t patches in rows of a square image.
    percentile: values above this percentile of their map are cut off: single patches of pretrained networks collect
      attention whatever they show. 100 cuts nothing.

  Returns:
    [b, g, g] float32, g * g = t, of sum 1 before the cut.

  Raises:
    ValueError: if t is no square.
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
  """The mean of a map inside boxes; cells count by the area that lies inside.

  Args:
    maps: [b, g, g] float32.
    boxes: [b, k, 4] float32, (top, left, bottom, right) as fractions of height and width.

  Returns:
    [b, k] float32.

  Example:
    >>> maps = jnp.array([[[0.0, 1.0], [2.0, 3.0]]])
    >>> box_means(maps, jnp.array([[[0, 0, 1, 1], [0, 0.5, 0.5, 1], [0, 0.25, 1, 0.75]]])).tolist()
    [[1.5, 1.0, 1.5]]
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
