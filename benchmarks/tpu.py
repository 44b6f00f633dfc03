"""What the published recipes take on TPUs, compiled without one: the tables of docs/scaling.md.

    python -m benchmarks.tpu [--only=liqe] [--topology=v5e:2x4 ...] [--set=sharding=fsdp ...] [--json=FILE]

Every recipe is compiled for every topology by `jiqa plan`, which remembers what it has compiled; times are estimates by
the data sheets. Needs pip install 'jax[tpu]' and minutes of one core a program, quarters of an hour for Re-IQA.
"""

import argparse
import dataclasses
import json
import sys

from jiqa.errors import UserError
from jiqa.plan import machines

# Name -> (config, topologies).
RECIPES = {
  "reiqa": ("configs/reiqa.py", ("v5e:4x8", "v5p:2x2x4")),
  "liqe": ("configs/liqe.py", ("v5e:1x1", "v5e:2x4", "v5p:2x2x2")),
  "lml": ("configs/lml.py", ("v5e:1x1", "v5e:2x4", "v5p:2x2x1")),
}


def rows(recipes, topologies=(), changes=()):
  """A dict of figures for every recipe and topology."""
  from jiqa.plan import command, measure, programs

  for name, (path, its_own) in recipes.items():
    config = command.config_of(path, [f"--config.{change}" for change in changes])
    for topology in topologies or its_own:
      try:
        program = programs.trace(config, machines.devices(topology), "train")
      except UserError as error:
        yield {"recipe": name, "topology": topology, "refused": str(error)}
        continue
      each = measure.plan(program, "train", topology, lambda what: print(what, file=sys.stderr))
      derived = {"seconds": each.seconds, "binds": each.binds, "mfu": each.mfu} if each.traffic else {}
      yield {"recipe": name, "config": path, "changes": list(changes), **dataclasses.asdict(each), **derived}


def table(row):
  """A line of a table in Markdown."""
  if "refused" in row:
    return f"| {row['recipe']} | {row['topology']} | refused: {row['refused']} |"
  memory = f"{row['needed'] / 2**30:.2f} GiB{'' if row['fits'] else ', does not fit'}"
  exchanged = "; ".join(
    f"{number} {kind} ({', '.join(f'{t} {n / 1e6:.3g} MB' for t, n in types.items())})"
    for kind, (number, _, types) in row["exchanged"].items()
  )
  times = " / ".join(f"{1e3 * row[f'{name}_seconds']:.3g}" for name in ("compute", "memory", "exchange"))
  share = f"{row['mfu']:.0%}" if "mfu" in row else ""
  numbers = (f"{row['flops'] / 1e12:.3g}", f"{row['traffic'] / 1e9:.3g}", times, share)
  parts = (row["recipe"], row["topology"], memory, *numbers)
  return f"| {' | '.join(parts)} | {exchanged} |"


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--only", choices=RECIPES)
  parser.add_argument("--topology", action="append", default=[])
  parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
  parser.add_argument("--json")
  flags = parser.parse_args()
  machines.prepare()
  recipes = {name: recipe for name, recipe in RECIPES.items() if flags.only in (None, name)}
  names = (
    "recipe",
    "topology",
    "memory a chip",
    "TFLOP",
    "traffic, GB",
    "ms: compute / memory / exchange",
    "MFU at most",
  )
  print(f"| {' | '.join(names)} | exchanged |\n{'|---' * 8}|")
  compiled = []
  for row in rows(recipes, flags.topology, flags.set):
    compiled.append(row)
    print(table(row), flush=True)
  if flags.json:
    with open(flags.json, "w") as file:
      json.dump({"compiler": machines.compiler(), "rows": compiled}, file, indent=2)


if __name__ == "__main__":
  main()
