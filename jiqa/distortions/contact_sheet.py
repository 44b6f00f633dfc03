"""`jiqa distort`: a distorted image, or a contact sheet: a row for every kind, a column for every level."""

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from jiqa.distortions import bank as banks
from jiqa.errors import UserError

_LABEL_WIDTH = 150
_GAP = 2


def distort_file(image, out, kinds=(), level=None, *, bank=None, compat="fixed", seed=0, side=160):
  """Writes an image [h, w, 3] uint8 distorted by one kind at one level; without a level, a contact sheet of the kinds.

  The options are those of `jiqa distort`; kinds, names or numbers, are all where none is given.
  """
  bank = bank or "reiqa26"
  kinds = banks.numbers([int(kind) if str(kind).isdecimal() else kind for kind in kinds], bank).tolist()
  if level is None:
    drawn = render(image, side, kinds, bank, compat, seed)
  elif len(kinds) == 1:
    drawn = Image.fromarray(_distorted(image[None], kinds, level, bank, compat, seed)[0])
  else:
    raise UserError(f"--level={level} needs one kind, such as --kind=jpeg; without --level a contact sheet is drawn")
  try:
    drawn.save(out)
  except (OSError, ValueError) as error:
    hint = "give an existing folder and an ending such as .png"
    raise UserError(f"{out}: cannot be written ({error}); {hint}") from error


def render(image, side, kinds=(), bank="reiqa26", compat="fixed", seed=0):
  """Draws the sheet, a PIL RGB image: the undistorted tile, then kinds from top to bottom, levels from left to right.

  Tiles of `side` pixels show the centre of an image [h, w, 3] uint8, at its own resolution where it is large enough.
  """
  names = banks.names(bank)
  kinds, image = list(kinds) or list(range(len(names))), Image.fromarray(image)
  if min(image.size) < side:
    image = ImageOps.fit(image, (side, side))  # which enlarges no more of a thin image than is seen
  left, top = ((length - side) // 2 for length in image.size)
  tile = np.asarray(image.crop((left, top, left + side, top + side)))
  rows = len(kinds) * banks.LEVELS
  tiles = _distorted(
    np.broadcast_to(tile, (rows, *tile.shape)), np.repeat(kinds, banks.LEVELS), np.arange(rows) % banks.LEVELS,
    bank, compat, seed,
  )  # fmt: skip

  sheet = Image.new("RGB", (_LABEL_WIDTH + banks.LEVELS * (side + _GAP), (len(kinds) + 1) * (side + _GAP)), "white")
  draw = ImageDraw.Draw(sheet)
  labels = ["undistorted", *(f"{kind:2d}  {names[kind]}" for kind in kinds)]
  for row, (label, across) in enumerate(zip(labels, ([tile], *np.split(tiles, len(kinds))), strict=True)):
    draw.text((6, row * (side + _GAP) + side // 2 - 6), label, fill="black", font_size=13)
    for column, pixels in enumerate(across):
      sheet.paste(Image.fromarray(pixels), (_LABEL_WIDTH + column * (side + _GAP), row * (side + _GAP)))
  return sheet


def _distorted(images, kinds, levels, bank, compat, seed):
  """[n, h, w, 3] uint8 to the same, see `banks.distort`."""
  images = images.astype(np.float32) / 255
  out = banks.distort(images, kinds, levels, jax.random.key(seed), compat=compat, bank=bank)
  return np.rint(np.asarray(out) * 255).astype(np.uint8)
