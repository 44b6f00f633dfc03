"""The loss of LML-IQA against loops in NumPy float64, on one and on eight devices, and where sets are empty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jiqa import losses
from jiqa.runtime.sharding import batch_sharding, make_mesh, replicated


def unit(rng, *shape):
  x = rng.normal(size=shape)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def loop(query, keys, salient, image_id, temperature, w_intra, w_inter, anchors):
  """The definition, word by word: [b, k] or [b, 1]."""
  b, k = query.shape[:2]
  out = []
  for i in range(b):
    for a in range(k) if anchors == "all" else [salient[i]]:
      positive = np.exp(query[i, a] @ keys[i, salient[i]] / temperature)
      negative = 0.0
      for j in range(b):
        for c in range(k):
          term = np.exp(query[i, a] @ keys[j, c] / temperature)
          if j == i and c not in (salient[i], a):
            negative += w_intra * term
          elif image_id[j] != image_id[i]:
            negative += w_inter * term
      out.append(-np.log(positive / (positive + negative)))
  return np.array(out).reshape(b, -1)


@pytest.fixture(scope="module")
def crops():
  """8 images of 5 crops; images 2 and 6 are one image. Keys are like the queries, as a teacher's are."""
  rng = np.random.default_rng(0)
  query = unit(rng, 8, 5, 32)
  keys = query + 0.15 * rng.normal(size=query.shape)
  keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
  return query, keys, rng.integers(0, 5, 8), np.array([4, 9, 7, 1, 0, 3, 7, 5])


@pytest.mark.parametrize("anchors", ["all", "salient"])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 1.0), (0.0, 1.0), (1.0, 0.0), (0.25, 2.0)])
@pytest.mark.parametrize("temperature", [0.2, 0.07])
def test_it_is_what_the_definition_says(crops, anchors, weights, temperature):
  query, keys, salient, image_id = crops
  expected = loop(query, keys, salient, image_id, temperature, *weights, anchors)
  loss = losses.local_manifold(
    jnp.float32(query), jnp.float32(keys), jnp.asarray(salient), jnp.asarray(image_id),
    temperature=temperature, w_intra=weights[0], w_inter=weights[1], anchors=anchors,
  )  # fmt: skip
  assert loss.shape == ((8, 5) if anchors == "all" else (8, 1))
  assert abs(float(loss.mean()) - expected.mean()) < 1e-6
  np.testing.assert_allclose(loss, expected, atol=3e-6)


def test_rows_of_one_image_are_never_negatives(crops):
  query, keys, salient, image_id = (jnp.asarray(x) for x in crops)
  loss = losses.local_manifold(query, keys, salient, image_id)
  elsewhere = keys.at[6].set(-keys[6])  # the other row of image 7
  np.testing.assert_array_equal(losses.local_manifold(query, elsewhere, salient, image_id)[2], loss[2])
  assert (losses.local_manifold(query, elsewhere, salient, jnp.arange(8))[2] != loss[2]).any()
  # An id of several numbers is equal where all of them are.
  pairs = jnp.stack([jnp.zeros(8, int), image_id], 1)
  np.testing.assert_array_equal(losses.local_manifold(query, keys, salient, pairs), loss)


@pytest.mark.parametrize("anchors", ["all", "salient"])
def test_value_and_gradient_are_those_of_one_device_on_eight(crops, anchors):
  def mean(query, keys, salient, image_id):
    return losses.local_manifold(query, keys, salient, image_id, anchors=anchors).mean()

  results = []
  for devices in (jax.devices()[:1], jax.devices()):
    mesh = make_mesh(devices)
    arrays = [jax.device_put(np.float32(x) if x.ndim == 3 else x, batch_sharding(mesh)) for x in crops]
    step = jax.jit(jax.value_and_grad(mean), out_shardings=(replicated(mesh), batch_sharding(mesh)))
    results.append(step(*arrays))
  (one, gradient), (eight, same_gradient) = results
  assert float(one) == pytest.approx(float(eight), abs=1e-6)
  assert np.abs(gradient).max() > 1e-4
  np.testing.assert_allclose(gradient, same_gradient, atol=1e-7)


def test_gradient_is_that_of_the_definition_and_spares_the_keys(crops):
  query, keys, salient, image_id = crops

  def mean(query, keys):
    return losses.local_manifold(query, keys, jnp.asarray(salient), jnp.asarray(image_id)).mean()

  to_query, to_keys = jax.grad(mean, (0, 1))(jnp.float32(query), jnp.float32(keys))
  assert not to_keys.any()
  for place in ((0, 0, 0), (2, 3, 7), (6, 1, 31)):
    step = np.zeros_like(query)
    step[place] = 1e-6
    ends = [loop(query + s, keys, salient, image_id, 0.2, 1, 1, "all").mean() for s in (step, -step)]
    assert float(to_query[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("anchors", ["all", "salient"])
@pytest.mark.parametrize(("b", "k"), [(1, 1), (1, 3), (3, 1), (2, 2)])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_empty_sets_give_finite_gradients(anchors, b, k, weights):
  rng = np.random.default_rng(1)
  query, keys, salient = unit(rng, b, k, 8), unit(rng, b, k, 8), np.zeros(b, int)

  def mean(query):
    loss = losses.local_manifold(
      query, jnp.float32(keys), jnp.asarray(salient), jnp.zeros(b, int),
      w_intra=weights[0], w_inter=weights[1], anchors=anchors,
    )  # fmt: skip
    return loss.mean(), loss

  (_, loss), gradient = jax.value_and_grad(mean, has_aux=True)(jnp.float32(query))
  expected = loop(query, keys, salient, np.zeros(b), 0.2, *weights, anchors)
  np.testing.assert_allclose(loss, expected, atol=1e-6)
  assert np.isfinite(gradient).all()
  if k == 1 or weights[0] == 0:  # all rows show one image, so there is nothing else to be told from
    assert not loss.any() and not gradient.any()


def test_permuting_crops_or_images_changes_nothing_but_the_order(crops):
  query, keys, salient, image_id = (jnp.asarray(x) for x in crops)
  loss = losses.local_manifold(query, keys, salient, image_id)
  order = np.random.default_rng(2).permutation(5)
  moved = losses.local_manifold(query[:, order], keys[:, order], jnp.argsort(order)[salient], image_id)
  np.testing.assert_allclose(moved, loss[:, order], atol=1e-6)
  order = np.random.default_rng(3).permutation(8)
  moved = losses.local_manifold(query[order], keys[order], salient[order], image_id[order])
  np.testing.assert_allclose(moved, loss[order], atol=1e-6)


def test_unknown_anchors_are_refused(crops):
  with pytest.raises(ValueError, match="'first'; expected 'all' or 'salient'"):
    losses.local_manifold(*map(jnp.asarray, crops), anchors="first")


def test_smooth_l1_is_pytorchs():
  error = np.array([-2.0, -1.0, -0.3, 0.0, 0.999, 1.001, 40.0])
  expected = [1.5, 0.5, 0.045, 0.0, 0.4990005, 0.501, 39.5]
  np.testing.assert_allclose(losses.smooth_l1(jnp.float32(error), 0.0), expected, rtol=1e-6, atol=1e-7)
  slope = jax.vmap(jax.grad(losses.smooth_l1), (0, None))(jnp.float32(error), 0.0)
  np.testing.assert_allclose(slope, np.clip(error, -1, 1), rtol=1e-6)
