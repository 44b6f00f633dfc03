"""`jiqa features`: what encoders see in images, one row an image."""

import io
import json
import pathlib
import sys

import numpy as np
from rich.console import Console
from rich.progress import track

from jiqa.errors import UserError
from jiqa.evaluation import outputs
from jiqa.inference import inputs, video
from jiqa.inference.metric import Metric


def write_features(metric, names, out):
  """Writes image_name [n] str, features [n, d] float32 and card (JSON text) as .npz.

  Args:
    metric: Metric; the features of its networks stand side by side, by `Method.feature_order`.
    names: image files, folders, patterns or addresses, see `inputs.expand`; of videos, a frame every second.
    out: file to write.

  Returns:
    (number of images written, list of messages about images that cannot be read and were left out).

  Raises:
    UserError: a network gives no features, or no image can be read.
  """
  out = pathlib.Path(out)
  if out.suffix != ".npz":
    raise UserError(f"--out={out}: features are written as .npz; give the file that ending")
  metric = Metric(sorted(metric.models, key=lambda model: model.method.feature_order))
  metric.check_features()
  names, rows, refused = inputs.expand(names), {}, {}
  predictions = metric.stream(video.items(names, 1.0))
  console = Console(file=sys.stderr)
  for prediction in track(predictions, "features", len(names), console=console, disable=not console.is_terminal):
    if prediction.error:
      refused[prediction.index] = prediction.error
    else:
      rows[prediction.index] = prediction.name, prediction.outputs["features"]
  if not rows:
    raise UserError("no image can be read: " + next(iter(refused.values())))
  kept = [rows[index] for index in sorted(rows)]
  networks = [
    {**model.card, "method": model.name, "columns": int(model.outputs()["features"][0])} for model in metric.models
  ]
  buffer = io.BytesIO()
  np.savez(
    buffer,
    image_name=np.array([name for name, _ in kept]),
    features=np.stack([features for _, features in kept]).astype(np.float32),
    card=np.array(json.dumps({"networks": networks})),
  )
  outputs.write_bytes(out, buffer.getvalue())
  return len(kept), [refused[index] for index in sorted(refused)]
