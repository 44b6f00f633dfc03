"""The windows of LIQE against published tables, and against unfolding a small image whole."""

import warnings

import numpy as np
import pytest
from PIL import Image

from jiqa.errors import UserError
from jiqa.methods.liqe import _crops as crops


def coordinates(height, width):
  """An image whose red and green say where a pixel is, modulo 256."""
  y, x = np.mgrid[:height, :width]
  return np.stack([y % 256, x % 256, y // 256 * 16 + x // 256], -1).astype(np.uint8)


def test_published_corners():
  expected = [(0, 0), (0, 624), (48, 432), (96, 240), (144, 48), (144, 672), (192, 480), (240, 288), (288, 96),
              (288, 720), (336, 528), (384, 336), (432, 144), (432, 768), (480, 576)]  # fmt: skip
  assert list(map(tuple, crops.corners(768, 1024, 224, 15, "official"))) == expected
  small = list(map(tuple, crops.corners(384, 512, 224, 15, "official")))
  assert small[:6] == [(0, 0), (0, 128), (0, 256), (32, 64), (32, 192), (64, 0)] and small[-1] == (160, 192)
  assert crops.grid(768, 1024, 224, 48) == (12, 17) and crops.grid(384, 512, 224, 32) == (6, 10)


@pytest.mark.parametrize(("size", "share"), [((768, 1024), 0.68), ((384, 512), 0.92), ((500, 500), 0.81),
                                             ((512, 768), 0.75)])  # fmt: skip
def test_published_coverage_and_the_better_one_of_uniform(size, share):
  covered = {}
  for policy in ("official", "uniform"):
    seen = np.zeros(size, bool)
    for top, left in crops.corners(*size, 224, 15, policy):
      assert 0 <= top <= size[0] - 224 and 0 <= left <= size[1] - 224
      seen[top : top + 224, left : left + 224] = True
    covered[policy] = seen.mean()
  assert covered["official"] == pytest.approx(share, abs=0.006)
  assert covered["uniform"] > covered["official"]
  assert covered["uniform"] == pytest.approx(min(1, covered["uniform"])) and covered["uniform"] > 0.83


@pytest.mark.parametrize("policy", ["official", "pyiqa"])
def test_crops_equal_those_of_the_whole_unfolded_grid(policy):
  image = coordinates(300, 1030)
  stride = {"official": 48, "pyiqa": 32}[policy]
  windows = np.lib.stride_tricks.sliding_window_view(image, (224, 224, 3))[::stride, ::stride, 0]
  windows = windows.reshape(-1, 224, 224, 3)
  np.testing.assert_array_equal(crops.eval_crops(image, 224, 15, policy), windows[:: len(windows) // 15][:15])


def test_resizing_is_pillows_and_leaves_what_is_not_large_both_ways():
  for size, expected in {
    (768, 1024): (768, 1024), (767, 5000): (767, 5000), (512, 768): (512, 768), (1536, 2048): (768, 1024),
    (6000, 8000): (768, 1024), (1201, 900): (1024, 768), (1000, 1000): (768, 768),
  }.items():  # fmt: skip
    assert crops.adaptive_resize(np.zeros((*size, 3), np.uint8)).shape == (*expected, 3), size
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (901, 1203, 3), dtype=np.uint8)
  resized = Image.fromarray(image).resize((int(768 * 1203 / 901), 768), Image.Resampling.BILINEAR)
  np.testing.assert_array_equal(crops.adaptive_resize(image), np.asarray(resized))
  assert (
    crops.eval_crops(image, 224, 15, "pyiqa").tobytes()
    == crops.cut(image, crops.corners(901, 1203, 224, 15, "pyiqa"), 224).tobytes()
  )


@pytest.mark.parametrize("size", [(100, 300), (224, 100), (1, 1), (223, 224)])
@pytest.mark.parametrize("policy", crops.POLICIES)
def test_small_images_are_enlarged_with_a_warning(size, policy):
  image = coordinates(*size)
  with pytest.warns(UserWarning, match=f"{size[1]}x{size[0]} pixels is smaller than the 224"):
    found = crops.eval_crops(image, 224, 15, policy)
  assert 1 <= len(found) <= 15 and found.shape[1:] == (224, 224, 3)


def test_a_thin_image_that_would_become_huge_is_refused():
  with pytest.warns(UserWarning, match="is enlarged"), pytest.raises(UserError, match="60000 x 1 pixels are too thin"):
    crops.eval_crops(np.zeros((1, 60_000, 3), np.uint8), 224, 15, "official")


def test_a_grid_of_few_windows_gives_each_once():
  with warnings.catch_warnings():
    warnings.simplefilter("error")  # 224 is not small
    found = crops.corners(224, 300, 224, 15, "official")
    assert found.tolist() == [[0, 0], [0, 32], [0, 64]]
    assert len(crops.eval_crops(coordinates(224, 300), 224, 15, "official")) == 3
    assert len(crops.eval_crops(coordinates(320, 320), 224, 15, "official")) == 15  # 16 windows


def test_training_crops_lie_on_the_grid_of_the_image_or_its_mirror_image():
  image = coordinates(384, 512)
  seen, mirrored = set(), 0
  for seed in range(60):
    found = crops.train_crops(image, 224, 3, "official", np.random.default_rng(seed))
    flipped = int(found[0, 0, 0, 1]) > int(found[0, 0, 1, 1]) or found[0, 0, 1, 1] == 255
    mirrored += bool(flipped)
    for window in found:
      top, left = int(window[0, 0, 0]), int(window[0, 0, 1]) + 256 * int(window[0, 0, 2] % 16)
      left = 511 - left if flipped else left
      seen.add((top, left))
      expected = (image[:, ::-1] if flipped else image)[top : top + 224, left : left + 224]
      np.testing.assert_array_equal(window, expected)
  assert all(top % 32 == 0 and left % 32 == 0 for top, left in seen)
  assert len(seen) > 50 and 20 < mirrored < 40  # 60 places, both ways round
  again = [crops.train_crops(image, 224, 3, "official", np.random.default_rng(7)) for _ in range(2)]
  np.testing.assert_array_equal(*again)
  off_grid = [crops.train_crops(image, 224, 3, "uniform", np.random.default_rng(s))[:, 0, 0, 0] for s in range(9)]
  assert (np.concatenate(off_grid) % 32 != 0).any()
