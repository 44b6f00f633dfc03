"""`jiqa plan`: whether a config's programs fit a machine, what they take there, and what would make them fit."""

import dataclasses
import json
import pathlib
import sys
import time

from absl import flags
from ml_collections import config_flags
from rich.console import Console

import data_builders
from jiqa import train as loop
from jiqa.data.schema.tables import published_protocols, read
from jiqa.errors import UserError
from jiqa.plan import machines, programs
from jiqa.plan.measure import GIB, plan

# What saves memory, from what costs least; for each the values that are tried until one fits.
REMEDIES = (("remat", (True,)), ("accumulate", (2, 4, 8)), ("sharding", ("fsdp",)))


def config_of(path, overrides=()):
  """The config of "configs/NAME.py[:VARIANT]" with changes "--config.KEY=VALUE", as launch.py reads them."""
  values, line = flags.FlagValues(), ["jiqa plan", f"--config={path}", *overrides]
  flag = config_flags.DEFINE_config_file("config", None, "", lock_config=True, flag_values=values, sys_argv=line)
  try:
    rest = values(line)
    if len(rest) > 1:
      raise flags.Error(f"unexpected argument {rest[1]!r}; changes are given as --config.KEY=VALUE")
    flag.value.keys()  # a file that cannot be read shows here
    return flag.value
  except (flags.Error, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
    raise UserError(f"--config={path}: {str(error).strip().splitlines()[-1]}") from error


def run(path, topology, overrides=(), *, names=(), images=None, out=None, remedies=True):
  """Prints the plans of a config's programs for a topology; returns True where all fit.

  Args:
    path, overrides: see `config_of`.
    topology: see machines.py.
    names: of programs.NAMES; none: all.
    images: that the config trains on; None: those of its databases' releases.
    out: file for all figures, JSON.
    remedies: where training does not fit, compile what would make it fit.
  """
  names = tuple(names) or programs.NAMES
  if unknown := set(names) - set(programs.NAMES):
    raise UserError(f"--program is {', '.join(sorted(unknown))}; expected {', '.join(programs.NAMES)}")
  config, devices, console = config_of(path, overrides), machines.devices(topology), Console(stderr=True)
  print(f"{path} for {topology} by {machines.compiler()}: compiled, not run; times are estimates")
  plans, tried = [], {}
  for name in names:
    each = _planned(config, devices, name, topology, console)
    plans.append(each)
    print("\n".join(describe(each)))
    if name == "train" and each.fits:
      print("  " + whole_recipe(config, each, images))
    elif name == "train" and remedies:
      tried = try_remedies(config, topology, console)
  if out:
    facts = {
      "config": path, "overrides": list(overrides), "compiler": machines.compiler(),
      "plans": [_as_dict(each) for each in plans], "remedies": {what: _as_dict(p) for what, p in tried.items()},
    }  # fmt: skip
    pathlib.Path(out).write_text(json.dumps(facts, indent=2) + "\n")
  return all(each.fits for each in plans)


def _as_dict(each):
  derived = {"seconds": each.seconds, "binds": each.binds, "mfu": each.mfu} if each.traffic else {}
  return dataclasses.asdict(each) | derived


def _planned(config, devices, name, topology, console):
  began = time.perf_counter()
  with console.status(f"tracing {name}") as status:

    def notify(what):
      status.update(what)
      if not console.is_terminal:
        print(what, file=sys.stderr)

    compiled = plan(programs.trace(config, devices, name), name, topology, notify)
  if time.perf_counter() - began > 60:
    print(f"{name}: compiled in {compiled.compiled_seconds:.0f} s", file=sys.stderr)
  return compiled


def describe(each):
  """Lines of text that say what a `Plan` found."""
  of = f"{each.images} images on {each.chips} chip{'s' if each.chips > 1 else ''}"
  memory = f"{each.program}: {of}: {_memory(each)}: state {each.state / GIB:.2f}, batch {each.batch / GIB:.2f}"
  if not each.fits:
    return [memory, *(f"  {line}" for line in each.largest)]
  exchanged = [
    f"{kind} {number} ({size / 1e6:.3g} MB: {', '.join(f'{t} {n / 1e6:.3g}' for t, n in types.items())})"
    for kind, (number, size, types) in each.exchanged.items()
  ]
  milliseconds = [f"{name} {1e3 * getattr(each, f'{name}_seconds'):.3g}" for name in ("compute", "memory", "exchange")]
  return [
    f"{memory}, scratch {each.scratch / GIB:.2f}",
    f"  arithmetic {each.flops / 1e12:.3g} TFLOP a chip ({each.flops * each.chips / 1e12:.4g} in all, "
    f"{each.model_flops / 1e12:.4g} the model's), memory traffic {each.traffic / 1e9:.3g} GB a chip "
    f"({each.accessed / 1e9:.3g} as the compiler counts)",
    f"  exchange: {'; '.join(exchanged) or 'none'}",
    f"  estimate: at least {1e3 * each.seconds:.3g} ms, bound by {each.binds} (ms: {', '.join(milliseconds)}): "
    f"MFU at most {each.mfu:.0%}",
  ]


def _memory(each):
  needed = f"{each.needed / GIB:.2f} of" if each.needed else "more than"
  estimate = " (as a TPU would take it: an estimate)" if each.topology.startswith("gpu") else ""
  return f"{'fits' if each.fits else 'does NOT fit'}: {needed} {each.limit / GIB:.2f} GiB a chip{estimate}"


def whole_recipe(config, each, images=None):
  """A line about steps and hours of a training."""
  note = ""
  if not images and not config.steps:
    images = int(sum(_training_images(config, entry) for entry in config.data))
    if whole := [entry.name for entry in config.data if entry.protocol == "official"]:
      note = (
        f" (with the test images of {', '.join(whole)}, whose number is not known here; --images=N says it without)"
      )
    if not images:
      return "the number of images is not known; --images=N says it, and gives steps and hours"
  _, _, steps = loop.build_optimizer(config, images or 0)
  hours = steps * each.seconds / 3600
  of = "" if config.steps else f" of {images:,} images{note}"
  return f"the recipe: {steps:,} steps{of}, at least {hours:.3g} hours, {hours * each.chips:.3g} chip-hours"


def _training_images(config, entry):
  """How many images of a database's release a run trains on; of official parts that is all there are."""
  if entry.protocol in published_protocols(entry.name):
    count = max(config.evaluation.splits, config.split + 1)
    texts = [text[:count] for text in read(entry.protocol, entry.name.partition("/")[0]).splits]
    return sum("2" not in text if config.split < 0 else text[config.split] == "0" for text in texts)
  share = config.evaluation.fractions[0] if entry.protocol == "folds" else 1
  return share * (data_builders.builder_class(entry.name).IMAGES or 0)


def try_remedies(config, topology, console):
  """Compiles the training step with what saves memory, until each fits: dict from what was changed to its Plan."""
  tried = {}

  def attempt(label, where, **changes):
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
      changed.update(changes)
    try:
      tried[label] = _planned(changed, machines.devices(where), "train", where, console)
    except UserError as error:
      print(f"  {label}: {error}")
      return False
    print(f"  {label}: {_memory(tried[label])}")
    return tried[label].fits

  print("what would make it fit:")
  for key, values in REMEDIES:
    for value in values:
      if config[key] != value and attempt(f"--config.{key}={value}", topology, **{key: value}):
        break
  for where in machines.larger(topology)[:2]:
    if attempt(f"--topology={where}", where):
      break
  return tried
