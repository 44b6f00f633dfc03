"""What jiqa does on a GPU, in minutes: training steps beside tuned PyTorch, the bank, predictions, the ridge search.

    python -m benchmarks.gpu [--parts=ceilings,step:lml,...] [--repeats=10] [--limit=600] [--json=FILE]
    python -m benchmarks.gpu --tiny     # the same code with networks of a few channels, for a CPU

Every part is a process of its own, so that its peak of memory is its own and its failure only its own.

  ceilings      one large bfloat16 product, one large copy: what `of_product` and byte counts are compared with.
  step:NAME     a training step in bfloat16 with images at hand; `of_product`: model FLOPs/s over those of the product;
                memory as compiled and as held at most; for Re-IQA the share of distorting and cropping, measured alone.
                Beside it the same network in PyTorch (benchmarks/torch_steps.py) where torch sees the GPU; LIQE beside
                the published arithmetic (every prompt for itself, 77 tokens).
  profile:NAME  the same step by the profiler: share of the time of distorting, forward, backward and update, and the
                dearest operations.
  bank          training items (11 versions, 2 scales, crop pairs) beside the PIL/SciPy bank on all CPU cores.
  predict:NAME  images of 512x384, decoded, predicted in batches of 16: copied to the device, computed, copied back.
  ridge         benchmarks/evaluation.py: 10 splits x 20 alphas, n 10,000, d 8,192, beside scikit-learn.
"""

import argparse
import collections
import concurrent.futures
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the device

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure

# Name -> (config, changes for a GPU, further changes with --tiny). Re-IQA's 20 images are a chip's share of 32; they
# are 960 crops.
TINY_REIQA = ("depth=10", "width=4", "embedding=8", "batch_size=2", "window=96", "crop=32", "versions=3", "queue=64")
TINY_VIT = ("width=64", "depth=2", "heads=2", "batch_size=2")
STEPS = {
  "reiqa": ("configs/reiqa.py:quality", ("batch_size=20",), TINY_REIQA),
  "reiqa_queue": ("configs/reiqa.py:quality,loss=queue", ("batch_size=20",), TINY_REIQA),
  "content": ("configs/reiqa.py:content", (), (*TINY_REIQA[:-2], "queue=64")),
  "lml": ("configs/lml.py:koniq", (), (*TINY_VIT, "crop=32", "crops=2", "test_crops=2")),
  "liqe": ("configs/liqe.py:joint", (), (*TINY_VIT, "embedding=16", "text.width=16", "text.depth=1", "text.heads=2")),
}
PARTS = (
  "ceilings", *(f"step:{name}" for name in STEPS), "bank", "predict:reiqa", "predict:lml", "predict:liqe", "ridge",
)  # fmt: skip
PUBLISHED_LIQE = "benchmarks.liqe:Published"


def config_of(name, tiny):
  path, changes, further = STEPS[name]
  return measure.config_of(path, [*changes, *(further if tiny else ())])


def ceilings(flags, _):
  """Rates of a product and of a copy, bytes read and written counted."""
  n = 2**20 if flags.tiny else 2**29
  numbers = jnp.arange(n, dtype=jnp.float32)
  copy = jax.jit(lambda x: x + 1)
  seconds = measure.interleaved({"copy": lambda: jax.block_until_ready(copy(numbers))}, flags.repeats)["copy"]
  product = measure.matmul_ceiling(jnp.bfloat16, 256 if flags.tiny else 8192)
  return [{"product_tflops": product / 1e12, "copy_gigabytes_per_second": 8 * n / seconds / 1e9}]


def step(flags, name):
  """A training step, and its other side."""
  config = config_of(name, flags.tiny)
  began = time.perf_counter()
  ours = measure.Step(config, jax.devices()[:1])
  row = {"side": "jiqa", "images": config.batch_size, "compile_seconds": time.perf_counter() - began}
  ours(), ours()
  row |= memory(ours)
  sides = {"jiqa": ours}
  if hasattr(ours.method, "crop_pairs"):
    pairs = jax.jit(ours.method.crop_pairs).lower(ours.batch, jax.random.key(0)).compile()
    sides["augment"] = lambda: jax.block_until_ready(pairs(ours.batch, jax.random.key(0)))
  sides |= other_side(config)
  seconds = measure.interleaved(sides, flags.repeats)
  ceiling = measure.matmul_ceiling(jnp.dtype(config.dtype), 256 if flags.tiny else None)
  if "augment" in seconds:
    row["augment_share"] = seconds["augment"] / seconds["jiqa"]
  rows = [row, *({"side": side, "images": config.batch_size} for side in list(sides)[1:])]
  for row in rows:
    s = seconds[row["side"]]
    row |= {"seconds": s, "images_per_second": config.batch_size / s, "ratio": s / seconds["jiqa"]}
    if row["side"] != "augment":
      row["of_product"] = ours.operations / s / ceiling
  return rows


def other_side(config):
  """What a training step is compared with: dict from a name to a function, empty where there is nothing."""
  if config.method == "liqe":
    published = config.copy_and_resolve_references()
    with published.unlocked():
      published.method = PUBLISHED_LIQE
    return {"published arithmetic": measure.Step(published, jax.devices()[:1])}
  try:
    from benchmarks import torch_steps
  except ImportError:
    return {}
  if jax.default_backend() == "gpu" and not torch_steps.torch.cuda.is_available():
    return {}
  return {"torch": torch_steps.build(config)}


def memory(ours):
  """Gigabytes of a step as compiled, and the most that the device has held; the latter where it counts."""
  plan = ours.program.memory_analysis()
  planned = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes
  held = {"planned_gigabytes": planned / 1e9}
  if statistics := ours.mesh.devices.flat[0].memory_stats():
    held["held_gigabytes"] = statistics["peak_bytes_in_use"] / 1e9
  return held


def profile(flags, name):
  """Where a step's time goes, by the profiler."""
  ours = measure.Step(config_of(name, flags.tiny), jax.devices()[:1])
  ours(), ours()
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      ours(), ours(), ours()
    (path,) = (os.path.join(at, x) for at, _, names in os.walk(folder) for x in names if x.endswith(".xplane.pb"))
    spent = time_by_operation(jax.profiler.ProfileData.from_file(path))
  names = dict(re.findall(r"%?([\w.-]+) = .*op_name=\"([^\"]*)\"", ours.program.as_text()))
  total, phases = sum(spent.values()), collections.Counter()
  for operation, seconds in spent.items():
    phases[phase_of(names.get(operation, ""))] += seconds / total
  dearest = [
    {"operation": operation, "share": seconds / total, "of": names.get(operation, "")[-140:]}
    for operation, seconds in spent.most_common(25)
  ]
  return [{"milliseconds": total / 3 * 1e3, **phases}, *dearest]


def time_by_operation(data):
  """Seconds of every operation of the program on a device (CPU: its threads): Counter from name to seconds."""
  spent = collections.Counter()
  for plane in data.planes:
    if "/device:" not in plane.name and "/host:CPU" not in plane.name:
      continue
    for line in plane.lines:
      for event in line.events:
        operation = dict(event.stats).get("hlo_op")
        if operation and not operation.startswith(("while", "cond", "call")):  # their parts are events too
          spent[operation] += event.duration_ns / 1e9
  return spent


def phase_of(name):
  """The part of a step to which an operation of this op_name belongs."""
  if "augment" in name:
    return "augment"
  if "transpose(" in name:
    return "backward"
  return "forward" if "jvp(" in name else "update and others"


def bank(flags, _):
  """Training items a second of the bank, and of the published kind of bank on all cores."""
  from benchmarks import distortions

  config = config_of("reiqa", flags.tiny)
  method = measure.on_made_up_images(config, measure.make_mesh(jax.devices()[:1]))
  batch = measure.put_batch(measure.example(method, config.batch_size), method.mesh)
  pairs = jax.jit(method.crop_pairs).lower(batch, jax.random.key(0)).compile()
  timed = {"jiqa": lambda: jax.block_until_ready(pairs(batch, jax.random.key(0)))}
  ours = config.batch_size / measure.interleaved(timed, flags.repeats)["jiqa"]
  cores = len(os.sched_getaffinity(0))
  items = 1 if flags.tiny else 4 * cores
  os.environ |= {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # of the workers
  workers = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(1 if flags.tiny else cores, workers) as pool:
    list(pool.map(distortions.reference_item_of, [0] * cores))  # imports
    start = time.perf_counter()
    list(pool.map(distortions.reference_item_of, range(1, items + 1)))
    theirs = items / (time.perf_counter() - start)
  return [{"items_per_second": ours, "pil_items_per_second": theirs, "cores": cores, "ratio": ours / theirs}]


def predict(flags, name):
  """Images a second through one network."""
  from jiqa.inference.buckets import bucketed_batches
  from jiqa.inference.predictor import Network

  config = config_of(name, flags.tiny)
  method = measure.on_made_up_images(config, measure.make_mesh(jax.devices()[:1]))
  network = Network.of_state(method, method.init(jax.random.key(0)), method.mesh)
  rng, images = np.random.default_rng(0), 2 if flags.tiny else 16
  inputs = [method.preprocess_eval(rng.integers(0, 256, (384, 512, 3), dtype=np.uint8)) for _ in range(images)]
  ((_, batch),) = bucketed_batches(list(enumerate(inputs)), images * 384 * 512 * 16, 1)
  batch = {key: array[:images] for key, array in batch.items()}
  program = network.program(batch).result()
  work = {"predict": lambda: jax.device_get(network.run(program, batch))}
  seconds = measure.interleaved(work, flags.repeats)["predict"]
  return [{"images": images, "seconds": seconds, "images_per_second": images / seconds}]


def ridge(flags, _):
  """The ridge search and the bootstrap beside scikit-learn and SciPy."""
  from benchmarks import evaluation

  n, d, splits, alphas = (60, 256, 2, 4) if flags.tiny else (10_000, 8_192, 10, 20)
  return [evaluation.bootstrap_rows(n, 20 if flags.tiny else 1000, 3), evaluation.ridge_rows(n, d, splits, alphas, 4)]


RUN = {
  "ceilings": ceilings, "step": step, "profile": profile, "bank": bank, "predict": predict, "ridge": ridge,
}  # fmt: skip


def run_part(part, flags):
  """The rows of one part, in this process."""
  kind, _, name = part.partition(":")
  return [{"part": part, **row} for row in RUN[kind](flags, name)]


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--parts", default=",".join(PARTS))
  parser.add_argument("--repeats", type=int, default=10)
  parser.add_argument("--limit", type=float, default=600, help="seconds that a part may take")
  parser.add_argument("--tiny", action="store_true", help="networks of a few channels")
  parser.add_argument("--json")
  parser.add_argument("--one", help=argparse.SUPPRESS)  # a part to run in this process, its rows to --json
  flags = parser.parse_args()
  if flags.one:
    rows = run_part(flags.one, flags)
    with open(flags.json, "w") as file:
      json.dump(rows, file, default=float)
    return
  failed, rows = [], []
  for part in flags.parts.split(","):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
      command = [sys.executable, "-m", "benchmarks.gpu", f"--one={part}", f"--repeats={flags.repeats}",
                 f"--json={file.name}", *(["--tiny"] if flags.tiny else [])]  # fmt: skip
      try:
        subprocess.run(command, check=True, timeout=flags.limit)
      except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        failed.append(f"{part}: {error}")
        continue
      rows += json.load(open(file.name))
    measure.report("gpu", rows, flags.json)
  if failed:
    raise SystemExit("\n".join(failed))


if __name__ == "__main__":
  main()
