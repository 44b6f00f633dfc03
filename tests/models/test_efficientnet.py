"""EfficientNet-Lite's layers against NumPy loops and XLA's convolutions; the encoder against itself with padding."""

import itertools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jiqa.models.efficientnet import Depthwise, EfficientNetLite, Stem, shifted_products
from jiqa.models.encoders import build_encoder
from jiqa.models.layers import Part
from jiqa.runtime.state import merge_module
from tests.helpers import randomised
from tests.models.test_encoders import config_of

# Both parities of each side, and sides smaller than a kernel.
SIZES = np.int32([(7, 9), (8, 9), (7, 10), (8, 10), (1, 1), (2, 1), (3, 4)])
FRAMES = ((8, 10), (9, 11))  # the frame's parity must not matter


def narrow(variant=0, levels=8, **options):
  return lambda: EfficientNetLite(variant, 0.25, levels, rngs=nnx.Rngs(0), **options)


def same_convolution(x, kernel, stride, depthwise):
  """[h, w, c] float64 by the definition of TensorFlow's 'SAME', one window at a time."""
  size, starts, shape = len(kernel), [], []
  for n in x.shape[:2]:
    shape.append(-(-n // stride))
    starts.append(-(max((shape[-1] - 1) * stride + size - n, 0) // 2))
  out = np.zeros((*shape, kernel.shape[-1]))
  for row, column in np.ndindex(*shape):
    for i, j in np.ndindex(size, size):
      y, z = starts[0] + row * stride + i, starts[1] + column * stride + j
      if 0 <= y < x.shape[0] and 0 <= z < x.shape[1]:
        out[row, column] += x[y, z] * kernel[i, j, 0] if depthwise else x[y, z] @ kernel[i, j]
  return out


def frames_of(images, frame, outside=0.0):
  """[b, *frame, c] float32 with one image each in the upper left corner."""
  x = np.full((len(images), *frame, images[0].shape[-1]), outside, np.float32)
  for row, image in zip(x, images, strict=True):
    row[: image.shape[0], : image.shape[1]] = image
  return x


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (5, 2), (3, 1), (5, 1), ("stem", 2)])
def test_convolutions_pad_as_tensorflow_does(size, stride):
  rng, depthwise = np.random.default_rng(0), size != "stem"

  def build():
    options = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
    return Depthwise(4, size, stride, **options) if depthwise else Stem(5, **options)

  graphdef, params, stats = randomised(build)
  layer, kernel = merge_module(graphdef, params, stats), params["kernel"]
  images = [rng.normal(size=(h, w, 4 if depthwise else 3)).astype(np.float32) for h, w in SIZES]
  expected = [same_convolution(np.float64(image), np.float64(kernel), stride, depthwise) for image in images]
  for image, by_hand in zip(images, expected, strict=True):
    np.testing.assert_allclose(layer(image[None], None)[0], by_hand, atol=1e-5)
  for frame in FRAMES:
    padded = layer(frames_of(images, frame), Part(SIZES))
    assert padded.shape[1:3] == tuple(-(-side // stride) for side in frame)
    for row, by_hand in zip(padded, expected, strict=True):
      np.testing.assert_allclose(row[: by_hand.shape[0], : by_hand.shape[1]], by_hand, atol=1e-5)


@pytest.mark.parametrize(("size", "stride", "kernels"), list(itertools.product((2, 3, 6), (1, 2), (1, 3))))
def test_shifted_products_are_a_depthwise_convolution_with_its_gradient(size, stride, kernels):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 9, 12, 4)).astype(np.float32)
  kernel = rng.normal(size=(kernels, size, size, 4)).astype(np.float32)

  def grouped(x, kernel):
    def one(image, kernel):
      return jax.lax.conv_general_dilated(
        image[None], kernel[:, :, None], (stride, stride), "VALID", feature_group_count=4,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )[0]  # fmt: skip

    return jax.vmap(one, (0, 0 if kernels > 1 else None))(x, kernel if kernels > 1 else kernel[0])

  expected, pull = jax.vjp(grouped, x, kernel)
  ours, our_pull = jax.vjp(lambda x, kernel: shifted_products(x, kernel, stride), x, kernel)
  np.testing.assert_allclose(ours, expected, atol=1e-4)
  cotangent = rng.normal(size=expected.shape).astype(np.float32)
  for gradient, wanted in zip(our_pull(cotangent), pull(cotangent), strict=True):
    np.testing.assert_allclose(gradient, wanted, atol=1e-4)


@pytest.mark.parametrize(("dtype", "levels"), [("float32", 8), ("bfloat16", 4)])
def test_padding_leaves_the_features_of_every_size_unchanged(dtype, levels):
  graphdef, params, stats = randomised(narrow(levels=levels, dtype=jnp.dtype(dtype)))
  model = merge_module(graphdef, params, stats)
  rng = np.random.default_rng(2)
  sizes = [(1, 1), (33, 64), (47, 31)]
  images = [rng.uniform(-1, 1, (h, w, 3)).astype(np.float32) for h, w in sizes]
  padded = jax.jit(lambda x, size: model(x, size))(frames_of(images, (64, 96), 7.0), jnp.array(sizes))
  assert padded.dtype == jnp.float32 and padded.shape == (3, model.num_features)
  tolerance = {"float32": 1e-5, "bfloat16": 3e-2}[dtype]
  for image, features in zip(images, padded, strict=True):
    alone = jax.jit(model)(image[None])[0]
    np.testing.assert_allclose(features, alone, rtol=tolerance, atol=tolerance * np.abs(alone).max())
  assert np.abs(padded[1] - padded[2]).max() > 0.1 * np.abs(padded[1]).max()


def test_sizes_may_be_symbols():
  graphdef, params, stats = randomised(narrow(levels=3))
  model = jax.jit(merge_module(graphdef, params, stats))
  x, sizes = np.random.default_rng(3).uniform(-1, 1, (2, 32, 64, 3)).astype(np.float32), np.int32([(31, 64), (32, 50)])
  shapes = jax.export.symbolic_args_specs((x, sizes), ("b, 32*h, 32*w, 3", "b, 2"))
  program = jax.export.export(model)(*shapes)
  np.testing.assert_allclose(program.call(x, sizes), model(x, sizes), rtol=1e-5, atol=1e-5)


def test_a_constant_image_has_no_deviations_but_a_gradient():
  """With the middle of every kernel alone, borders are like the rest."""
  graphdef, params, stats = randomised(narrow(levels=2))

  def middle(path, leaf):
    size = leaf.shape[0]
    alone = (np.arange(size) == size // 2).astype(np.float32)
    return leaf * (alone[:, None] * alone)[..., None, None] if path[-1].key == "kernel" else leaf

  params = jax.tree_util.tree_map_with_path(middle, params)
  model = merge_module(graphdef, params, stats)
  x = jnp.full((1, 21, 30, 3), jnp.array([0.3, -0.2, 0.7]))
  features = jax.jit(model)(x)
  ends = np.cumsum([channels for *_, channels in model.levels for _ in (0, 1)])[:-1]
  parts = np.split(np.asarray(features[0]), ends)
  assert all(np.abs(means).max() > 0.1 for means in parts[::2])
  for deviations in parts[1::2]:
    np.testing.assert_allclose(deviations, 1e-3, atol=1e-3)
  assert np.isfinite(jax.jit(jax.grad(lambda x: model(x).sum()))(x)).all()


def test_fewer_levels_give_the_first_features():
  whole, fewer = (merge_module(*randomised(narrow(levels=levels))) for levels in (8, 3))
  fewer.conv_stem, fewer.bn0, fewer.blocks = whole.conv_stem, whole.bn0, nnx.List(whole.blocks[: len(fewer.blocks)])
  x = np.random.default_rng(0).uniform(-1, 1, (2, 40, 33, 3)).astype(np.float32)
  features = jax.jit(whole)(x)
  assert (fewer.num_features, fewer.stride, len(fewer.blocks)) == (2 * (8 + 8 + 16), 8, 5)
  np.testing.assert_allclose(jax.jit(fewer)(x), features[:, : fewer.num_features], rtol=1e-4, atol=1e-5)


def test_numbers_of_parameters_are_the_published_ones():
  """Without the classifier's 1,281,000."""
  for variant, parameters, features in ((0, 4_652_008, 4128), (1, 5_416_680, 4128), (2, 6_092_072, 4272)):
    model = nnx.eval_shape(lambda variant=variant: EfficientNetLite(variant, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == parameters - 1_281_000
    assert (model.num_features, model.stride) == (features, 32)


def test_training_follows_the_statistics_slowly():
  graphdef, params, stats = randomised(narrow(levels=1))
  model = merge_module(graphdef, params, stats)
  x = np.random.default_rng(0).uniform(-1, 1, (3, 18, 17, 3)).astype(np.float32)
  channels = np.asarray(model.conv_stem(jnp.asarray(x), None), np.float64)
  features = model(x, train=True)
  assert features.shape == (3, 16)
  for name, batch in (("mean", channels.mean((0, 1, 2))), ("var", channels.var((0, 1, 2)))):
    running = getattr(model.bn0, name)[...]
    np.testing.assert_allclose(running, 0.99 * np.asarray(stats["bn0"][name]) + 0.01 * batch, rtol=1e-4, atol=1e-6)
  assert model.blocks[0].bn2.epsilon == 1e-3


def test_a_config_names_it():
  def built(**options):
    return nnx.eval_shape(
      lambda: build_encoder(config_of(encoder={"name": "efficientnet-lite", **options}, bn_groups=2), rngs=nnx.Rngs(0))
    )

  encoder = built(variant=2, width=0.5, levels=7)
  assert isinstance(encoder, EfficientNetLite) and encoder.bn0.groups == encoder.blocks[3].bn1.groups == 2
  assert [channels for *_, channels in encoder.levels] == [8, 16, 24, 48, 64, 104, 176]
  for mistake, words in (
    ({"variant": 3}, "variant 3 is not one of 0, 1, 2"),
    ({"levels": 9}, "1 to 8 levels, not 9"),
    ({"levels": 0}, "not 0"),
    ({"depth": 10}, "depth"),
  ):
    with pytest.raises(ValueError, match=words):
      built(**mistake)
  with pytest.raises(ValueError, match="size=None"):
    nnx.eval_shape(lambda: narrow(levels=2)()(jnp.ones((1, 8, 8, 3)), jnp.array([[8, 8]]), train=True))
