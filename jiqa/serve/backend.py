"""A metric as the server sees it: pictures in, one plain dict a picture out."""

import base64
import io
import math
import pathlib

import numpy as np
from PIL import Image

from jiqa.errors import UserError
from jiqa.scoring.metric import probabilities
from jiqa.scoring.pictures import Item

MAP_SIDE = 64  # pixels of a saliency map, at most; the page stretches it over the picture
MAP_COLOUR = (255, 96, 0)
MAP_ALPHA = 215


class Backend:
  """What the server needs of a metric.

  Args:
    metric: what `jiqa.load` gives. Where it has `saliency`, that takes a list of [h, w, 3] uint8 and gives a list of
      maps [g, g'], not negative.

  Attributes:
    name: of the method.
    weights_sha256: checksum of its weights.
    card: dict of plain values: what it was trained on, licence, ...; without the folders of this machine.
    scale: dict of 'low', 'high' (None where the card has no range) and 'higher_is_better'.
    saliency: True where it has maps.
  """

  def __init__(self, metric):
    self._metric = metric
    self.card = {**metric.card, "weights": [_without_folders(network) for network in metric.card["weights"]]}
    self.name, self.weights_sha256 = metric.card["method"], metric.weights_sha256
    score = metric.card["score"]
    low, high = score["range"] or (None, None)
    self.scale = {"low": low, "high": high, "higher_is_better": score["direction"] == "higher is better"}
    self.saliency = hasattr(metric, "saliency")

  def warm_up(self):
    """Scores a gray picture: a metric that cannot score is found before anybody waits for it.

    Raises:
      UserError: it cannot.
    """
    self._metric(np.full((256, 256, 3), 127, np.uint8))

  def score(self, images, saliency):
    """Scores pictures.

    Args:
      images: list of [h, w, 3] uint8.
      saliency: list of bool: for which of them a map is wanted.

    Returns:
      list of dict with 'score', 'columns' (what else the metric says) and 'saliency' (data URI of a PNG, or None); in
      place of the dict a UserError for a picture that cannot be scored.
    """
    rows = [None] * len(images)
    for found in self._metric.stream([Item("the picture", image) for image in images]):
      rows[found.index] = UserError(found.error) if found.error else _row(found.outputs)
    wanted = [i for i, row in enumerate(rows) if saliency[i] and isinstance(row, dict)]
    if wanted and self.saliency:
      for i, values in zip(wanted, self._metric.saliency([images[i] for i in wanted]), strict=True):
        rows[i]["saliency"] = map_as_png(values)
    return rows


def _without_folders(network):
  return {key: pathlib.Path(value).name if key == "folder" else value for key, value in network.items()}


def _row(outputs):
  score = float(outputs["score"])
  if not math.isfinite(score):
    return UserError(f"the score is {score}: the picture, or the weights, are out of the ordinary")
  columns = {}
  for name, (likeliest, probability) in probabilities(outputs).items():
    columns |= {name: likeliest, f"{name}_probability": round(probability, 4)}
  for name, value in outputs.items():
    if name not in ("score", *columns) and np.ndim(value) == 0:
      columns[name] = np.asarray(value).item()
  return {"score": score, "columns": columns, "saliency": None}


def map_as_png(values):
  """A saliency map as the data URI of a PNG: one colour, more opaque where the model looks more.

  Args:
    values: [g, g'] float, not negative; stretched over the whole picture.

  Returns:
    str.

  Example:
    >>> map_as_png(np.eye(2))[:30]
    'data:image/png;base64,iVBORw0K'
  """
  values = np.asarray(values, np.float64)
  alpha = np.round(values / max(values.max(), 1e-12) * MAP_ALPHA).astype(np.uint8)
  pixels = np.concatenate([np.broadcast_to(np.uint8(MAP_COLOUR), (*alpha.shape, 3)), alpha[..., None]], -1)
  image = Image.fromarray(pixels)
  image.thumbnail((MAP_SIDE, MAP_SIDE))
  file = io.BytesIO()
  image.save(file, format="PNG")
  return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
