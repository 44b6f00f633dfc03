"""Features of images: what encoders that were trained without labels say of each, one row an image."""

import json
import os
import pathlib
import sys

import numpy as np
from rich.console import Console
from rich.progress import track

from jiqa.errors import UserError
from jiqa.inference import inputs, video
from jiqa.inference.buckets import bucketed_batches
from jiqa.inference.metric import Metric
from jiqa.inference.model import Model
from jiqa.runtime.sharding import make_mesh

# Method to expert of Re-IQA, in the order of the columns.
EXPERTS = {"reiqa_content": "content", "reiqa": "quality"}
# A batch of a ResNet-50 then takes about a gigabyte.
PIXELS_PER_BATCH = 2048 * 2048


class Experts:
  """The encoders of Re-IQA, side by side.

  Args:
    folders: folders of weights or working directories of runs, one an expert.

  Attributes:
    card: dict with 'model' and 'experts': a list of dicts with 'expert', 'weights_sha256' and where the weights are
      from, in the order of the columns.

  Raises:
    UserError: a folder holds no weights of an expert, or two hold the same one.
  """

  def __init__(self, folders):
    self.mesh, found = make_mesh(), {}
    for folder in folders:
      encoder = Model(folder, self.mesh)
      expert = EXPERTS.get(encoder.name)
      if expert is None:
        raise UserError(f"{folder}: holds weights of {encoder.name}, which is no expert of Re-IQA")
      if expert in found:
        raise UserError(f"{folder}: a second {expert} expert; expected each once")
      found[expert] = encoder
    self._encoders = {expert: found[expert] for expert in EXPERTS.values() if expert in found}
    self.card = {
      "model": "reiqa",
      "experts": [{**encoder.card, "expert": expert} for expert, encoder in self._encoders.items()],
    }

  def __call__(self, images, count, what, pixels_per_batch=PIXELS_PER_BATCH):
    """The features of images.

    Args:
      images: function from 0 <= i < count to [h, w, 3] uint8; or to None for an image that is to be left out.
      count: int.
      what: shown on the progress bar.
      pixels_per_batch: bounds the memory; one image is always taken, however large.

    Returns:
      dict from expert to [count, d] float32; a row that was left out is nan.
    """
    views = next(iter(self._encoders.values())).method.preprocess_eval  # the same for all experts

    def items():
      hidden = not sys.stderr.isatty()
      for i in track(range(count), what, console=Console(file=sys.stderr), disable=hidden):
        image = images(i)
        if image is not None:
          yield i, views(image)

    features = {}
    for indices, batch in bucketed_batches(items(), pixels_per_batch, self.mesh.size):
      outputs = {expert: encoder(batch)["features"] for expert, encoder in self._encoders.items()}
      for expert, rows in outputs.items():
        rows = np.asarray(rows)
        if expert not in features:
          features[expert] = np.full((count, rows.shape[1]), np.nan, np.float32)
        features[expert][indices] = rows[: len(indices)]
    return features


def write_features(metric, names, out):
  """`jiqa features`: writes image_name [n] str, features [n, d] float32 and card (JSON text) as .npz.

  Args:
    metric: scoring.metric.Metric; the features of its networks stand side by side, Re-IQA's content expert before its
      quality expert, others in their order.
    names: image files, folders, patterns or addresses, see `jiqa.inference.inputs.expand`; of videos, a frame every
      second.
    out: file to write.

  Returns:
    (number of images written, list of messages about images that cannot be read and were left out).

  Raises:
    UserError: a network gives no features, or no image can be read.
  """
  out = pathlib.Path(out)
  if out.suffix != ".npz":
    raise UserError(f"--out={out}: features are written as .npz; give the file that ending")
  models = sorted(metric.models, key=lambda model: model.name != "reiqa_content")
  metric = Metric(models, None, metric.mesh, {})
  metric.check_features()
  names, rows, refused = inputs.expand(names), {}, {}
  stream = metric.stream(video.items(names, 1.0))
  console = Console(file=sys.stderr)
  for found in track(stream, "features", total=len(names), console=console, disable=not console.is_terminal):
    if found.error:
      refused[found.index] = found.error
    else:
      rows[found.index] = found.name, found.outputs["features"]
  if not rows:
    raise UserError("no image can be read: " + next(iter(refused.values())))
  kept = [rows[index] for index in sorted(rows)]
  networks = [
    {**model.card, "method": model.name, "columns": int(model.gives()["features"][0])} for model in metric.models
  ]
  out.parent.mkdir(parents=True, exist_ok=True)
  partial = out.with_name(out.name + ".part")
  with open(partial, "wb") as file:
    np.savez(
      file,
      image_name=np.array([name for name, _ in kept]),
      features=np.stack([features for _, features in kept]).astype(np.float32),
      card=np.array(json.dumps({"networks": networks})),
    )
  os.replace(partial, out)
  return len(kept), [refused[index] for index in sorted(refused)]
