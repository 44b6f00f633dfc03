"""LIQE behind the contract: predictions, losses on real labels, weights of tasks, schedule, devices, resuming."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from ml_collections import ConfigDict

from configs import liqe as config_file
from jiqa.errors import UserError
from jiqa.methods.liqe._labels import task_labels
from jiqa.methods.liqe.liqe import LIQE, TEXT_TOWER, accuracy
from jiqa.methods.liqe.liqe import _prompts as prompts
from jiqa.runtime import optimizer
from jiqa.runtime.sharding import put_batch, replicated
from jiqa.runtime.state import new_state
from jiqa.train import make_step
from tests.helpers import mesh_of
from tests.test_fidelity import ragged_quality

TINY = {"crop": 16, "patch": 8, "width": 8, "depth": 1, "heads": 2, "embedding": 8, "batch_size": 8, "test_crops": 4}


def tiny_config(variant="demo", **changes):
  config = config_file.get_config(variant)
  with config.unlocked():
    config.update(TINY | {"dtype": "float32"} | changes)
    config.text.update(width=8, depth=1, heads=2, vocabulary=49408, context=24)
  return config


def image(seed=0, height=40, width=56):
  return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def record(i, **changes):
  return {
    "database": "demo", "image_name": ("flower/1.png", "coffee/2.png")[i % 2], "mos": float(i % 3), "mos_std": np.nan,
    "distortion": ("pristine", "gaussian blur")[i % 2],
  } | changes  # fmt: skip


def batch_of(method, size=8):
  rows = [method.preprocess_train(image(i), record(i), np.random.default_rng(i)) for i in range(size)]
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def start(method):
  return method.mesh, method.init(jax.random.key(0))


def test_marginals_and_score_of_a_known_distribution():
  method = LIQE(tiny_config(), mesh_of(1))
  joint = jnp.arange(1.0, 496.0) / (495 * 496 / 2)
  found = method.answers(joint.reshape(1, 5, 9, 11))
  expected = [0.04032258, 0.12016129, 0.2, 0.27983871, 0.35967742]
  np.testing.assert_allclose(found["quality"][0], expected, atol=1e-6)
  assert float(found["score"][0]) == pytest.approx(3.798387097, abs=1e-5)
  assert float(found["scene"][0, 0]) == pytest.approx(0.09139785, abs=1e-6)
  assert float(found["distortion"][0, 0]) == pytest.approx(0.08907625, abs=1e-6)


@pytest.fixture(scope="module")
def predictions():
  method = LIQE(tiny_config(crops="uniform"), mesh_of(1))
  _, state = start(method)
  params, stats = method.weights(state)
  weights = params, stats, jax.jit(method.precompute)(params, stats)
  views = [method.preprocess_eval(image(i, 16 + 9 * i, 60)) for i in range(5)]
  return method, weights, views, jax.jit(method.predict)


def test_predictions_are_distributions_and_do_not_depend_on_the_batch(predictions):
  _, weights, views, predict = predictions
  together = predict(*weights, {"crops": np.stack([view["crops"] for view in views])})
  assert {name: value.shape for name, value in together.items()} == {
    "score": (5,), "scene": (5, 9), "distortion": (5, 11), "joint": (5, 5, 9, 11), "features": (5, 8),
  }  # fmt: skip
  joint = np.asarray(together["joint"])
  np.testing.assert_allclose(joint.sum((1, 2, 3)), 1, atol=1e-5)
  np.testing.assert_allclose(together["scene"], joint.sum((1, 3)), atol=1e-6)
  np.testing.assert_allclose(together["distortion"], joint.sum((1, 2)), atol=1e-6)
  np.testing.assert_allclose(together["score"], joint.sum((2, 3)) @ np.arange(1, 6), atol=1e-5)
  assert np.ptp(together["score"]) > 0
  alone = predict(*weights, {"crops": views[3]["crops"][None]})
  np.testing.assert_allclose(alone["joint"][0], joint[3], atol=1e-6)


def test_logits_are_averaged_before_the_softmax(predictions):
  _, weights, views, predict = predictions
  crops = views[0]["crops"]
  each = [np.asarray(predict(*weights, {"crops": crop[None, None]})["joint"])[0] for crop in crops]
  mean = np.exp(np.mean(np.log(each), 0))
  whole = predict(*weights, {"crops": crops[None]})["joint"][0]
  np.testing.assert_allclose(whole, mean / mean.sum(), atol=1e-6)
  assert np.abs(whole - np.mean(each, 0)).max() > 1e-6


def test_the_prompts_are_encoded_once_and_not_with_every_batch(predictions):
  method, (params, stats, extra), views, predict = predictions
  batch = {"crops": views[0]["crops"][None]}
  expected = predict(params, stats, extra, batch)["score"]
  zeros = jax.tree.map(jnp.zeros_like, {name: params[name] for name in TEXT_TOWER})
  np.testing.assert_array_equal(predict(params | zeros, stats, extra, batch)["score"], expected)
  np.testing.assert_allclose(jnp.linalg.norm(extra["table"], axis=-1), 1, rtol=1e-5)
  again = jax.tree.map(lambda p: p * 1.1, params)  # another checkpoint, another table
  assert np.abs(jax.jit(method.precompute)(again, stats)["table"] - extra["table"]).max() > 1e-3


def test_loss_of_the_batch_equals_its_parts_written_out():
  """Two databases; weights of the tasks that are not 1; deviations of the scores, all known, one, none."""
  config = tiny_config(soft_targets=True)
  with config.unlocked():
    config.data = [config.data[0].copy_and_resolve_references() for _ in range(2)]
    config.data[1].name = "koniq10k"
  method = LIQE(config, mesh_of(1))
  mesh, state = start(method)
  example = method.preprocess_train(image(), record(0, mos_std=2.5), np.random.default_rng(0))
  assert example["std"] == 2.5 and example["std"].dtype == np.float32
  weights = np.array([0.5, 2.0, 1.25])
  state = state.replace(extra=state.extra | {"task_weights": jnp.float32(weights)})
  sizes = [5, 3]
  batch = batch_of(method) | {"group": np.repeat(np.int32([0, 1]), sizes)}
  found = method.weights(state)
  found = jax.jit(method.predict)(*found, jax.jit(method.precompute)(*found), {"crops": batch["crops"]})
  score, scene, distortion = (np.asarray(found[name], np.float64) for name in ("score", "scene", "distortion"))
  root = lambda x: np.sqrt(np.maximum(x, 0) + 1e-8)
  wanted = batch["scene"].astype(float)
  scenes = (1 - root(scene * wanted) - root((1 - scene) * (1 - wanted))).mean()
  distortions = (1 - root(distortion * np.eye(11)[batch["distortion"]]).sum(1)).mean()
  loss = jax.jit(method.loss)
  qualities = []
  for std in (np.full(8, np.nan), np.where(np.arange(8) == 2, np.nan, 1.5), np.linspace(0.5, 2, 8)):
    batch["std"] = np.float32(std)
    total, (_, aux, metrics) = loss(state.params, state, put_batch(batch, mesh), None)
    qualities.append(ragged_quality(score, batch["mos"], sizes, 2, std))
    expected = np.array([qualities[-1], scenes, distortions])
    np.testing.assert_allclose(aux["losses"], expected, atol=1e-5)
    assert float(total) == pytest.approx(weights @ expected, abs=1e-5)
    for task, value, weight in zip(("quality", "scene", "distortion"), expected, weights, strict=True):
      assert float(metrics[f"loss/{task}"]) == pytest.approx(value, abs=1e-5)
      assert float(metrics[f"weight/{task}"]) == weight
  assert np.ptp(qualities) > 0.01


def test_databases_are_ranked_apart():
  method = LIQE(tiny_config(), mesh_of(1))
  config = tiny_config()
  with config.unlocked():
    config.data = [config.data[0].copy_and_resolve_references() for _ in range(3)]
    config.data[1].name = "koniq10k"
  method = LIQE(config, mesh_of(1))
  assert method.databases == ["demo", "koniq10k"]  # two entries of one database are one scale
  first = method.preprocess_train(image(), record(0), np.random.default_rng(0))
  row = record(0, database="koniq10k", image_name="1024x768/10004473376.jpg")
  second = method.preprocess_train(image(), row, np.random.default_rng(0))
  assert (int(first["group"]), int(second["group"])) == (0, 1)


def test_task_weights_follow_dynamic_weight_averaging():
  method = LIQE(tiny_config(epoch_steps=4), mesh_of(1))
  _, state = start(method)
  post_update = jax.jit(method.post_update)
  means = np.array([[0.50, 0.30, 0.60], [0.40, 0.28, 0.50], [0.39, 0.27, 0.45]])
  ripple = np.array([-0.1, 0.05, 0.2, -0.15])
  seen = []
  for step in range(12):
    losses = jnp.float32(means[step // 4] + ripple[step % 4])
    state = post_update(state.replace(step=jnp.int32(step + 1)), {"losses": losses})
    seen.append(np.asarray(state.extra["task_weights"]))
  assert (np.array(seen[:7]) == 1).all()  # the first two epochs
  # Published for the order quality, distortion, scene.
  for weights in seen[7:11]:
    np.testing.assert_allclose(weights, [0.97221241, 1.03923586, 0.98855173], atol=1e-5)
  ratio = np.exp(means[2] / means[1] / 2)
  np.testing.assert_allclose(seen[11], 3 * ratio / ratio.sum(), atol=1e-5)


def test_equal_weights_stay():
  method = LIQE(tiny_config(weighting="equal", epoch_steps=2), mesh_of(1))
  extra = {"task_weights": jnp.ones(3), "epoch_sum": jnp.zeros(3), "last_epoch": jnp.zeros(3)}
  state = new_state({}, {}, extra)
  for step in range(1, 7):
    losses = jnp.array([1, 2 / step, 0.5 * step])
    state = method.post_update(state.replace(step=jnp.int32(step)), {"losses": losses})
    assert state.extra["task_weights"].tolist() == [1, 1, 1]
  np.testing.assert_allclose(state.extra["last_epoch"], [1, 1 / 5 + 1 / 6, 5.5 / 2], rtol=1e-6)


def test_published_learning_rates():
  config = config_file.get_config("joint")
  _, schedule = optimizer.build(config.optimizer, 16_000, 344)
  factors = np.array([float(schedule(200 * epoch + 199)) for epoch in range(80)]) / 5e-6
  cycle = [0.095492, 0.345492, 0.654508, 0.904508, 1, 0.904508, 0.654508, 0.345492, 0.095492]
  np.testing.assert_allclose(factors, ([1, 0.904508, 0.654508, 0.345492, 0.095492] + cycle * 9)[:80], atol=1e-5)
  assert factors.mean() == pytest.approx(0.551, abs=5e-4)
  assert [float(schedule(200 * e)) for e in (0, 1)] == [float(schedule(200 * e + 199)) for e in (0, 1)]
  with config.unlocked():
    config.epoch_steps = 10  # one number for schedule and weights
  assert config.optimizer.epoch_steps == 10


@pytest.mark.slow
def test_every_parameter_is_decayed_and_only_the_scale_is_frozen():
  config = tiny_config("joint")
  method = LIQE(config, mesh_of(1))
  _, state = start(method)
  tx, _ = optimizer.build(config.optimizer, 100, 10)
  still = jax.tree.map(jnp.zeros_like, state.params)
  updates, _ = jax.jit(tx.update)(still, jax.jit(tx.init)(state.params), state.params)
  expected = jax.tree.map(lambda p: -5e-6 * 1e-3 * p, state.params)
  assert optax.tree.norm(optax.tree.sub(updates, expected)) < 1e-5 * optax.tree.norm(expected)
  assert "logit_scale" not in state.params and list(state.extra["frozen"]) == ["logit_scale"]
  params, stats = method.weights(state)
  assert set(params) == {*TEXT_TOWER, "visual", "logit_scale"} and not stats


def train_steps(config, devices, steps, batch_size=8):
  method = LIQE(config, mesh_of(devices))
  tx, schedule = optimizer.build(config.optimizer, 100, 10)
  mesh, state = start(method)
  state = state.replace(opt_state=jax.jit(tx.init, out_shardings=replicated(mesh))(state.params))
  run = make_step(method, tx, schedule, 0)
  losses, metrics = [], {}
  for _ in range(steps):
    state, metrics = run(state, put_batch(batch_of(method, batch_size), mesh))
    losses.append(float(metrics["loss"]))
  return losses, jax.device_get(state), metrics


@pytest.mark.slow
def test_eight_devices_compute_what_one_does():
  config = tiny_config(epoch_steps=1)
  config.text.depth = 2  # beginnings are passed from block to block
  one, state_one, metrics = train_steps(config, 1, 3)
  eight, state_eight, _ = train_steps(config, 8, 3)
  np.testing.assert_allclose(one, eight, rtol=1e-5)
  assert float(metrics["weight/scene"]) != 1  # the third step has weights of its own
  for a, b in zip(jax.tree.leaves(state_one.extra), jax.tree.leaves(state_eight.extra), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  moved = optax.tree.norm(optax.tree.sub(state_one.params, state_eight.params))
  assert moved < 1e-3 * optax.tree.norm(state_one.params)


def test_a_frozen_text_tower_stays_and_its_table_with_it():
  config = tiny_config(freeze_text=True)
  config.optimizer.param_rounding = "fp16"
  _, before, _ = train_steps(config, 1, 0)
  losses, after, _ = train_steps(config, 1, 2)
  assert set(after.params) == {"visual"} and set(after.extra["frozen"]) == {*TEXT_TOWER, "logit_scale"}
  rounded = lambda x: x.astype(np.float16).astype(np.float32)
  for first in (before.params["visual"]["proj"], before.extra["frozen"]["text_projection"]):
    np.testing.assert_array_equal(first, rounded(first))
  for name in ("frozen", "table"):
    jax.tree.map(np.testing.assert_array_equal, before.extra[name], after.extra[name])
  kernel = after.params["visual"]["proj"]
  assert np.isfinite(losses).all() and (kernel != before.params["visual"]["proj"]).any()
  np.testing.assert_array_equal(kernel, rounded(kernel))
  position = after.params["visual"]["positional_embedding"]
  assert (position != rounded(position)).any()


@pytest.mark.parametrize(("variant", "tasks", "count"), [
  ("single", ("quality",), 5), ("quality_scene", ("quality", "scene"), 45),
  ("quality_distortion", ("quality", "distortion"), 55), ("joint", ("quality", "scene", "distortion"), 495),
])  # fmt: skip
def test_variants_ask_what_they_say(variant, tasks, count):
  config = tiny_config(variant)
  method = LIQE(config, mesh_of(1))
  row = {"database": config.data[-1].name, "image_name": "images/I01_01_01.png", "mos": 1.0, "mos_std": 0.3}
  if variant == "single":  # no labels are asked for
    row["image_name"] = "no such name"
  example = method.preprocess_train(image(), row, np.random.default_rng(0))
  assert example["crops"].shape == (3, 16, 16, 3) and ("scene" in example) == (len(tasks) > 1)
  assert method.tasks == tasks and len(method.prompts.order) == count


def test_weights_are_taken_whole_or_refused():
  method = LIQE(tiny_config(), mesh_of(1))
  _, state = start(method)
  params, _ = jax.tree.map(np.asarray, method.weights(state))
  params["logit_scale"] = np.float32(4.0)
  params["ln_final"]["scale"] = np.full(8, 3.0, np.float32)
  found = method.init(jax.random.key(1), (params, {}))
  assert float(found.extra["frozen"]["logit_scale"]) == 4 and float(found.params["ln_final"]["scale"][0]) == 3
  np.testing.assert_array_equal(found.params["visual"]["proj"], params["visual"]["proj"])
  del params["ln_final"]["bias"]
  params["visual"]["proj"] = np.zeros((8, 9), np.float32)
  with pytest.raises(UserError, match=r"(?s)missing: ln_final/bias.*visual/proj \(8, 9\) instead of \(8, 8\)"):
    method.init(jax.random.key(1), (params, {}))


def test_accuracy_counts_every_label_once():
  probabilities = np.array([[0.5, 0.3, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
  one = np.eye(4, dtype=bool)
  assert accuracy(probabilities, one[[0, 0, 1]]) == pytest.approx(1 / 3)  # a wrong single label counts as wrong
  two = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1]], bool)
  assert accuracy(probabilities, two) == pytest.approx(3 / 6)
  assert accuracy(np.ones((2, 4)), one[:2]) == 0.5  # ties are broken one way


def test_judge_compares_with_guessing():
  method = LIQE(tiny_config(), mesh_of(1))
  rows = pd.DataFrame([record(i) for i in range(4)] + [record(0, database="biq2021", image_name="Images/ss01 (1).jpg")])
  scene, distortion = np.zeros((5, 9)), np.zeros((5, 11))
  scene[:, prompts.SCENES.index("plant")] = 1
  distortion[:, prompts.DISTORTIONS.index("blur")] = 1
  found = method.compute_metrics({"scene": scene, "distortion": distortion}, rows)
  assert found["scene accuracy"] == found["scene accuracy of the most frequent"] == 0.5
  assert found["distortion accuracy"] == 0.5
  assert found["scene accuracy of guessing"] == pytest.approx(1 / 9)
  assert found["distortion accuracy of guessing"] == pytest.approx(1 / 11)
  both = pd.concat([rows[:4], pd.DataFrame([record(0, image_name="grass/1.png")])])  # it shows a plant and "others"
  found = method.compute_metrics({"scene": scene, "distortion": distortion}, both)
  # Of nine scenes one label is guessed at random in a ninth of all cases, and each of two in two ninths.
  assert found["scene accuracy of guessing"] == pytest.approx((4 / 9 + 2 * 2 / 9) / 6)
  assert found["scene accuracy"] == pytest.approx(3 / 6)
  assert method.compute_metrics({"scene": scene[4:], "distortion": distortion[4:]}, rows[4:]) == {}


def test_labels_of_the_databases():
  three, _ = task_labels({"database": "csiq", "image_name": "dst_imgs/awgn/1600.AWGN.1.png"})
  assert [scene for scene, shown in zip(prompts.SCENES, three, strict=True) if shown] == ["cityscape", "human", "plant"]
  scenes, distortion = task_labels({"database": "kadid10k", "image_name": "images/I01_05_03.png"})
  assert scenes.sum() >= 1 and prompts.DISTORTIONS[distortion] == "blur"
  fixed = task_labels({"database": "kadid10k", "image_name": "images/I01_05_03.png"}, "fixed")
  assert prompts.DISTORTIONS[fixed[1]] == "color" and (fixed[0] == scenes).all()
  row = {"database": "kadid10k", "image_name": "images/I01_05_03.png", "mos": 2.0, "mos_std": 0.3}
  for labels, answer in (("published", "blur"), ("fixed", "color")):
    example = LIQE(tiny_config("joint", labels=labels), mesh_of(1)).preprocess_train(
      image(), row, np.random.default_rng()
    )
    assert prompts.DISTORTIONS[example["distortion"]] == answer
  with pytest.raises(UserError, match="biq2021: has no labels"):
    task_labels({"database": "biq2021", "image_name": "a"})
  with pytest.raises(UserError, match="no labels of scene and distortion for the image images/I99"):
    task_labels({"database": "kadid10k", "image_name": "images/I99_01_01.png"})


@pytest.mark.parametrize(("changes", "words"), [
  ({"crops": "all"}, "config.crops is 'all'"),
  ({"weighting": "uncertainty"}, "config.weighting is 'uncertainty'"),
  ({"labels": "mine"}, "config.labels is 'mine'"),
  ({"train_crops": 0}, "must be at least 1"),
  ({"epoch_steps": 0}, "config.epoch_steps is 0"),
  ({"patch": 7}, "image 16 must be a multiple of patch 7"),
])  # fmt: skip
def test_configs_that_cannot_run_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    LIQE(tiny_config(**changes), mesh_of(8)).check_training()


def test_a_config_read_back_from_its_file_is_as_good():
  config = ConfigDict(json.loads(tiny_config().to_json_best_effort()))
  assert LIQE(config, mesh_of(1)).databases == ["demo"]


def test_prompts_that_do_not_fit_and_missing_scores_are_refused():
  config = tiny_config()
  config.text.context = 23
  with pytest.raises(ValueError, match=r"longest prompt has 24 tokens, config\.text\.context 23"):
    LIQE(config, mesh_of(1))
  config.text.update(context=24, vocabulary=49407)
  with pytest.raises(ValueError, match="token 49407"):
    LIQE(config, mesh_of(1))
  with pytest.raises(UserError, match="has no score to train on"):
    LIQE(tiny_config(), mesh_of(1)).preprocess_train(image(), record(0, mos=np.nan), np.random.default_rng(0))
  with pytest.raises(UserError, match="without a committed token: splendid"):
    LIQE(tiny_config(prompt="a splendid {quality} photo"), mesh_of(1))
