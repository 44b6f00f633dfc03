"""Does the score fall as the damage grows? Photographs, the 25 kinds of KADID-10k at 5 levels, and simple damages.

    python -m benchmarks.order --images=kodak24 --weights=W1 --weights=W2 --json=runs/order.json

Every photograph of a folder is rendered by every kind at every level (bank 'kadid25') and scored by all weights, named
as for `jiqa.load`. Prints in Markdown, strict order throughout:

- the share of pairs of photograph and kind whose original scores above the last level, and the share of neighbours
  (original and level 1, 1 and 2, ... 4 and 5) that are in order: for every kind, and for the groups of kinds that
  configs/supervised.py names: "trained" with an order, "held out" of training though people agree on the order, "left
  out", since people do not;
- for seven damages of every photograph the mean score, the share of photographs where it is below the original's, and
  the highest score.

Of 24 photographs of 768x512 pixels that is 3,200 scores for each of the weights: for narrow networks about 5 minutes of
CPU time with the rendering. Every new size of photograph is compiled anew. --limit=2 takes two photographs.
"""

import argparse
import io
import json
import pathlib
import shlex
import sys
import time

import jax
import numpy as np
from PIL import Image
from scipy import ndimage

import jiqa
from configs import supervised
from jiqa.distortions import bank
from jiqa.errors import UserError
from jiqa.evaluation.outputs import plain, write_bytes
from jiqa.inference import inputs

BANK = "kadid25"
NAMES = bank.names(BANK)
GROUPS = {
  "all": NAMES,
  "all but left out": supervised.KINDS + supervised.HELD_OUT,
  "trained": supervised.KINDS,
  "held out": supervised.HELD_OUT,
  "left out": supervised.NOT_AGREED,
}


def overexposed(image, rng):
  return np.clip(2.2 * image, 0, 255)


def dark(image, rng):
  return 0.2 * image


def jpeg5(image, rng):
  file = io.BytesIO()
  Image.fromarray(image).save(file, format="JPEG", quality=5)
  return np.asarray(Image.open(file))


def noise40(image, rng):
  return np.clip(image + rng.normal(0, 40, image.shape), 0, 255)


def blur4(image, rng):
  return ndimage.gaussian_filter(image.astype(np.float32), (4, 4, 0))


def pixelated(image, rng):
  """Blocks of 8x8 pixels, each of its mean; those at the lower and the right border may be smaller."""
  height, width = image.shape[:2]
  starts = np.arange(0, height, 8), np.arange(0, width, 8)
  sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), starts[0], 0), starts[1], 1)
  sides = [np.diff([*start, side]) for start, side in zip(starts, (height, width), strict=True)]
  means = sums / np.multiply.outer(*sides)[..., None]
  return means.repeat(sides[0], 0).repeat(sides[1], 1)


def white_noise(image, rng):
  return rng.integers(0, 256, image.shape)


# Functions (image [h, w, 3] uint8, np.random.Generator) -> [h, w, 3], rounded afterwards.
DAMAGES = {
  "overexposed, x2.2": overexposed,
  "dark, x0.2": dark,
  "JPEG 5": jpeg5,
  "noise 40": noise40,
  "blur 4": blur4,
  "pixelated, 8x8": pixelated,
  "white noise": white_noise,
}


def damaged(image, name, seed=0):
  """An image by one of DAMAGES: [h, w, 3] uint8."""
  return np.rint(DAMAGES[name](image, np.random.default_rng(seed))).astype(np.uint8)


def levels_of(image, kind, key):
  """An image [h, w, 3] uint8 by all levels of a kind: [5, h, w, 3] uint8."""
  batch = np.repeat(image[None].astype(np.float32) / 255, bank.LEVELS, 0)
  distorted = bank.distort(batch, kind, np.arange(bank.LEVELS), key, bank=BANK)
  return np.rint(255 * np.asarray(distorted)).astype(np.uint8)


def score_all(metrics, images, progress=lambda text: None):
  """Scores of all versions of all images by several weights.

  Args:
    metrics: list of m functions from a list of [h, w, 3] uint8 to what has their `score` [n].
    images: list of p pairs of a name and a function without arguments that gives the pixels [h, w, 3] uint8.
    progress: called with a line of text after every image.

  Returns:
    (ladders [m, p, kinds, 6]: the original and levels 1 to 5; damages [m, p, DAMAGES]), float64.
  """
  ladders = np.empty((len(metrics), len(images), len(NAMES), bank.LEVELS + 1))
  damages = np.empty((len(metrics), len(images), len(DAMAGES)))
  started = time.perf_counter()
  for p, (name, load) in enumerate(images):
    image, key = load(), jax.random.fold_in(jax.random.key(0), p)
    simple = [image, *(damaged(image, damage, p) for damage in DAMAGES)]
    for m, metric in enumerate(metrics):
      scores = metric(simple).score
      ladders[m, p, :, 0], damages[m, p] = scores[0], scores[1:]
    for k, kind in enumerate(NAMES):
      versions = levels_of(image, kind, jax.random.fold_in(key, k))
      for m, metric in enumerate(metrics):
        ladders[m, p, k, 1:] = metric(list(versions)).score
    progress(f"{name}: {p + 1} of {len(images)}, {time.perf_counter() - started:.0f} s")
  return ladders, damages


def in_order(ladders):
  """Shares of scores [p, k, 6] that fall: dict of 'ends' and 'neighbours', and of both by kind, lists of k."""
  ends = ladders[..., 0] > ladders[..., -1]
  neighbours = ladders[..., :-1] > ladders[..., 1:]
  return {
    "ends": float(ends.mean()), "neighbours": float(neighbours.mean()),
    "ends_of": ends.mean(0).tolist(), "neighbours_of": neighbours.mean((0, 2)).tolist(),
  }  # fmt: skip


def figures(ladders, damages):
  """What is printed of one of the weights, of scores [p, kinds, 6] and [p, DAMAGES], as plain values."""
  groups = {}
  for group, kinds in GROUPS.items():
    of_group = in_order(ladders[:, [NAMES.index(kind) for kind in kinds]])
    groups[group] = {"ends": of_group["ends"], "neighbours": of_group["neighbours"], "kinds": list(kinds)}
  each = in_order(ladders)
  kinds = {
    kind: {"ends": ends, "neighbours": neighbours, "levels": ladders[:, k].mean(0).tolist()}
    for k, (kind, ends, neighbours) in enumerate(zip(NAMES, each["ends_of"], each["neighbours_of"], strict=True))
  }
  original = ladders[:, 0, 0]
  simple = {"original": {"mean": float(original.mean()), "below": None, "highest": float(original.max())}}
  for d, name in enumerate(DAMAGES):
    scores = damages[:, d]
    below = float((scores < original).mean())
    simple[name] = {"mean": float(scores.mean()), "below": below, "highest": float(scores.max())}
  return {"groups": groups, "kinds": kinds, "damages": simple}


def markdown(results):
  """The tables, of a dict from the name of weights to their `figures`."""
  share = lambda value: "" if value is None else f"{100 * value:.1f}"
  twice = [f"{name}: {column}" for name in results for column in ("original over level 5, %", "neighbours in order, %")]
  lines = [["kinds", "number", *twice], ["---"] * (2 + len(twice))]
  for group, kinds in GROUPS.items():
    cells = [share(each["groups"][group][column]) for each in results.values() for column in ("ends", "neighbours")]
    lines.append([group, str(len(kinds)), *cells])
  for kind in NAMES:
    group = next(name for name in ("trained", "held out", "left out") if kind in GROUPS[name])
    cells = [share(each["kinds"][kind][column]) for each in results.values() for column in ("ends", "neighbours")]
    lines.append([f"{kind} ({group})", "1", *cells])
  tables = [lines]
  columns = [f"{name}: {column}" for name in results for column in ("mean score", "below the original, %", "highest")]
  lines = [["images", *columns], ["---"] * (1 + len(columns))]
  for damage in ("original", *DAMAGES):
    cells = [damage]
    for each in results.values():
      row = each["damages"][damage]
      cells += [f"{row['mean']:.2f}", share(row["below"]), f"{row['highest']:.2f}"]
    lines.append(cells)
  tables.append(lines)
  return "\n\n".join("\n".join(f"| {' | '.join(cells)} |" for cells in lines) for lines in tables)


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--images", required=True, help="folder of photographs")
  parser.add_argument("--weights", action="append", required=True, help="folder of weights; may be repeated")
  parser.add_argument("--json", type=pathlib.Path, help="file for all figures and scores")
  parser.add_argument("--limit", type=int, default=0, help="photographs, the first ones; 0: all")
  flags = parser.parse_args(argv)
  paths = inputs.expand([flags.images])
  paths = paths[: flags.limit or None]
  metrics = [jiqa.load(weights) for weights in flags.weights]
  for metric in metrics:
    metric.check_scores()
  images = [(path, lambda path=path: inputs.load(inputs.Item(path, path))) for path in paths]
  show = lambda text: print(text, file=sys.stderr, flush=True)
  ladders, damages = score_all(metrics, images, show)
  results = {name: figures(*scores) for name, *scores in zip(flags.weights, ladders, damages, strict=True)}
  print(markdown(results))
  if flags.json:
    command = shlex.join(["python", "-m", "benchmarks.order", *(sys.argv[1:] if argv is None else argv)])
    for m, (each, metric) in enumerate(zip(results.values(), metrics, strict=True)):
      each["weights_sha256"], each["head_sha256"] = metric.weights_sha256, metric.head_sha256
      each["scores"] = {"kinds": ladders[m].round(4), "damages": damages[m].round(4)}
    facts = {"command": command, "images": [pathlib.Path(path).name for path in paths], "weights": results}
    write_bytes(flags.json, (json.dumps(plain(facts)) + "\n").encode())


if __name__ == "__main__":
  try:
    main()
  except UserError as error:
    print(f"order: {error}", file=sys.stderr)
    sys.exit(2)
