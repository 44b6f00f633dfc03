"""What devices tell each other in a step: counted from the compiled program on 1, 2, 4, 8 virtual CPU devices.

    python -m benchmarks.scaling --method=reiqa [--set=sharding=fsdp ...] [--json=FILE]

The batch grows with the devices (weak scaling). Virtual devices share one CPU, so their speed says nothing about a
pod; docs/scaling.md has what TPUs' programs exchange.
"""

import argparse
import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax

from benchmarks import measure
from benchmarks.train_step import DEFAULTS
from jiqa.plan import collectives


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--method", choices=DEFAULTS, default="reiqa")
  parser.add_argument("--config")
  parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
  parser.add_argument("--per_device", type=int, default=4, help="images of every device")
  parser.add_argument("--json")
  flags = parser.parse_args()
  rows = []
  for devices in (1, 2, 4, 8):
    size = [f"batch_size={devices * flags.per_device}"]
    config = measure.config_of(flags.config or DEFAULTS[flags.method], [*flags.set, *size])
    step = measure.Step(config, jax.devices()[:devices])
    row = {
      "devices": devices, "images": config.batch_size, "model_gflop_per_device": step.operations / devices / 1e9,
      "parameters": sum(x.size for x in jax.tree.leaves(step.state.params)),
      "state_megabytes_per_device": sum(x.addressable_data(0).nbytes for x in jax.tree.leaves(step.state)) / 1e6,
    }  # fmt: skip
    for kind, (number, size_in_bytes, _) in collectives.totals(step.program.as_text()).items():
      row[kind], row[f"{kind} megabytes"] = number, size_in_bytes / 1e6
    rows.append(row)
  measure.report("scaling", rows, flags.json)


if __name__ == "__main__":
  main()
