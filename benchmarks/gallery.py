"""The images of docs/gallery.md, and the pool of docs/gmad.md, from photographs that may be passed on.

    python -m benchmarks.gallery --out=docs/images
    python -m benchmarks.gallery --pool=pool

Six photographs that ship with scikit-image and scikit-learn, in the kinds of KADID-10k's bank at all levels, scored by
the weights that come with jiqa. The pool is the same images as files, with references.csv (what an image shows, and its
SSIM to the photograph). Two CPU cores: 3 minutes.
"""

import argparse
import csv
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from rich.progress import track
from skimage.metrics import structural_similarity
from sklearn.datasets import load_sample_image

import jiqa
from benchmarks.score_strip import AS_IT_IS, KINDS, photographs, renderings, square

TILE, GAP, LINE = 128, 4, 20


def scenes():
  """dict from name to [384, 384, 3] uint8; china and flower are CC-BY 2.0, the others in the public domain."""
  return photographs() | {name: square(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")}


def sheet(rows, side=TILE):
  """Rows of (image or None, lines of text below it) as one image."""
  deep = max(len(lines) for row in rows for _, lines in row)
  wide, high = side + GAP, side + GAP + LINE * deep
  page = Image.new("RGB", (wide * max(map(len, rows)), high * len(rows)), "white")
  draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
  for y, row in enumerate(rows):
    for x, (image, lines) in enumerate(row):
      if image is not None:
        small = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
        page.paste(small, (wide * x, high * y))
      for n, line in enumerate(lines):
        place = (wide * x + side / 2, high * y + side + LINE * (n + 0.5))
        draw.text(place, line, "gray" if n else "black", font, anchor="mm")
  return page


def distortions(scored, name="coffee", top=195, left=190, side=112):
  """A row for every kind, its levels from left to right, the photograph first; of each a part at 100 %."""
  part = np.s_[top : top + side, left : left + side]
  of = {what: (image[part], [f"{score:.0f}"]) for score, scene, what, image in scored if scene == name}
  title = lambda kind: (of[AS_IT_IS][0], [of[AS_IT_IS][1][0], kind])
  return sheet([[title(kind), *(of[f"{kind} {level}"] for level in range(1, 6))] for kind in KINDS], side)


def best_and_worst(scored):
  """The photographs from best to worst; the worst renderings, each of another kind; those it takes for better."""
  whole = {name: score for score, name, what, _ in scored if what == AS_IT_IS}
  cell = lambda entry: (entry[3], [f"{entry[0]:.0f}", entry[2]])
  ordered = sorted(scored, key=lambda entry: entry[0])
  best = [entry for entry in reversed(ordered) if entry[2] == AS_IT_IS]
  worst = list({entry[2].rstrip("12345 "): entry for entry in reversed(ordered)}.values())
  fooled = sorted(
    (entry for entry in scored if entry[2].endswith(("4", "5"))), key=lambda entry: whole[entry[1]] - entry[0]
  )
  for score, name, what, _ in fooled[:6]:
    print(f"{name}, {what}: {score:.1f}, as it is {whole[name]:.1f}")
  misjudged = [(e[3], [f"{e[0]:.0f}, was {whole[e[1]]:.0f}", e[2]]) for e in fooled[:6]]
  worst = sorted((entry for entry in worst if entry[2] != AS_IT_IS), key=lambda entry: entry[0])
  return sheet([list(map(cell, best)), list(map(cell, worst[:6])), misjudged])


def maps(metric, images):
  """Pairs of an image and its map: half blurred, a quarter compressed, a shallow focus, all sharp."""
  half, quarter = images["coffee"].copy(), images["china"].copy()
  half[:, :192] = np.asarray(Image.fromarray(half).filter(ImageFilter.GaussianBlur(5)))[:, :192]
  coarse = Image.fromarray(quarter).resize((48, 48)).resize((384, 384), Image.Resampling.NEAREST)
  quarter[:192, 192:] = np.asarray(coarse)[:192, 192:]
  rows, shown = [[], []], {"left half blurred": half, "a quarter pixelated": quarter}
  for name, image in (shown | {"near focus": images["flower"], "as it is": images["astronaut"]}).items():
    scores = metric.explain(image)["map"]
    smooth = np.asarray(Image.fromarray(np.float32(scores)).resize((384, 384), Image.Resampling.BICUBIC))
    light = 0.2 + 0.8 * np.clip((smooth - scores.min()) / np.ptp(scores), 0, 1)  # as the page of jiqa serve shades it
    rows[0].append((image, [f"{float(metric(image)):.0f}", name]))
    dimmed = np.uint8(image * light[..., None])
    rows[1].append((dimmed, [f"windows {scores.min():.0f} to {scores.max():.0f}"]))
  return sheet(rows, side=192)


def write_pool(folder):
  """Writes the images and references.csv into a folder."""
  folder.mkdir(parents=True)
  images, rows = scenes(), [["image_name", "reference_name", "ssim"]]
  for name, what, image in track(list(renderings(images)), "drawing"):
    file = f"{name}_{what.replace(' ', '_')}.png"
    Image.fromarray(image).save(folder / file)
    ssim = structural_similarity(images[name], image, channel_axis=2)
    rows.append([file, name, f"{ssim:.4f}"])
  with open(folder / "references.csv", "w", newline="") as out:
    csv.writer(out).writerows(rows)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", type=pathlib.Path, help="folder of these images")
  parser.add_argument("--pool", type=pathlib.Path, help="new folder of the pool")
  arguments = parser.parse_args()
  if arguments.pool:
    write_pool(arguments.pool)
  if arguments.out:
    metric, images = jiqa.load(), scenes()
    entries = list(renderings(images))
    scored = [(float(metric(image)), name, what, image) for name, what, image in track(entries, "scoring")]
    pages = {"distortions": distortions(scored), "best": best_and_worst(scored), "maps": maps(metric, images)}
    for name, page in pages.items():
      page.save(arguments.out / f"gallery_{name}.webp", quality=45 if name == "distortions" else 80, method=6)


if __name__ == "__main__":
  main()
