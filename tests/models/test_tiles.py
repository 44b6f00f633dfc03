"""Tiles give the features of the whole image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jiqa.models import tiles
from jiqa.models.efficientnet import EfficientNetLite
from jiqa.models.layers import Part
from jiqa.models.resnet import EXPANSION, STAGE_BLOCKS, ResNet
from jiqa.runtime.state import merge_module
from tests.helpers import randomised

ENCODERS = {
  "resnet10": lambda: ResNet(10, 2, rngs=nnx.Rngs(0)),
  "resnet50": lambda: ResNet(50, 2, rngs=nnx.Rngs(0)),
  "lite0": lambda: EfficientNetLite(0, 0.1, rngs=nnx.Rngs(0)),
  "lite0 to stride 16": lambda: EfficientNetLite(0, 0.1, 4, rngs=nnx.Rngs(0)),
}
SIZES = np.int32([(700, 531), (61, 1023), (129, 1)])


@pytest.mark.parametrize(
  ("name", "sizes"),
  [
    ("resnet10", SIZES),
    pytest.param("resnet50", SIZES, marks=pytest.mark.slow),
    ("lite0 to stride 16", (SIZES + 1) // 2),
  ],
)
def test_tiles_give_the_features_of_the_whole_image(name, sizes):
  graphdef, params, stats = randomised(ENCODERS[name])
  encoder = merge_module(graphdef, params, stats)
  frame = np.random.default_rng(0).integers(0, 256, (3, *(-(-sizes.max(0) // 32) * 32), 3), dtype=np.uint8)
  normalise = lambda x: x.astype(jnp.float32) / 255 - 0.4
  whole = jax.jit(lambda x, s: encoder(normalise(x), s))(frame, sizes)
  side = 2 * (-(-encoder.reach // 32) * 32) + 96
  assert side < frame.shape[2]
  tiled = jax.jit(lambda x, s: tiles.features(encoder, x, s, normalise, tile=side))(frame, sizes)
  np.testing.assert_allclose(tiled, whole, rtol=1e-5, atol=1e-6 * np.abs(whole).max())


@pytest.mark.parametrize(("name", "rows"), [("resnet10", 61), pytest.param("lite0", 64, marks=pytest.mark.slow)])
def test_a_strip_is_encoded_in_strips_of_whole_strides(name, rows, monkeypatch):
  graphdef, params, stats = randomised(ENCODERS[name])
  encoder = merge_module(graphdef, params, stats)
  sizes = np.int32([(rows, 1500), (1, 1), (33, 900)])
  frame = np.random.default_rng(0).integers(0, 256, (3, rows, 1536, 3), dtype=np.uint8)
  normalise = lambda x: x.astype(jnp.float32) / 255 - 0.4
  tile = 2 * (-(-encoder.reach // 32) * 32) + 64
  encoded, sums = [], type(encoder).sums
  monkeypatch.setattr(type(encoder), "sums", lambda self, x, *rest: encoded.append(x.shape) or sums(self, x, *rest))
  for upright in (False, True):
    x, s = (frame.swapaxes(1, 2), sizes[:, ::-1]) if upright else (frame, sizes)
    features = jax.jit(lambda x, s: tiles.features(encoder, x, s, normalise, tile=tile))(x, s)
    assert set(encoded) == {(3, tile, 64, 3) if upright else (3, 64, tile, 3)}
    encoded.clear()
    whole = jax.jit(lambda x, s: encoder.pool(sums(encoder, normalise(x), Part(s)), s))(x, s)
    np.testing.assert_allclose(features, whole, rtol=1e-5, atol=1e-6 * np.abs(whole).max())


@pytest.mark.parametrize("depth", sorted(STAGE_BLOCKS))
def test_the_reach_is_what_an_activation_sees(depth):
  layers = [(7, 2), (3, 2)]
  for stage, blocks in enumerate(STAGE_BLOCKS[depth]):
    for block in range(blocks):
      stride = 2 if stage > 0 and block == 0 else 1
      layers += [(3, stride)] if EXPANSION[depth] > 1 else [(3, stride), (3, 1)]
  windows = [(kernel // 2, kernel // 2, stride) for kernel, stride in layers]
  assert nnx.eval_shape(lambda: ResNet(depth, 2, rngs=nnx.Rngs(0))).reach == furthest(windows)


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_the_reach_of_a_lite_is_what_an_activation_sees(variant):
  """Windows of stride 2 lie one further where the side is even: what is seen in either case counts."""
  repeats = ((1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1), (1, 3, 3, 4, 4, 5, 1))[variant]
  layers = [(3, 2)]
  for count, stride, kernel in zip(repeats, (1, 2, 2, 2, 1, 2, 1), (3, 3, 5, 3, 5, 5, 3), strict=True):
    layers += [(kernel, stride)] + [(kernel, 1)] * (count - 1)
  windows = [(kernel // 2, kernel // 2 + (stride == 2), stride) for kernel, stride in layers]
  encoder = nnx.eval_shape(lambda: EfficientNetLite(variant, 0.1, rngs=nnx.Rngs(0)))
  assert encoder.reach == furthest(windows) and len(encoder.blocks) == sum(repeats)


def furthest(windows):
  """How far a gradient reaches, by dilating the set of places backwards; windows: places before, after, and stride."""
  low = high = 0  # places in the last grid
  for before, after, stride in reversed(windows):
    low, high = low * stride - before, high * stride + after
  return max(-low, high)
