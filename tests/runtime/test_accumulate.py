"""Micro-batches: their means against loops in NumPy, and random numbers of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jiqa.runtime.accumulate import accumulated
from jiqa.runtime.sharding import put_batch
from tests.helpers import mesh_of

ROWS, PARTS, DEVICES = 12, 3, 2


def value_and_grad(params, state, batch, key):
  """A loss [b] -> mean squared error, with statistics, rows and metrics of the micro-batch that it sees."""

  def loss(params):
    error = batch["x"] @ params["w"] - batch["y"]
    aux = {"rows": batch["x"], "draw": jax.random.uniform(key)}
    return (error**2).mean() * state, ({"mean": batch["x"].mean(0)}, aux, {"largest": jnp.abs(error).max()})

  return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.fixture(scope="module")
def whole_batch():
  """(function from a key to what the micro-batches give together, the rows and parameters, NumPy)."""
  rng = np.random.default_rng(0)
  batch = {"x": rng.normal(size=(ROWS, 4)).astype(np.float32), "y": rng.normal(size=ROWS).astype(np.float32)}
  w, mesh = rng.normal(size=4).astype(np.float32), mesh_of(DEVICES)
  program = jax.jit(accumulated(value_and_grad, lambda aux: aux, PARTS, mesh))
  return lambda key: jax.device_get(program({"w": w}, 3.0, put_batch(batch, mesh), key)), batch, w


def test_losses_gradients_statistics_and_metrics_are_means_over_the_micro_batches(whole_batch):
  run, batch, w = whole_batch
  (loss, (stats, aux, metrics)), gradient = run(jax.random.key(1))
  losses, gradients, means, largest = [], [], [], []
  for part in range(PARTS):
    # Rows stay on their device: of each device's six rows a micro-batch has the next two.
    rows = [6 * device + 2 * part + i for device in range(DEVICES) for i in range(2)]
    x, y = np.float64(batch["x"][rows]), np.float64(batch["y"][rows])
    error = x @ np.float64(w) - y
    losses.append(3 * (error**2).mean())
    gradients.append(3 * 2 * x.T @ error / len(rows))
    means.append(x.mean(0))
    largest.append(np.abs(error).max())
    np.testing.assert_array_equal(aux["rows"][part], batch["x"][rows])
  assert loss == pytest.approx(np.mean(losses), rel=1e-5)
  np.testing.assert_allclose(gradient["w"], np.mean(gradients, 0), rtol=1e-5)
  np.testing.assert_allclose(stats["mean"], np.mean(means, 0), rtol=1e-5, atol=1e-6)
  assert metrics["largest"] == pytest.approx(np.mean(largest), rel=1e-5)


def test_every_micro_batch_draws_its_own_random_numbers(whole_batch):
  run, *_ = whole_batch
  draws = [float(draw) for key in (1, 2) for draw in run(jax.random.key(key))[0][1][1]["draw"]]
  assert len(draws) == len(set(draws)) == 2 * PARTS
