"""LIQE's losses against published values and against the published loops written out in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jiqa import losses


def phi(x):
  return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def ragged_quality(score, mos, sizes, groups, std=None):
  """The loss as a loop over databases and pairs, each database's mean over `groups`."""
  total, start = 0.0, 0
  for size in sizes:
    found = []
    for i in range(start, start + size):
      for j in range(i + 1, start + size):
        p, g = phi(score[i] - score[j]), 0.5 * (1 + np.sign(mos[i] - mos[j]))
        if std is not None and not np.isnan(std[i] + std[j]):
          g = phi((mos[i] - mos[j]) / math.hypot(std[i], std[j]))
        found.append(1 - math.sqrt(p * g + 1e-8) - math.sqrt((1 - p) * (1 - g) + 1e-8))
    total += np.mean(found) if found else 0.0
    start += size
  return total / groups


def quality(score, mos, sizes, groups, **options):
  group = np.repeat(np.arange(len(sizes)), sizes)
  return float(losses.quality_fidelity(jnp.float32(score), jnp.float32(mos), jnp.array(group), groups, **options))


def test_published_values_of_the_quality_loss():
  found = quality([1.2, 2.5, 3.1, 4.0, 2.0, 3.5], [10, 30, 20, 30, 1.0, 0.5], [4, 2], 2)
  assert found == pytest.approx(0.4350513978, abs=1e-6)
  pairs = {((1, 5), (1, 2)): -8.4169e-5, ((1, 5), (2, 1)): 0.99427139, ((3, 3), (1, 2)): 0.29279321}
  for (score, mos), expected in {**pairs, ((3, 3), (2, 2)): -2.0e-8}.items():
    assert quality(score, mos, [2], 1) == pytest.approx(expected, abs=1e-6)


def test_published_values_of_the_other_tasks():
  uniform = losses.distortion_fidelity(jnp.full((1, 11), 1 / 11), jnp.array([0]))
  perfect = losses.distortion_fidelity(jnp.eye(11), jnp.arange(11))
  assert float(uniform) == pytest.approx(0.69748864, abs=1e-6)
  assert float(perfect) == pytest.approx(-0.001000005, abs=1e-6)
  two, one = jnp.arange(9)[None] < 2, jnp.arange(9)[None] < 1
  for p, present, expected in (
    (jnp.full((1, 9), 1 / 9), two, 0.19253000),
    (two / 2, two, 0.06498738),
    (one / 1, one, -1.00005e-4),
  ):
    assert float(losses.scene_fidelity(p, present)) == pytest.approx(expected, abs=1e-6)
  weights = losses.dynamic_weights(jnp.array([0.40, 0.50, 0.28]), jnp.array([0.50, 0.60, 0.30]))
  np.testing.assert_allclose(weights, [0.97221241, 0.98855173, 1.03923586], atol=1e-6)
  idle = losses.dynamic_weights(jnp.array([0.0, 0.50, 0.28]), jnp.array([0.0, 0.50, 0.28]))
  np.testing.assert_allclose(idle, [1, 1, 1], atol=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_the_matrix_of_pairs_equals_the_loop_over_databases(soft):
  rng = np.random.default_rng(3)
  sizes = [4, 1, 0, 3, 7]  # one image, and none, have no pair
  score, mos = rng.uniform(1, 5, 15), rng.integers(0, 4, 15) * 25.0
  std = rng.uniform(5, 30, 15)
  std[[2, 9]] = np.nan
  options = {"std": jnp.float32(std)} if soft else {}
  found = quality(score, mos, sizes, 6, **options)
  assert found == pytest.approx(ragged_quality(score, mos, sizes, 6, std if soft else None), abs=1e-6)


@pytest.mark.slow
def test_no_batch_gives_a_loss_or_a_gradient_that_is_not_finite():
  cases = {
    "one image": ([3.0], [1.0], [1]),
    "one image each": ([3.0, 1.0], [1.0, 2.0], [1, 1]),
    "far apart": ([1.0, 5.0, 1e3], [3.0, 2.0, 1.0], [3]),
    "all equal": ([2.0] * 4, [7.0] * 4, [4]),
  }
  for name, (score, mos, sizes) in cases.items():
    group = jnp.repeat(jnp.arange(len(sizes)), jnp.array(sizes))
    value, gradient = jax.value_and_grad(losses.quality_fidelity)(jnp.array(score), jnp.array(mos), group, 6)
    assert np.isfinite(value) and np.isfinite(gradient).all(), name
  single = jax.grad(losses.quality_fidelity)(jnp.array([3.0]), jnp.array([1.0]), jnp.array([0]), 6)
  assert not np.asarray(single).any()
  for p in (jnp.eye(11)[:2] * 1.001, jnp.zeros((2, 11))):  # more than certain, by rounding; and less than possible
    assert np.isfinite(jax.grad(lambda p: losses.distortion_fidelity(p, jnp.array([0, 5])))(p)).all()
    assert np.isfinite(jax.grad(lambda p: losses.scene_fidelity(p, jnp.eye(11)[:2] > 0))(p)).all()


def test_gradients_point_towards_the_right_order():
  score = jnp.array([2.0, 2.5, 3.0])
  gradient = jax.grad(losses.quality_fidelity)(score, jnp.array([30.0, 20.0, 10.0]), jnp.zeros(3, int), 1)
  assert gradient[0] < 0 < gradient[2]
