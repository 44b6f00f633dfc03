"""The published pairs, errors included, against the same steps in plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import reiqa as config_file
from jiqa.methods.reiqa import _pairs as reiqa_pairs
from jiqa.methods.reiqa import reiqa
from tests.helpers import mesh_of
from tests.methods.test_reiqa import tiny_config

CROP = 160


def draw(frame, height, width, seeds=200, crop=CROP):
  """Offsets and first corners, read off an image whose pixels say where they are."""
  y, x = np.mgrid[:height, :width].astype(np.float32)
  image = jnp.asarray(np.stack([y + 1, x + 1, np.ones_like(y)], -1))[None]  # 0 is black: outside
  run = jax.jit(jax.vmap(lambda k: reiqa_pairs.official_pair(k, image, jnp.array(frame), crop, jnp.array([False]))[0]))
  return np.asarray(run(jax.random.split(jax.random.key(0), seeds)))[:, :, 0]


def test_official_pairs_lie_below_and_to_the_right():
  pairs = draw((330, 350), 330, 350, 60)
  first, second = pairs[:, 0, 0, 0, :2] - 1, pairs[:, 1, 0, 0, :2] - 1
  offset = second - first
  assert offset[:, 0].min() >= 112 and offset[:, 0].max() <= 143
  assert offset[:, 1].min() >= 0 and offset[:, 1].max() <= 105
  overlap = (CROP - offset).prod(1) / CROP**2
  assert overlap.min() >= 0.1 and overlap.max() <= 0.3
  assert first.min() >= 0 and (first[:, 0] + offset[:, 0] + CROP <= 330).all()
  assert (first[:, 1] + CROP + offset[:, 0] <= 350).all()  # the window that holds both is a square
  assert len(np.unique(first, axis=0)) > 30


def test_small_images_get_black_bars_in_a_fixed_place():
  frame = (240, 320)
  pairs = draw(frame, 256, 330, 24)
  for first, second in pairs:
    real = first[..., 2].any(1).argmax()  # black rows at the top
    # y + 160 rows around 240: the bar is half of what is missing, and so is the column of the wider side.
    bottom_black = int((~second[..., 2].any(1)).sum())
    window = 240 + 2 * real + (bottom_black - real)
    assert 272 <= window <= 303 and real == (window - 240) // 2
    left = int(first[real, 0, 1]) - 1
    assert left == round((320 - window) / 2)


def swap_by_hand(image, first, second, crop):
  """In-place arithmetic on NumPy views of one array, as on the views of one tensor."""
  one = image[first[0] : first[0] + crop, first[1] : first[1] + crop]
  two = image[second[0] : second[0] + crop, second[1] : second[1] + crop]
  one += two.copy()
  two[:] = one.copy() - two.copy()
  one -= two.copy()


def test_the_exchange_in_place_goes_wrong_where_the_crops_overlap():
  rng = np.random.default_rng(0)
  wrong = []
  exchange = jax.jit(reiqa_pairs.exchange_in_place, static_argnums=3)
  for key in jax.random.split(jax.random.key(1), 12):
    offset = np.array(reiqa_pairs.draw_offset(key, CROP))
    image = rng.uniform(0, 1, (330, 330, 3))
    first = rng.integers(0, 20, 2)
    second = first + offset
    expected = image.copy()
    swap_by_hand(expected, first, second, CROP)
    ours = np.asarray(exchange(jnp.asarray(image, jnp.float32)[None], jnp.asarray(first), jnp.asarray(second), CROP))[0]
    np.testing.assert_allclose(ours, expected, atol=2e-6)
    cut = lambda a, at: a[at[0] : at[0] + CROP, at[1] : at[1] + CROP]
    wrong.append([np.abs(cut(ours, a) - cut(image, b)).max(-1) > 1e-4 for a, b in ((first, second), (second, first))])
    assert ours.min() < -0.5 and ours.max() > 1.5
  # Measured on the published code, 12 seeds: 32.5 % of the query's and 16.3 % of the key's pixels.
  query, key = np.mean(wrong, (0, 2, 3))
  assert query == pytest.approx(0.325, abs=0.05) and key == pytest.approx(0.163, abs=0.025)
  assert query == pytest.approx(2 * key, rel=1e-6)


def test_official_half_is_an_interpolation_with_aligned_corners():
  def cubic(d):
    d = abs(d)
    if d <= 1:
      return 1.25 * d**3 - 2.25 * d**2 + 1
    return -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3 if d < 2 else 0.0

  def by_loops(line, out):
    n, result = len(line), []
    for i in range(out):
      place = i * (n - 1) / (out - 1)
      base = int(np.floor(place))
      result.append(sum(cubic(place - j) * line[min(max(j, 0), n - 1)] for j in range(base - 1, base + 3)))
    return np.array(result)

  rng = np.random.default_rng(0)
  image = rng.uniform(0, 1, (27, 22, 3)).round()  # hard edges overshoot
  padded = np.full((1, 32, 32, 3), 9.0, np.float32)
  padded[0, :27, :22] = image
  ours = np.asarray(reiqa_pairs.official_half(jnp.asarray(padded), jnp.array([27, 22])))[0, :13, :11]
  expected = np.apply_along_axis(by_loops, 1, np.apply_along_axis(by_loops, 0, image, 13), 11)
  np.testing.assert_allclose(ours, expected, atol=1e-5)
  assert ours.max() > 1.02 and ours.min() < -0.02


def test_official_crops_spoil_the_half_scale_only_where_the_pair_lies_inside():
  config = tiny_config(compat="official", loss="queue", queue=64, crop=32, window=80, versions=4, kinds=(14, 17, 13))
  method = reiqa.ReIQA(config, mesh_of(1))
  images = np.random.default_rng(0).integers(60, 190, (8, 80, 80, 3), dtype=np.uint8)
  size = np.tile(np.int32([80, 80]), (8, 1))
  size[4:] = 50  # too small for a pair of 32 pixels, which needs 55 to 61
  crops, _ = jax.jit(method.crop_pairs)({"image": images, "size": size}, jax.random.key(0))
  crops = np.asarray(crops)
  outside = ((crops < -0.05) | (crops > 1.05)).any((-1, -2, -3))  # [2, b, s, v]
  assert outside[:, :4, 0, :2].all()  # exchanged versions
  assert not outside[:, :, 0, 2:].any()
  assert outside[:, :4, 1, :2].any()  # scale 2 of the versions that scale 1 has spoiled
  assert not outside[:, 4:, 1, :2].any()
  assert (crops[0, 4:, 0, 2:, 0] == 0).all()  # black bars above
  fixed = tiny_config(compat="fixed", loss="queue", queue=64, crop=32, window=80, versions=4, kinds=(14, 17, 13))
  assert np.asarray(
    reiqa.ReIQA(fixed, mesh_of(1)).preprocess_train(images[0, :20], {}, np.random.default_rng(0))["size"]
  ).tolist() == [
    64,
    80,
  ]
  assert method.preprocess_train(images[0, :20], {}, np.random.default_rng(0))["size"].tolist() == [20, 80]


def test_unknown_compat_is_refused():
  with pytest.raises(ValueError, match="'published'; expected one of fixed, official"):
    reiqa.ReIQA(tiny_config(compat="published"), mesh_of(1)).check_training()
  with pytest.raises(ValueError, match="knows"):
    reiqa.ReIQA(tiny_config(compat="official", scales=(1, 3), window=96), mesh_of(1)).check_training()
  assert config_file.get_config().compat == "fixed"
