"""Every kind with compat='official' against the PIL, SciPy and scikit-image bank in reference_bank.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import photos
import pytest
import reference_bank

from jiqa.distortions import bank, streams

H, W = 160, 208
RANDOM = (3, 7, 8, 9, 10, 11, 18, 20, 21, 25)
DETERMINISTIC = tuple(kind for kind in range(26) if kind not in RANDOM)


@functools.cache
def _jitted(kind, compat="official"):
  return jax.jit(functools.partial(bank.BANKS["reiqa26"][kind][1], compat=compat))


def _seeds(count, seed=0):
  return streams.seeds_of(jax.random.split(jax.random.key(seed), count))


def _ours(kind, photo, levels, seed=0, compat="official"):
  """The photo at every level, as 8-bit images."""
  planes = np.repeat(photo[None].swapaxes(2, 3).astype(np.float32) / 255, len(levels), axis=0)
  out = _jitted(kind, compat)(planes, jnp.asarray(levels), _seeds(len(levels), seed))
  return np.rint(np.asarray(out).swapaxes(2, 3) * 255)


def _check_deterministic(kind, photo):
  ours = _ours(kind, photo, range(5))
  for level in range(5):
    reference = reference_bank.KINDS[kind](photo, level, None)
    close = np.mean(np.abs(ours[level] - reference) <= 2)
    assert close >= 0.99, (bank.names()[kind], level, close)
    # PSNR to the photo; beyond 45 dB a few single grey levels decide, and the agreement above says more.
    wanted, got = (min(photos.psnr(image, photo), 45) for image in (reference, ours[level]))
    assert abs(wanted - got) < 0.5, (bank.names()[kind], level, wanted, got)


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_deterministic_kinds_agree_on_bundled_photos(kind):
  for photo in photos.bundled(H, W):
    _check_deterministic(kind, photo)


@pytest.mark.parametrize("kind", DETERMINISTIC)
def test_deterministic_kinds_agree_on_kodak(kind, real_data):
  for photo in photos.kodak(real_data, H, W):
    _check_deterministic(kind, photo)


# Additive and pointwise noise: one image of 100,000 values fixes mean, variance and PSNR; jitter deviates knowingly.
@pytest.mark.parametrize(("kind", "decibels"), [(7, 0.15), (8, 0.15), (10, 0.25), (21, 0.6)])
def test_noise_agrees_in_mean_variance_and_psnr(kind, decibels):
  photo = photos.bundled(H, W)[1]
  ours = _ours(kind, photo, range(5))
  for level in range(5):
    reference = reference_bank.KINDS[kind](photo, level, np.random.default_rng(level))
    errors = [image.astype(float) - photo for image in (ours[level], reference)]
    assert abs(errors[0].mean() - errors[1].mean()) < 4 * errors[1].std() * np.sqrt(2 / (H * W))
    assert abs(photos.psnr(ours[level], photo) - photos.psnr(reference, photo)) < decibels
    assert errors[0].std() == pytest.approx(errors[1].std(), rel=0.08)


def test_impulses_hit_the_right_share_in_equal_parts():
  photo = np.full((H, W, 3), 100, np.uint8)
  share = {level: [] for level in range(5)}
  for seed in range(4):
    for level, image in enumerate(_ours(9, photo, range(5), seed)):
      changed = np.any(image != photo, axis=-1)
      assert set(np.unique(image[changed])) <= {0, 255}
      assert np.all(image[changed].std(axis=-1) == 0)  # all three channels together
      share[level].append([np.mean(image[..., 0] == value) for value in (0, 255)])
  for level, wanted in enumerate((0.001, 0.005, 0.01, 0.02, 0.03)):
    got = np.mean(share[level], axis=0)
    assert got == pytest.approx([wanted / 2, wanted / 2], abs=4 * np.sqrt(wanted / 2 / (4 * H * W)))


def test_denoise_is_one_of_the_two_blurs_of_a_noisy_photo():
  photo = photos.bundled(H, W)[0]
  candidates = {blur: _denoised(photo, blur) for blur in ("gaussian", "box")}
  seen = set()
  for image in _ours(11, photo, [2] * 12):
    agreement = {blur: photos.psnr(image, wanted) for blur, wanted in candidates.items()}
    best = max(agreement, key=agreement.get)
    seen.add(best)
    assert agreement[best] > max(34, min(agreement.values()) + 3)  # only the remaining noise differs
    assert abs(photos.psnr(image, photo) - photos.psnr(candidates[best], photo)) < 0.2
  assert seen == {"gaussian", "box"}


def _denoised(photo, blur):
  """The reference with its coin held."""

  class Held:
    def __init__(self):
      self.generator = np.random.default_rng(5)
      self.normal = self.generator.normal

    def random(self):
      return 0.0 if blur == "gaussian" else 1.0

  return reference_bank.denoise(photo, 2, Held())


def test_color_shift_agrees_when_the_direction_does():
  photo = photos.bundled(H, W)[0]
  ours = _ours(3, photo, range(5))
  edges = reference_bank.edge_map(photo)
  draws = np.asarray(streams.uniforms(_seeds(5), 0, 2), float)
  for level, amount in enumerate((1, 3, 6, 8, 12)):
    first, second = np.round(amount * draws[level] / np.linalg.norm(draws[level])).astype(int)
    values = photo / 255
    values[..., 1] = reference_bank.shift_green(photo, first, second) * edges + values[..., 1] * (1 - edges)
    assert np.mean(np.abs(ours[level] - np.floor(values * 255)) <= 2) > 0.999


def test_fixed_color_shift_moves_green_down_and_right():
  photo = photos.bundled(H, W)[0]
  for level, image in enumerate(_ours(3, photo, range(5), compat="fixed")):
    draws = np.asarray(streams.uniforms(_seeds(5), 0, 2), float)[level]
    down, right = np.round((1, 3, 6, 8, 12)[level] * draws / np.linalg.norm(draws)).astype(int)
    green = np.pad(photo[..., 1], 12, mode="symmetric")[12 - down : 12 - down + H, 12 - right : 12 - right + W]
    edges = reference_bank.edge_map(photo)
    wanted = green * edges + photo[..., 1] * (1 - edges)
    assert np.mean(np.abs(image[..., 1] - wanted) <= 2) > 0.999
    np.testing.assert_array_equal(image[..., [0, 2]], photo[..., [0, 2]])


def test_motion_blur_agrees_in_one_direction_or_the_other():
  photo = photos.bundled(H, W)[0]
  directions = set()
  for seed in range(2):
    for level, image in enumerate(_ours(25, photo, range(5), seed)):
      matches = [np.mean(np.abs(image - reference_bank.move(photo, level, v)) <= 2) for v in (False, True)]
      assert max(matches) > 0.99
      directions.add(int(np.argmax(matches)))
  assert directions == {0, 1}


def test_fixed_motion_blur_keeps_the_image_in_place():
  yy, xx = np.mgrid[:H, :W]
  ramp = np.stack([yy, xx, yy], axis=-1)[..., :].astype(np.uint8)
  inner = slice(20, -20), slice(20, -20)
  for image in _ours(25, ramp, range(5), compat="fixed"):
    np.testing.assert_array_equal(image[inner], ramp[inner])
  moved = _ours(25, ramp, range(5))[0][inner] - ramp[inner]
  assert moved.min() < -0.5  # the published code's image has moved


def _words(seed, count):
  """The first random words of every level's seed as Python integers in [0, 2^32), [4][level][count]."""
  return [words.tolist() for words in map(np.asarray, streams.words(_seeds(5, seed), 0, count))]


def _between(word, size):
  """A whole number below `size` from the upper 24 bits of a word."""
  return int((word >> 8) / 2**24 * size)


def test_blocks_lie_inside_and_later_ones_on_top():
  photo = np.full((H, W, 3), 100, np.uint8)
  for seed in range(3):
    tops, lefts, colors, _ = _words(seed, 10)
    for level, image in enumerate(_ours(18, photo, range(5), seed)):
      wanted = photo.copy()
      for i in range((2, 4, 6, 8, 10)[level]):
        top, left = _between(tops[level][i], H - 32), _between(lefts[level][i], W - 32)
        wanted[top : top + 32, left : left + 32] = [colors[level][i] >> shift & 255 for shift in (0, 8, 16)]
      np.testing.assert_array_equal(image, wanted)


def test_patches_are_copied_one_after_the_other_and_agree_in_strength():
  photo = photos.bundled(H, W)[0]
  ours = [_ours(20, photo, range(5), seed) for seed in range(8)]
  strength = np.mean([[photos.psnr(image, photo) for image in images] for images in ours], axis=0)
  draws = [[np.random.default_rng((seed, level)) for level in range(5)] for seed in range(8)]
  reference = [
    [photos.psnr(reference_bank.patches(photo, i, rng), photo) for i, rng in enumerate(row)] for row in draws
  ]
  np.testing.assert_allclose(strength, np.mean(reference, axis=0), atol=1.5)
  tops, lefts, downs, rights = _words(0, 100)
  for level, count in enumerate((20, 40, 60, 80, 100)):
    wanted = photo.copy()
    for i in range(count):
      top, left = 16 + _between(tops[level][i], H - 48), 16 + _between(lefts[level][i], W - 48)
      down, right = (int(((moves[level][i] >> 8) / 2**24 - 0.5) * 16) for moves in (downs, rights))
      patch = wanted[top : top + 16, left : left + 16].copy()
      wanted[top + down : top + down + 16, left + right : left + right + 16] = patch
    np.testing.assert_array_equal(ours[0][level], wanted)


def test_fixed_sharpening_sharpens():
  for photo in photos.bundled(H, W):
    for level, image in enumerate(_ours(16, photo, range(5), compat="fixed")):
      wanted = reference_bank.sharpen_properly(photo, level)
      assert np.mean(np.abs(image - wanted) <= 2) > 0.99


def test_fixed_mode_has_no_brightness_bias():
  """Truncation darkens by about half a level; rounding does not."""
  photo = photos.bundled(H, W)[1]
  for kind in (1, 7, 17):
    official, fixed = (_ours(kind, photo, [1], compat=compat)[0] for compat in ("official", "fixed"))
    assert (official - fixed).mean() == pytest.approx(-0.5, abs=0.1)
