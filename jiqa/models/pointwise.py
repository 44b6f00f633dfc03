"""A 1x1 convolution and the batch normalisation behind it as one operation, which never stores what lies between.

The statistics of a product are known before it is formed: with s the mean and C the covariance of x, those of x W are
W' s and diag(W' C W). So the product, in a bottleneck four times as wide as x, is formed once, with everything after
it, and its gradient needs x and the incoming gradient alone. Accelerators wait for memory, not for arithmetic.
"""

import functools

import jax
import jax.numpy as jnp

from jiqa.models.cpu import convolve, correlate

_EXACT = jax.lax.Precision.HIGHEST


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def normalised_product(x, kernel, scale, bias, epsilon):
  """The product x @ kernel, normalised by its mean and variance over the whole (sharded) batch.

  Args:
    x: [b, h, w, n], bfloat16 or float32.
    kernel, scale, bias: [n, c], [c], [c] float32.
    epsilon: added to the variance.

  Returns:
    ([b, h, w, c] of the type of x, mean [c] float32, biased variance [c] float32); no gradient flows into the last two.
  """
  return _forward(x, kernel, scale, bias, epsilon)[0]


def _forward(x, kernel, scale, bias, epsilon):
  count = x.size // x.shape[-1]
  with jax.named_scope("statistics"):  # its arithmetic is not the model's
    total, gram = x.astype(jnp.float32).sum((0, 1, 2)), correlate(x, x)
  rounded = kernel.astype(x.dtype).astype(jnp.float32)
  center = total / count
  mean, covariance = jnp.matmul(center, rounded, precision=_EXACT), gram / count - jnp.outer(center, center)
  var = jnp.maximum((rounded * jnp.matmul(covariance, rounded, precision=_EXACT)).sum(0), 0)
  inverse = jax.lax.rsqrt(var + epsilon)
  factor = scale * inverse
  y = (convolve(x, kernel[None, None], 1) * factor + (bias - mean * factor)).astype(x.dtype)
  return (y, mean, var), (x, kernel, scale, total, gram, mean, inverse)


def _backward(epsilon, saved, gradients):
  x, kernel, scale, total, gram, mean, inverse = saved
  gradient, count = gradients[0], x.size // x.shape[-1]
  rounded = kernel.astype(x.dtype).astype(jnp.float32)
  by_bias = gradient.astype(jnp.float32).sum((0, 1, 2))
  products = correlate(x, gradient)
  by_scale = inverse * ((rounded * products).sum(0) - mean * by_bias)
  # The gradient of the product is factor * gradient + constant + slope * product, per channel.
  factor = scale * inverse
  slope = -factor * inverse * by_scale / count
  constant = -factor * by_bias / count - slope * mean
  by_kernel = products * factor + jnp.outer(total, constant) + jnp.matmul(gram, rounded * slope, precision=_EXACT)
  inner = jnp.matmul(rounded * slope, rounded.T, precision=_EXACT)
  with jax.named_scope("statistics"):
    by_x = convolve(x, inner[None, None], 1)
  by_x = by_x + convolve(gradient, (rounded * factor).T[None, None], 1)
  by_x = by_x + jnp.matmul(rounded, constant, precision=_EXACT)
  return by_x.astype(x.dtype), by_kernel.astype(kernel.dtype), by_scale, by_bias


normalised_product.defvjp(_forward, _backward)
