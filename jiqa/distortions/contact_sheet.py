"""One image of all distortions: a row for every kind, a column for every level.

python -m jiqa.distortions.contact_sheet --image=photo.png --out=sheet.png
"""

import pathlib
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
from PIL import Image, ImageDraw

from jiqa.distortions import bank as banks
from jiqa.errors import UserError

_LABEL_WIDTH = 150
_GAP = 2


def render(image, side, bank="reiqa26", compat="fixed", seed=0):
  """Draws the sheet, a PIL RGB image: the undistorted tile, then kinds from top to bottom, levels from left to right.

  Tiles of `side` pixels show the centre of a PIL image, at its own resolution where it is large enough.
  """
  names = banks.names(bank)
  image = image.convert("RGB")
  if min(image.size) < side:
    scale = side / min(image.size)
    image = image.resize([max(side, round(length * scale)) for length in image.size])
  left, top = ((length - side) // 2 for length in image.size)
  tile = np.asarray(image.crop((left, top, left + side, top + side)))

  sheet = Image.new("RGB", (_LABEL_WIDTH + banks.LEVELS * (side + _GAP), (len(names) + 1) * (side + _GAP)), "white")
  draw = ImageDraw.Draw(sheet)
  rows = _every_distortion(tile, len(names), bank, compat, seed)
  for row, (name, tiles) in enumerate(zip(("undistorted", *names), ([tile], *rows), strict=True)):
    number = "" if row == 0 else f"{row - 1:2d}  "
    draw.text((6, row * (side + _GAP) + side // 2 - 6), number + name, fill="black", font_size=13)
    for column, pixels in enumerate(tiles):
      sheet.paste(Image.fromarray(pixels), (_LABEL_WIDTH + column * (side + _GAP), row * (side + _GAP)))
  return sheet


def _every_distortion(tile, count, bank, compat, seed):
  """Every kind at every level of a tile [h, w, 3] uint8: [kinds, levels, h, w, 3] uint8."""
  kinds, levels = jnp.divmod(jnp.arange(count * banks.LEVELS), banks.LEVELS)
  images = jnp.broadcast_to(jnp.asarray(tile, jnp.float32) / 255, (count * banks.LEVELS, *tile.shape))
  distort = jax.jit(banks.distort, static_argnames=("compat", "bank", "tile"))
  out = distort(images, kinds, levels, jax.random.key(seed), compat=compat, bank=bank, tile=banks.LEVELS)
  return np.rint(np.asarray(out) * 255).astype(np.uint8).reshape(count, banks.LEVELS, *tile.shape)


def main(
  image: Annotated[pathlib.Path, typer.Option(help="image to distort")],
  out: Annotated[pathlib.Path, typer.Option(help="where to write the sheet; the ending chooses the format")],
  side: Annotated[int, typer.Option(help="side of a tile in pixels")] = 160,
  bank: Annotated[str, typer.Option(help="reiqa26 or kadid25")] = "reiqa26",
  compat: Annotated[str, typer.Option(help="fixed or official")] = "fixed",
):
  """Renders every kind of distortion at every level into one image."""
  try:
    with Image.open(image) as opened:
      sheet = render(opened, side, bank, compat)
  except OSError as error:
    raise UserError(f"{image}: not a readable image ({error})") from error
  try:
    sheet.save(out)
  except (OSError, ValueError) as error:
    hint = "give an existing folder and an ending such as .png"
    raise UserError(f"{out}: cannot be written ({error}); {hint}") from error
  print(f"wrote {out}, {sheet.width}x{sheet.height}")


if __name__ == "__main__":
  try:
    typer.run(main)
  except UserError as error:
    raise SystemExit(f"error: {error}") from None
