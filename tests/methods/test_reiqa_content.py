"""The content expert: what it is given, what it contrasts, and that it trains on 1 device as on 8."""

import jax
import numpy as np
import pytest

from configs import reiqa as config_file
from jiqa.methods.reiqa.reiqa_content import ReIQAContent
from jiqa.runtime.sharding import make_mesh, put_batch
from tests.helpers import mesh_of


def tiny_config(**changes):
  config = config_file.get_config("content")
  with config.unlocked():
    config.update(depth=10, width=4, embedding=8, window=48, crop=32, batch_size=8, queue=16, dtype="float32")
    config.update(**changes)
  return config


def test_the_window_holds_the_whole_image():
  method = ReIQAContent(tiny_config(), mesh_of(1))
  rng = np.random.default_rng(0)
  small, large = rng.integers(1, 256, (30, 40, 3), dtype=np.uint8), rng.integers(1, 256, (60, 96, 3), dtype=np.uint8)
  cut = method.preprocess_train(small, {}, rng)
  assert cut["size"].tolist() == [30, 40]
  np.testing.assert_array_equal(cut["image"][:30, :40], small)
  assert not cut["image"][30:].any() and not cut["image"][:, 40:].any()
  assert method.preprocess_train(large, {}, rng)["size"].tolist() == [30, 48]


def test_every_image_is_seen_twice_and_differently_and_no_padding_is_seen(monkeypatch):
  """Four times one gray image in a bright window."""
  method = ReIQAContent(tiny_config(), mesh_of(1))
  monkeypatch.setattr(method, "contrast", lambda params, state, crops, key, labels=None: (crops, labels))
  image = np.full((4, 48, 48, 3), 255, np.uint8)
  image[:, :40, :30] = np.random.default_rng(0).integers(20, 60, (40, 30, 3))
  batch = {"image": image, "size": np.tile(np.int32([40, 30]), (4, 1))}
  views, labels = jax.jit(method.loss)(None, None, batch, jax.random.key(1))
  assert views.shape == (2, 4, 32, 32, 3) and labels is None
  assert 0 <= views.min() and 0.2 < views.max() < 0.6
  flat = np.asarray(views).reshape(8, -1)
  apart = np.abs(flat[:, None] - flat).max(-1)
  assert apart[~np.eye(8, dtype=bool)].min() > 0.02


@pytest.mark.slow
def test_one_device_computes_what_eight_do():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (8, 48, 48, 3), dtype=np.uint8)
  batch = {"image": images, "size": np.tile(np.int32([40, 48]), (8, 1))}
  results = []
  for count in (1, 8):
    mesh = make_mesh(jax.devices()[:count])
    method = ReIQAContent(tiny_config(), mesh_of(count))
    state = method.init(jax.random.key(0))
    run = jax.jit(lambda state, batch, m=method: jax.value_and_grad(m.loss, has_aux=True)(
      state.params, state, batch, jax.random.key(1)))  # fmt: skip
    (value, (_, aux, _)), gradient = run(state, put_batch(batch, mesh))
    results.append((np.asarray(value), np.asarray(gradient["encoder"]["conv1"]["kernel"]), aux))
  np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-5)
  np.testing.assert_allclose(results[1][1], results[0][1], rtol=2e-3, atol=2e-4 * np.abs(results[0][1]).max())
  assert np.isfinite(results[0][0]) and np.abs(results[0][1]).max() > 0


def test_features_are_those_of_normalised_pixels():
  method = ReIQAContent(tiny_config(), mesh_of(1))
  pixels = np.uint8([[[[0, 128, 255]]]])
  expected = (np.array([0, 128, 255]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  np.testing.assert_allclose(method.normalise(jax.numpy.asarray(pixels))[0, 0, 0], expected, rtol=1e-5)


def test_a_window_smaller_than_a_crop_is_refused():
  with pytest.raises(ValueError, match="a crop needs 64 pixels"):
    ReIQAContent(tiny_config(crop=64), mesh_of(1)).check_training()
