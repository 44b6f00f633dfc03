"""The demo set: windows that do not overlap, labels that are SSIM and get worse with the level, the same every time."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from data_builders import demo


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
  """One photograph with one window, rendered twice."""
  tables, folders = [], []
  for _ in range(2):
    folders.append(tmp_path_factory.mktemp("demo"))
    tables.append(pd.DataFrame(list(demo._render(folders[-1], "chelsea"))))
  return tables, folders


def _ssim(x, y):
  """Wang et al. 2004 with a uniform 7x7 window and sample covariances, in float64, mean over the colours."""
  values = []
  for channel in range(3):
    a, b = x[..., channel].astype(float), y[..., channel].astype(float)
    mean_a, mean_b = ndimage.uniform_filter(a, 7), ndimage.uniform_filter(b, 7)
    sample = 49 / 48
    var_a = sample * (ndimage.uniform_filter(a * a, 7) - mean_a**2)
    var_b = sample * (ndimage.uniform_filter(b * b, 7) - mean_b**2)
    cov = sample * (ndimage.uniform_filter(a * b, 7) - mean_a * mean_b)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    values.append(ssim[3:-3, 3:-3].mean())
  return np.mean(values)


def test_windows_lie_inside_and_apart():
  images = 0
  for name, (file, (width, height), corners) in demo.PHOTOGRAPHS.items():
    with Image.open(file) as image:
      covered = np.zeros((image.height, image.width), int)
    for left, top in corners:
      assert left + width <= covered.shape[1], name
      assert top + height <= covered.shape[0], name
      covered[top : top + height, left : left + width] += 1
    assert covered.max() == 1, f"windows of {name} overlap"
    images += len(corners) * (1 + 5 * len(demo.DISTORTIONS))
  assert (images, len(demo.PHOTOGRAPHS)) == (demo.Builder.IMAGES, demo.Builder.REFERENCES)


def test_labels_are_ssim_to_the_pristine_window(rendered):
  (table, _), (folder, _) = rendered
  images = {row.image_name: np.asarray(Image.open(folder / row.image_name)) for row in table.itertuples()}
  pristine = images["chelsea/0_pristine.png"]
  assert pristine.shape == (256, 352, 3)
  for row in table.itertuples():
    assert row.raw_score == pytest.approx(_ssim(pristine, images[row.image_name]), abs=1e-6), row.image_name
  assert table.raw_score[table.distortion == "pristine"].tolist() == [1.0]


def test_every_distortion_gets_worse_with_its_level(rendered):
  (table, _), _ = rendered
  for distortion, rows in table[table.level >= 0].groupby("distortion"):
    assert rows.level.tolist() == [0, 1, 2, 3, 4], distortion
    assert rows.raw_score.is_monotonic_decreasing, distortion
  assert set(table.reference_name) == {"chelsea"}


def test_rendering_is_the_same_every_time(rendered):
  (first, second), (one, other) = rendered
  pd.testing.assert_frame_equal(first, second)
  assert all((one / name).read_bytes() == (other / name).read_bytes() for name in first.image_name)


def test_says_that_it_is_a_proxy():
  assert "proxy" in demo.Builder.TITLE
  assert "not a human score" in demo.Builder.SCORE
