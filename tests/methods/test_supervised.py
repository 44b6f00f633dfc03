"""The supervised method: its losses by NumPy, what it trains and what stays, versions, prediction and explanation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from scipy import special, stats

from configs import supervised as config_file
from jiqa.distortions import bank, resample
from jiqa.errors import UserError
from jiqa.methods import build_method
from jiqa.methods.supervised import supervised
from jiqa.models.efficientnet import EfficientNetLite
from jiqa.runtime import optimizer
from jiqa.runtime.state import split_module
from jiqa.train import make_step
from jiqa.weights.store import flatten
from tests.helpers import mesh_of, randomised

SIDE = 48


def config_of(**changes):
  config = config_file.get_config("demo")
  with config.unlocked():
    config.update_from_flattened_dict(
      {
        "init_from": "", "encoder.width": 0.25, "levels": {"full": 2}, "frozen": (), "at_once": 0, "window": SIDE,
        "crop": 32, "hidden": 6, "heads": 3, "batch_size": 8, "ranked": 4, "prefit.epochs": 0,
        "kinds": ("JPEG", "darken"), "dropout": (0.0, 0.0), "optimizer.warmup_steps": 0,
      }
      | changes
    )  # fmt: skip
  return config


def method_of(devices=1, **changes):
  method = build_method(config_of(**changes), mesh_of(devices))
  method.check_training()
  return method


def batch_of(b=8, databases=1):
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (b, 6, 6, 3), dtype=np.uint8)
  images = np.stack([np.asarray(Image.fromarray(image).resize((SIDE, SIDE), 3)) for image in coarse])
  target = rng.uniform(20, 90, b).astype(np.float32)
  return {"image": images, "target": target, "database": np.arange(b, dtype=np.int32) % databases}


def state_of(method):
  """A state away from the defaults."""
  _, params, statistics = randomised(lambda: method.build(nnx.Rngs(0)))
  statistics["heads"] = {**statistics["heads"], "factor": jnp.float32(1)}
  return method.first_state(None, params, statistics)


def test_the_heads_equal_numpy():
  graphdef, params, statistics = randomised(lambda: supervised.Heads(5, 4, 3, rngs=nnx.Rngs(0)))
  features = np.random.default_rng(1).normal(0, 3, (7, 5)).astype(np.float32)
  features[0, 0] = 1e4  # cut off
  logit, error = nnx.merge(graphdef, nnx.State(params), nnx.State(statistics))(features)
  p, s = jax.tree.map(lambda x: np.asarray(x, np.float64), (params, statistics))
  x = np.clip((features - s["mean"]) / s["deviation"], -8, 8)
  for head in range(3):
    hidden = x @ p["hidden"]["kernel"][head] + p["hidden"]["bias"][head]
    hidden = hidden * stats.norm.cdf(hidden)
    out = hidden @ p["output"]["kernel"][head] + p["output"]["bias"][head]
    np.testing.assert_allclose(logit[head], out[:, 0], rtol=1e-4, atol=1e-5)
    expected = s["factor"] * (5 * np.log1p(np.exp(out[:, 1])) + 1)
    np.testing.assert_allclose(error[head], expected, rtol=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_parts_by_numpy():
  weights = {"regression": 0.7, "correlation": 0.4, "likelihood": 0.2, "ranking": 0.9}
  method = method_of(weights=weights, margin=3.0, temperature=4.0, data=[config_of().data[0]] * 2)
  state, batch, key = state_of(method), batch_of(databases=2), jax.random.key(3)
  loss, (statistics, _, parts) = jax.jit(method.loss)(state.params, state, batch, key)
  assert float(loss) == pytest.approx(sum(weights[name] * float(part) for name, part in parts.items()), rel=1e-5)

  params = supervised.join(state.extra["frozen"], state.params)
  network = method.network(params, statistics)
  logits, error = (
    np.asarray(x, np.float64) for x in network.heads(method.features(params, statistics, batch["image"]))
  )
  scale = np.array([[1.0, 0.0], np.asarray(params["databases"]["scale"])[1]])[batch["database"]]  # the first is fixed
  scores, target = 100 * special.expit(logits * scale[:, 0] + scale[:, 1]), batch["target"]
  off = np.abs(scores - target) / 10
  np.testing.assert_allclose(parts["regression"], np.where(off < 1, off**2 / 2, off - 0.5).mean(), rtol=1e-4)
  members = [batch["database"] == group for group in (0, 1)]
  plcc = [[stats.pearsonr(head[rows], target[rows]).statistic for rows in members] for head in scores]
  np.testing.assert_allclose(parts["correlation"], 1 - np.mean(plcc), rtol=1e-3)
  np.testing.assert_allclose(
    parts["likelihood"], (((scores - target) / error) ** 2 / 2 + np.log(error)).mean(), rtol=1e-4
  )

  versions, gap = method.versions(jnp.asarray(batch["image"]), jax.random.fold_in(key, 1))
  seen = method.features(params, statistics, versions.reshape(-1, *versions.shape[2:]))
  ordered = 100 * special.expit(np.asarray(network.heads(seen)[0], np.float64)).reshape(3, 4, 3)
  short = (3.0 * np.asarray(gap) - (ordered[..., :-1] - ordered[..., 1:])) / 4.0
  np.testing.assert_allclose(parts["ranking"], np.log1p(np.exp(short)).mean(), rtol=1e-4)


def test_versions_are_crops_of_their_image_of_one_kind_at_rising_levels():
  method = method_of()
  images = batch_of()["image"]
  versions, gap = jax.jit(method.versions)(images, jax.random.key(5))
  assert versions.shape == (4, 3, 32, 32, 3) and gap.shape == (4, 2) and (np.asarray(gap) >= 1).all()
  assert (np.asarray(gap).sum(1) <= 5).all()
  for row, levels in zip(np.asarray(versions), np.asarray(gap), strict=True):
    source = np.round(row[0] * 255).astype(np.uint8)
    places = [
      (image, y, x)
      for image in range(0, 8, 2)
      for y in range(SIDE - 31)
      for x in range(SIDE - 31)
      if (images[image, y : y + 32, x : x + 32] == source).all()
    ]
    assert places, "the first version is no crop of the image"
    first, second = int(levels[0]) - 1, int(levels.sum()) - 1
    renderings = {
      kind: [
        np.asarray(bank.distort(row[:1], kind, level, jax.random.key(0), bank="kadid25"))[0]
        for level in (first, second)
      ]
      for kind in ("JPEG", "darken")
    }  # neither has noise
    assert any(
      np.abs(row[1] - better).max() < 0.01 and np.abs(row[2] - worse).max() < 0.01
      for better, worse in renderings.values()
    )


@pytest.mark.parametrize(("prefit", "keep"), [(0, 5 / 14), (2, 0.995)])
def test_running_statistics_of_the_features_are_those_of_the_images_alone(prefit, keep):
  method = method_of(**{"prefit.epochs": prefit})
  state, batch = state_of(method), batch_of()
  state = state.replace(step=jnp.int32(4))
  _, (statistics, _, _) = jax.jit(method.loss)(state.params, state, batch, jax.random.key(0))
  params = supervised.join(state.extra["frozen"], state.params)
  features = np.asarray(method.features(params, state.stats, batch["image"]), np.float64)
  before = jax.tree.map(np.float64, state.stats["heads"])
  mean = keep * before["mean"] + (1 - keep) * features.mean(0)
  variance = keep * before["deviation"] ** 2 + (1 - keep) * ((features - mean) ** 2).mean(0)
  np.testing.assert_allclose(statistics["heads"]["mean"], mean, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(statistics["heads"]["deviation"], np.sqrt(variance + 1e-6), rtol=1e-3)
  for name in ("mean", "var"):  # those of the encoder stay
    np.testing.assert_array_equal(
      statistics["encoders"]["full"]["bn0"][name], state.stats["encoders"]["full"]["bn0"][name]
    )


def test_heads_are_fitted_to_the_features_of_an_encoder_that_stays():
  frozen = ("encoders/full/conv_stem",)
  prefit = {"prefit.epochs": 100, "prefit.batch_size": 16, "prefit.learning_rate": 0.02}
  method = method_of(frozen=frozen, **{"data": [config_of().data[0]] * 2}, **prefit)
  state = state_of(method)
  rng = np.random.default_rng(3)
  features = rng.normal(2, 3, (120, 32)).astype(np.float32)
  quality = special.expit((features @ rng.normal(size=32)) / 20)
  entry = np.arange(120) % 2  # the second database has half the scale, and a shift
  records = [
    {
      "mos": q if e == 0 else 2 + q / 2,
      "range": (0, 1) if e == 0 else (2, 3),
      "entry": e,
      "database": "",
      "image_name": "",
    }
    for q, e in zip(quality, entry, strict=True)
  ]
  fitted = method.prefit(state, {"features": features}, records)
  heads = fitted.stats["heads"]
  np.testing.assert_allclose(heads["mean"], features.mean(0), rtol=1e-4)
  np.testing.assert_allclose(heads["deviation"], features.std(0), rtol=1e-4)
  for path, leaf in flatten(fitted.params["encoders"]).items():
    np.testing.assert_array_equal(leaf, flatten(state.params["encoders"])[path])
  jax.tree.map(np.testing.assert_array_equal, fitted.params, fitted.extra["average"])
  params, statistics = method.weights(fitted)
  scores = supervised.points(method.network(params, statistics).heads(features)[0]).mean(0)
  assert stats.spearmanr(scores, quality).statistic > 0.9
  assert np.abs(scores - 100 * quality).mean() < 8  # on the scale of the first database, of which the second has half
  again = method.prefit(state, {"features": features}, records)
  jax.tree.map(np.testing.assert_array_equal, fitted, again)


def test_scales_of_as_many_levels_share_an_encoder():
  shared, apart = (method_of(levels={"full": 2, "half": half}, frozen=()) for half in (2, 1))
  assert list(state_of(shared).params["encoders"]) == ["full"]
  assert list(state_of(apart).params["encoders"]) == ["full", "half"]
  state, image = state_of(shared), batch_of(1)["image"]
  params, statistics = shared.weights(state)
  seen = np.asarray(shared.features(params, statistics, image))
  encoder = shared.network(params, statistics).encoders["full"]
  half = encoder(supervised.normalise(resample.reduce(image / np.float32(255), 2)))
  np.testing.assert_allclose(seen[:, 32:], half, rtol=1e-4, atol=1e-4)
  assert np.abs(seen[:, 32:] - seen[:, :32]).max() > 0.01


def test_frozen_parameters_stay_and_an_average_of_the_others_predicts():
  frozen = ("encoders/full/conv_stem", "encoders/full/blocks[1]/")
  method = method_of(frozen=frozen, average=0.15)
  state = state_of(method)
  first = flatten(method.weights(state)[0])
  tx, schedule = optimizer.build(method.config.optimizer, 10, 10)
  step = make_step(method, tx, schedule, seed=0)
  average, state = flatten(state.extra["average"]), state.replace(opt_state=tx.init(state.params))
  for number in range(2):
    state, _ = step(jax.tree.map(jnp.copy, state), batch_of())
    keep = min(0.15, (2 + number) / (11 + number))
    average = {path: keep * old + (1 - keep) * flatten(state.params)[path] for path, old in average.items()}
  predicts = flatten(method.weights(state)[0])
  assert set(predicts) == set(first) and any(path.startswith(frozen) for path in predicts)
  for path, leaf in predicts.items():
    if path.startswith(frozen):
      np.testing.assert_array_equal(leaf, first[path])
    else:
      np.testing.assert_allclose(leaf, average[path], rtol=1e-5, atol=1e-7)
      if not path.startswith("databases"):
        assert np.abs(leaf - first[path]).max() > 0, path


@pytest.mark.parametrize("at_once", [0, 1, 2])
def test_devices_and_pieces_change_nothing(at_once):
  one, many = method_of(at_once=0), method_of(2, at_once=at_once)
  state, batch = state_of(one), batch_of()
  key = jax.random.key(1)
  expected = jax.jit(jax.value_and_grad(one.loss, has_aux=True))(state.params, state, batch, key)
  found = jax.jit(jax.value_and_grad(many.loss, has_aux=True))(state.params, state, batch, key)
  assert float(found[0][0]) == pytest.approx(float(expected[0][0]), rel=1e-5)
  for ours, theirs in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * max(1e-3, np.abs(theirs).max()))


def test_a_padded_image_has_the_score_of_the_image():
  method = method_of(levels={"full": 3, "half": 2})
  state = state_of(method)
  image = batch_of()["image"][0, :45, :38]
  inputs = method.preprocess_eval(image)
  assert {name: x.shape for name, x in inputs.items()} == {"full": (45, 38, 3), "half": (22, 19, 3)}
  batches = [
    {
      key: value
      for name, x in inputs.items()
      for key, value in (
        (name, np.pad(x, [(0, more), (0, 2 * more), (0, 0)], constant_values=99)[None]),
        (f"{name}_size", np.int32([x.shape[:2]])),
      )
    }
    for more in (0, 19)
  ]
  predict = jax.jit(method.predict)
  alone, padded = (predict(*method.weights(state), {}, batch) for batch in batches)
  assert set(alone) == {"score", "score_std", "features"}
  for name, value in alone.items():
    np.testing.assert_allclose(padded[name], value, rtol=1e-4, atol=1e-5)
  network = method.network(*method.weights(state))
  logits, error = network.heads(alone["features"])
  np.testing.assert_allclose(alone["score"], 100 * special.expit(np.float64(logits)).mean(0), rtol=1e-5)
  np.testing.assert_allclose(alone["score_std"], np.sqrt(np.square(np.float64(error)).mean(0)), rtol=1e-5)


def test_half_scale_is_pillows():
  image = batch_of()["image"][0]
  pillow = np.asarray(Image.fromarray(image).resize((SIDE // 2, SIDE // 2), Image.Resampling.BICUBIC))
  ours = np.asarray(resample.reduce(jnp.asarray(image[None], jnp.float32) / 255, 2))[0] * 255
  assert np.abs(ours - pillow).max() <= 1.01


def test_weights_of_an_encoder_start_every_scale():
  method = method_of(levels={"full": 1, "half": 2})
  encoder = EfficientNetLite(0, 0.25, rngs=nnx.Rngs(1))
  _, params, statistics = split_module(nnx.Dict(encoder=encoder))
  state = method.init(jax.random.key(0), jax.tree.map(np.asarray, (params, statistics)))
  for scale, blocks in (("full", 1), ("half", 3)):
    ours = flatten(state.params["encoders"][scale])
    assert sum("depthwise" in path for path in ours) == blocks
    for path, leaf in ours.items():
      np.testing.assert_array_equal(leaf, flatten(params["encoder"])[path])
  again = method.init(jax.random.key(1), jax.tree.map(np.asarray, method.weights(state)))
  for path, leaf in flatten(again.params).items():
    np.testing.assert_array_equal(leaf, flatten(state.params)[path])


def test_training_examples_are_windows_with_scores_of_100():
  method, rng = method_of(), np.random.default_rng(0)
  record = {"image_name": "a.jpg", "database": "demo", "entry": 1, "mos": 3.0, "range": (1.0, 5.0)}
  image = np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)
  flipped = set()
  for _ in range(8):
    example = method.preprocess_train(image, record, rng)
    assert example["target"] == 50 and example["database"] == 1 and example["image"].shape == (SIDE, SIDE, 3)
    corners = [(y, x) for y in range(13) for x in range(43)]
    for mirrored in (False, True):
      window = example["image"][:, ::-1] if mirrored else example["image"]
      if any((image[y : y + SIDE, x : x + SIDE] == window).all() for y, x in corners):
        flipped.add(mirrored)
  assert flipped == {False, True}
  with pytest.raises(UserError, match=r"a\.jpg of demo: the score is 3\.0 in a range of nan to 5\.0"):
    method.preprocess_train(image, record | {"range": (np.nan, 5.0)}, rng)


def test_calibration_makes_nine_tenths_of_the_errors_small():
  method = method_of()
  _, statistics = method.weights(state_of(method))
  rng = np.random.default_rng(0)
  outputs = {"score": rng.uniform(0, 100, 400), "score_std": rng.uniform(2, 9, 400)}
  mos = outputs["score"] + rng.laplace(0, 2 * outputs["score_std"])
  params, calibrated = method.calibrate({}, statistics, outputs, mos)
  factor = float(calibrated["heads"]["factor"])
  within = np.abs(mos - outputs["score"]) <= 1.645 * factor * outputs["score_std"]
  assert 0.89 <= within.mean() <= 0.91 and params == {}
  assert calibrated["heads"]["mean"] is statistics["heads"]["mean"]


def test_the_map_shows_the_scores_of_windows(monkeypatch):
  monkeypatch.setattr(supervised, "WINDOWS", 3)
  monkeypatch.setattr(supervised, "LEAST_WINDOW", 20)
  method = method_of()
  weights = method.weights(state_of(method))
  image = np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8)
  parts = method.explain(*weights, {}, image)
  assert parts["map"].shape == (3, 3) and parts["shows"] == "scores of windows of 20 pixels"
  window = image[20:40, 80:100]
  score = method.predict(*weights, {}, {"full": window[None], "full_size": np.int32([(20, 20)])})["score"]
  assert parts["map"][1, 2] == pytest.approx(float(score[0]), rel=1e-4)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"split": -1}, "config.split is -1"),
    ({"kinds": ("JPEG", "fog")}, "config.kinds .'fog'. are not in gaussian blur"),
    ({"ranked": 3}, "config.ranked is 3"),
    ({"levels": {}}, "config.levels is {}"),
    ({"levels": {"full": 2, "quarter": 2}}, "config.levels is .*'quarter'"),
    ({"crop": 64}, "config.crop is 64; expected at most config.window 48"),
    ({"at_once": 3}, "config.at_once is 3"),
    ({"at_once": -1}, "config.at_once is -1"),
    ({"at_once": 8, "ranked": 4}, "config.at_once is 8; .* three times config.ranked 4"),
    ({"kinds": ()}, "config.kinds is empty"),
    ({"temperature": 0.0}, "config.temperature is 0.0"),
    ({"frozen": ("encoder/full/conv",)}, "no parameter begins with .'encoder/full/conv'.; they are called '"),
    ({"window": 47, "crop": 32}, "config.window is 47; expected an even"),
    ({"average": 1.0}, "config.average is 1.0"),
    ({"dropout": (0.5, 1.0)}, "config.dropout is"),
  ],
)
def test_configs_that_cannot_train_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    method_of(**changes)


def test_without_ranked_images_nothing_is_distorted(monkeypatch):
  method = method_of(ranked=0, kinds=())
  monkeypatch.setattr(bank, "distort", None)
  state = state_of(method)
  _, (_, _, parts) = jax.jit(method.loss)(state.params, state, batch_of(), jax.random.key(0))
  assert set(parts) == {"regression", "correlation", "likelihood"}


def test_dropout_leaves_the_mean_and_only_training_has_it():
  method = method_of(dropout=(0.4, 0.2))
  ones = jnp.ones((3, 50, 40))
  for number, share in enumerate((0.4, 0.2)):
    dropped = np.asarray(method._drop(ones, number, jax.random.key(0)))
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / (1 - share)], rtol=1e-6)
    assert (dropped == 0).mean() == pytest.approx(share, abs=0.03)
