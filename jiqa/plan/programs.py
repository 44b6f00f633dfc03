"""The programs of a config, traced without data, weights or devices: training step, evaluation, prediction."""

import dataclasses

import jax
import numpy as np

from jiqa import train as loop
from jiqa.errors import UserError
from jiqa.inference.buckets import bucketed_batches
from jiqa.methods import build_method
from jiqa.runtime.sharding import batch_sharding, make_mesh, replicated, state_sharding
from jiqa.runtime.throughput import count_flops

NAMES = ("train", "evaluate", "predict")
IMAGE = (768, 1024)  # pixels of the images that are evaluated and predicted, as those of KonIQ-10k


@dataclasses.dataclass
class Program:
  """A traced program, and what it is given, in bytes of one device."""

  lowered: jax.stages.Lowered
  model_flops: float  # on all devices
  images: int
  state: int
  batch: int


def on_made_up_images(config, mesh):
  """The method of a config whose databases need not be prepared: labels are of the demo's kind."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.data = [{**entry, "name": "demo"} for entry in config.data]  # entries of a list are not copied
  method = build_method(config, mesh)
  method.check_training()
  return method


def example(method, rows):
  """A batch for a method `on_made_up_images`, NumPy arrays, cut from random images of 512x384."""
  rng, cut = np.random.default_rng(0), []
  images = rng.integers(0, 256, (8, 384, 512, 3), dtype=np.uint8)
  for i in range(rows):
    record = {
      "image_name": ("grass/1.png", "coffee/2.png")[i % 2], "database": "demo", "entry": 0,
      "range": (0.0, 1.0), "mos": (i % 3) / 2, "mos_std": np.nan, "distortion": ("pristine", "gaussian blur")[i % 2],
    }  # fmt: skip
    cut.append(method.preprocess_train(images[i % 8], record, np.random.default_rng(i)))
  return {name: np.stack([row[name] for row in cut]) for name in cut[0]}


def trace(config, devices, name):
  """The `Program` of this name, see NAMES, for these devices; nothing is computed.

  Raises:
    UserError: the config cannot be run on so many devices.
  """
  mesh = make_mesh(devices[:1] if name == "predict" else devices)
  try:
    method = on_made_up_images(config, mesh)
    if name == "train":
      loop.check_numbers(config)
      loop.check_sharing(config, method, mesh)
  except ValueError as error:
    raise UserError(str(error)) from error
  return _training(config, method, mesh) if name == "train" else _prediction(config, method, mesh, name)


def _training(config, method, mesh):
  tx, schedule, _ = loop.build_optimizer(config, 100 * config.batch_size)
  state = method.state_shapes()
  state = state.replace(opt_state=jax.eval_shape(tx.init, state.params))
  state = _placed(state, state_sharding(state, mesh, config.sharding))
  rows = example(method, 1)
  batch = {
    name: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype, sharding=batch_sharding(mesh))
    for name, x in rows.items()
  }
  traced = loop.step_of(config, method, tx, schedule, state).trace(state, batch)
  return Program(traced.lower(), count_flops(traced.jaxpr), config.batch_size, _bytes(state), _bytes(batch))


def _prediction(config, method, mesh, name):
  """Of one image on one device, or of a batch as the evaluation after training sees it on all."""

  def weights(key):
    state = method.init(key)
    params, stats = method.weights(state)
    return params, stats, method.precompute(params, stats, state.extra)

  shapes = jax.eval_shape(weights, jax.random.key(0))
  shapes = _placed(shapes, jax.tree.map(lambda _: replicated(mesh), shapes))
  inputs = method.preprocess_eval(np.full((*IMAGE, 3), 127, np.uint8))
  pixels = config.evaluation.pixels_per_batch if name == "evaluate" else 1
  ((_, batch),) = bucketed_batches([(0, inputs)], pixels, mesh.size)
  batch = {k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)) for k, x in batch.items()}
  traced = jax.jit(method.predict).trace(*shapes, batch)
  images = len(next(iter(batch.values())))
  return Program(traced.lower(), count_flops(traced.jaxpr), images, _bytes(shapes), _bytes(batch))


def _placed(shapes, shardings):
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _bytes(tree):
  """Of one device."""
  parts = (np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64) * x.dtype.itemsize for x in jax.tree.leaves(tree))
  return int(sum(parts))
