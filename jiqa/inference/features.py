"""`jiqa features`: what encoders see in images, one row an image."""

import json
import sys

import numpy as np
from rich.console import Console
from rich.progress import track

from jiqa.errors import UserError
from jiqa.evaluation.outputs import write_npz
from jiqa.inference import inputs, results, video
from jiqa.inference.metric import Metric


def write_features(metric, names, out):
  """Writes image_name [n] str, features [n, d] float32 and card (JSON text) as .npz.

  Args:
    metric: Metric; the features of its networks stand side by side, by `Method.feature_order`.
    names: see `inputs.expand`; of videos a frame every second.
    out: file to write.

  Returns:
    (number of images written, list of messages about images that cannot be read and were left out); a UserError where a
    network gives no features, or no image can be read.
  """
  results.check(out, (".npz",))
  metric = Metric(sorted(metric.models, key=lambda model: model.method.feature_order))
  metric.check_features()
  names, console = inputs.expand(names), Console(file=sys.stderr)
  predictions = metric.stream(video.items(names, 1.0))
  predictions = sorted(track(predictions, "features", len(names), console=console, disable=not console.is_terminal))
  kept = [prediction for prediction in predictions if not prediction.error]
  refused = [prediction.error for prediction in predictions if prediction.error]
  if not kept:
    raise UserError(f"no image can be read: {refused[0]}")
  networks = [
    {**model.card, "method": model.name, "columns": int(model.outputs["features"][0])} for model in metric.models
  ]
  features = np.stack([prediction.outputs["features"] for prediction in kept]).astype(np.float32)
  card = np.array(json.dumps({"networks": networks}))
  write_npz(out, image_name=np.array([prediction.name for prediction in kept]), features=features, card=card)
  return len(kept), refused
