"""Dispatch: every request gets its own kind, level and random numbers, whatever it is computed together with."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jiqa.distortions import bank, blur, streams
from jiqa.distortions.planes import to_images, to_planes
from jiqa.errors import UserError
from jiqa.runtime.sharding import batch_sharding, make_mesh

SHAPE = (33, 47)
COLLECTIVES = re.compile(r" (all-gather|all-to-all|collective-permute|all-reduce)(-start)?\(")
IMAGES, VERSIONS = 16, 11
distort = jax.jit(bank.distort, static_argnames=("compat", "bank", "tile"))
distort_versions = jax.jit(
  bank.distort_versions, static_argnames=("allowed", "groups", "compat", "bank", "mesh", "dtype")
)


def _images(count=IMAGES, shape=SHAPE, seed=0):
  """Smooth random images on the 8-bit grid."""
  coarse = np.random.default_rng(seed).random((count, 5, 6, 3)).astype(np.float32)
  return jnp.round(jax.image.resize(coarse, (count, *shape, 3), "cubic").clip(0, 1) * 255) / 255


def _sharded(*parts):
  mesh = make_mesh(jax.devices())
  return mesh, [jax.device_put(part, batch_sharding(mesh)) for part in parts]


@pytest.fixture(scope="module")
def batch():
  """A training batch and its distorted versions."""
  keys = jax.random.split(jax.random.key(3), IMAGES)
  kinds = bank.cyclic_kinds(jax.random.key(1), IMAGES, VERSIONS)
  levels = jax.random.randint(jax.random.key(2), (IMAGES, VERSIONS), 0, 5)
  images = _images()
  return images, kinds, levels, keys, np.asarray(distort_versions(images, kinds, levels, keys))


def test_versions_as_bytes_are_the_same_pixels(batch):
  images, kinds, levels, keys, versions = batch
  kinds = kinds.at[2, 3].set(26)  # there is no such kind
  out = np.asarray(distort_versions(images, kinds, levels, keys, dtype=jnp.uint8))
  expected = np.rint(versions * 255).astype(np.uint8)
  expected[2, 3] = 0
  assert out.dtype == np.uint8 and np.mean(out != expected) < 1e-3 and np.abs(out - expected.astype(int)).max() <= 1
  small = [part[:2, :3] for part in (kinds, levels)]  # fewer requests than kinds
  out = np.asarray(distort_versions(images[:2], *small, keys[:2], dtype=jnp.uint8))
  assert out.dtype == np.uint8 and np.abs(out - expected[:2, :3].astype(int)).max() <= 1


def _version_keys(keys):
  return jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(VERSIONS)))(keys)


def test_versions_are_what_each_kind_makes_alone(batch):
  images, kinds, levels, keys, versions = batch
  assert versions.shape == (IMAGES, VERSIONS, *SHAPE, 3)
  seeds = streams.seeds_of(_version_keys(keys))
  for kind in (3, 7, 11, 20, 21):
    function = bank.BANKS["reiqa26"][kind][1]
    i, j = (int(index[0]) for index in np.nonzero(np.asarray(kinds) == kind))
    alone = jax.jit(functools.partial(function, compat="fixed"))
    alone = to_images(alone(to_planes(images[i : i + 1]), levels[i, j][None], seeds[i, j][None]))
    np.testing.assert_allclose(versions[i, j], alone[0], atol=1.01 / 255)
    # Separately compiled programs may round a tie differently, in single values.
    assert np.mean(np.abs(versions[i, j] - alone[0]) > 1e-6) < 1e-3


def test_versions_are_8_bit_images(batch):
  scaled = batch[-1] * 255
  assert scaled.min() >= 0
  assert scaled.max() <= 255
  np.testing.assert_allclose(scaled, np.rint(scaled), atol=1e-4)


@pytest.fixture(scope="module")
def requests(batch):
  """The same versions as single requests of `distort`: 26 images a call, so that one program serves all."""
  images, kinds, levels, keys, _ = batch
  image = np.repeat(np.arange(IMAGES), VERSIONS)
  return images[image], kinds.ravel(), levels.ravel(), _version_keys(keys).ravel()


def test_an_image_does_not_depend_on_its_batch(batch, requests):
  expected = batch[-1].reshape(-1, *SHAPE, 3)
  order = np.random.default_rng(0).permutation(len(expected))
  for rows in (order[:26], np.sort(order[26:52]), np.tile(order[:2], 13)):
    got = distort(*(part[rows] for part in requests), tile=3)
    np.testing.assert_array_equal(got, expected[rows])


def test_skewed_requests_are_all_served(requests):
  """One kind for nearly all images: the worst case for blocks, nothing special for tiles."""
  images, _, levels, keys = (part[:26] for part in requests)
  kinds = jnp.full(26, 13, jnp.int32).at[5].set(0).at[6].set(26).at[7].set(-1)
  got = np.asarray(distort(images, kinds, levels, keys, tile=3))
  darken = to_images(bank.BANKS["reiqa26"][13][1](to_planes(images), levels))
  assert np.isnan(got[6:8]).all()  # there are no such kinds
  rows = np.delete(np.arange(26), (5, 6, 7))
  np.testing.assert_allclose(got[rows], darken[rows], atol=1e-6)
  assert not np.allclose(got[5], darken[5], atol=1e-3)


def test_sharded_over_devices_without_moving_images(batch):
  images, _, levels, keys, _ = batch
  # One kind of every sort. Lens blur, an FFT on a CPU only, has its own test: XLA gathers a batch for an FFT.
  allowed = (2, 3, 6, 11, 18, 20, 21, 25)
  kinds = bank.cyclic_kinds(jax.random.key(1), IMAGES, VERSIONS, allowed)
  _, parts = _sharded(images, kinds, levels, keys)
  program = distort_versions.lower(*parts, groups=8, allowed=allowed).compile()
  assert not COLLECTIVES.search(program.as_text())
  out = program(*parts)
  assert out.sharding.shard_shape(out.shape)[0] == IMAGES // 8
  rows = np.arange(26)
  image, version_keys = rows // VERSIONS, _version_keys(keys).ravel()[rows]
  wanted = distort(images[image], kinds.ravel()[rows], levels.ravel()[rows], version_keys, tile=3)
  np.testing.assert_array_equal(np.asarray(out).reshape(-1, *SHAPE, 3)[rows], wanted)


def test_each_device_computes_its_group_for_itself_whatever_the_kinds(batch):
  images, _, levels, keys, _ = batch
  allowed = (1, 7, 13)  # lens blur, an FFT on a CPU, is among them
  kinds = bank.cyclic_kinds(jax.random.key(1), IMAGES, VERSIONS, allowed)
  mesh, parts = _sharded(images, kinds, levels, keys)
  program = distort_versions.lower(*parts, groups=8, allowed=allowed, mesh=mesh).compile()
  assert not COLLECTIVES.search(program.as_text())
  expected = distort_versions(images, kinds, levels, keys, groups=8, allowed=allowed)
  np.testing.assert_allclose(program(*parts), expected, atol=1.01 / 255)
  assert np.mean(np.asarray(program(*parts)) != np.asarray(expected)) < 1e-3


def test_images_of_a_block_one_by_one_are_what_they_are_together(batch):
  """As on TPUs."""
  images, _, levels, *_ = batch
  allowed = (3, 7, 13)
  kinds = bank.cyclic_kinds(jax.random.key(1), IMAGES, VERSIONS, allowed).at[0, 0].set(5)
  seeds = streams.seeds_of(jax.random.split(jax.random.key(2), IMAGES * VERSIONS))
  table, parts = bank.BANKS["reiqa26"], (to_planes(images), kinds.ravel(), levels.ravel(), seeds)
  blocks = jax.jit(
    functools.partial(bank._by_blocks, table=table, allowed=allowed, compat="fixed", dtype=jnp.float32),
    static_argnames="singly",
  )
  one_by_one, together = (np.asarray(blocks(*parts, singly=singly)) for singly in (True, False))
  assert np.isnan(one_by_one[0]).all() and np.isfinite(one_by_one[1:]).all()
  np.testing.assert_allclose(one_by_one[1:], together[1:], atol=1.01 / 255)
  assert np.mean(one_by_one[1:] != together[1:]) < 1e-3
  loops = [blocks.lower(*parts, singly=singly).as_text().count("stablehlo.while") for singly in (True, False)]
  assert loops[0] - loops[1] == len(allowed)


def test_both_forms_of_lens_blur_agree_and_products_stay_on_their_device():
  planes, levels = to_planes(_images(8, (40, 70))), jnp.arange(8) % 5
  forms = [functools.partial(form, strengths=(1, 2, 4, 6, 8)) for form in (blur.disc_by_fft, blur.disc_by_products)]
  first, second = (jax.jit(form)(planes, levels) for form in forms)
  np.testing.assert_allclose(first, second, atol=0.1 / 255)
  assert not COLLECTIVES.search(jax.jit(forms[1]).lower(*_sharded(planes, levels)[1]).compile().as_text())


def test_only_allowed_kinds_are_computed_and_others_are_not_passed_over(batch):
  images, _, levels, keys, _ = batch
  allowed = (4, 13, 14, 17)
  kinds = bank.cyclic_kinds(jax.random.key(5), IMAGES, 4, allowed)
  assert set(np.unique(kinds)) == set(allowed)
  program = distort_versions.lower(images, kinds, levels[:, :4], keys, allowed=allowed).compile()
  everything = IMAGES * 4 * np.prod(SHAPE) * 3
  assert program.cost_analysis()["flops"] < 60 * everything  # the whole bank needs thousands a value
  out = program(images, kinds, levels[:, :4], keys)
  assert np.all(np.isfinite(out))
  stray = program(images, kinds.at[0, 0].set(0), levels[:, :4], keys)
  assert np.all(np.isnan(stray[0, 0]))
  np.testing.assert_array_equal(stray[1:], out[1:])


@pytest.mark.parametrize(("images", "versions", "allowed"), [(26, 11, 26), (7, 5, 12), (3, 2, (1, 4, 9)), (64, 11, 26)])
def test_cyclic_kinds_are_balanced_and_distinct(images, versions, allowed):
  kinds = np.asarray(bank.cyclic_kinds(jax.random.key(7), images, versions, allowed))
  wanted = range(allowed) if isinstance(allowed, int) else allowed
  assert all(len(set(row)) == versions for row in kinds)
  for part in (kinds, kinds[: images // 2], kinds[images // 3 :]):
    counts = [np.sum(part == kind) for kind in wanted]
    assert sum(counts) == part.size
    assert max(counts) - min(counts) <= 1


def test_every_kind_is_equally_likely_for_every_image():
  draw = jax.jit(jax.vmap(lambda key: bank.cyclic_kinds(key, 3, 4, 6)))
  kinds = np.asarray(draw(jax.random.split(jax.random.key(0), 3000)))
  shares = np.mean(kinds[..., None] == np.arange(6), axis=0)
  np.testing.assert_allclose(shares, 1 / 6, atol=5 * np.sqrt(5 / 36 / 3000))


def test_one_key_gives_every_image_its_own_noise():
  images, kinds, levels = jnp.full((2, *SHAPE, 3), 0.5), jnp.full((2, 2), 7), jnp.zeros((2, 2), int)
  noise = jax.jit(lambda key: bank.distort_versions(images, kinds, levels, key, allowed=(7,)))
  first, again, other = (np.asarray(noise(jax.random.key(seed))).reshape(4, -1) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  correlation = np.corrcoef(np.concatenate([first, other])) - np.eye(8)
  assert np.abs(correlation).max() < 0.06  # 4,653 values each


@pytest.mark.parametrize(
  ("images", "options", "message"),
  [
    (np.zeros((1, 7, 40, 3), np.float32), {}, "7x40.*at least 8"),
    (np.zeros((1, 16, 16, 1), np.float32), {}, "expected \\[b, h, w, 3\\]"),
    (np.zeros((1, 16, 16, 3), np.uint8), {}, "uint8.*255"),
    (np.zeros((1, 16, 16, 3), np.float32), {"bank": "kadid10k"}, "kadid10k.*kadid25"),
    (np.zeros((1, 16, 16, 3), np.float32), {"compat": "exact"}, "exact.*official"),
  ],
)
def test_bad_input_is_named(images, options, message):
  with pytest.raises(UserError, match=message):
    bank.distort(jnp.asarray(images), jnp.zeros(1, int), jnp.zeros(1, int), jax.random.key(0), **options)


def test_bad_groups_and_keys_are_named():
  images, kinds = _images(3), jnp.zeros((3, 2), int)
  with pytest.raises(UserError, match=r"3 images.*2 groups"):
    bank.distort_versions(images, kinds, kinds, jax.random.key(0), groups=2)
  four, two = jnp.zeros((4, 2), int), jnp.zeros((2, 2), int)  # an index beyond the images would give the last one
  for wrong, levels in ((four, four), (two, two), (kinds, kinds[:, :1]), (kinds[:, 0], kinds[:, 0])):
    with pytest.raises(UserError, match=r"kinds are .*expected both \[b, v\] for 3 images"):
      bank.distort_versions(images, wrong, levels, jax.random.key(0))
  with pytest.raises(UserError, match=r"typed key"):
    bank.distort(images, kinds[:, 0], kinds[:, 0], jax.random.PRNGKey(0))
  with pytest.raises(UserError, match="3 images"):
    bank.distort_versions(images, kinds, kinds, jax.random.split(jax.random.key(0), 2))


@pytest.mark.parametrize("count", [1, 3])  # by tiles, and in blocks
def test_versions_of_no_level_are_nan(count):
  images, kinds = _images(count, (9, 12)), jnp.tile(jnp.array([[12, 13, 14]]), (count, 1))
  levels = jnp.tile(jnp.array([[2, 7, 1]]), (count, 1)).at[0, 2].set(-1)
  allowed = (12, 13, 14, 24) if count == 1 else (14, 13, 12)
  out = np.asarray(distort_versions(images, kinds, levels, jax.random.key(0), allowed=allowed))
  wrong = np.isnan(out).all((2, 3, 4))
  np.testing.assert_array_equal(wrong, (levels < 0) | (levels > 4))
  alone = np.asarray(bank.distort(images[:1], [12], [2], jax.random.key(0)))
  np.testing.assert_array_equal(out[0, 0], alone[0])
  assert np.isfinite(out[~wrong]).all()


@pytest.mark.parametrize(
  ("allowed", "options", "message"),
  [
    ((3, 26), {}, "kind 26 is not in reiqa26: use 0 to 25"),
    (26, {"bank": "kadid25"}, "kind 25 is not in kadid25: use 0 to 24"),
    ((-1,), {}, "kind -1 is not in reiqa26"),
    ((), {}, "no kind of reiqa26 is allowed"),
  ],
)
def test_kinds_that_the_bank_does_not_have_are_named(allowed, options, message):
  kinds = jnp.zeros((1, 2), int)
  with pytest.raises(UserError, match=message):
    bank.distort_versions(_images(1), kinds, kinds, jax.random.key(0), allowed=allowed, **options)


def test_gradients_of_all_kinds_are_finite():
  # Black, grey and white are where roots and logarithms break.
  planes = to_planes(_images(3, (16, 16)).at[0].set(0.0).at[1].set(0.5).at[2, :8].set(1.0))
  weight = np.random.default_rng(0).normal(size=planes.shape).astype(np.float32)

  def loss(planes, function):
    seeds = streams.seeds_of(jax.random.split(jax.random.key(0), 3))
    return jnp.sum(weight * function(planes, jnp.asarray([1, 2, 3]), seeds))

  @jax.jit
  def gradients(planes):
    return {name: jax.grad(loss)(planes, function) for name, function in bank.BANKS["reiqa26"]}

  for name, gradient in gradients(planes).items():
    assert np.all(np.isfinite(gradient)), name
    if name in ("lens blur", "colour shift", "sharpen", "jitter", "white noise", "contrast"):
      assert np.abs(gradient[2]).max() > 0, name
