"""Memory of a training step as compiled for this backend: state, batch, scratch; with what saves memory.

    python -m benchmarks.memory --method=lml [--set=batch_size=16 ...] [--json=FILE]

Nothing is run: XLA says what the program takes on one device.
"""

import argparse

import jax

from benchmarks import measure
from benchmarks.train_step import DEFAULTS


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--method", choices=DEFAULTS, default="reiqa")
  parser.add_argument("--config")
  parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
  parser.add_argument("--json")
  flags = parser.parse_args()
  rows = []
  for label, changes in {"plain": [], "remat": ["remat=True"], "accumulate 4": ["accumulate=4"]}.items():
    config = measure.config_of(flags.config or DEFAULTS[flags.method], [*flags.set, *changes])
    step = measure.Step(config, jax.devices()[:1])
    memory = step.program.memory_analysis()
    rows.append(
      {
        "what": label, "images": config.batch_size,
        "state_megabytes": sum(x.nbytes for x in jax.tree.leaves(step.state)) / 1e6,
        "batch_megabytes": sum(x.nbytes for x in jax.tree.leaves(step.batch)) / 1e6,
        "scratch_megabytes": memory.temp_size_in_bytes / 1e6,
      }
    )  # fmt: skip
  measure.report("memory", rows, flags.json)


if __name__ == "__main__":
  main()
