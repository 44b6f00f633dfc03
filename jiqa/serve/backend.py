"""A metric as the server sees it: images in, one plain dict an image out."""

import base64
import io

import numpy as np
from PIL import Image

from jiqa.errors import UserError
from jiqa.inference.inputs import Item
from jiqa.inference.metric import without_folders

MAP_SIDE = 64  # pixels of a saliency map, at most; the page stretches it over the image
DARKEST = 205  # of 255: how opaque the shade is where the model looks least


class Backend:
  """What the server needs of a metric, which is what `jiqa.load` gives.

  `card` is the metric's without the folders of this machine; `scale` has 'low' and 'high' (None where the card has no
  range) and 'higher_is_better'; `saliency` is True where the metric can say what it looks at.
  """

  def __init__(self, metric):
    self._metric = metric
    self.card = without_folders(metric.card)
    self.name, self.weights_sha256 = metric.card["method"], metric.weights_sha256
    score = metric.card["score"]
    low, high = score["range"] or (None, None)
    self.scale = {"low": low, "high": high, "higher_is_better": score["direction"] == "higher is better"}
    self.saliency = metric.can_explain

  def warm_up(self):
    """Scores a gray image; raises a UserError where the metric cannot, before anybody waits for it."""
    self._metric.check_scores()
    (row,) = self.score([np.full((256, 256, 3), 127, np.uint8)], [True])
    if "error" in row:
      raise UserError(row["error"])

  def score(self, images, saliency):
    """Scores a list of images [h, w, 3] uint8; `saliency` says for which of them a map is wanted.

    Returns a list of dict with 'score', 'columns' (what else the metric says) and 'saliency' (data URI of a PNG, or
    None) with 'saliency_shows' beside it, or with 'error' alone.
    """
    rows = [None] * len(images)
    for scored in self._metric.stream([Item("the image", image) for image in images]):
      if scored.error:
        rows[scored.index] = {"error": scored.error.removeprefix("the image: ")}
        continue
      columns = self._metric.columns(scored.outputs)
      columns |= {name: round(x, 4) for name, x in columns.items() if name.endswith("_probability")}
      rows[scored.index] = {"score": float(scored.outputs["score"]), "columns": columns, "saliency": None}
    for image, row, mapped in zip(images, rows, saliency, strict=True):
      if mapped and self.saliency and "error" not in row:
        explanation = self._metric.explain(image)
        row["saliency"] = map_as_png(explanation["map"])
        row["saliency_shows"] = caption(explanation)
    return rows


def caption(explanation):
  """What the map of `Metric.explain` shows, in words."""
  if "shows" not in explanation:
    return "bright: where the network looks"
  return f"{explanation['shows']}, {explanation['map'].min():.0f} (dark) to {explanation['map'].max():.0f} (bright)"


def map_as_png(values):
  """A saliency map, [g, g'] float, as the data URI of a PNG: a shade that lets through what the model looks at."""
  values = np.asarray(values, np.float64)
  low, high = values.min(), values.max()
  shade = DARKEST * (high - values) / max(high - low, 1e-12)
  pixels = np.zeros((*shade.shape, 4), np.uint8)
  pixels[..., 3] = np.round(shade)
  image = Image.fromarray(pixels)
  image.thumbnail((MAP_SIDE, MAP_SIDE))
  file = io.BytesIO()
  image.save(file, format="PNG")
  return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
