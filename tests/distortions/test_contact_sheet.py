"""The contact sheet's layout, and its errors."""

import numpy as np
import photos
import pytest
from PIL import Image

from jiqa.distortions import contact_sheet
from jiqa.errors import UserError


def test_sheet_has_a_row_for_every_kind_and_a_column_for_every_level(tmp_path):
  image, out = tmp_path / "photo.png", tmp_path / "sheet.png"
  Image.fromarray(photos.bundled(50, 60)[0]).save(image)
  contact_sheet.main(image=image, out=out, side=8)  # the smallest side that the bank takes
  sheet = np.asarray(Image.open(out))
  assert sheet.shape == (27 * 10, 150 + 5 * 10, 3)
  tiles = sheet[:, 150:].reshape(27, 10, 5, 10, 3)[:, :8, :, :8].swapaxes(1, 2)
  np.testing.assert_array_equal(tiles[0, 0], photos.bundled(50, 60)[0][21:29, 26:34])
  assert np.any(tiles[1:, 4] != tiles[0, 0], axis=(1, 2, 3)).all()  # the strongest level of every kind shows
  np.testing.assert_array_equal(tiles[15, 2], tiles[0, 0])  # mean shift by nothing
  brightness = tiles[15].mean(axis=(1, 2, 3))
  assert np.all(np.diff(brightness) < 0)
  assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []


def test_unreadable_image_is_named(tmp_path):
  bad = tmp_path / "bad.png"
  bad.write_bytes(b"no image")
  with pytest.raises(UserError, match=r"bad\.png"):
    contact_sheet.main(image=bad, out=tmp_path / "sheet.png")
  assert [path.name for path in tmp_path.iterdir()] == ["bad.png"]
