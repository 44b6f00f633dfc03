"""A metric as the server sees it: images in, one plain dict an image out."""

import base64
import io
import math
import pathlib

import numpy as np
from PIL import Image

from jiqa.errors import UserError
from jiqa.inference import teacher
from jiqa.inference.inputs import Item
from jiqa.inference.metric import probabilities

MAP_SIDE = 64  # pixels of a saliency map, at most; the page stretches it over the image
DARKEST = 205  # of 255: how opaque the shade is where the model looks least


class Backend:
  """What the server needs of a metric.

  Args:
    metric: what `jiqa.load` gives.

  Attributes:
    name: of the method.
    weights_sha256: checksum of its weights.
    card: dict of plain values: what it was trained on, licence, ...; without the folders of this machine.
    scale: dict of 'low', 'high' (None where the card has no range) and 'higher_is_better'.
    saliency: True where its method says what it looks at (`explain`).
  """

  def __init__(self, metric):
    self._metric = metric
    self.card = {**metric.card, "weights": [_without_folders(network) for network in metric.card["weights"]]}
    self.name, self.weights_sha256 = metric.card["method"], metric.weights_sha256
    score = metric.card["score"]
    low, high = score["range"] or (None, None)
    self.scale = {"low": low, "high": high, "higher_is_better": score["direction"] == "higher is better"}
    self._model = metric.models[0]
    self.saliency = len(metric.models) == 1 and hasattr(self._model.method, "explain")
    self._teacher = teacher.of(self._model) if self.saliency else None

  def warm_up(self):
    """Scores a gray image: a metric that cannot score is found before anybody waits for it.

    Raises:
      UserError: it cannot.
    """
    self._metric.check_scores()
    gray = np.full((256, 256, 3), 127, np.uint8)
    for row in self.score([gray], [True]):
      if isinstance(row, UserError):
        raise row

  def score(self, images, saliency):
    """Scores images.

    Args:
      images: list of [h, w, 3] uint8.
      saliency: list of bool: for which of them a map is wanted.

    Returns:
      list of dict with 'score', 'columns' (what else the metric says) and 'saliency' (data URI of a PNG, or None); in
      place of the dict a UserError for an image that cannot be scored.
    """
    rows = [None] * len(images)
    for found in self._metric.stream([Item("the image", image) for image in images]):
      rows[found.index] = UserError(found.error) if found.error else _row(found.outputs)
    for image, row, wanted in zip(images, rows, saliency, strict=True):
      if wanted and self.saliency and isinstance(row, dict):
        params = self._model.state.params
        row["saliency"] = map_as_png(self._model.method.explain(params, self._teacher, image)["map"])
    return rows


def _without_folders(network):
  return {key: pathlib.Path(value).name if key == "folder" else value for key, value in network.items()}


def _row(outputs):
  score = float(outputs["score"])
  if not math.isfinite(score):
    return UserError(f"the score is {score}: the image, or the weights, are out of the ordinary")
  columns = {}
  for name, (likeliest, probability) in probabilities(outputs).items():
    columns |= {name: likeliest, f"{name}_probability": round(probability, 4)}
  for name, value in outputs.items():
    if name not in ("score", *columns) and np.ndim(value) == 0:
      columns[name] = np.asarray(value).item()
  return {"score": score, "columns": columns, "saliency": None}


def map_as_png(values):
  """A saliency map as the data URI of a PNG: a shade that lets through what the model looks at.

  Args:
    values: [g, g'] float; stretched over the whole image. Only differences inside the map count.

  Returns:
    str.

  Example:
    >>> map_as_png(np.eye(2))[:30]
    'data:image/png;base64,iVBORw0K'
  """
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
