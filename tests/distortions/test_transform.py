"""The bank as an augmentation, batch by batch and in a Grain pipeline."""

import grain
import jax
import jax.numpy as jnp
import numpy as np
import photos
import pytest

from jiqa.distortions import bank
from jiqa.distortions.transform import RandomDistort, random_distort
from jiqa.errors import UserError

# Without random numbers of their own: what they make can be made again.
KINDS = ("brighten", "contrast", "gaussian blur")
NUMBERS = bank.numbers(KINDS).tolist()


def images(count=24, shape=(24, 33)):
  return np.stack([np.roll(photos.bundled(*shape)[0], 3 * i, 1) for i in range(count)]).astype(np.float32) / 255


def test_a_batch_gets_the_chosen_kinds_and_levels_and_says_which():
  batch = images()
  augment = jax.jit(lambda images, key: random_distort(images, key, kinds=KINDS, levels=(1, 3), probability=0.6))
  first, again, other = (augment(batch, jax.random.key(seed)) for seed in (3, 3, 4))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert not np.array_equal(first[1], other[1])
  out, kinds, levels = map(np.asarray, first)
  left = kinds == -1
  assert 3 <= left.sum() <= 18  # 0.4 of 24 give or take three deviations
  np.testing.assert_array_equal(levels == -1, left)
  np.testing.assert_array_equal(out[left], batch[left])
  assert set(kinds[~left]) == set(NUMBERS)
  assert set(levels[~left]) == {1, 3}
  expected = bank.distort(batch[~left], kinds[~left], levels[~left], jax.random.key(9))
  np.testing.assert_allclose(out[~left], expected, atol=1.01 / 255)
  assert np.mean(np.abs(out[~left] - expected) > 1e-6) < 1e-3


def test_a_small_batch_compiles_the_chosen_kinds_alone():
  batch = jnp.asarray(images(2))
  kinds = ("contrast", "darken", "brighten")
  few = jax.jit(lambda x, k: random_distort(x, k, kinds=kinds)).lower(batch, jax.random.key(0)).compile()
  whole = jax.jit(lambda x, k: random_distort(x, k)).lower(batch, jax.random.key(0)).compile()
  assert len(few.as_text()) < len(whole.as_text()) / 4
  out, kinds, levels = few(batch, jax.random.key(0))
  np.testing.assert_allclose(out, bank.distort(batch, kinds, levels, jax.random.key(0)), atol=1e-6)


def test_every_image_of_a_pipeline_is_distorted_by_its_own_generator():
  stored = np.rint(images(40, (16, 20)) * 255).astype(np.uint8)
  source = [{"image": image, "label": i} for i, image in enumerate(stored)]
  step = RandomDistort(kinds=KINDS, levels=(2, 4), probability=0.7)
  first, again = (list(grain.MapDataset.source(source).seed(5).random_map(step)) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  kinds = np.array([element["distortion"] for element in first])
  assert 19 <= np.sum(kinds >= 0) <= 37  # 0.7 of 40 give or take three deviations
  assert set(kinds) == {-1, *NUMBERS}
  for image, element in zip(stored, first, strict=True):
    kind, level, out = element["distortion"], element["level"], element["image"]
    assert out.dtype == np.uint8
    assert element["label"] == source[element["label"]]["label"]
    if kind == -1:
      assert level == -1
      np.testing.assert_array_equal(out, image)
    else:
      assert level in (2, 4)
      expected = bank.distort(image[None] / np.float32(255), kind, level, jax.random.key(0))[0] * 255
      np.testing.assert_array_equal(out, np.rint(expected))


def test_floats_stay_floats():
  element = {"photo": images(1)[0].astype(np.float16)}
  out = RandomDistort(kinds=("darken",), levels=(4,), image="photo").random_map(element, np.random.default_rng(0))
  assert out["photo"].dtype == np.float16
  assert out["photo"].mean() < 0.5 * element["photo"].mean()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, bool])
def test_whole_numbers_of_another_range_are_refused(dtype):
  element = {"image": (images(1)[0] * 40_000).astype(dtype)}
  with pytest.raises(UserError, match=f"images are {np.dtype(dtype)}; expected float32"):
    RandomDistort(kinds=("darken",)).random_map(element, np.random.default_rng(0))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"kinds": ("jpg",)}, "'jpg'.*JPEG"),
    ({"levels": (5,)}, r"\[5\].*0.*4"),
    ({"probability": 1.5}, "1.5"),
    ({"levels": ()}, "levels"),
    ({"bank": "kadid10k"}, "kadid10k.*kadid25"),
  ],
)
def test_what_cannot_be_drawn_is_refused_at_once(options, message):
  with pytest.raises(UserError, match=message):
    RandomDistort(**options)
  with pytest.raises(UserError, match=message):
    random_distort(images(1), jax.random.key(0), **options)
