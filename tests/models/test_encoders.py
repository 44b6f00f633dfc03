"""Encoders by config alone: what is built, padded images, and Re-IQA with another one than a ResNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import reiqa as config_file
from jiqa.methods import build_method
from jiqa.models import tiles
from jiqa.models.encoders import build_encoder
from jiqa.models.layers import average
from jiqa.models.resnet import ResNet
from jiqa.models.vit import PooledViT
from jiqa.runtime import optimizer
from jiqa.runtime.sharding import make_mesh
from jiqa.runtime.state import merge_module
from jiqa.train import make_step
from tests.helpers import randomised

VIT = {"name": "vit", "depth": 2, "width": 16, "patch": 8, "heads": 2}


def config_of(**changes):
  return ConfigDict({"depth": 10, "width": 4, "bn_groups": 1, "dtype": "float32"} | changes)


def built(**changes):
  return nnx.eval_shape(lambda: build_encoder(config_of(**changes), rngs=nnx.Rngs(0)))


class Brightness(nnx.Module):
  """An encoder of another package."""

  num_features, stride, reach = 1, 1, 0

  def __init__(self, power=1, *, bn_groups, dtype, rngs):
    self.power = power

  def __call__(self, x, size=None, *, train=False):
    return average(x.mean(-1, keepdims=True), None) ** self.power


def test_configs_name_the_encoder():
  without, named = built(), built(encoder="resnet")
  for encoder in (without, named, built(encoder=None)):
    assert isinstance(encoder, ResNet) and (encoder.depth, encoder.num_features, encoder.stride) == (10, 32, 32)
  assert built(encoder={"name": "resnet", "depth": 18, "width": 2}).num_features == 16
  grouped = built(bn_groups=4, dtype="bfloat16")
  assert (grouped.bn1.groups, grouped.layer4[0].bn2.groups, grouped.conv1.dtype) == (4, 4, jnp.bfloat16)
  vit = built(encoder="vit", depth=3, width=128)
  assert isinstance(vit, PooledViT) and len(vit.blocks) == 3 and vit.num_features == 128 and vit.reach is None
  assert built(encoder={"name": f"{__name__}:Brightness", "power": 2}).power == 2


@pytest.mark.parametrize(
  ("encoder", "words"),
  [
    ("resnext", "expected one of resnet, vit, efficientnet-lite"),
    ({"depth": 3}, "config.encoder is None"),
    ("nowhere:Encoder", "cannot be imported"),
    ("jiqa.models.vit:Nothing", "cannot be imported"),
    ({"name": "vit", "depht": 3, "width": 8}, "depht"),
    ({"name": "vit", "depth": 1, "width": 130, "heads": 2}, "multiple of heads 2, and of 4"),
  ],
)
def test_mistakes_are_refused(encoder, words):
  with pytest.raises(ValueError, match=words):
    built(encoder=encoder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padding_leaves_the_features_of_a_vit_unchanged(dtype):
  graphdef, params, stats = randomised(lambda: build_encoder(config_of(encoder=VIT, dtype=dtype), rngs=nnx.Rngs(0)))
  encoder = merge_module(graphdef, params, stats)
  sizes = np.int32([(24, 32), (17, 30), (1, 3)])
  frame = np.random.default_rng(0).uniform(0, 1, (3, 40, 48, 3)).astype(np.float32)
  padded = jax.jit(lambda x, size: encoder(x, size))(frame, sizes)
  assert padded.dtype == jnp.float32
  for row, (h, w), features in zip(frame, sizes, padded, strict=True):
    alone = jax.jit(encoder)(row[None, :h, :w])[0]
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(features, alone, atol=tolerance * np.abs(alone).max())
  other = jax.jit(encoder)(frame[:1, :24, ::-1][:, :, :32])[0]  # other pixels are another image
  assert np.abs(other - padded[0]).max() > 1e-2 * np.abs(other).max()
  whole = jax.jit(lambda x, s: tiles.features(encoder, x, s, lambda x: x.astype(jnp.float32), tile=16))(frame, sizes)
  np.testing.assert_allclose(whole, padded, atol=1e-6 * np.abs(padded).max())  # not by tiles


@pytest.mark.parametrize("loss", ["in_batch", pytest.param("queue+chunk", marks=pytest.mark.slow)])
def test_reiqa_trains_and_predicts_with_a_vit(loss):
  config = config_file.get_config("demo")
  with config.unlocked():
    config.update(encoder=VIT, embedding=8, window=64, crop=24, scales=(1, 2), versions=3, kinds=(6, 7, 13))
    config.update(batch_size=4, loss=loss, queue=48)
    config.optimizer.warmup_steps = 0
  method = build_method(config, make_mesh(jax.devices()[:1]))
  tx, schedule = optimizer.build(config.optimizer, 10, 10)
  state = method.init(jax.random.key(0))
  state = state.replace(opt_state=tx.init(state.params))
  step = make_step(method, tx, schedule, config.seed)
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
  batch = {"image": image, "size": np.tile(np.int32([64, 64]), (4, 1))}
  before = np.asarray(state.params["encoder"]["blocks"][1]["mlp"]["fc1"]["kernel"])
  for _ in range(2):
    state, metrics = step(state, batch)
  assert np.isfinite(metrics["loss"]) and int(state.step) == 2
  assert np.abs(state.params["encoder"]["blocks"][1]["mlp"]["fc1"]["kernel"] - before).max() > 0

  predict = jax.jit(method.predict)

  def features(side):
    entries = {}
    for name, pixels in method.preprocess_eval(image[0, :50, :37]).items():
      height, width = pixels.shape[:2]
      frame = np.full((1, max(side, height), max(side, width), 3), 99, np.uint8)
      frame[0, :height, :width] = pixels
      entries |= {name: frame, name + "_size": np.int32([(height, width)])}
    return np.asarray(predict(*method.weights(state), {}, entries)["features"])

  alone = features(0)
  assert alone.shape == (1, 32)
  np.testing.assert_allclose(features(64), alone, rtol=1e-4, atol=1e-5 * np.abs(alone).max())
