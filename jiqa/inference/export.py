"""A metric as a file that runs without this package: StableHLO through `jax.export`, with symbolic sizes."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from jiqa.errors import UserError
from jiqa.evaluation import outputs

PROGRAM, SHEET, EXAMPLE = "model.stablehlo", "model.json", "example.npz"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# Buckets are whole multiples of what a network reduces; larger ones would be encoded tile by tile.
STEP, LARGEST = 32, 2048
HALF = "the image reduced by Pillow: resize((max(w // 2, 1), max(h // 2, 1)), Image.Resampling.BICUBIC)"
VIEWS = {
  "full": "the image, RGB",
  "half": HALF,
  "crops": "crops of the image, RGB, as jiqa takes them: metric.models[0].method.preprocess_eval(image)['crops']",
}
USE = """import json, numpy as np
from jax import export
program = export.deserialize(open("model.stablehlo", "rb").read())
example = np.load("example.npz")
inputs = {name: example[name] for name in json.load(open("model.json"))["inputs"]}
print(program.call(inputs), "expected", example["score"])
"""


def export(metric, out):
  """Writes a metric as a program for others.

  Args:
    metric: Metric with one network.
    out: folder to write: model.stablehlo, model.json (inputs, outputs, how to use it, the card) and example.npz (inputs
      and outputs of a made image, so that anyone can check).

  Returns:
    dict, the contents of model.json.

  Raises:
    UserError: the metric has several networks, or `flatbuffers` is not installed.
  """
  if len(metric.models) > 1:
    raise UserError("several networks were named; export them one by one")
  model, out = metric.models[0], pathlib.Path(out)
  views = model.method.preprocess_eval(image())
  example = example_of(views)
  program = jax.jit(program_of(metric))
  exported = jax_export.export(program, platforms=PLATFORMS)(symbolic(views))
  try:
    data = exported.serialize()
  except ImportError as error:
    raise UserError("jiqa export needs flatbuffers, which is not installed: pip install 'jiqa[export]'") from error
  found = {name: np.asarray(value) for name, value in program(example).items()}
  sheet = {
    "inputs": {name: _input(name, view) for name, view in views.items() if view.ndim == 4}
    | {
      name: text
      for view, pixels in views.items()
      if pixels.ndim == 3
      for name, text in ((view, _input(view, pixels)), (f"{view}_size", f"[b, 2] int32: height and width of {view}"))
    },
    "outputs": {name: list(value.shape[1:]) for name, value in found.items()},
    "platforms": list(PLATFORMS),
    "use": USE,
    "card": metric.card,
  }
  outputs.write_bytes(out / PROGRAM, bytes(data))
  outputs.write_bytes(out / SHEET, (json.dumps(sheet, indent=2) + "\n").encode())
  with open(out / EXAMPLE, "wb") as file:
    np.savez(file, **example, **found)
  return sheet


def _input(name, view):
  if view.ndim == 4:
    return f"[b, {', '.join(map(str, view.shape))}] uint8: {VIEWS.get(name, name)}"
  return (
    f"[b, {STEP} m, {STEP} n, 3] uint8, at most {LARGEST} a side: {VIEWS.get(name, name)}; filled up at the bottom and "
    "right with anything"
  )


def image():
  """[200, 240, 3] uint8: waves that anyone can make again."""
  y, x = np.mgrid[:200, :240].astype(np.float64)
  waves = [np.sin(x / 7 + y / 11 + phase) * np.cos(x * y / 900 + phase) for phase in (0, 1, 2)]
  return np.round(127.5 + 127.5 * np.stack(waves, -1)).astype(np.uint8)


def example_of(views):
  """A batch of one, padded as the program wants it.

  Args:
    views: dict of arrays, from `Method.preprocess_eval`.

  Returns:
    dict of NumPy arrays.
  """
  batch = {}
  for name, view in views.items():
    if view.ndim == 4:
      batch[name] = view[None]
      continue
    padding = [(0, -side % STEP) for side in view.shape[:2]]
    batch[name] = np.pad(view, (*padding, (0, 0)))[None]
    batch[name + "_size"] = np.array([view.shape[:2]], np.int32)
  return batch


def symbolic(views):
  """Shapes of a batch: any number of images, and frames of any multiple of STEP up to LARGEST.

  Args:
    views: dict of arrays, from `Method.preprocess_eval`.

  Returns:
    dict of jax.ShapeDtypeStruct.
  """
  padded = [name for name, view in views.items() if view.ndim == 3]
  letters = [f"{STEP}*{side}{i}" for i in range(len(padded)) for side in "hw"]
  limits = [f"{side}{i}<={LARGEST // STEP}" for i in range(len(padded)) for side in "hw"]
  b, *sides = jax_export.symbolic_shape(", ".join(["b", *letters]), constraints=limits)
  shapes = {}
  for name, view in views.items():
    if view.ndim == 4:
      shapes[name] = jax.ShapeDtypeStruct((b, *view.shape), np.uint8)
      continue
    height, width, *sides = sides
    shapes[name] = jax.ShapeDtypeStruct((b, height, width, 3), np.uint8)
    shapes[name + "_size"] = jax.ShapeDtypeStruct((b, 2), np.int32)
  return shapes


def program_of(metric):
  """Prediction as a function of a batch alone: weights and head are constants of it.

  Args:
    metric: Metric with one network.

  Returns:
    function from dict of arrays to dict of arrays; 'score' [b] is among them where the metric gives one.
  """
  model, head = metric.models[0], metric.head
  weights = jax.tree.map(np.asarray, model.weights)

  def predict(batch):
    outputs = model.method.predict(*weights, batch)
    if head is None:
      return outputs
    centred = (outputs["features"] - jnp.asarray(head.mean, jnp.float32)) / jnp.asarray(head.scale, jnp.float32)
    score = jnp.matmul(centred, jnp.asarray(head.weights, jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return {**outputs, "score": score + jnp.float32(head.intercept)}

  return predict
