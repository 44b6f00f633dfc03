"""The counter-based random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jiqa.distortions import streams


def _pcg4d(words):
  """The published listing with Python integers."""
  mask = 0xFFFFFFFF
  x, y, z, w = ((word * 1664525 + 1013904223) & mask for word in words)

  def mix(x, y, z, w):
    x = (x + y * w) & mask
    y = (y + z * x) & mask
    z = (z + x * y) & mask
    w = (w + y * z) & mask
    return x, y, z, w

  return mix(*(v ^ (v >> 16) for v in mix(x, y, z, w)))


def test_hash_is_the_published_one():
  inputs = np.random.default_rng(0).integers(0, 2**32, (4, 50), dtype=np.uint32)
  got = np.stack(streams.pcg4d(*map(jnp.asarray, inputs)))
  wanted = np.array([_pcg4d([int(v) for v in column]) for column in inputs.T]).T
  np.testing.assert_array_equal(got, wanted)


def _seeds(count):
  return streams.seeds_of(jax.random.split(jax.random.key(0), count))


def test_uniform_and_normal_have_their_distributions():
  words = jax.jit(lambda seeds: streams.words(seeds, 3, 300, 200))(_seeds(2))
  for word in words:
    for image in word:
      uniform = np.asarray(streams.uniform(image)).ravel()
      assert 0 <= uniform.min() < uniform.max() < 1
      assert scipy.stats.kstest(uniform, "uniform").pvalue > 1e-4
      assert scipy.stats.kstest(np.asarray(streams.normal(image)).ravel(), "norm").pvalue > 1e-4


def test_near_normal_has_unit_variance_and_known_tails():
  sample = np.asarray(streams.near_normal(streams.words(_seeds(1), 0, 400, 400)[0])).ravel()
  assert abs(sample.mean()) < 0.01
  assert abs(sample.var() - 1) < 0.015
  assert abs(scipy.stats.kurtosis(sample) + 0.3) < 0.03  # sum of four uniforms: -6/5/4
  assert np.abs(sample).max() < 3.47


def test_neighbours_streams_words_and_images_are_uncorrelated():
  seeds = _seeds(2)
  first, second = (streams.words(seeds, stream, 200, 200) for stream in (0, 1))
  fields = [np.asarray(streams.uniform(w)) for w in (*first, *second)]
  rows = [field[i].ravel() for field in fields for i in (0, 1)]
  rows += [np.roll(rows[0], shift) for shift in (1, 200, 201)]
  correlation = np.corrcoef(rows) - np.eye(len(rows))
  assert np.abs(correlation).max() < 5 / np.sqrt(40000)


def test_numbers_do_not_depend_on_the_batch():
  seeds = _seeds(4)
  whole = np.asarray(streams.normal(streams.words(seeds, 0, 9, 3, 7)[0]))
  np.testing.assert_array_equal(streams.normal(streams.words(seeds[2:3], 0, 9, 3, 7)[0])[0], whole[2])


def test_coin_is_fair():
  heads = np.asarray(streams.coin(_seeds(4000), 1))
  assert abs(heads.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
