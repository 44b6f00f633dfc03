"""The losses against loops in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jiqa import losses


def unit(rng, *shape):
  x = rng.normal(size=shape)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def loop_info_nce(query, positive, negatives, temperature):
  """negatives: for every query a list of vectors."""
  out = []
  for q, p, others in zip(query, positive, negatives, strict=True):
    terms = [np.exp(q @ p / temperature)] + [np.exp(q @ n / temperature) for n in others]
    out.append(-np.log(terms[0] / sum(terms)))
  return np.array(out)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_info_nce_with_own_negatives(temperature):
  rng = np.random.default_rng(0)
  query, positive, negatives, own = unit(rng, 12, 5), unit(rng, 12, 5), unit(rng, 7, 5), unit(rng, 3, 4, 5)
  own_mask = rng.random((12, 4)) < 0.6
  expected = loop_info_nce(
    query,
    positive,
    [[*negatives, *own[i // 4][own_mask[i]]] for i in range(12)],
    temperature,
  )
  args = [jnp.asarray(a, jnp.float32) for a in (query, positive, negatives)]
  loss = losses.info_nce(*args, temperature=temperature, group_negatives=jnp.float32(own), group_mask=own_mask)
  np.testing.assert_allclose(loss, expected, atol=2e-6, rtol=2e-6)


def test_info_nce_gradient_reaches_the_query_only_and_is_finite():
  rng = np.random.default_rng(1)
  query, positive, negatives = (jnp.float32(unit(rng, n, 5)) for n in (4, 4, 6))
  mask = jnp.zeros((4, 6), bool).at[1:].set(True)  # the first query has no negative of its own

  def loss(q, p, n):
    masked = losses.info_nce(q, p, n[:0], group_negatives=n[None], group_mask=mask)
    return losses.info_nce(q, p, n).sum() + masked.sum()

  to_query, to_positive, to_negatives = jax.grad(loss, (0, 1, 2))(query, positive, negatives)
  assert np.isfinite(to_query).all() and np.abs(to_query[1:]).min() > 0
  assert not to_positive.any() and not to_negatives.any()


def test_info_nce_without_negatives_is_zero():
  q, none = jnp.eye(3), jnp.zeros((0, 3))
  assert not losses.info_nce(q, -q, none).any()
  assert not losses.info_nce(q, -q, none, group_negatives=-q[None], group_mask=jnp.zeros((3, 3), bool)).any()


def test_info_nce_refuses_uneven_groups():
  q = jnp.eye(4)
  with pytest.raises(ValueError, match="4 queries"):
    losses.info_nce(q, q, q, group_negatives=jnp.ones((3, 2, 4)))


def test_in_batch_info_nce():
  rng = np.random.default_rng(2)
  first, second = unit(rng, 9, 4), unit(rng, 9, 4)
  mask = rng.random((9, 9)) < 0.7

  def others(i, views, keep):
    return [views[j] for j in range(9) if j != i and keep[j]]

  forward = loop_info_nce(first, second, [others(i, second, mask[i]) for i in range(9)], 0.2)
  backward = loop_info_nce(second, first, [others(i, first, mask[:, i]) for i in range(9)], 0.2)
  loss = losses.in_batch_info_nce(jnp.float32(first), jnp.float32(second), mask=jnp.asarray(mask))
  np.testing.assert_allclose(loss, (forward + backward) / 2, rtol=1e-5)
