"""A metric as a file that runs without this package: StableHLO through `jax.export`, with symbolic sizes."""

import json
import pathlib

import jax
import numpy as np
from jax import export as jax_export

from jiqa.errors import UserError
from jiqa.evaluation.outputs import write_bytes, write_npz
from jiqa.inference.functional import head_arrays, head_score
from jiqa.inference.metric import without_folders
from jiqa.weights.source import waves

PROGRAM, SHEET, EXAMPLE = "model.stablehlo", "model.json", "example.npz"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# Padded sizes are whole multiples of what a network reduces; larger ones would be encoded tile by tile.
STEP, LARGEST = 32, 2048
INPUTS = {
  "full": "the image, RGB",
  "half": "the image reduced by Pillow: resize((max(w // 2, 1), max(h // 2, 1)), Image.Resampling.BICUBIC)",
  "crops": "crops of the image, RGB, as jiqa takes them: metric.models[0].method.preprocess_eval(image)['crops']",
}
USE = """import json, numpy as np
from jax import export
program = export.deserialize(open("model.stablehlo", "rb").read())
example = np.load("example.npz")
inputs = {name: example[name] for name in json.load(open("model.json"))["inputs"]}
for name, value in program.call(inputs).items():
  print(name, value, "expected", example[name])
"""


def export(metric, out):
  """Writes a metric of one network as a program for others; returns the contents of model.json, a dict.

  The folder `out` gets model.stablehlo, model.json (inputs, outputs, how to use it, the card) and example.npz (inputs
  and outputs of a synthetic image, so that anyone can check).
  """
  if len(metric.models) > 1:
    raise UserError("several networks were named; export them one by one")
  out, inputs = pathlib.Path(out), metric.models[0].method.preprocess_eval(synthetic_image())
  program, example = jax.jit(program_of(metric)), example_of(inputs)
  try:
    data = jax_export.export(program, platforms=PLATFORMS)(symbolic(example)).serialize()
  except ImportError as error:
    raise UserError("jiqa export needs flatbuffers, which is not installed: pip install 'flatbuffers>=25'") from error
  predicted = {name: np.asarray(value) for name, value in program(example).items()}
  sheet = {
    "inputs": {name: _describe(name, inputs) for name in example},
    "outputs": {name: list(value.shape[1:]) for name, value in predicted.items()},
    "platforms": list(PLATFORMS), "use": USE, "card": without_folders(metric.card),
  }  # fmt: skip
  write_bytes(out / PROGRAM, bytes(data))
  write_bytes(out / SHEET, (json.dumps(sheet, indent=2) + "\n").encode())
  write_npz(out / EXAMPLE, **example, **predicted)
  return sheet


def _describe(name, inputs):
  if name not in inputs:
    return f"[b, 2] int32: height and width of {name.removesuffix('_size')}"
  text, shape = INPUTS.get(name, name), inputs[name].shape
  if len(shape) == 4:
    return f"[b, {', '.join(map(str, shape))}] uint8: {text}"
  padding = "filled up at the bottom and right with anything"
  return f"[b, {STEP} m, {STEP} n, 3] uint8, at most {LARGEST} a side: {text}; {padding}"


def synthetic_image():
  """[200, 240, 3] uint8, which anyone can make again."""
  return np.round(127.5 + 127.5 * waves(200, 240)).astype(np.uint8)


def example_of(inputs):
  """A batch of one, padded as the program wants it, from what `Method.preprocess_eval` gives."""
  batch = {}
  for name, array in inputs.items():
    batch[name] = array[None]
    if array.ndim == 3:
      padding = [(0, -side % STEP) for side in array.shape[:2]]
      batch[name] = np.pad(array, (*padding, (0, 0)))[None]
      batch[name + "_size"] = np.array([array.shape[:2]], np.int32)
  return batch


def symbolic(batch):
  """The shapes of such a batch for any number of images, padded to any multiple of STEP up to LARGEST."""
  shapes, limits = {}, []
  for i, name in enumerate(batch):
    shapes[name] = "b, ..."
    if name + "_size" in batch:
      shapes[name] = f"b, {STEP}*h{i}, {STEP}*w{i}, ..."
      limits += [f"{side}{i}<={LARGEST // STEP}" for side in "hw"]
  return jax_export.symbolic_args_specs(batch, shapes, constraints=limits)


def program_of(metric):
  """Prediction as a function of a batch alone, dict of arrays: weights and head are constants of it."""
  model, head = metric.models[0], metric.head
  weights, arrays = jax.tree.map(np.asarray, model.weights), head_arrays(head)

  def predict(batch):
    outputs = model.method.predict(*weights, batch)
    if head is None:
      return outputs
    return {**outputs, "score": head_score(arrays, outputs["features"])}

  return predict
