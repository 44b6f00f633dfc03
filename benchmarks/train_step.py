"""The training step of a method, beside the same network in PyTorch where torch is installed.

    python -m benchmarks.train_step --config=configs/reiqa.py:small [--set=batch_size=8 ...] [--repeats=5] [--json=FILE]
    python -m benchmarks.train_step --method=lml

Both sides train the same networks on as many images of the same size (benchmarks/torch_steps.py); ours also distorts,
crops and contrasts. They take turns in one process on the same device; medians. Model FLOPs are counted once, from our
network, and are those of both. The ceiling is the speed of one large matrix product in the same dtype.
"""

import argparse
import importlib.util

from benchmarks import measure
from jiqa.runtime import host_memory

DEFAULTS = {
  "reiqa": "configs/reiqa.py:small",
  "reiqa_content": "configs/reiqa.py:content",
  "lml": "configs/lml.py:small",
  "liqe": "configs/liqe.py:small",
}


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--method", choices=DEFAULTS, default="reiqa")
  parser.add_argument("--config", help="FILE[:VARIANT]; default the method's small one")
  parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--json")
  flags = parser.parse_args()
  host_memory.keep_freed()  # as launch.py does; for both sides, since they share the process
  config = measure.config_of(flags.config or DEFAULTS[flags.method], flags.set)
  step = measure.Step(config)
  sides = {"jiqa": step}
  if importlib.util.find_spec("torch"):
    from benchmarks import torch_steps

    sides["torch"] = torch_steps.build(config)
  seconds = measure.interleaved(sides, flags.repeats)
  ceiling = measure.matmul_ceiling(measure.compute_dtype(config)) * step.mesh.size
  rows = []
  for side, s in seconds.items():
    rate = step.operations / s
    rows.append(
      {
        "side": side, "method": config.method, "images": config.batch_size, "seconds": s,
        "images_per_second": config.batch_size / s, "model_tflop": step.operations / 1e12,
        "tflops_per_second": rate / 1e12, "share_of_ceiling": rate / ceiling,
      }
    )  # fmt: skip
  if "torch" in seconds:
    rows[0]["ratio"] = seconds["torch"] / seconds["jiqa"]
  measure.report("train_step", rows, flags.json)


if __name__ == "__main__":
  main()
