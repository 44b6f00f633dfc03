"""`bank.distort` as a function of a library: names, scalars, NumPy; compiled once, and only what is asked for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import photos
import pytest

from jiqa.distortions import bank
from jiqa.distortions.planes import to_images, to_planes
from jiqa.errors import UserError

SHAPE = (24, 34)


def images(count):
  return np.stack([np.roll(photos.bundled(*SHAPE)[0], 3 * i, 1) for i in range(count)]).astype(np.float32) / 255


def by_table(batch, kind, level, name="reiqa26"):
  function = dict(bank.BANKS[name])[kind]
  levels, seeds = jnp.full(len(batch), level), jnp.zeros((len(batch), 2), jnp.uint32)
  return np.asarray(to_images(jax.jit(functools.partial(function, compat="fixed"))(to_planes(batch), levels, seeds)))


def test_a_kind_goes_by_its_name_or_number_for_one_image_or_all():
  batch, key = images(3), jax.random.key(0)
  expected = by_table(batch, "saturation HSV", 3)
  for kind in ("saturation HSV", "saturation_hsv", 4, np.int64(4), [4, "Saturation-HSV", 4], jnp.array([4, 4, 4])):
    for pixels, level in ((batch, 3), (jnp.asarray(batch), np.array([3, 3, 3], np.int8))):
      np.testing.assert_allclose(bank.distort(pixels, kind, level, key), expected, atol=1e-6)
  in_kadid = bank.distort(batch, "JPEG", 1, key, bank="kadid25")
  np.testing.assert_allclose(in_kadid, by_table(batch, "JPEG", 1, "kadid25"), atol=1e-6)


def test_a_mixed_batch_is_compiled_kind_by_kind_and_once(caplog):
  batch, keys = images(5), jax.random.split(jax.random.key(1), 5)
  kinds, levels = ["contrast", "darken", "contrast", "white noise", "darken"], [0, 1, 4, 2, 3]
  first = bank.distort(batch, kinds, levels, keys)
  for row in (0, 1, 2, 4):
    np.testing.assert_allclose(first[row], by_table(batch, kinds[row], levels[row])[row], atol=1e-6)
  with jax.log_compiles():
    caplog.clear()
    # Another mixture and other levels of the same kinds, and one kind that is new.
    second = bank.distort(batch, ["white noise", "contrast", "darken", "darken", "colour block"], [3, 4, 3, 2, 0], keys)
    bank.distort(batch, "white noise", 0, keys)
  compiled = [record.message for record in caplog.records if "_distort_one" in record.message]
  assert len([message for message in compiled if message.startswith("Compiling")]) == 1
  np.testing.assert_allclose(second[1], by_table(batch, "contrast", 4)[1], atol=1e-6)
  alone = bank.distort(batch[3:4], "white noise", 2, keys[3:4])
  np.testing.assert_array_equal(first[3], alone[0])  # an image's own key, whatever the batch


def test_known_kinds_inside_jit_and_grad_compile_nothing_else():
  batch, key = images(3), jax.random.key(2)
  few = jax.jit(lambda x: bank.distort(x, ["darken", "JPEG", "darken"], [0, 2, 4], key)).lower(batch).compile()
  everything = jax.jit(bank.distort).lower(batch, jnp.zeros(3, int), jnp.zeros(3, int), key).compile()
  assert len(few.as_text()) < len(everything.as_text()) / 4
  eager = bank.distort(batch, ["darken", "JPEG", "darken"], [0, 2, 4], key)
  np.testing.assert_allclose(few(batch), eager, atol=1.01 / 255)
  slope = jax.grad(lambda x: bank.distort(x, "saturation HSV", 2, key).sum())(jnp.asarray(batch))
  assert np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_traced_levels_and_kinds_that_do_not_exist_are_nan():
  batch, key = images(4), jax.random.key(2)
  out = jax.jit(lambda x, level: bank.distort(x, "darken", level, key))(batch, jnp.array([-1, 4, 5, 0]))
  np.testing.assert_array_equal(np.isnan(out).all((1, 2, 3)), [True, False, True, False])
  np.testing.assert_allclose(out[1], by_table(batch, "darken", 4)[1], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_images_of_half_precision_are_distorted_in_single_precision(dtype):
  batch, key = jnp.asarray(images(2)).astype(dtype), jax.random.key(2)
  distort = functools.partial(bank.distort, kinds=["JPEG", "colour diffusion"], levels=3, key=key)
  expected = distort(batch.astype(jnp.float32))
  for function, tolerance in ((distort, 0), (jax.jit(distort), 1.01 / 255)):
    out = function(batch)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, rtol=0, atol=tolerance)


def test_a_batch_of_no_images_is_refused():
  distort = functools.partial(bank.distort, kinds="darken", levels=1, key=jax.random.key(0))
  for function in (distort, jax.jit(distort)):
    with pytest.raises(UserError, match=r"\(0, 24, 34, 3\).*one image at least"):
      function(images(1)[:0])


@pytest.mark.parametrize(
  ("kinds", "levels", "message"),
  [
    ("jpg", 0, "'jpg'.*JPEG"),
    (26, 0, "26.*0 to 25"),
    (-1, 0, "-1"),
    ([0, 1], 0, r"kinds.*\(2,\).*3 images"),
    (0, 5, "5.*0.*4"),
    (0, [0, -1, 2], "-1"),
    (0, 2.0, "2.0"),
    (0, [1, 2], r"levels.*\(2,\).*3 images"),
    (1.0, 2, "1.0"),
  ],
)
def test_unknown_kinds_and_levels_are_refused(kinds, levels, message):
  with pytest.raises(UserError, match=message):
    bank.distort(images(3), kinds, levels, jax.random.key(0))
