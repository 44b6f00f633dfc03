"""Model FLOPs of the published trainings, counted from the traced step; nothing is compiled or run.

    python -m benchmarks.costs [--only=LIQE] [--json=FILE]

jiqa/runtime/throughput.py counts. Hours are not made of them: `jiqa plan` gives the least time of a step on a machine.
"""

import argparse

import jax

from benchmarks import measure
from jiqa import train as loop
from jiqa.runtime import optimizer
from jiqa.runtime.throughput import count_flops

# Name -> (config, steps of the published training, what they are). Re-IQA: 750,000 images x 40 epochs / 640.
TRAININGS = {
  "Re-IQA, quality": ("configs/reiqa.py:quality", 46_875, "40 epochs of 750,000 images"),
  "Re-IQA, quality, published loss": ("configs/reiqa.py:quality,loss=queue", 46_875, "40 epochs of 750,000 images"),
  "Re-IQA, content": ("configs/reiqa.py:content", 1_000_800, "200 epochs of ImageNet-1k"),
  "LIQE, one split": ("configs/liqe.py:joint", 16_000, "80 x 200 steps"),
  "LML-IQA, LIVE Challenge, one split": ("configs/lml.py:livec", 9 * 116, "9 epochs of 929 images"),
  "LML-IQA, KonIQ-10k, one split": ("configs/lml.py:koniq", 9 * 167, "9 epochs of 8,058 images"),
  "LML-IQA, LIVE-FB, one split": ("configs/lml.py:livefb", 9 * 663, "9 epochs of 31,848 images"),
}


def count(config):
  """(model FLOPs of a step, parameters, bytes of a batch), without compiling or allocating anything large."""
  method = measure.on_made_up_images(config, measure.make_mesh(jax.devices()[:1]))
  tx, schedule = optimizer.build(config.optimizer, 10_000, 100)

  def fresh(key):
    state = method.init(key, None)
    return state.replace(opt_state=tx.init(state.params))

  state = jax.eval_shape(fresh, jax.random.key(0))
  rows = measure.example(method, 1)
  batch = {name: jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype) for name, x in rows.items()}
  traced = loop.make_step(method, tx, schedule, 0).trace(state, batch)
  size = sum(x.size * x.dtype.itemsize for x in batch.values())
  return count_flops(traced.jaxpr), sum(x.size for x in jax.tree.leaves(state.params)), size


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--only", help="trainings whose name contains this")
  parser.add_argument("--json")
  flags = parser.parse_args()
  rows = []
  for name, (path, steps, meaning) in TRAININGS.items():
    if flags.only and flags.only not in name:
      continue
    config = measure.config_of(path)
    operations, parameters, size = count(config)
    rows.append({
      "training": name, "steps": steps, "meaning": meaning, "images a step": config.batch_size,
      "parameters": parameters, "batch megabytes": size / 1e6, "tflop a step": operations / 1e12,
      "pflop": steps * operations / 1e15,
    })  # fmt: skip
  measure.report("costs", rows, flags.json)


if __name__ == "__main__":
  main()
