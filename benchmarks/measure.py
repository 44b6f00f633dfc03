"""What the benchmarks of training share: a step of any method on made-up images, clocks, JSON."""

import importlib
import json
import platform
import statistics
import sys
import time

import jax
import jax.numpy as jnp

from jiqa import train as loop
from jiqa.plan.programs import example, on_made_up_images
from jiqa.runtime.sharding import make_mesh, put_batch


def config_of(text, changes=()):
  """The config of "configs/reiqa.py:small" with changes such as "batch_size=8"."""
  file, _, variant = text.partition(":")
  module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
  config = module.get_config(variant) if variant else module.get_config()
  with config.unlocked():
    config.split = max(config.split, -1)
    for change in changes:
      key, _, value = change.partition("=")
      config.update_from_flattened_dict({key: type(config[key])(value) if not isinstance(config[key], bool) else
                                         value == "True"})  # fmt: skip
  return config


class Step:
  """A method's compiled training step with a batch on the devices.

  Attributes:
    program: the compiled step.
    operations: model FLOPs of a step.
    mesh, method, state, batch, images.
  """

  def __init__(self, config, devices=None):
    self.mesh, self.images = make_mesh(devices), config.batch_size
    self.method = on_made_up_images(config, self.mesh)
    tx, schedule, _ = loop.build_optimizer(config, 100 * config.batch_size)
    self.state = loop.init_state(config, self.method, tx, self.mesh)
    step = loop.step_of(config, self.method, tx, schedule, self.state)
    self.batch = put_batch(example(self.method, config.batch_size), self.mesh)
    self.program, self.operations = loop.compile_step(step, self.state, self.batch)

  def __call__(self):
    """One step, waited for."""
    self.state, metrics = self.program(self.state, self.batch)
    return jax.block_until_ready(metrics)


def interleaved(sides, repeats):
  """Median seconds of every side (name -> function that waits for its result), the sides taking turns."""
  for work in sides.values():
    work(), work()
  times = {name: [] for name in sides}
  for _ in range(repeats):
    for name, work in sides.items():
      start = time.perf_counter()
      work()
      times[name].append(time.perf_counter() - start)
  return {name: statistics.median(values) for name, values in times.items()}


def matmul_ceiling(dtype, side=None):
  """Operations a second of one square matrix product on one device: what a step could reach at best."""
  side = side or (8192 if jax.default_backend() != "cpu" else 2048)
  a = jax.random.normal(jax.random.key(0), (side, side), dtype)
  product = jax.jit(lambda a: a @ a)
  seconds = interleaved({"product": lambda: jax.block_until_ready(product(a))}, 5)["product"]
  return 2 * side**3 / seconds


def report(name, rows, path):
  """Prints rows (list of dicts) and writes them, with what they were measured on, as JSON."""
  facts = {
    "benchmark": name, "command": " ".join(sys.argv), "jax": jax.__version__, "python": platform.python_version(),
    "device": jax.devices()[0].device_kind, "devices": jax.device_count(), "backend": jax.default_backend(),
  }  # fmt: skip
  print(json.dumps(facts))
  for row in rows:
    print("  " + "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                           for key, value in row.items()))  # fmt: skip
  if path:
    with open(path, "w") as file:
      json.dump(facts | {"rows": rows}, file, indent=2, default=float)


def compute_dtype(config):
  """The dtype of a config's products."""
  return jnp.dtype(config.dtype)
