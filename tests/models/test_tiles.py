"""Tiles give the features of the whole image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jiqa.models import tiles
from jiqa.models.layers import Part
from jiqa.models.resnet import EXPANSION, STAGE_BLOCKS, ResNet
from jiqa.runtime.state import merge_module
from tests.helpers import randomised


@pytest.mark.parametrize("depth", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_tiles_give_the_features_of_the_whole_image(depth):
  graphdef, params, stats = randomised(lambda: ResNet(depth, 2, rngs=nnx.Rngs(0)))
  encoder = merge_module(graphdef, params, stats)
  sizes = np.int32([(700, 531), (61, 1023), (129, 1)])
  frame = np.random.default_rng(0).integers(0, 256, (3, 704, 1024, 3), dtype=np.uint8)
  normalise = lambda x: x.astype(jnp.float32) / 255 - 0.4  # noqa: E731
  whole = jax.jit(lambda x, s: encoder(normalise(x), s))(frame, sizes)
  side = 2 * (-(-encoder.reach // 32) * 32) + 96
  tiled = jax.jit(lambda x, s: tiles.features(encoder, x, s, normalise, tile=side))(frame, sizes)
  np.testing.assert_allclose(tiled, whole, rtol=1e-5, atol=1e-6 * np.abs(whole).max())


def test_a_strip_is_encoded_in_strips(monkeypatch):
  graphdef, params, stats = randomised(lambda: ResNet(10, 2, rngs=nnx.Rngs(0)))
  encoder = merge_module(graphdef, params, stats)
  sizes = np.int32([(64, 1500), (1, 1), (33, 900)])
  frame = np.random.default_rng(0).integers(0, 256, (3, 64, 1536, 3), dtype=np.uint8)
  normalise = lambda x: x.astype(jnp.float32) / 255 - 0.4  # noqa: E731
  tile = 2 * (-(-encoder.reach // 32) * 32) + 64
  encoded, sums = [], ResNet.sums
  monkeypatch.setattr(ResNet, "sums", lambda self, x, *rest: encoded.append(x.shape) or sums(self, x, *rest))
  for upright in (False, True):
    x, s = (frame.swapaxes(1, 2), sizes[:, ::-1]) if upright else (frame, sizes)
    features = jax.jit(lambda x, s: tiles.features(encoder, x, s, normalise, tile=tile))(x, s)
    assert set(encoded) == {(3, tile, 64, 3) if upright else (3, 64, tile, 3)}
    encoded.clear()
    whole = jax.jit(lambda x, s: encoder.pool(sums(encoder, normalise(x), Part(s)), s))(x, s)
    np.testing.assert_allclose(features, whole, rtol=1e-5, atol=1e-6 * np.abs(whole).max())


@pytest.mark.parametrize("depth", sorted(STAGE_BLOCKS))
def test_the_reach_is_what_an_activation_sees(depth):
  """How far a gradient reaches, by dilating the set of places backwards, layer by layer."""
  layers = [(7, 2), (3, 2)]
  for stage, blocks in enumerate(STAGE_BLOCKS[depth]):
    for block in range(blocks):
      stride = 2 if stage > 0 and block == 0 else 1
      layers += [(3, stride)] if EXPANSION[depth] > 1 else [(3, stride), (3, 1)]
  low = high = 0  # places in the last grid
  for kernel, stride in reversed(layers):
    low, high = low * stride - kernel // 2, high * stride + kernel // 2
  assert nnx.eval_shape(lambda: ResNet(depth, 2, rngs=nnx.Rngs(0))).reach == max(-low, high)
