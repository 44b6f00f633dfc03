"""What scores look like: photographs that ship with scikit-image, distorted, at scores of 10 to 90.

    python -m benchmarks.score_strip --out=docs/images/scores.jpg

Every photograph is rendered in the kinds of KADID-10k's bank at all levels and scored; for each of the scores the one
that comes nearest is drawn, no kind and photograph twice. Two CPU cores: 3 minutes.
"""

import argparse

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track
from skimage import data

import jiqa
from jiqa.distortions import bank

SCORES = range(10, 100, 10)
KINDS = (
  "gaussian blur",
  "motion blur",
  "JPEG",
  "JPEG2000",
  "white noise",
  "impulse noise",
  "pixelate",
  "darken",
  "brighten",
)
AS_IT_IS = "as it is"
TILE = 240


def photographs():
  """dict from name to [384, 384, 3] uint8; all in the public domain."""
  images = {"astronaut": data.astronaut(), "chelsea": data.chelsea(), "coffee": data.coffee(), "rocket": data.rocket()}
  return {name: square(image) for name, image in images.items()}


def square(image):
  """The middle of an image [h, w, 3] uint8, [384, 384, 3]."""
  side = min(image.shape[:2])
  top, left = ((n - side) // 2 for n in image.shape[:2])
  middle = Image.fromarray(image[top : top + side, left : left + side])
  return np.asarray(middle.resize((384, 384), Image.Resampling.LANCZOS))


def renderings(images):
  """(photograph, what was done to it, [384, 384, 3] uint8) of a dict from name to photograph, one by one."""
  for name, image in images.items():
    yield name, AS_IT_IS, image
    pixels = np.float32(image)[None] / 255
    for kind in KINDS:
      for level in range(bank.LEVELS):
        key = jax.random.key(level)
        distorted = np.asarray(bank.distort(pixels, kind, level, key, bank="kadid25"))[0]
        yield name, f"{kind} {level + 1}", np.round(distorted * 255).astype(np.uint8)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--weights")
  parser.add_argument("--out", required=True)
  arguments = parser.parse_args()
  metric = jiqa.load(weights=arguments.weights)
  entries = list(renderings(photographs()))
  scored = [(float(metric(image)), name, what, image) for name, what, image in track(entries, "scoring")]
  strip = Image.new("RGB", (TILE * len(SCORES), TILE + 52), "white")
  draw, font, used = ImageDraw.Draw(strip), ImageFont.load_default(17), set()
  for place, wanted in enumerate(SCORES):
    free = (entry for entry in scored if (entry[1], entry[2].rstrip("12345")) not in used)
    score, name, what, image = min(free, key=lambda entry: abs(entry[0] - wanted))
    used.add((name, what.rstrip("12345")))
    strip.paste(Image.fromarray(image).resize((TILE - 6, TILE - 6), Image.Resampling.LANCZOS), (TILE * place + 3, 3))
    draw.text((TILE * (place + 0.5), TILE + 12), f"{score:.0f}", "black", font, anchor="mm")
    draw.text((TILE * (place + 0.5), TILE + 36), what, "gray", font, anchor="mm")
    print(f"{wanted}: {score:.1f}, {name}, {what}")
  strip.save(arguments.out, quality=85)


if __name__ == "__main__":
  main()
