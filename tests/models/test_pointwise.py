"""What accelerators compile in place of a CPU's forms, run here: against those, and against definitions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jiqa.models import cpu, resnet
from jiqa.models.layers import BatchNorm
from jiqa.models.pointwise import normalised_product
from jiqa.plan import collectives, hlo
from jiqa.runtime.sharding import batch_sharding, make_mesh
from jiqa.runtime.state import merge_module, split_module


def difference(a, b):
  """Of arrays, relative to the largest value."""
  return float(np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max())


def numbers(*shape, seed=0, mean=0.0):
  return np.random.default_rng(seed).normal(mean, 1, shape)


def test_a_normalised_product_and_its_gradients_are_those_of_the_definition():
  x, weight = np.maximum(numbers(8, 5, 6, 16, mean=0.3), 0), numbers(8, 5, 6, 48, seed=1)
  kernel, scale, bias = 0.2 * numbers(16, 48, seed=2), numbers(48, seed=3, mean=1), numbers(48, seed=4)

  def definition(x, kernel, scale, bias):
    y = jnp.einsum("bhwn,nc->bhwc", x, kernel)
    mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
    return (y - mean) / jnp.sqrt(var + 0.1) * scale + bias, mean, var

  loss = lambda function, *args: jnp.sin(function(*args)[0] * weight).sum()
  with jax.enable_x64(True):
    arguments = [jnp.asarray(part, jnp.float64) for part in (x, kernel, scale, bias)]
    expected = [np.asarray(part) for part in definition(*arguments)]
    gradients = [np.asarray(g) for g in jax.grad(lambda *args: loss(definition, *args), (0, 1, 2, 3))(*arguments)]
  ours = lambda *args: normalised_product(*args, 0.1)
  arguments = [jnp.asarray(part, jnp.float32) for part in (x, kernel, scale, bias)]
  for a, b in zip(ours(*arguments), expected, strict=True):
    assert difference(a, b) < 1e-5
  for a, b in zip(jax.grad(lambda *args: loss(ours, *args), (0, 1, 2, 3))(*arguments), gradients, strict=True):
    assert difference(a, b) < 1e-5


def test_a_normalised_product_of_bfloat16_keeps_float32_statistics():
  x = np.maximum(numbers(8, 5, 6, 16, mean=0.3), 0)
  kernel, scale, bias = 0.2 * numbers(16, 48, seed=2), np.ones(48), np.zeros(48)
  arguments = [jnp.asarray(x, jnp.bfloat16), *(jnp.asarray(part, jnp.float32) for part in (kernel, scale, bias))]
  y, mean, var = normalised_product(*arguments, 1e-5)
  product = np.asarray(arguments[0], np.float64) @ np.asarray(arguments[1].astype(jnp.bfloat16), np.float64)
  assert y.dtype == jnp.bfloat16 and mean.dtype == var.dtype == jnp.float32
  assert difference(mean, product.mean((0, 1, 2))) < 1e-5 and difference(var, product.var((0, 1, 2))) < 1e-5
  gradients = jax.grad(lambda *args: normalised_product(*args, 1e-5)[0].astype(jnp.float32)[0].sum(), (0, 1, 2, 3))
  assert [g.dtype for g in gradients(*arguments)] == [jnp.bfloat16, jnp.float32, jnp.float32, jnp.float32]


def test_a_constant_input_has_no_variance_and_finite_gradients():
  arguments = jnp.full((2, 3, 3, 4), 5.0), jnp.ones((4, 6)), jnp.ones(6), jnp.zeros(6)
  (_, _, var), pull = jax.vjp(lambda *args: normalised_product(*args, 1e-5), *arguments)
  assert (var >= 0).all() and var.max() < 1e-2
  assert all(np.isfinite(g).all() for g in pull((jnp.ones((2, 3, 3, 6)), jnp.zeros(6), jnp.zeros(6))))


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_and_normalisation_as_one_layer_do_what_they_do_one_after_the_other(stride):
  conv = resnet.Conv(8, 16, 1, stride, dtype=jnp.float32, rngs=nnx.Rngs(0))
  x, layers = jnp.asarray(numbers(4, 6, 6, 8), jnp.float32), (BatchNorm(16, dtype=jnp.float32) for _ in range(3))
  one, other, grouped = layers
  np.testing.assert_allclose(resnet.pointwise(conv, one, x, True), other(conv(x), True), atol=1e-5)
  for name in ("mean", "var"):
    np.testing.assert_allclose(getattr(one, name)[...], getattr(other, name)[...], rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(resnet.pointwise(conv, one, x, False), one(conv(x), False))
  grouped.groups = 2
  halves = [other(conv(half), True) for half in jnp.split(x, 2)]
  np.testing.assert_allclose(resnet.pointwise(conv, grouped, x, True), jnp.concatenate(halves), atol=1e-5)


def test_the_stem_pooled_before_its_normalisation_does_what_it_does_behind_it():
  conv, one = resnet.Stem(8, dtype=jnp.float32, rngs=nnx.Rngs(0)), BatchNorm(8, dtype=jnp.float32)
  one.scale[...], one.bias[...] = jnp.asarray(numbers(8), jnp.float32), jnp.asarray(numbers(8, seed=1), jnp.float32)
  x, weight = jnp.asarray(numbers(4, 18, 13, 3), jnp.float32), jnp.asarray(numbers(4, 5, 4, 8, seed=1), jnp.float32)
  assert (one.scale[...] < 0).any() and (one.scale[...] > 0).any()

  def pooled(conv, bn, x):
    return resnet.pooled_stem(conv, bn, x, None, True)[0]

  def plain(conv, bn, x):
    return cpu._pool_by_windows(jax.nn.relu(bn(conv(x), True)))

  def run(form):
    graph, params, stats = split_module(nnx.List((conv, one)))

    def loss(params, x):
      layers = merge_module(graph, params, stats)
      y = form(*layers, x)
      return (y * weight).sum(), (y, split_module(layers)[2])

    return jax.grad(loss, (0, 1), has_aux=True)(params, x)

  results = [run(form) for form in (pooled, plain)]
  for a, b in zip(*map(jax.tree.leaves, results), strict=True):
    assert difference(a, b) < 1e-5


def test_eight_devices_give_what_one_gives_and_sum_covariances_and_gradients_only():
  x, weight = jnp.asarray(numbers(16, 4, 4, 8), jnp.float32), jnp.asarray(numbers(16, 4, 4, 32, seed=1), jnp.float32)
  rest = [jnp.asarray(numbers(*shape, seed=2), jnp.float32) for shape in ((8, 32), (32,), (32,))]
  loss = lambda x, weight, *rest: (normalised_product(x, *rest, 1e-5)[0] * weight).sum()
  gradients = jax.jit(jax.grad(loss, (0, 2, 3, 4)))
  sharded = jax.device_put((x, weight), batch_sharding(make_mesh()))
  program = gradients.lower(*sharded, *rest).compile()
  for a, b in zip(program(*sharded, *rest), gradients(x, weight, *rest), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.abs(b).max()))
  exchanged = collectives.find(program.as_text())
  assert {kind for kind, _ in exchanged} == {"all-reduce"}
  assert sum(hlo.size(arrays) for _, arrays in exchanged) == 4 * (8 + 8 * 8 + 8 * 32 + 32)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [2, 7, 8])
def test_gradients_of_convolutions_on_cpus_and_elsewhere(size, stride, side):
  x, kernel = (jnp.asarray(numbers(*shape), jnp.float32) for shape in ((3, side, side + 3, 4), (size, size, 4, 5)))
  y, pull = jax.vjp(lambda x, kernel: cpu._as_convolution(x, kernel, stride), x, kernel)
  gradient = jnp.asarray(numbers(*y.shape, seed=1), jnp.float32)
  np.testing.assert_allclose(cpu._as_product(x, kernel, stride), y, atol=1e-5)
  forms = (cpu._gradients(x, kernel, gradient, stride), cpu._gradients_by_products(x, kernel, gradient, stride))
  for a, b in zip((*forms[0], *forms[1]), 2 * pull(gradient), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)
  half = cpu._gradients(x.astype(jnp.bfloat16), kernel, gradient.astype(jnp.bfloat16), stride)
  assert (half[0].dtype, half[1].dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize("shape", [(2, 7, 8, 3), (1, 6, 5, 2)])
def test_max_pooling_elsewhere_than_on_cpus(shape):
  x = jnp.asarray(numbers(*shape), jnp.float32)
  y, pull = jax.vjp(cpu._pool_by_pairs, x)
  other, other_pull = jax.vjp(cpu._pool_by_windows, x)
  gradient = jnp.asarray(numbers(*y.shape, seed=1), jnp.float32)
  np.testing.assert_array_equal(y, other)
  np.testing.assert_allclose(pull(gradient)[0], other_pull(gradient)[0], atol=1e-6)
