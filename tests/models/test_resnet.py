"""The encoder against a plain NumPy float64 ResNet, and against itself with padding, groups and other lowerings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jiqa.models.cpu import mask_border, max_pool
from jiqa.models.layers import BatchNorm, Part, Projector, mask_outside
from jiqa.models.resnet import Conv, ResNet, Stem
from jiqa.plan import collectives
from jiqa.runtime.sharding import batch_sharding, make_mesh
from jiqa.runtime.state import merge_module
from tests.helpers import randomised


def numpy_conv(x, kernel, stride):
  """[h, w, c] float64 by its definition: symmetric zero padding, then one product per output pixel."""
  k = kernel.shape[0]
  x = np.pad(x, [((k - 1) // 2,) * 2, ((k - 1) // 2,) * 2, (0, 0)])
  rows, columns = (x.shape[0] - k) // stride + 1, (x.shape[1] - k) // stride + 1
  out = np.empty((rows, columns, kernel.shape[-1]))
  for i in range(rows):
    for j in range(columns):
      window = x[i * stride : i * stride + k, j * stride : j * stride + k]
      out[i, j] = np.tensordot(window, kernel, 3)
  return out


def numpy_max_pool(x):
  x = np.pad(x, [(1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
  rows, columns = (x.shape[0] - 3) // 2 + 1, (x.shape[1] - 3) // 2 + 1
  return np.array([[x[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)) for j in range(columns)] for i in range(rows)])


def numpy_resnet(params, stats, x, depth):
  """Features of one image by torchvision's forward pass, float64, parameters in our layout."""

  def conv(p, x, stride=1):
    return numpy_conv(x, p["kernel"], stride)

  def bn(p, s, x):
    return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

  def block(p, s, x, stride):
    if depth == 18:
      y = np.maximum(bn(p["bn1"], s["bn1"], conv(p["conv1"], x, stride)), 0)
      y = bn(p["bn2"], s["bn2"], conv(p["conv2"], y))
    else:
      y = np.maximum(bn(p["bn1"], s["bn1"], conv(p["conv1"], x)), 0)
      y = np.maximum(bn(p["bn2"], s["bn2"], conv(p["conv2"], y, stride)), 0)
      y = bn(p["bn3"], s["bn3"], conv(p["conv3"], y))
    if "downsample" in p:
      x = bn(p["downsample"][1], s["downsample"][1], conv(p["downsample"][0], x, stride))
    return np.maximum(y + x, 0)

  params, stats = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, stats))
  x = numpy_max_pool(np.maximum(bn(params["bn1"], stats["bn1"], conv(params["conv1"], x, 2)), 0))
  for stage in (1, 2, 3, 4):
    layer, layer_stats = params[f"layer{stage}"], stats[f"layer{stage}"]
    for i in range(len(layer)):
      x = block(layer[i], layer_stats[i], x, 2 if stage > 1 and i == 0 else 1)
  return x.mean((0, 1))


@pytest.mark.parametrize("depth", [18, 50])
def test_features_equal_a_plain_numpy_resnet(depth):
  graphdef, params, stats = randomised(lambda: ResNet(depth, 4, rngs=nnx.Rngs(0)))
  x = np.random.default_rng(1).uniform(0, 1, (1, 37, 50, 3)).astype(np.float32)
  ours = jax.jit(lambda x: merge_module(graphdef, params, stats)(x))(x)
  expected = numpy_resnet(params, stats, x[0].astype(np.float64), depth)
  np.testing.assert_allclose(ours[0], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_padding_leaves_the_features_of_every_size_unchanged(depth):
  graphdef, params, stats = randomised(lambda: ResNet(depth, 4, rngs=nnx.Rngs(0)))
  rng = np.random.default_rng(2)
  sizes = [(1, 1), (33, 64), (47, 31)]
  images = [rng.uniform(0, 1, (h, w, 3)).astype(np.float32) for h, w in sizes]
  # The padding must not matter, whatever it holds; it is wider than the lines around an image.
  frame = np.full((len(sizes), 64, 128, 3), 7.0, np.float32)
  for row, image in zip(frame, images, strict=True):
    row[: image.shape[0], : image.shape[1]] = image
  model = merge_module(graphdef, params, stats)
  padded = jax.jit(lambda x, size: model(x, size))(frame, jnp.array(sizes))
  alone = np.concatenate([jax.jit(model)(image[None]) for image in images])
  np.testing.assert_allclose(padded, alone, rtol=1e-5, atol=1e-5 * np.abs(alone).max())


SIZES = np.int32([(1, 1), (7, 9), (8, 9), (3, 10), (8, 10), (0, 4), (30, 40), (5, 6)])
ORIGINS = np.int32([(0, 0), (-2, -3), (4, 0), (-7, 5), (0, 9), (0, 0), (8, 24), (16, 16)])


@pytest.mark.parametrize("origins", [None, ORIGINS])
def test_the_border_is_the_lines_around_each_image(origins):
  x = np.random.default_rng(3).normal(1, 0.1, (8, 8, 10, 2)).astype(np.float32)
  expected = x.copy()
  for row, size, start in zip(expected, SIZES, SIZES * 0 if origins is None else origins, strict=True):
    for i, j in np.ndindex(8, 10):
      if i + start[0] in (-1, size[0]) or j + start[1] in (-1, size[1]):
        row[i, j] = 0
  if origins is None:  # nothing lies before the first pixel
    assert (expected[4] == x[4]).all() and (expected[0, 2:, 2:] == x[0, 2:, 2:]).all()
  found = jax.jit(lambda x, part: mask_border(x, part))(x, Part(SIZES, origins))
  np.testing.assert_array_equal(found, expected)
  assert mask_border(x, None) is x


def test_the_border_is_masked_on_each_device_for_itself():
  place = batch_sharding(make_mesh())
  x = jax.ShapeDtypeStruct((8, 8, 10, 2), jnp.float32, sharding=place)
  size = jax.ShapeDtypeStruct((8, 2), jnp.int32, sharding=place)
  program = jax.jit(lambda x, size: mask_border(x, Part(size))).lower(x, size).compile()
  assert jax.device_count() == 8 and not collectives.find(program.as_text())


def test_elsewhere_than_on_cpus_all_that_is_outside_is_masked():
  """By the devices that a program is for, whatever this process runs on."""
  x = jax.ShapeDtypeStruct((8, 8, 10, 2), jnp.float32)
  programs = {
    (platform, form.__name__): jax.jit(lambda x, form=form: form(x, Part(jnp.asarray(SIZES), jnp.asarray(ORIGINS))))
    .trace(x).lower(lowering_platforms=(platform,)).as_text()
    for platform in ("cpu", "cuda", "tpu")
    for form in (mask_border, mask_outside)
  }  # fmt: skip
  scatters = {name: text.count("stablehlo.scatter") for name, text in programs.items()}
  assert scatters["cpu", "mask_border"] and not any(n for name, n in scatters.items() if name[0] != "cpu")
  for platform in ("cuda", "tpu"):
    assert programs[platform, "mask_border"].count("select") == programs[platform, "mask_outside"].count("select") > 0
  found = np.asarray(mask_outside(np.ones(x.shape, np.float32), Part(SIZES, ORIGINS)))
  np.testing.assert_array_equal(found.sum((1, 2, 3)) / 2, [1, 42, 36, 5, 8, 0, 80, 0])


def test_parameter_counts_are_the_published_ones():
  abstract = nnx.eval_shape(lambda: ResNet(50, rngs=nnx.Rngs(0)))
  head = nnx.eval_shape(lambda: Projector(2048, rngs=nnx.Rngs(0)))
  sizes = [sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param))) for module in (abstract, head)]
  assert sizes == [23_508_032, 4_458_624]
  assert abstract.num_features == 2048


def test_batch_norm_over_groups_is_batch_norm_of_every_group():
  x = np.random.default_rng(0).normal(2, 3, (8, 5, 5, 3)).astype(np.float32)
  grouped, single = BatchNorm(3, groups=4, dtype=jnp.float32), BatchNorm(3, dtype=jnp.float32)
  y = grouped(x, train=True)
  means, variances = [], []
  for part, out in zip(np.split(x, 4), np.split(np.asarray(y), 4), strict=True):
    mean, var = part.mean((0, 1, 2), dtype=np.float64), part.var((0, 1, 2), dtype=np.float64)
    np.testing.assert_allclose(out, (part - mean) / np.sqrt(var + 1e-5), atol=1e-4)
    means.append(mean)
    variances.append(var)
  np.testing.assert_allclose(grouped.mean[...], 0.1 * np.mean(means, 0), rtol=1e-4)
  np.testing.assert_allclose(grouped.var[...], 0.9 + 0.1 * np.mean(variances, 0), rtol=1e-4)
  whole = single(x, train=True)
  np.testing.assert_allclose(whole, (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5), atol=1e-4)


def test_pointwise_convolution_is_the_product_it_is_lowered_to():
  conv = Conv(6, 5, 1, 2, dtype=jnp.float32, rngs=nnx.Rngs(0))
  x = np.random.default_rng(0).normal(size=(2, 7, 9, 6)).astype(np.float32)
  expected = jax.lax.conv_general_dilated(
    x, conv.kernel[...], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  np.testing.assert_allclose(conv(x), expected, atol=1e-5)


@pytest.mark.parametrize(("size", "stride"), [((2, 2), 1), ((1, 5), 1), ((2, 2), 2), ((5, 4), 2), ((1, 1), 2)])
def test_small_maps_give_what_the_convolution_gives(size, stride):
  conv = Conv(6, 5, 3, stride, dtype=jnp.float32, rngs=nnx.Rngs(0))
  x = np.random.default_rng(0).normal(size=(2, *size, 6)).astype(np.float32)

  def plain(kernel, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=numbers)

  assert "convolution" not in jax.jit(conv).lower(x).as_text()
  expected, pull = jax.vjp(plain, conv.kernel[...], x)
  np.testing.assert_allclose(conv(x), expected, atol=1e-5)
  graphdef, params = nnx.split(conv)
  _, ours = jax.vjp(lambda params, x: nnx.merge(graphdef, params)(x), params, x)
  for got, wanted in zip(jax.tree.leaves(ours(expected)), pull(expected), strict=True):
    np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.parametrize("size", [(9, 12), (8, 7), (1, 2)])
def test_the_stem_is_a_7x7_convolution_of_stride_2(size):
  stem = Stem(5, dtype=jnp.float32, rngs=nnx.Rngs(0))
  x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)

  def plain(kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((3, 3), (3, 3)), dimension_numbers=numbers)

  expected, pull = jax.vjp(plain, stem.kernel[...])
  np.testing.assert_allclose(stem(x), expected, atol=1e-5)
  graphdef, params = nnx.split(stem)
  _, ours = jax.vjp(lambda params: nnx.merge(graphdef, params)(x), params)
  np.testing.assert_allclose(ours(expected)[0].kernel[...], pull(expected)[0], atol=1e-4)


@pytest.mark.parametrize("size", [(9, 12), (8, 7), (1, 2)])
def test_max_pooling_and_its_gradient_are_those_of_a_window(size):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, *size, 3)).astype(np.float32)

  def window(x):
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)

  expected, pull = jax.vjp(window, x)
  got, ours = jax.vjp(max_pool, x)
  np.testing.assert_array_equal(got, expected)
  cotangent = rng.normal(size=expected.shape).astype(np.float32)
  np.testing.assert_allclose(ours(cotangent)[0], pull(cotangent)[0], atol=1e-6)


def test_bfloat16_keeps_statistics_and_features_float32():
  graphdef, params, stats = randomised(lambda: ResNet(18, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))

  def run(x):
    model = merge_module(graphdef, params, stats)
    return model(x, train=True), nnx.to_pure_dict(nnx.state(model))

  features, state = jax.eval_shape(run, jnp.ones((2, 32, 32, 3)))
  assert features.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


def test_projector_gives_unit_vectors():
  out = Projector(16, 8, rngs=nnx.Rngs(0))(jnp.ones((3, 16)) * jnp.array([[1.0], [2.0], [30.0]]))
  np.testing.assert_allclose(jnp.linalg.norm(out, axis=-1), 1, rtol=1e-5)


def test_mistakes_are_refused():
  with pytest.raises(ValueError, match="depth 19"):
    ResNet(19, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match="size=None"):
    nnx.eval_shape(lambda: ResNet(18, 4, rngs=nnx.Rngs(0))(jnp.ones((1, 8, 8, 3)), jnp.array([[8, 8]]), train=True))
