"""Every kind of file that people have: decoded as PIL's RGB, or refused by name."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from data_builders.image_files import check_image
from jiqa.data.decode import decode_rgb
from jiqa.errors import UserError
from jiqa.inference.inputs import Item, load


def _file(image, kind, **options):
  file = io.BytesIO()
  image.save(file, format=kind, **options)
  return file.getvalue()


def _pixels(height, width, channels=3, seed=0):
  shape = (height, width, channels) if channels > 1 else (height, width)
  return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_lossless_formats_keep_their_pixels(kind, options):
  pixels = _pixels(7, 5)
  assert np.array_equal(decode_rgb(_file(Image.fromarray(pixels), kind, **options)), pixels)


def test_jpeg_equals_pil():
  data = _file(Image.fromarray(_pixels(33, 21)), "JPEG", quality=70)
  assert np.array_equal(decode_rgb(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_gray_and_bilevel_are_repeated():
  gray = _pixels(4, 6, 1)
  assert np.array_equal(decode_rgb(_file(Image.fromarray(gray), "PNG")), np.repeat(gray[..., None], 3, axis=2))
  bilevel = Image.fromarray(gray > 127)
  assert np.array_equal(decode_rgb(_file(bilevel, "PNG"))[..., 0], np.where(gray > 127, 255, 0))


def test_palette_gives_its_colours_not_its_indices():
  image = Image.new("P", (2, 1))
  image.putpalette([10, 20, 30, 200, 100, 50])
  image.putdata([1, 0])
  assert decode_rgb(_file(image, "PNG")).tolist() == [[[200, 100, 50], [10, 20, 30]]]


def test_alpha_is_dropped():
  pixels = _pixels(3, 4, 4)
  assert np.array_equal(decode_rgb(_file(Image.fromarray(pixels), "PNG")), pixels[..., :3])
  assert decode_rgb(_file(Image.fromarray(pixels[..., :2].copy(), "LA"), "PNG")).shape == (3, 4, 3)


def test_cmyk_jpeg():
  data = _file(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
  red = decode_rgb(data)
  assert red.shape == (8, 8, 3)
  assert np.abs(red.astype(int) - [255, 0, 0]).max() < 8


def test_sixteen_bit_gray_is_scaled_not_clipped():
  values = np.array([[0, 1, 128, 129, 255, 257, 32768, 65534, 65535]], dtype=np.uint16)
  expected = np.round(values / 257).astype(int)[0].tolist()
  for kind in ("PNG", "TIFF", "PPM"):
    decoded = decode_rgb(_file(Image.fromarray(values), kind))
    assert decoded[0, :, 0].tolist() == expected, kind
    assert (decoded[..., 0] == decoded[..., 2]).all()


def test_sixteen_bit_colour():
  """PIL cannot write such a PNG: written by hand."""
  values = np.array([[[65535, 32896, 0], [257, 514, 25700]]], dtype=">u2")
  header = (2).to_bytes(4) + (1).to_bytes(4) + bytes([16, 2, 0, 0, 0])

  def chunk(kind, data):
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

  rows = b"\0" + values.tobytes()
  data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
  assert decode_rgb(data).tolist() == [[[255, 128, 0], [1, 2, 100]]]


def test_first_image_of_several():
  red, blue = Image.new("RGB", (16, 8), "red"), Image.new("RGB", (16, 8), "blue")
  for kind in ("MPO", "GIF"):
    data = _file(red, kind, save_all=True, append_images=[blue])
    assert decode_rgb(data)[4, 4, 0] > 200
    check_image(data, kind)


def test_orientation_flag_is_not_applied():
  exif = Image.Exif()
  exif[0x0112] = 6
  assert decode_rgb(_file(Image.fromarray(_pixels(10, 20)), "JPEG", exif=exif)).shape == (10, 20, 3)


def test_smallest_and_widest():
  assert decode_rgb(_file(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).tolist() == [[[1, 2, 3]]]
  assert decode_rgb(_file(Image.new("L", (10_000, 3)), "JPEG")).shape == (3, 10_000, 3)


KINDS = {
  "JPEG": {"quality": 60},
  "JPEG progressive": {"quality": 60, "progressive": True},
  "PNG": {},
  "BMP": {},
  "WEBP": {},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.97])
def test_truncated_files_are_refused_by_both(kind, kept):
  data = _file(Image.fromarray(_pixels(64, 48)), kind.partition(" ")[0], **KINDS[kind])
  check_image(data, "whole")
  for function in (decode_rgb, check_image):
    with pytest.raises(UserError, match=r"photo\.x: "):
      function(data[: int(len(data) * kept)], "photo.x")


def test_thumbnail_inside_does_not_pass_for_the_end():
  """The end marker of an embedded thumbnail is not the end of the photograph."""
  thumbnail = _file(Image.new("RGB", (16, 16)), "JPEG")
  exif = b"Exif\0\0" + thumbnail
  data = _file(Image.fromarray(_pixels(64, 64)), "JPEG", exif=exif)
  check_image(data)
  with pytest.raises(UserError, match="incomplete"):
    check_image(data[: data.rfind(b"\xff\xda") + 400], "photo.jpg")


def test_what_decodes_is_never_refused():
  """Trailing bytes and fill bytes between segments: PIL reads them, so does the check."""
  data = _file(Image.fromarray(_pixels(16, 16)), "JPEG")
  for variant in (data + b"\0" * 9, data[:2] + b"\xff" + data[2:]):
    assert decode_rgb(variant).shape == (16, 16, 3)
    check_image(variant)
  bitmap = _file(Image.fromarray(_pixels(5, 7)), "BMP")
  check_image(bitmap + b"\0")


def test_damaged_png_is_refused():
  data = bytearray(_file(Image.fromarray(_pixels(32, 32)), "PNG"))
  data[len(data) // 2] ^= 0xFF
  for function in (decode_rgb, check_image):
    with pytest.raises(UserError, match="damaged"):
      function(bytes(data), "photo.png")


def test_no_image_at_all():
  with pytest.raises(UserError, match=r"a\.jpg: the file is empty"):
    decode_rgb(b"", "a.jpg")
  with pytest.raises(UserError, match=r"a\.jpg: not an image"):
    decode_rgb(b"<html>", "a.jpg")
  with pytest.raises(UserError, match="no declared range"):
    decode_rgb(_file(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "a.tif")


def test_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch):
  data = _file(Image.new("1", (20_000, 20_000)), "PNG")
  assert len(data) < 100_000
  with pytest.raises(UserError, match="67,108,864 pixels"):
    decode_rgb(data, "bomb.png")
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # another library may have lifted PIL's own limit
  with pytest.raises(UserError, match="67,108,864 pixels"):
    check_image(data, "bomb.png")


@pytest.mark.parametrize("size", [(32_769, 1), (1, 5_000_000), (8193, 8192)])
@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_sides_and_areas_beyond_the_limits_are_refused_wherever_an_image_comes_in(size, kind):
  data = _file(Image.new("1", size), kind)
  for refused in (lambda: decode_rgb(data, "thin.x"), lambda: check_image(data, "thin.x")):
    with pytest.raises(UserError, match=r"thin\.x: .*67,108,864 pixels are taken, and 32,768 a side"):
      refused()
  for source in (Image.new("1", size), np.broadcast_to(np.uint8(0), (size[1], size[0], 3))):
    with pytest.raises(UserError, match=f"thin.x: {size[0]} x {size[1]} pixels; at most"):
      load(Item("thin.x", source))


def test_the_largest_sides_are_taken():
  for size in ((32_768, 1), (1, 32_768)):
    assert decode_rgb(_file(Image.new("1", size), "PNG")).shape == (size[1], size[0], 3)
    check_image(_file(Image.new("1", size), "PNG"))
