"""`jiqa explain`: draws what a score is made of."""

import math
import pathlib

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from jiqa.errors import UserError
from jiqa.inference import inputs
from jiqa.inference.metric import load
from jiqa.inference.results import printable

CHOSEN, OTHERS = "#ff3b30", "#ffffff"


def explain(name, image, weights, out):
  """Draws where the network looks over an image, the crops that were scored, the salient one, and every crop's score.

  `name` is the method's, `weights` a folder of weights or of a run, None for those that come with jiqa, `out` a file
  of a format that matplotlib knows. Returns one line of text: the score, and what made it.
  """
  out, formats = pathlib.Path(out), Figure().canvas.get_supported_filetypes()
  if out.suffix[1:].lower() not in formats:
    raise UserError(f"{out}: cannot be written; the name must end in one of .{', .'.join(sorted(formats))}")
  pixels = inputs.load(inputs.Item(str(image), str(image)))
  metric = load(name, weights)
  if not metric.can_explain:
    raise UserError(f"{name!r} cannot be explained: its method does not say what its scores are made of")
  parts = {"image": pixels, **metric.explain(pixels)}
  parts.setdefault("score", float(metric(pixels)))
  out.parent.mkdir(parents=True, exist_ok=True)
  draw(parts, title=pathlib.Path(image).name).savefig(out, dpi=110)
  text = f"{out}: score {parts['score']:.3f}"
  if "crops" in parts:
    scores, salient = parts["scores"], int(parts["saliency"].argmax())
    text += f", crops {scores.min():.3f} to {scores.max():.3f}, salient crop {salient + 1} of {len(scores)}"
    text += f" with {scores[salient]:.3f}"
  return text


def draw(parts, title=""):
  """The matplotlib Figure of an explanation; `title` is the name of the image.

  parts is a dict of arrays: 'image' [h, w, 3] uint8, 'score', 'map' [g, g]; perhaps 'shows', text that says what the
  map is, and for n crops 'crops' [n, s, s, 3] uint8, 'boxes' [n, 4] (top, left, bottom, right as fractions of the
  image), 'scores' [n] and 'saliency' [n], the mean of the map in every box.
  """
  count = len(parts.get("crops", ()))
  rows = math.ceil(count / 6)
  figure = Figure(figsize=(12, 5.2 + 2.2 * rows), layout="constrained")
  above, below = figure.subfigures(2, 1, height_ratios=(5.2, 2.2 * rows)) if count else (figure, None)
  title = f"{printable(title)}: score {parts['score']:.2f}" + (f", the mean over {count} crops" if count else "")
  above.suptitle(title, parse_math=False)  # a file name may hold two $
  left, right = above.subplots(1, 2)
  left.imshow(parts["image"])
  left.set_title("crops; in colour the salient one" if count else "image")
  _map(right, parts)
  low, high = parts["map"].min(), parts["map"].max()
  shows = f"{parts['shows']}, {low:.0f} (dark) to {high:.0f}" if "shows" in parts else "where the network looks"
  right.set_title(shows)
  cells = below.subplots(rows, math.ceil(count / rows), squeeze=False).ravel() if count else ()
  for axis in (left, right, *cells):
    axis.axis("off")
  # The salient one last: its outline lies on top.
  for n in sorted(range(count), key=lambda n: n == parts["saliency"].argmax()):
    _crop(left, cells[n], parts, n)
  return figure


def _crop(image, cell, parts, n):
  """The outline of a crop in the image; and in its cell the crop, its score and how much it is looked at."""
  salient = n == parts["saliency"].argmax()
  height, width = parts["image"].shape[:2]
  top, left, bottom, right = parts["boxes"][n] * [height, width, height, width]
  edge = {"edgecolor": CHOSEN, "linewidth": 3} if salient else {"edgecolor": OTHERS, "linewidth": 1}
  image.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, **edge))
  colour = CHOSEN if salient else "black"
  box = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
  image.text(left + 2, top + 2, str(n + 1), color="white", fontsize=9, va="top", bbox=box)
  cell.imshow(parts["crops"][n])
  share = parts["saliency"][n] / parts["map"].mean()
  text = f"{n + 1}: score {parts['scores'][n]:.2f}\nlooked at {share:.2f} times the mean"
  cell.set_title(text, fontsize=8, color=colour, fontweight="bold" if salient else "normal")


def _map(axis, parts):
  """The image in gray under the map, which is scaled up smoothly."""
  height, width = parts["image"].shape[:2]
  low, high = parts["map"].min(), parts["map"].max()
  scaled = (parts["map"] - low) / max(high - low, 1e-12)
  smooth = Image.fromarray(scaled.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
  axis.imshow(parts["image"].mean(-1), cmap="gray", vmin=0, vmax=255)
  axis.imshow(np.asarray(smooth), cmap="inferno", alpha=0.55, vmin=0, vmax=1)
