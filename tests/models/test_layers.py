"""The product that every linear layer is made of, and the type of its gradient, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jiqa.models.layers import Linear, product


@pytest.mark.parametrize("shape", [(3, 700), (2, 3, 4, 50)])
def test_a_kernels_gradient_leaves_the_product_of_bfloat16_in_float32(shape):
  rng = np.random.default_rng(0)
  x, weight = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((*shape, 5), (*shape, 7)))
  kernel = jnp.asarray(rng.normal(size=(5, 7)), jnp.float32)
  loss = lambda x, kernel: (product(x, kernel) * weight).astype(jnp.float32).sum()
  by_x, by_kernel = jax.grad(loss, (0, 1))(x, kernel)
  exact = [np.asarray(part, np.float64) for part in (x, weight, kernel.astype(jnp.bfloat16))]
  x64, weight64, kernel64 = exact
  assert by_kernel.dtype == jnp.float32 and by_x.dtype == jnp.bfloat16
  # 8 bits would be off by up to 2^-9 of the largest.
  summed = x64.reshape(-1, 5).T @ weight64.reshape(-1, 7)
  np.testing.assert_allclose(by_kernel, summed, rtol=1e-5, atol=1e-5 * abs(summed).max())
  np.testing.assert_allclose(np.float64(by_x), weight64 @ kernel64.T, rtol=2**-7, atol=0.05)
  np.testing.assert_allclose(np.float64(product(x, kernel)), x64 @ kernel64, rtol=2**-7, atol=0.05)


def test_a_rounded_kernels_gradient_is_rounded_too():
  x, kernel = jnp.ones((4, 5), jnp.bfloat16), jnp.ones((5, 7), jnp.bfloat16)
  assert jax.grad(lambda kernel: product(x, kernel).astype(jnp.float32).sum())(kernel).dtype == jnp.bfloat16
  gradient = jax.grad(lambda kernel: product(x.astype(jnp.float32), kernel).sum())(kernel)
  assert gradient.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.float32(gradient), np.full((5, 7), 4.0))


def test_a_bias_is_added_and_its_gradient_summed_in_float32():
  layer = Linear(3, 2, nnx.initializers.normal(), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
  weight = jnp.asarray(np.random.default_rng(0).normal(size=(3000, 2)), jnp.bfloat16)
  graphdef, params = nnx.split(layer)
  loss = lambda params: (nnx.merge(graphdef, params)(jnp.ones((3000, 3))) * weight).astype(jnp.float32).sum()
  exact = np.asarray(weight, np.float64).sum(0)
  np.testing.assert_allclose(jax.grad(loss)(params)["bias"][...], exact, rtol=1e-5, atol=1e-3)
