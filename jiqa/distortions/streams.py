"""Random numbers as a pure function of (key, pixel): the hash pcg4d of (index, stream, seed, seed), elementwise.

Jarzynski & Olano 2020, "Hash Functions for GPU Rendering", JCGT 9(3). An image's noise cannot depend on the batch, the
device or the sharding, and costs a fraction of `jax.random.normal`.
"""

import jax
import jax.numpy as jnp
import numpy as np

_STEP = np.uint32(1664525)
_OFFSET = np.uint32(1013904223)
_BYTES_SD = np.sqrt(4 * (256**2 - 1) / 12)  # standard deviation of the sum of four independent bytes


def seeds_of(keys):
  """The two seed words of every key: [...] typed PRNG keys to [..., 2] uint32."""
  flat = jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys.reshape(-1))
  return flat.reshape(*keys.shape, 2)


def words(seeds, stream, *shape):
  """Four arrays [b, *shape] of random uint32 words from seeds [b, 2]; stream: a number for every use of a seed."""
  index = jax.lax.iota(jnp.uint32, int(np.prod(shape))).reshape(1, *shape)
  first, second = (seeds[:, i].reshape(-1, *[1] * len(shape)) for i in (0, 1))
  return pcg4d(index, jnp.asarray(stream, jnp.uint32), first, second)


def pcg4d(x, y, z, w):
  """Hashes four uint32 into four (Jarzynski & Olano 2020, listing 'pcg4d')."""
  x, y, z, w = (v * _STEP + _OFFSET for v in (x, y, z, w))
  for last in (False, True):
    x = x + y * w
    y = y + z * x
    z = z + x * y
    w = w + y * z
    if not last:
      x, y, z, w = (v ^ (v >> 16) for v in (x, y, z, w))
  return x, y, z, w


def uniform(word):
  """[0, 1) float32 from the upper 24 bits of a word."""
  return (word >> 8).astype(jnp.float32) * np.float32(2**-24)


def normal(word):
  """Standard normal float32 by the inverse error function, within +-5.4."""
  symmetric = (word >> 8).astype(jnp.float32) * np.float32(2**-23) - np.float32(1 - 2**-24)
  return jax.lax.erf_inv(symmetric) * np.float32(np.sqrt(2))


def near_normal(word):
  """Zero mean, unit variance float32 within +-3.46: a word's four bytes summed (Irwin-Hall)."""
  pairs = (word & np.uint32(0x00FF00FF)) + ((word >> 8) & np.uint32(0x00FF00FF))
  total = (pairs & np.uint32(0xFFFF)) + (pairs >> 16)
  return (total.astype(jnp.float32) - 510) * np.float32(1 / _BYTES_SD)


def uniforms(seeds, stream, count):
  """[b, count] float32 in [0, 1): a few scalars for every image."""
  return uniform(words(seeds, stream, count)[0])


def coin(seeds, stream):
  """[b] bool, true with probability one half."""
  return uniforms(seeds, stream, 1)[:, 0] < 0.5
