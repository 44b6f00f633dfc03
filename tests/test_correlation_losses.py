"""Losses that are correlations, against SciPy in float64 group by group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jiqa import losses


def batch(seed=0, scale=1.0, offset=0.0):
  """Scores and mos, with ties, of databases of 9, 7, 2 and 1 images, mixed; and one of 4 whose mos are all equal."""
  rng = np.random.default_rng(seed)
  group = rng.permutation(np.repeat([4, 0, 2, 7, -3], [9, 7, 2, 1, 4]))
  mos = np.round(rng.normal(60, 15, len(group)) / 10) * 10
  mos[group == 2], mos[group == -3] = [30, 70], 41.7
  score = np.round(0.02 * mos + rng.normal(size=len(group)), 1)
  return np.float32(scale * score + offset), np.float32(mos), group


def by_scipy(measure, score, mos, group):
  members = [np.flatnonzero(group == each) for each in np.unique(group)]
  return np.mean([1 - measure(score[m], mos[m])[0] for m in members if len(m) > 1 and np.ptp(mos[m]) > 0])


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (30, 50), (1e-3, 0.6), (1e-20, 0), (1e25, 0)])
def test_plcc_loss_is_scipys_in_any_units(scale, offset):
  score, mos, group = batch(scale=scale, offset=offset)
  assert by_scipy(stats.pearsonr, score.astype(float), mos, group) == pytest.approx(
    float(jax.jit(losses.plcc_loss)(score, mos, group)), abs=2e-4 if scale == 1e-3 else 3e-6
  )
  alone = 1 - stats.pearsonr(score.astype(float), mos)[0]
  assert float(losses.plcc_loss(score, mos)) == pytest.approx(alone, abs=2e-4 if scale == 1e-3 else 3e-6)


def test_a_hard_rank_loss_is_scipys_srcc():
  score, mos, group = batch(3)
  expected = by_scipy(stats.spearmanr, score, mos, group)
  assert float(losses.rank_loss(score, mos, group, temperature=1e-4)) == pytest.approx(expected, abs=1e-6)
  assert abs(float(losses.rank_loss(score, mos, group, temperature=2.0)) - expected) > 1e-3


@pytest.mark.parametrize("loss", [losses.plcc_loss, losses.rank_loss])
def test_gradients_are_finite_differences(loss):
  score, mos, group = batch(5)
  direction = np.random.default_rng(1).normal(size=len(score)).astype(np.float32)
  along = float(jax.grad(loss)(jnp.array(score), mos, group) @ direction)
  difference = (loss(score + 0.03 * direction, mos, group) - loss(score - 0.03 * direction, mos, group)) / 0.06
  assert along == pytest.approx(float(difference), rel=0.02)
  stepped = score - 0.5 * np.asarray(jax.grad(loss)(jnp.array(score), mos, group))
  assert float(loss(stepped, mos, group)) < float(loss(score, mos, group)) - 1e-3


@pytest.mark.parametrize("value", [0.0, 0.1, 57.3])
def test_equal_scores_lose_1_and_are_pulled_apart_as_the_mos(value):
  mos = jnp.array([10.0, 30, 20, 90, 50])
  loss, gradient = jax.jit(jax.value_and_grad(losses.plcc_loss))(jnp.full(5, value), mos)
  assert float(loss) == pytest.approx(1, abs=1e-6)
  np.testing.assert_array_equal(np.argsort(-gradient), np.argsort(mos))
  assert 1e-3 < np.abs(gradient).max() < 10


def test_nothing_to_correlate_is_0_with_a_gradient_of_0():
  for mos, group in (([3.0, 3.0, 3.0], None), ([1.0, 2.0, 3.0], jnp.arange(3))):
    loss, gradient = jax.value_and_grad(losses.plcc_loss)(jnp.array([1.0, 2.0, 0.5]), jnp.array(mos), group)
    assert float(loss) == 0
    np.testing.assert_array_equal(gradient, 0)
