"""`jiqa distort`: an image, the contact sheet's layout, and errors."""

import jax
import numpy as np
import photos
import pytest
from PIL import Image

from jiqa import cli
from jiqa.distortions import bank, contact_sheet
from jiqa.errors import UserError


def run(monkeypatch, *arguments):
  monkeypatch.setattr("sys.argv", ["jiqa", "distort", *map(str, arguments)])
  with pytest.raises(SystemExit) as exit:
    cli.main()
  return exit.value.code


def test_one_kind_at_one_level(tmp_path, monkeypatch):
  photo, out = photos.bundled(50, 60)[0], tmp_path / "distorted.png"
  Image.fromarray(photo).save(tmp_path / "photo.png")
  options = ("--kind=white_noise", "--level=3", "--seed=4", "--bank=kadid25", "--compat=official")
  assert run(monkeypatch, tmp_path / "photo.png", *options, f"--out={out}") == 0
  expected = bank.distort(
    photo[None] / np.float32(255), 10, 3, jax.random.key(4), bank="kadid25", compat="official"
  )  # fmt: skip
  np.testing.assert_array_equal(np.asarray(Image.open(out)), np.rint(np.asarray(expected[0]) * 255))


def test_sheet_has_a_row_for_every_kind_and_a_column_for_every_level(tmp_path):
  photo, out = photos.bundled(50, 60)[0], tmp_path / "sheet.png"
  contact_sheet.distort_file(photo, out, side=8)  # the smallest side that the bank takes
  sheet = np.asarray(Image.open(out))
  assert sheet.shape == (27 * 10, 150 + 5 * 10, 3)
  tiles = sheet[:, 150:].reshape(27, 10, 5, 10, 3)[:, :8, :, :8].swapaxes(1, 2)
  np.testing.assert_array_equal(tiles[0, 0], photo[21:29, 26:34])
  assert np.any(tiles[1:, 4] != tiles[0, 0], axis=(1, 2, 3)).all()  # the strongest level of every kind shows
  np.testing.assert_array_equal(tiles[15, 2], tiles[0, 0])  # mean shift by nothing
  brightness = tiles[15].mean(axis=(1, 2, 3))
  assert np.all(np.diff(brightness) < 0)
  contact_sheet.distort_file(photo, out, ["14", "darken"], side=8)
  few = np.asarray(Image.open(out))[:, 150:].reshape(3, 10, 5, 10, 3)[:, :8, :, :8].swapaxes(1, 2)
  np.testing.assert_array_equal(few[1:], tiles[[15, 14]])


def test_of_a_thin_image_only_the_centre_is_enlarged(monkeypatch):
  thin = np.zeros((2, 30_000, 3), np.uint8)
  thin[:, 14_990:15_010] = 200
  monkeypatch.setattr(Image.Image, "resize", bounded(Image.Image.resize))
  sheet = np.asarray(contact_sheet.render(thin, 64, [13]))
  assert (sheet[:64, 150:214] == 200).all()


def bounded(resize):
  def checked(image, size, *args, **kwargs):
    assert size[0] * size[1] < 10**6
    return resize(image, size, *args, **kwargs)

  return checked


def test_unreadable_image_is_named(tmp_path, monkeypatch, capsys):
  bad = tmp_path / "bad.png"
  bad.write_bytes(b"no image")
  assert run(monkeypatch, bad, f"--out={tmp_path / 'sheet.png'}") == 2
  assert "bad.png" in capsys.readouterr().err
  assert [path.name for path in tmp_path.iterdir()] == ["bad.png"]


@pytest.mark.parametrize(
  ("kinds", "level", "message"),
  [((), 3, "--level=3 needs one kind"), (("jpeg", "darken"), 2, "needs one kind"), (("jpeg",), 7, "7.*0.*4"),
   (("jpeg3",), 2, "jpeg3"), (("\u00b2",), 2, "\u00b2")],
)  # fmt: skip
def test_what_cannot_be_made_is_named(kinds, level, message, tmp_path):
  with pytest.raises(UserError, match=message):
    contact_sheet.distort_file(photos.bundled(16, 16)[0], tmp_path / "out.png", kinds, level)
  with pytest.raises(UserError, match=r"missing.*cannot be written"):
    contact_sheet.distort_file(photos.bundled(16, 16)[0], tmp_path / "missing" / "out.png", ["darken"], 1)
  assert not list(tmp_path.iterdir())
