"""What the experts contrast, and what a step leaves behind, where the key encoder is not the query encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jiqa.methods.reiqa import reiqa
from jiqa.runtime.state import new_state
from tests.helpers import mesh_of
from tests.methods.test_reiqa import tiny_config
from tests.models.test_resnet import numpy_conv


def apart(state):
  """The state with a key encoder, and statistics, of its own."""
  rng = np.random.default_rng(0)
  extra = dict(state.extra)
  moved = {
    "key_params": jax.tree.map(lambda p: p + jnp.float32(rng.normal(0, 0.1, p.shape)), state.params),
    "key_stats": jax.tree.map(lambda s: s + jnp.float32(rng.uniform(0.5, 1.5, s.shape)), state.stats),
  }
  return state.replace(extra=extra | moved if extra else extra)


def normalised(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("loss", reiqa.ReIQA.losses)
def test_the_negatives_of_every_loss_by_loops(loss, monkeypatch):
  """Two images, two scales, three versions; query and key encoder are two matrices, their statistics sums."""
  b, s, v, t = 2, 2, 3, 0.5
  method = reiqa.ReIQA(tiny_config(loss=loss, queue=16, versions=v, batch_size=b, temperature=t), mesh_of(1))
  rng = np.random.default_rng(0)
  pixels = rng.normal(size=(2, b, s, v, 1, 1, 3))
  query_matrix, key_matrix = rng.normal(size=(2, 3, 3))
  queue = normalised(rng.normal(size=(16, 3)))
  alike = np.array([[0, 0, 2], [0, 1, 2]])  # the second version of the first image looks like the first

  def embed(params, stats, crops):
    x = crops[:, 0, 0] @ params
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True), stats + crops.sum()

  monkeypatch.setattr(method, "_embed", embed)
  monkeypatch.setattr(method, "crop_pairs", lambda batch, key: (jnp.float32(pixels), jnp.asarray(alike)))
  extra = {"queue": queue, "key_params": key_matrix, "key_stats": np.array(20.0)}
  state = new_state(jnp.float32(query_matrix), jnp.float32(10), jax.tree.map(jnp.float32, extra))
  ours, (stats, aux, metrics) = method.loss(state.params, state, None, jax.random.key(0))

  first, second = pixels.reshape(2, b * s * v, 3)
  queries = normalised(first @ query_matrix)
  keys = normalised(second @ (query_matrix if loss == "in_batch" else key_matrix))
  label = [(i, alike[i, version]) for i in range(b) for _ in range(s) for version in range(v)]

  def softmax_loss(positive, negatives):
    return -np.log(np.exp(positive / t) / (np.exp(positive / t) + sum(np.exp(n / t) for n in negatives)))

  terms = []
  for i, (q, k) in enumerate(zip(queries, keys, strict=True)):
    if loss == "in_batch":
      others = [j for j in range(len(queries)) if label[j] != label[i]]
      terms.append(softmax_loss(q @ k, [q @ keys[j] for j in others]) / 2)
      terms[-1] += softmax_loss(q @ k, [queries[j] @ k for j in others]) / 2
      continue
    negatives = [q @ old for old in queue]
    if loss == "queue+chunk":
      negatives += [q @ keys[j] for j in range(len(keys)) if label[j][0] == label[i][0] and label[j] != label[i]]
    terms.append(softmax_loss(q @ k, negatives))
  assert float(ours) == pytest.approx(np.mean(terms), rel=1e-5)
  assert float(metrics["positive_similarity"]) == pytest.approx((queries * keys).sum(1).mean(), rel=1e-5)
  if loss == "in_batch":
    assert float(stats) == pytest.approx(10 + pixels.sum(), abs=1e-4) and aux == {}
  else:
    np.testing.assert_allclose(aux["keys"], keys, atol=1e-5)
    assert float(stats) == pytest.approx(10 + first.sum(), abs=1e-4)
    assert float(aux["key_stats"]) == pytest.approx(20 + second.sum(), abs=1e-4)


def stem_statistics(params, stats, crops):
  """The first layer's running mean and variance after a batch, float64."""
  kernel, old = np.float64(params["encoder"]["conv1"]["kernel"]), stats["encoder"]["bn1"]
  seen = np.stack([numpy_conv(np.float64(crop), kernel, 2) for crop in crops])
  return [
    0.9 * np.float64(old[name]) + 0.1 * value.reshape(-1, seen.shape[-1]).mean(0)
    for name, value in (("mean", seen), ("var", np.square(seen - seen.mean((0, 1, 2)))))
  ]


@pytest.mark.parametrize("loss", ["queue+chunk", "in_batch", pytest.param("queue", marks=pytest.mark.slow)])
def test_a_step_moves_statistics_queue_and_key_encoder_by_their_formulas(loss):
  method = reiqa.ReIQA(tiny_config(loss=loss, queue=96, key_momentum=0.8), mesh_of(1))
  state = apart(method.init(jax.random.key(0)))
  crops = jax.random.uniform(jax.random.key(2), (2, 64, 16, 16, 3))  # 8 images, 2 scales, 4 versions
  labels = jnp.tile(jnp.arange(4), (8, 2))

  @jax.jit
  def run(state, crops):
    grad = jax.grad(method.contrast, has_aux=True)
    gradient, (stats, aux, _) = grad(state.params, state, crops, jax.random.key(1), labels)
    moved = state.replace(params=jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient), stats=stats)
    return gradient, aux, moved, method.post_update(moved, aux)

  gradient, aux, moved, after = run(state, crops)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
  assert np.abs(gradient["encoder"]["conv1"]["kernel"]).max() > 0

  seen = {"query": (after.stats, stem_statistics(state.params, state.stats, crops[0]))}
  if loss == "in_batch":
    assert after.extra == {}
    seen = {"both": (after.stats, stem_statistics(state.params, state.stats, crops.reshape(-1, 16, 16, 3)))}
  else:
    expected = stem_statistics(state.extra["key_params"], state.extra["key_stats"], crops[1])
    seen["key"] = after.extra["key_stats"], expected
    for old, new in zip(*map(jax.tree.leaves, (state.extra["key_stats"], after.extra["key_stats"])), strict=True):
      assert (old != new).all()
  for name, (stats, (mean, var)) in seen.items():
    np.testing.assert_allclose(stats["encoder"]["bn1"]["mean"], mean, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(stats["encoder"]["bn1"]["var"], var, rtol=1e-5, err_msg=name)
  if loss == "in_batch":
    return

  keys = np.asarray(aux["keys"])
  assert keys.shape == (64, 8)
  expected = np.asarray(state.extra["queue"]).copy()
  expected[:64] = keys
  np.testing.assert_array_equal(after.extra["queue"], expected)
  assert int(after.extra["pointer"]) == 64
  again = method.post_update(after, aux)  # wraps around: rows 64..95, then 0..31
  expected[64:], expected[:32] = keys[:32], keys[32:]
  np.testing.assert_array_equal(again.extra["queue"], expected)
  assert int(again.extra["pointer"]) == 32
  trees = state.extra["key_params"], moved.params, after.extra["key_params"]
  for old, new, found in zip(*map(jax.tree.leaves, trees), strict=True):
    np.testing.assert_allclose(found, 0.8 * np.float64(old) + 0.2 * np.float64(new), rtol=1e-5, atol=1e-6)


def test_micro_batches_hand_on_all_their_keys_and_the_mean_of_their_statistics():
  method = reiqa.ReIQA(tiny_config(loss="queue", queue=64), mesh_of(1))
  keys = np.arange(2 * 3 * 4.0).reshape(2, 3, 4)
  joined = method.merge_aux({"keys": jnp.asarray(keys), "key_stats": {"mean": jnp.array([[1.0, 2.0], [3.0, 8.0]])}})
  np.testing.assert_array_equal(joined["keys"], [*keys[0], *keys[1]])
  np.testing.assert_array_equal(joined["key_stats"]["mean"], [2, 5])


def test_shuffled_keys_come_back_in_their_order():
  method = reiqa.ReIQA(tiny_config(loss="queue", queue=64, bn_groups=2, versions=2, kinds=(6,)), mesh_of(1))
  state = apart(method.init(jax.random.key(0)))
  crops = jax.random.uniform(jax.random.key(1), (8, 32, 32, 3))
  key = jax.random.key(5)
  keys, key_stats = jax.jit(method._embed_keys)(state, crops, key)
  order = np.asarray(jax.random.permutation(key, 8))
  assert (order != np.arange(8)).any()
  embed = jax.jit(method._embed)
  encoder = state.extra["key_params"], state.extra["key_stats"]
  alone, stats = embed(*encoder, crops[order])
  np.testing.assert_allclose(np.asarray(keys)[order], alone, atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), key_stats, stats)
  unshuffled, _ = embed(*encoder, crops)
  assert np.abs(np.asarray(keys) - unshuffled).max() > 1e-3  # the statistics are those of other groups
  queries, _ = embed(state.params, state.stats, crops[order])
  assert np.abs(alone - queries).max() > 1e-2


def test_the_queue_begins_as_unit_vectors_and_the_key_encoder_as_the_query_encoder():
  method = reiqa.ReIQA(tiny_config(loss="queue", queue=64), mesh_of(1))
  state = method.init(jax.random.key(0))
  queue = np.asarray(state.extra["queue"])
  assert queue.shape == (64, 8) and len(np.unique(queue)) == queue.size and int(state.extra["pointer"]) == 0
  np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-5)
  assert np.abs(queue.mean(0)).max() < 0.2  # in all directions
  jax.tree.map(np.testing.assert_array_equal, state.extra["key_params"], state.params)
  jax.tree.map(np.testing.assert_array_equal, state.extra["key_stats"], state.stats)
