"""How fast prepared data become batches on the device, and what share of a step that is.

    python -m benchmarks.input_pipeline --config=configs/reiqa.py:small [--threads=1,2,4] [--batches=20] [--json=FILE]

Reads, decodes, cuts, stacks and transfers without computing a step, for every number of threads; then beside steps, as
in training, where `input_wait` is the share of the time in which the host waits for a batch. Needs the config's sets.
"""

import argparse
import time

from benchmarks import measure
from jiqa import train as loop
from jiqa.runtime.prefetch import Prefetch
from jiqa.runtime.throughput import Throughput


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--config", default="configs/reiqa.py:small")
  parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
  parser.add_argument("--threads", default="1,2,4")
  parser.add_argument("--batches", type=int, default=20)
  parser.add_argument("--steps", type=int, default=10, help="of training beside the reading; 0 leaves them out")
  parser.add_argument("--json")
  flags = parser.parse_args()
  config = measure.config_of(flags.config, flags.set)
  sources, weights, _ = loop.open_sources(config)
  step, rows = measure.Step(config), []
  method = loop.build(config, step.mesh)
  for threads in map(int, flags.threads.split(",")):
    config.unlock()
    config.threads = threads
    with Prefetch(loop.batches_from(config, sources, weights, method, 0), step.mesh) as feed:
      batch = next(feed)
      start = time.perf_counter()
      for _ in range(flags.batches):
        batch = next(feed)
      seconds = time.perf_counter() - start
      row = {
        "threads": threads, "images_per_second": flags.batches * config.batch_size / seconds,
        "megabytes_per_batch": sum(x.nbytes for x in batch.values()) / 1e6,
      }  # fmt: skip
      if flags.steps:
        step.batch = batch
        step()
        next(feed)
        meter = Throughput(config.batch_size, step.operations, step.mesh, feed)
        for _ in range(flags.steps):
          step.batch = next(feed)
          step()
          meter.step()
        rates = meter.read()
        row |= {"training_images_per_second": rates["images_per_second"], "input_wait": rates["input_wait"]}
      rows.append(row)
  measure.report("input_pipeline", rows, flags.json)


if __name__ == "__main__":
  main()
