"""LML-IQA behind the contract: its objective, its teacher, its crops, and configs that cannot run."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx
from scipy import stats

from configs import lml as config_file
from jiqa import train as loop
from jiqa.errors import UserError
from jiqa.methods.lml import lml
from jiqa.runtime import optimizer
from jiqa.runtime.sharding import make_mesh, put_batch
from jiqa.runtime.state import new_state, split_module
from jiqa.weights.store import flatten
from tests.helpers import mesh_of
from tests.test_local_manifold import loop as contrast_by_loops

B, K, SIDE = 8, 3, 16
TINY = {
  "crop": SIDE, "patch": 4, "width": 8, "depth": 1, "heads": 2, "crops": K, "test_crops": 4, "batch_size": B,
  "steps": 6, "log_every": 1, "checkpoint_every": 3,
}  # fmt: skip
RECORD = {"database": "mine", "image_name": "a.png", "mos": 3.0, "range": (1.0, 5.0)}


def tiny_config(**changes):
  config = config_file.get_config("demo")
  config.update(TINY | changes)
  config.optimizer.warmup_steps = 0
  return config


@pytest.fixture(scope="module")
def batch():
  """Rows 2 and 5 show one image."""
  rng = np.random.default_rng(0)
  corners = rng.uniform(0, 0.5, (B, K, 2)).astype(np.float32)
  ids = np.arange(2 * B, dtype=np.int32).reshape(B, 2)
  ids[5] = ids[2]
  return {
    "crops": rng.integers(0, 256, (B, K, SIDE, SIDE, 3), dtype=np.uint8),
    "whole": rng.integers(0, 256, (B, SIDE, SIDE, 3), dtype=np.uint8),
    "boxes": np.concatenate([corners, corners + np.float32(0.4)], -1),
    "target": rng.uniform(-5, 5, B).astype(np.float32),
    "image_id": ids,
  }


def shaken(method, seed=0):
  """A state whose network and teacher differ and are far from their first values."""
  state = method.init(jax.random.key(0))
  rng = np.random.default_rng(seed)
  draw = lambda p: p + jnp.asarray(rng.normal(0, 0.2, p.shape), jnp.float32)
  return state.replace(params=jax.tree.map(draw, state.params), extra=jax.tree.map(draw, state.extra))


@pytest.fixture(scope="module")
def seen(batch):
  """(method, state, what network and teacher make of the batch)."""
  method = lml.LML(tiny_config(), mesh_of(1))
  state = shaken(method)

  @jax.jit
  def look(params):
    network = method.network(params)
    crops = network(batch["crops"].reshape(B * K, SIDE, SIDE, 3))
    return crops["score"].reshape(B, K), crops["feature"].reshape(B, K, -1), method.saliency(network, batch)[0]

  return method, state, look(state.params), look(state.extra["teacher"])


def value(config, state, batch, key=0):
  """(loss, metrics, gradient by the State's extra)."""
  method = lml.LML(config, mesh_of(1))

  def loss(extra):
    total, (_, _, metrics) = method.loss(state.params, state.replace(extra=extra), batch, jax.random.key(key))
    return total, metrics

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(state.extra)


def huber(x):
  return np.where(np.abs(x) < 1, 0.5 * x * x, np.abs(x) - 0.5)


@pytest.mark.parametrize(
  "changes",
  [
    {"contrast": 0.3, "temperature": 0.07, "w_inter": 0.25},
    {"contrast": 0.0},
    {"contrast": 0.2, "consistency": 0.5, "anchors": "salient", "w_intra": 0.5, "w_inter": 2.0, "temperature": 1.0},
  ],
)
def test_the_objective_is_regression_contrast_and_consistency(seen, batch, changes):
  config = tiny_config(**changes)
  _, state, (scores, features, _), (teacher_scores, teacher_features, saliency) = seen
  (loss, metrics), to_teacher = value(config, state, batch)
  scores, saliency = np.float64(scores), np.asarray(saliency)
  expected = {"regression": huber(scores - batch["target"][:, None]).mean()}
  weights = {"regression": 1.0, "contrast": config.contrast, "consistency": config.consistency}
  if config.contrast:
    expected["contrast"] = contrast_by_loops(
      np.float64(features), np.float64(teacher_features), saliency.argmax(-1), batch["image_id"][:, 0],
      config.temperature, config.w_intra, config.w_inter, config.anchors,
    ).mean()  # fmt: skip
  if config.consistency:
    expected["consistency"] = huber(scores - np.float64(teacher_scores).mean(1, keepdims=True)).mean()
  assert {name: float(x) for name, x in metrics.items()} == pytest.approx(expected, rel=1e-5)
  assert float(loss) == pytest.approx(sum(weights[name] * x for name, x in expected.items()), rel=1e-5)
  assert not any(np.any(g) for g in jax.tree.leaves(to_teacher))  # exactly zero
  assert saliency.argmax(-1).std() > 0


def test_the_network_sees_pixels_normalised_as_imagenets(seen, batch):
  method, state, (scores, features, _), _ = seen
  crops = batch["crops"].reshape(B * K, SIDE, SIDE, 3)
  pixels = (np.float64(crops) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]

  @jax.jit
  def parts(params, pixels):
    network = method.network(params)
    tokens, _ = network.encoder(pixels)
    return network.head(tokens), tokens[:, 0]

  expected, first = parts(state.params, jnp.float32(pixels))
  np.testing.assert_allclose(scores.ravel(), expected, rtol=1e-4, atol=1e-4)
  first /= np.linalg.norm(first, axis=1, keepdims=True)
  np.testing.assert_allclose(features.reshape(B * K, -1), first, atol=1e-4)


def test_the_teacher_chooses_the_crop_and_random_crops_depend_on_the_key(seen, batch):
  _, state, *_ = seen
  moved = batch | {"boxes": np.roll(batch["boxes"], 1, 1)}
  contrast = lambda config, batch, key: float(value(config, state, batch, key)[0][1]["contrast"])
  assert contrast(tiny_config(), batch, 0) == contrast(tiny_config(), batch, 1)
  assert contrast(tiny_config(), batch, 0) != contrast(tiny_config(), moved, 0)
  random = tiny_config(saliency="random")
  assert contrast(random, batch, 0) == contrast(random, moved, 0)
  assert len({contrast(random, batch, key) for key in range(3)}) == 3


def test_permuting_the_crops_of_a_image_leaves_the_loss(seen, batch):
  _, state, *_ = seen
  orders = np.stack([np.random.default_rng(i).permutation(K) for i in range(B)])
  moved = batch | {name: np.take_along_axis(batch[name], orders.reshape(B, K, *[1] * (batch[name].ndim - 2)), 1)
                   for name in ("crops", "boxes")}  # fmt: skip
  (one, _), _ = value(tiny_config(), state, batch)
  (other, _), _ = value(tiny_config(), state, moved)
  assert (orders != np.arange(K)).any() and float(one) == pytest.approx(float(other), rel=1e-6)


def test_steps_on_one_and_on_eight_devices_agree_and_the_teacher_follows(batch):
  config, results = tiny_config(), []
  config.optimizer.name = "sgd"  # AdamW makes whole steps of gradients that are rounding errors
  for devices in (jax.devices()[:1], jax.devices()):
    mesh = make_mesh(devices)
    method, (tx, schedule, _) = loop.build(config, mesh), loop.build_optimizer(config, 100)
    state = loop.init_state(config, method, tx, mesh)
    first = jax.device_get(state)
    step = loop.make_step(method, tx, schedule, config.seed)
    state, metrics = step(state, put_batch(batch, mesh))
    second = jax.device_get(state)
    state, _ = step(state, put_batch(batch, mesh))
    results.append((jax.device_get(metrics), second, jax.device_get(state)))
  (one_metrics, second, one), (eight_metrics, _, eight) = results
  for name, x in one_metrics.items():
    assert float(x) == pytest.approx(float(eight_metrics[name]), rel=1e-4), name
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4)
  for t, before, after in ((0, first, second), (1, second, one)):
    momentum = (1 + t) / (10 + t)
    expected = jax.tree.map(lambda old, new, m=momentum: m * old + (1 - m) * new, before.extra["teacher"], after.params)
    for a, b in zip(jax.tree.leaves(after.extra["teacher"]), jax.tree.leaves(expected), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-7)


def test_a_frozen_teacher_stays(seen):
  _, state, *_ = seen
  after = lml.LML(tiny_config(teacher="frozen"), mesh_of(1)).post_update(state, {})
  jax.tree.map(np.testing.assert_array_equal, after.extra["teacher"], state.extra["teacher"])


def test_in_later_steps_the_teacher_follows_by_the_momentum_of_the_config():
  method = lml.LML(tiny_config(teacher_momentum=0.8), mesh_of(1))
  state = new_state({"w": jnp.float32(3)}, {}, {"teacher": {"w": jnp.float32(1)}})
  after = method.post_update(state.replace(step=jnp.int32(101)), {})
  assert float(after.extra["teacher"]["w"]) == pytest.approx(0.8 * 1 + 0.2 * 3)


def test_without_contrast_it_is_plain_regression(seen, batch):
  _, state, *_ = seen
  method = lml.LML(tiny_config(contrast=0.0), mesh_of(1))

  def plain(params):
    network = method.network(params)
    error = jnp.abs(network(batch["crops"].reshape(B * K, SIDE, SIDE, 3))["score"] - jnp.repeat(batch["target"], K))
    return jnp.where(error < 1, error**2 / 2, error - 0.5).mean()

  def ours(params):
    return method.loss(params, state, batch, jax.random.key(0))[0]

  found, expected = jax.jit(lambda params: (jax.grad(ours)(params), jax.grad(plain)(params)))(state.params)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_what_is_cut_of_a_image():
  image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
  method = lml.LML(tiny_config(targets=(-20.0, 80.0)), mesh_of(1))
  cut = method.preprocess_train(image, RECORD | {"mos": 2.0}, np.random.default_rng(1))
  assert {name: (x.shape, x.dtype.name) for name, x in cut.items()} == {
    "crops": ((K, SIDE, SIDE, 3), "uint8"),
    "boxes": ((K, 4), "float32"),
    "whole": ((SIDE, SIDE, 3), "uint8"),
    "target": ((), "float32"),
    "image_id": ((2,), "int32"),
  }
  assert cut["target"] == 5  # a quarter of the way
  assert (
    lml.LML(tiny_config(targets=()), mesh_of(1)).preprocess_train(image, RECORD, np.random.default_rng(1))["target"]
    == 3
  )
  again = method.preprocess_train(image, RECORD | {"mos": 2.0}, np.random.default_rng(1))
  assert all((cut[name] == again[name]).all() for name in cut)


@pytest.mark.parametrize(
  ("changes", "message"),
  [({"mos": np.nan}, "mine: a.png has no score"), ({"range": (-np.inf, np.inf)}, "mine declares no range")],
)
def test_images_without_a_target_are_refused(changes, message):
  with pytest.raises(UserError, match=message):
    lml.LML(tiny_config(), mesh_of(1)).preprocess_train(
      np.zeros((20, 20, 3), np.uint8), RECORD | changes, np.random.default_rng(0)
    )


def test_scores_are_the_mean_over_the_same_crops_every_time(seen):
  method, state, *_ = seen
  rng = np.random.default_rng(3)
  images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((40, 30), (17, 50), (9, 9))]
  views = [method.preprocess_eval(image)["crops"] for image in images]
  assert all(
    (view == method.preprocess_eval(image.copy())["crops"]).all() for view, image in zip(views, images, strict=True)
  )
  assert views[0].shape == (4, SIDE, SIDE, 3)
  predict = jax.jit(method.predict)
  weights = (*method.weights(state), method.precompute(*method.weights(state), state.extra))
  together = predict(*weights, {"crops": np.stack(views)})
  shuffled = predict(*weights, {"crops": np.stack(views[::-1])})
  for name, params in (("score", state.params), ("teacher_score", state.extra["teacher"])):
    network = jax.jit(lambda params, x: method.network(params)(x)["score"])
    expected = [np.float64(network(params, view)).mean() for view in views]
    np.testing.assert_allclose(together[name], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shuffled[name][::-1], expected, rtol=1e-5, atol=1e-5)


def test_images_are_scored_without_a_teacher(seen):
  method, state, *_ = seen
  crops = np.random.default_rng(4).integers(0, 256, (2, 4, SIDE, SIDE, 3), dtype=np.uint8)
  weights = method.weights(state)
  with_teacher = jax.jit(method.predict)(*weights, method.precompute(*weights, state.extra), {"crops": crops})
  alone = jax.jit(method.predict)(*weights, method.precompute(*weights), {"crops": crops})
  assert set(with_teacher) == {"score", "features", "teacher_score"} and set(alone) == {"score", "features"}
  np.testing.assert_allclose(alone["score"], with_teacher["score"], rtol=1e-5)


def test_the_teachers_scores_are_judged_beside():
  rng = np.random.default_rng(0)
  mos = np.concatenate([rng.random(12), 5 - rng.random(8)])
  records = pd.DataFrame({"mos": mos, "database": ["mine"] * 12 + ["other"] * 8}, index=range(5, 25))
  scores = mos + rng.normal(0, 0.2, 20)
  judged = lml.LML(tiny_config(), mesh_of(1)).compute_metrics({"score": scores, "teacher_score": scores}, records)
  for name, measure in {"teacher_srcc": stats.spearmanr, "teacher_plcc": stats.pearsonr}.items():
    expected = np.median([measure(scores[part], mos[part]).statistic for part in (slice(12), slice(12, 20))])
    assert judged[name] == pytest.approx(expected)
  assert lml.LML(tiny_config(), mesh_of(1)).compute_metrics({"teacher_score": np.ones(20)}, records) == {}


def test_weights_start_network_and_teacher():
  method = lml.LML(tiny_config(), mesh_of(1))
  given = jax.device_get(shaken(method).params)
  state = method.init(jax.random.key(1), ({"encoder": given["encoder"]}, {}))
  fresh = method.init(jax.random.key(1))
  for tree in (state.params, state.extra["teacher"]):
    jax.tree.map(np.testing.assert_array_equal, tree["encoder"], given["encoder"])
    jax.tree.map(np.testing.assert_array_equal, tree["head"], fresh.params["head"])
  whole = method.init(jax.random.key(1), (given, {}))
  jax.tree.map(np.testing.assert_array_equal, whole.params, given)
  del given["encoder"]["norm"]
  with pytest.raises(UserError, match="missing: encoder/norm"):
    method.init(jax.random.key(1), (given, {}))


def test_57_tensors_of_the_published_network_are_decayed():
  config = config_file.get_config("livec")
  params = split_module(nnx.eval_shape(lambda: lml.QualityNetwork(config, rngs=nnx.Rngs(0))))[1]
  mask = flatten(optimizer.decayed(params))
  assert len(mask) == 194 and sum(mask.values()) == 57
  assert mask["head/bunch_embedding"] and not mask["encoder/pos_embed"] and not mask["encoder/cls_token"]
  assert all(decays == name.endswith(("kernel", "bunch_embedding")) for name, decays in mask.items())


@pytest.mark.parametrize("variant", config_file.VARIANTS)
def test_the_shipped_variants_can_be_built(variant):
  config = config_file.get_config(variant)
  method = lml.LML(config, mesh_of(1))
  _, schedule = optimizer.build(config.optimizer, config.steps or config.epochs * 116, 116)
  assert float(schedule(0)) < config.optimizer.learning_rate
  image = np.zeros((300, 400, 3), np.uint8)
  assert method.preprocess_eval(image)["crops"].shape == (config.test_crops, config.crop, config.crop, 3)


def test_ablations_change_what_they_name():
  base = config_file.get_config("small")
  for name, changes in config_file.ABLATIONS.items():
    assert all(base[key] != value for key, value in changes.items()), name
    config = config_file.get_config("small")
    config.update(changes)
    lml.LML(config, mesh_of(1))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"saliency": "student"}, "expected one of teacher, random"),
    ({"teacher": "ema"}, "expected one of average, frozen"),
    ({"anchors": "none"}, "expected one of all, salient"),
    ({"teacher_momentum": 1.0}, "config.teacher='frozen'"),
    ({"attention_percentile": 0.0}, "attention_percentile is 0.0"),
    ({"targets": (1.0,)}, "expected \\(lowest, highest\\)"),
    ({"targets": (1.0, 1.0)}, "expected \\(lowest, highest\\)"),
    ({"resize": (384,)}, "expected \\(height, width\\)"),
    ({"crops": 0}, "config.crops is 0"),
    ({"temperature": 0.0}, "temperature is 0.0; it must be positive"),
    ({"w_intra": -1.0}, "w_intra is -1.0; it must not be negative"),
    ({"patch": 5}, "multiple of patch 5"),
  ],
)
def test_config_mistakes_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    lml.LML(tiny_config(**changes), mesh_of(2)).check_training()
