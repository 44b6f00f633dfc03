"""Features of pictures: what encoders that were trained without labels say of each, one row a picture."""

import json
import os
import pathlib
import sys

import numpy as np
from rich.console import Console
from rich.progress import track

from jiqa.data.batching import framed_batches
from jiqa.data.decode import decode_rgb
from jiqa.errors import UserError
from jiqa.runtime.sharding import make_mesh
from jiqa.scoring import locations
from jiqa.scoring.model import Model

# Methods whose predictions are features, by the model that they are experts of: method to expert, in the order of the
# columns.
MODELS = {"reiqa": {"reiqa_content": "content", "reiqa": "quality"}}
# A batch of a ResNet-50 then takes about a gigabyte.
PIXELS_PER_BATCH = 2048 * 2048


class Experts:
  """The encoders of one model, side by side.

  Args:
    folders: folders of weights or working directories of runs, one an expert.
    model: a key of `MODELS`.

  Attributes:
    card: dict with 'model' and 'experts': a list of dicts with 'expert', 'weights_sha256' and where the weights are
      from, in the order of the columns.

  Raises:
    UserError: a folder holds no weights of that model, or two hold the same expert.
  """

  def __init__(self, folders, model="reiqa"):
    if model not in MODELS:
      raise UserError(f"--model={model}: gives no features; expected {', '.join(MODELS)}")
    self.mesh, found = make_mesh(), {}
    for folder in folders:
      encoder = Model(folder, self.mesh)
      expert = MODELS[model].get(encoder.name)
      if expert is None:
        raise UserError(f"{folder}: holds weights of {encoder.name}, which is no expert of {model}")
      if expert in found:
        raise UserError(f"{folder}: a second {expert} expert; expected each once")
      found[expert] = encoder
    if not found:
      raise UserError("no weights given: --weights=DIR, once for every expert")
    self._encoders = {expert: found[expert] for expert in MODELS[model].values() if expert in found}
    self.card = {
      "model": model,
      "experts": [{**encoder.card, "expert": expert} for expert, encoder in self._encoders.items()],
    }

  def __call__(self, pictures, count, what, pixels_per_batch=PIXELS_PER_BATCH):
    """The features of pictures.

    Args:
      pictures: function from 0 <= i < count to [h, w, 3] uint8; or to None for a picture that is to be left out.
      count: int.
      what: shown on the progress bar.
      pixels_per_batch: bounds the memory; one picture is always taken, however large.

    Returns:
      dict from expert to [count, d] float32; a row that was left out is nan.
    """
    views = next(iter(self._encoders.values())).method.views  # the same for all experts

    def items():
      hidden = not sys.stderr.isatty()
      for i in track(range(count), what, console=Console(file=sys.stderr), disable=hidden):
        picture = pictures(i)
        if picture is not None:
          yield i, views(picture)

    features = {}
    for indices, batch in framed_batches(items(), pixels_per_batch, self.mesh.size):
      outputs = {expert: encoder(batch)["features"] for expert, encoder in self._encoders.items()}
      for expert, rows in outputs.items():
        rows = np.asarray(rows)
        if expert not in features:
          features[expert] = np.full((count, rows.shape[1]), np.nan, np.float32)
        features[expert][indices] = rows[: len(indices)]
    return features


def write_features(names, folders, model, out, pixels_per_batch=PIXELS_PER_BATCH):
  """`jiqa features`: writes image_name [n] str, features [n, d] float32 and card (JSON text) as .npz.

  Args:
    names: picture files, folders, patterns or addresses, see `jiqa.scoring.locations.expand`.
    folders, model: see `Experts`.
    out: file to write.
    pixels_per_batch: see `Experts`.

  Returns:
    (number of pictures written, list of messages about pictures that cannot be read and were left out).

  Raises:
    UserError: the weights cannot be used, or no picture can be read.
  """
  out = pathlib.Path(out)
  if out.suffix != ".npz":
    raise UserError(f"--out={out}: features are written as .npz; give the file that ending")
  experts, names, refused = Experts(folders, model), locations.expand(names), {}

  def read(i):
    try:
      return decode_rgb(locations.read_bytes(names[i]), names[i])
    except UserError as error:
      refused[i] = str(error)
      return None

  found = experts(read, len(names), "features", pixels_per_batch)
  if not found:
    raise UserError("no picture can be read: " + next(iter(refused.values())))
  rows = [i for i in range(len(names)) if i not in refused]
  for card in experts.card["experts"]:
    card["columns"] = found[card["expert"]].shape[1]
  out.parent.mkdir(parents=True, exist_ok=True)
  partial = out.with_name(out.name + ".part")
  with open(partial, "wb") as file:
    np.savez(
      file,
      image_name=np.array([names[i] for i in rows]),
      features=np.concatenate([part[rows] for part in found.values()], 1),
      card=np.array(json.dumps(experts.card)),
    )
  os.replace(partial, out)
  return len(rows), list(refused.values())
