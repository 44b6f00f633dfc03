"""An image of what a score is made of: `jiqa explain`."""

import math
import pathlib

import jax
import matplotlib
import numpy as np
from PIL import Image

from jiqa.data.decode import decode_rgb
from jiqa.errors import UserError
from jiqa.inference import teacher
from jiqa.inference.model import Model
from jiqa.runtime.sharding import make_mesh

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CHOSEN, OTHERS = "#ff3b30", "#ffffff"


def explain(name, image, weights, out):
  """Draws the teacher's saliency over an image, the crops that were scored, the salient one, and every crop's score.

  Args:
    name: of the method; "lml" is the one that can be explained.
    image: file of an image.
    weights: folder of weights or of a run.
    out: file to write, of a format that matplotlib knows.

  Returns:
    One line of text: the score, and what made it.

  Raises:
    UserError: the method cannot be explained, the weights are of another one, or a file cannot be read or written.
  """
  if name != "lml":
    raise UserError(f"{name!r} cannot be explained; expected lml")
  image, out = pathlib.Path(image), pathlib.Path(out)
  if not image.is_file():
    raise UserError(f"{image}: no such file; expected an image")
  formats = plt.figure().canvas.get_supported_filetypes()
  plt.close()
  if out.suffix[1:].lower() not in formats:
    raise UserError(f"{out}: cannot be written; the name must end in one of .{', .'.join(sorted(formats))}")
  pixels = decode_rgb(image.read_bytes(), str(image))
  model = Model(weights, make_mesh(jax.devices()[:1]))
  if model.name != name:
    raise UserError(f"{weights}: weights of {model.name}, expected weights of {name}")
  found = model.method.explain(model.state.params, teacher.of(model), pixels)
  out.parent.mkdir(parents=True, exist_ok=True)
  draw(found, title=image.name).savefig(out, dpi=110)
  plt.close()
  salient = int(found["saliency"].argmax())
  return (
    f"{out}: score {found['score']:.3f}, crops {found['scores'].min():.3f} to {found['scores'].max():.3f}, "
    f"salient crop {salient + 1} of {len(found['scores'])} with {found['scores'][salient]:.3f}"
  )


def draw(found, title=""):
  """The figure of an explanation.

  Args:
    found: dict of arrays, see `jiqa.methods.lml.lml.LML.explain`.
    title: name of the image.

  Returns:
    matplotlib Figure.
  """
  count, salient = len(found["scores"]), int(found["saliency"].argmax())
  rows = math.ceil(count / 6)
  columns = math.ceil(count / rows)
  figure = plt.figure(figsize=(12, 5.2 + 2.2 * rows), layout="constrained")
  above, below = figure.subfigures(2, 1, height_ratios=(5.2, 2.2 * rows))
  above.suptitle(f"{title}: score {found['score']:.2f}, the mean over {count} crops")
  left, right = above.subplots(1, 2)
  _boxes(left, found, salient)
  left.set_title("crops; in colour the one that the teacher looks at most")
  _map(right, found)
  right.set_title("what the teacher's class token looks at, last block")
  cells = below.subplots(rows, columns, squeeze=False).ravel()
  for axis in cells:
    axis.axis("off")
  for n in range(count):
    cells[n].imshow(found["crops"][n])
    share = found["saliency"][n] / found["map"].mean()
    colour, weight = (CHOSEN, "bold") if n == salient else ("black", "normal")
    text = f"{n + 1}: score {found['scores'][n]:.2f}\nlooked at {share:.2f} times the mean"
    cells[n].set_title(text, fontsize=8, color=colour, fontweight=weight)
  return figure


def _boxes(axis, found, salient):
  """The image and the outlines of its crops, the salient one on top."""
  height, width = found["image"].shape[:2]
  axis.imshow(found["image"])
  for n in sorted(range(len(found["boxes"])), key=lambda n: n == salient):
    top, left, bottom, right = found["boxes"][n] * [height, width, height, width]
    colour = CHOSEN if n == salient else OTHERS
    box = plt.Rectangle(
      (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=3 if n == salient else 1
    )
    axis.add_patch(box)
    axis.text(
      left + 2, top + 2, str(n + 1), color="white", fontsize=9, va="top",
      bbox={"facecolor": CHOSEN if n == salient else "black", "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
  axis.axis("off")


def _map(axis, found):
  """The image in gray under the map, which is scaled up smoothly."""
  height, width = found["image"].shape[:2]
  low, high = found["map"].min(), found["map"].max()
  scaled = (found["map"] - low) / max(high - low, 1e-12)
  smooth = Image.fromarray(scaled.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
  axis.imshow(found["image"].mean(-1), cmap="gray", vmin=0, vmax=255)
  axis.imshow(np.asarray(smooth), cmap="inferno", alpha=0.55, vmin=0, vmax=1)
  axis.axis("off")
