"""A metric as a pure function: against the scored path, PIL and finite differences, under every transformation."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jiqa
from jiqa.distortions import resample
from jiqa.errors import UserError
from jiqa.methods import build_method
from jiqa.models import tiles
from jiqa.runtime.sharding import batch_sharding, make_mesh
from jiqa.weights.store import save_weights
from tests.helpers import mesh_of
from tests.inference import made
from tests.methods import test_liqe, test_lml, test_supervised


def smooth(count=2, shape=(64, 96), seed=0):
  """Smooth images on the 8-bit grid, [n, h, w, 3] float32 in [0, 1]."""
  coarse = np.random.default_rng(seed).random((count, 7, 9, 3)).astype(np.float32)
  return np.asarray(jnp.round(jax.image.resize(coarse, (count, *shape, 3), "cubic").clip(0, 1) * 255) / 255)


def as_uint8(images):
  return np.rint(np.asarray(images) * 255).astype(np.uint8)


def of_config(folder, config):
  """A folder of random weights of a method."""
  method = build_method(config, mesh_of(1))
  state = jax.eval_shape(method.init, jax.random.key(0))
  rng = np.random.default_rng(0)
  fill = lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32) + 3 * (leaf.ndim == 0)
  params, stats = jax.tree.map(fill, method.weights(state))
  stats = jax.tree.map(lambda leaf: np.abs(leaf) + 0.5, stats)  # variances among them
  save_weights(folder, params, stats, {"method": config.method, "config": json.loads(config.to_json_best_effort())})
  return jiqa.load(folder, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def metrics(metric, tmp_path_factory):
  folder = tmp_path_factory.mktemp("functional")
  return {
    "reiqa": metric,
    "liqe": of_config(folder / "liqe", test_liqe.tiny_config(crops="uniform", resize=50)),
    "supervised": of_config(folder / "s", test_supervised.config_of(levels={"full": 1, "half": 2})),
    "lml": of_config(folder / "lml", test_lml.tiny_config(resize=(40, 48))),
  }


def pillow(image, height, width, method):
  """[h, w, 3] float by Pillow channel by channel, in its mode that rounds nothing."""
  filters = {"linear": Image.Resampling.BILINEAR, "cubic": Image.Resampling.BICUBIC}
  channels = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(3)]
  return np.stack([np.asarray(channel.resize((width, height), filters[method])) for channel in channels], -1)


@pytest.mark.parametrize(("method", "size"), [("cubic", (21, 33)), ("linear", (20, 31)), ("linear", (90, 80))])
def test_resizing_is_pillows_without_its_rounding(method, size):
  images = np.random.default_rng(0).random((2, 43, 67, 3)).astype(np.float32)
  resized = resample.to_size(jnp.asarray(images), *size, method)
  for ours, image in zip(resized, images, strict=True):
    np.testing.assert_allclose(ours, pillow(image, *size, method).clip(0, 1), atol=5e-6)


@pytest.mark.parametrize(
  ("name", "shape"), [("reiqa", (43, 67)), ("supervised", (43, 67)), ("liqe", (120, 90)), ("liqe", (20, 30))]
)
def test_what_the_network_sees_is_what_it_sees_of_files_but_for_rounding(metrics, name, shape):
  method, images = metrics[name].models[0].method, smooth(2, shape)
  traced = method.preprocess_float(jnp.asarray(images))
  for row, image in enumerate(as_uint8(images)):
    for key, expected in method.preprocess_eval(image).items():
      np.testing.assert_allclose(traced[key][row] * 255, expected, atol=0.51 + 0.6)  # Pillow rounds twice
      assert np.abs(traced[key][row] * 255 - expected).mean() < 0.4


def test_lml_sees_crops_of_the_resized_image_at_places_of_its_own(metrics):
  method, images = metrics["lml"].models[0].method, smooth(2, (30, 70))
  config = method.config
  crops = method.preprocess_float(jnp.asarray(images))["crops"]
  assert crops.shape == (2, config.test_crops, config.crop, config.crop, 3)
  rng = np.random.default_rng(0)
  tops, lefts = (rng.integers(side - config.crop + 1, size=config.test_crops) for side in (40, 48))
  for row, image in enumerate(images):
    whole = pillow(image, 40, 48, "linear")
    for crop, top, left in zip(crops[row], tops, lefts, strict=True):
      np.testing.assert_allclose(crop, whole[top : top + config.crop, left : left + config.crop], atol=5e-6)


@pytest.mark.parametrize(("name", "tolerance"), [("reiqa", 0.05), ("liqe", 5e-6)])
def test_scores_are_those_of_the_scored_path_but_for_rounding(metrics, name, tolerance):
  metric, images = metrics[name], smooth(3)
  scored = metric(list(as_uint8(images))).score
  assert np.ptp(scored) > 20 * tolerance
  np.testing.assert_allclose(metric.apply(images), scored, atol=tolerance)
  np.testing.assert_allclose(metric.apply(images[1]), metric.apply(images)[1], rtol=1e-5)
  # Less than a grey level is seen here, and there rounded away.
  finer = images * 0.998 + 0.0005
  assert np.abs(metric.apply(finer) - metric.apply(images)).max() > 0


@pytest.mark.parametrize("name", ["reiqa", "liqe", "lml", "supervised"])
def test_gradients_are_finite_differences(metrics, name):
  params, score = jiqa.functional(metrics[name])
  images = jnp.asarray(smooth(1, (40, 56), seed=3) * 0.8 + 0.1)
  gradient = jax.jit(jax.grad(lambda x: score(params, x).sum()))(images)
  assert np.isfinite(gradient).all()
  direction = gradient / jnp.linalg.norm(gradient)
  along = jax.jit(lambda step: score(params, images + step * direction)[0])
  step = 0.02
  slope = (float(along(step)) - float(along(-step))) / (2 * step)
  assert slope == pytest.approx(float(jnp.vdot(gradient, direction)), rel=0.05)
  assert slope > 1e-5


def test_transformations_change_nothing(metrics):
  metric = metrics["lml"]
  params, score = jiqa.functional(metric)
  images = jnp.asarray(smooth(8))
  expected = np.asarray(metric.apply(images))
  np.testing.assert_allclose(jax.jit(score)(params, images), expected, rtol=1e-5)
  np.testing.assert_allclose(jax.vmap(metric.apply)(images), expected, rtol=1e-5)
  np.testing.assert_allclose(
    jax.vmap(metric.apply)(images.reshape(2, 4, *images.shape[1:])).ravel(), expected, rtol=1e-5
  )
  gradient = jax.jit(jax.grad(lambda x: score(params, x).sum()))
  remade = jax.jit(jax.grad(lambda x: jax.checkpoint(score)(params, x).sum()))
  np.testing.assert_allclose(remade(images), gradient(images), rtol=1e-3, atol=1e-4 * np.abs(gradient(images)).max())
  mesh = make_mesh(jax.devices())
  sharded = jax.device_put(images, batch_sharding(mesh))
  on_all = jax.jit(score)(params, sharded)
  assert on_all.sharding.is_equivalent_to(batch_sharding(mesh), 1)
  np.testing.assert_allclose(on_all, expected, rtol=1e-5)
  np.testing.assert_allclose(gradient(sharded), gradient(images), rtol=1e-3, atol=1e-4 * np.abs(remade(images)).max())


def test_half_precision_is_close_and_has_gradients(metrics):
  metric, images = metrics["reiqa"], jnp.asarray(smooth(3))
  params, score = jiqa.functional(metric, dtype="bfloat16")
  program = jax.jit(score).lower(params, images)
  assert "bf16" in program.as_text()
  exact, half = metric.apply(images), program.compile()(params, images)
  assert half.dtype == jnp.float32
  assert 1e-4 < np.abs(half - exact).max() < 0.05 * np.abs(exact).max()
  gradient = jax.jit(jax.grad(lambda x: score(params, x).sum()))(images.astype(jnp.bfloat16))
  assert gradient.dtype == jnp.bfloat16
  assert np.isfinite(gradient.astype(jnp.float32)).all() and np.abs(gradient.astype(jnp.float32)).max() > 0


def test_the_loss_falls_as_the_score_rises(metrics, tmp_path):
  images = smooth(3)
  np.testing.assert_allclose(metrics["reiqa"].loss(images), 1 - metrics["reiqa"].apply(images) / 100, rtol=1e-5)
  np.testing.assert_allclose(metrics["liqe"].loss(images), (5 - metrics["liqe"].apply(images)) / 4, rtol=1e-5)
  headless = jiqa.load(made.weights(tmp_path / "w", seed=3, with_head=False), devices=jax.devices()[:1])
  with pytest.raises(UserError, match="head"):
    headless.apply(images)
  metrics["lml"].card["score"]["range"], kept = None, metrics["lml"].card["score"]["range"]
  np.testing.assert_allclose(metrics["lml"].loss(images), -metrics["lml"].apply(images), rtol=1e-5)
  metrics["lml"].card["score"]["range"] = kept


def test_features_of_several_networks_are_joined(tmp_path):
  first, second = (made.weights(tmp_path / str(i), seed=i, with_head=False) for i in (1, 2))
  names = [json.loads((folder / "card.json").read_text())["weights_sha256"] for folder in (first, second)]
  made.head({"weights_sha256": "+".join(names)}, size=128).save(tmp_path / "head.safetensors")
  metric = jiqa.load(weights=[second, first], head=tmp_path / "head.safetensors", devices=jax.devices()[:1])
  images = smooth(2)
  np.testing.assert_allclose(metric.apply(images), metric(list(as_uint8(images))).score, atol=0.1)


def test_an_image_of_several_tiles_has_the_gradient_of_one(metrics):
  method, (params, stats, _) = metrics["reiqa"].models[0].method, metrics["reiqa"].models[0].weights
  encoder, images = method.network(params, stats).encoder, jnp.asarray(smooth(1, (200, 700)))
  weights = np.random.default_rng(0).normal(size=encoder.num_features).astype(np.float32)

  def gradient(tile):
    score = lambda x: (tiles.features(encoder, x, None, method.normalise, tile) * weights).sum()
    return np.asarray(jax.jit(jax.grad(score))(images))

  whole = gradient(1024)
  assert encoder.reach < 256  # else one tile would hold all
  np.testing.assert_allclose(gradient(640), whole, atol=1e-4 * np.abs(whole).max())


def test_the_shipped_metric_has_a_gradient():
  metric, images = jiqa.load(devices=jax.devices()[:1]), jnp.asarray(smooth(1, (64, 96), seed=2))
  gradient = jax.jit(jax.grad(lambda x: metric.loss(x).sum()))(images)
  step = -0.002 * gradient / jnp.linalg.norm(gradient)
  change = float(metric.loss(images + step)[0] - metric.loss(images - step)[0])
  assert change == pytest.approx(float(2 * jnp.vdot(gradient, step)), rel=0.1)


@pytest.mark.parametrize(
  ("images", "message"),
  [
    (np.zeros((2, 32, 32, 3), np.uint8), "uint8.*255"),
    (np.zeros((2, 32, 32, 4), np.float32), r"\(2, 32, 32, 4\).*expected \[b, h, w, 3\]"),
    (np.zeros((32, 32), np.float32), r"\(32, 32\)"),
    (np.zeros((1, 0, 32, 3), np.float32), "shape"),
    (np.zeros((0, 32, 32, 3), np.float32), "shape"),
  ],
)
def test_other_images_are_refused(metric, images, message):
  with pytest.raises(UserError, match=message):
    metric.apply(images)


def test_methods_without_a_float_form_or_type_say_so(brightness):
  metric = jiqa.load(brightness)
  with pytest.raises(UserError, match=r"Brightness.*preprocess_float"):
    metric.apply(smooth())
  with pytest.raises(UserError, match="leave out dtype"):
    jiqa.functional(metric, dtype="bfloat16")
