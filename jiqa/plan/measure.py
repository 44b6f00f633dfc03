"""Compiles a program for a machine and says what it takes: memory, arithmetic, traffic, exchange, an estimated time."""

import dataclasses
import hashlib
import json
import os
import re
import time

import jax

from jiqa.inference import startup
from jiqa.plan import collectives, machines, traffic
from jiqa.runtime.throughput import peak_flops

GIB = 2**30
_FORM = "4"  # of what is remembered
# "... memory required for HLO temporaries (33.54G) exceeds available HBM (15.75G)."; or "Used 21.95G of 15.48G hbm."
_TOO_LARGE = re.compile(r"([\d.]+)([KMGT])\)? (?:exceeds available \w+ \(|of )([\d.]+)([KMGT])")


@dataclasses.dataclass
class Plan:
  """What a program takes of one chip: bytes, operations, seconds. Of one that does not fit, only what is known."""

  program: str
  topology: str
  chips: int
  images: int
  fits: bool
  limit: float  # bytes of memory
  needed: float  # bytes of memory; 0 where it does not fit and the compiler does not say by how much
  state: int  # of a program that fits: what it is given beside the batch and reads
  batch: int
  scratch: int = 0
  model_flops: float = 0.0  # on all chips
  flops: float = 0.0  # by the compiler's count, which has the body of a loop once
  traffic: float = 0.0  # bytes that the program reads from and writes to memory: traffic.py
  accessed: float = 0.0  # the same by the compiler's count, with what it reads and writes on the chip
  exchanged: dict = dataclasses.field(default_factory=dict)  # kind -> [number, bytes, {type: bytes}]
  compute_seconds: float = 0.0
  memory_seconds: float = 0.0
  exchange_seconds: float = 0.0
  largest: list = dataclasses.field(default_factory=list)  # what the compiler says about memory that is not enough
  compiled_seconds: float = 0.0

  @property
  def seconds(self):
    """The least time: that of the resource that binds, with all others hidden behind it."""
    return max(self.compute_seconds, self.memory_seconds, self.exchange_seconds)

  @property
  def binds(self):
    """The resource that takes longest."""
    return max(("compute", "memory", "exchange"), key=lambda name: getattr(self, f"{name}_seconds"))

  @property
  def mfu(self):
    """The largest possible share of the chips' peak that the model's own arithmetic takes."""
    peak = peak_flops(machines.CHIPS[machines.parse(self.topology)[0]].kind)
    return self.model_flops / self.chips / peak / self.seconds


def plan(program, name, topology, notify=lambda what: None):
  """The `Plan` of a programs.Program for a topology; found again in the cache if this program was compiled before.

  Args:
    notify: called with a line of text before minutes of compiling.
  """
  text = program.lowered.as_text()
  identity = hashlib.sha256("\n".join([text, topology, machines.compiler(), _FORM]).encode()).hexdigest()[:32]
  folder = startup.cache() / "plan"
  path = folder / f"{identity}.json"
  if path.exists():
    facts = json.loads(path.read_text())
  else:
    notify(f"compiling {name} for {topology}: {len(text) / 1e6:.1f} MB of program, minutes of one core")
    began = time.perf_counter()
    facts = _compile(program.lowered) | {"compiled_seconds": time.perf_counter() - began}
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(facts))
    part.replace(path)
  return _plan(program, name, topology, facts)


def _compile(lowered):
  """What the compiler says of a program."""
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    message = str(error)
    if "RESOURCE_EXHAUSTED" not in message:
      raise
    said = _TOO_LARGE.search(message)
    needed, limit = (float(said[i]) * 1024 ** ("KMGT".index(said[i + 1]) + 1) for i in (1, 3)) if said else (0.0, 0.0)
    return {"fits": False, "needed": needed, "limit": limit, "largest": message.splitlines()[:12]}
  memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
  kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
  return {
    "fits": True, "needed": kept + memory.temp_size_in_bytes, "scratch": memory.temp_size_in_bytes,
    "arguments": memory.argument_size_in_bytes, "flops": cost["flops"], "accessed": cost["bytes accessed"],
    "traffic": traffic.total(text)[0], "exchanged": collectives.totals(text),
  }  # fmt: skip


def _plan(program, name, topology, facts):
  chip, chips = machines.CHIPS[machines.parse(topology)[0]], machines.chips(topology)
  facts = {**facts, "limit": facts.get("limit") or chip.memory}
  if facts["needed"] > facts["limit"]:  # also where a larger chip stood in for a GPU
    facts["fits"] = False
  chips = 1 if name == "predict" else chips
  flops, moved = max(facts.get("flops", 0.0), program.model_flops / chips), facts.get("traffic", 0.0)
  state = facts.pop("arguments", program.state + program.batch) - program.batch
  return Plan(
    program=name, topology=topology, chips=chips, images=program.images, state=state, batch=program.batch,
    model_flops=program.model_flops, compute_seconds=flops / peak_flops(chip.kind),
    memory_seconds=moved / chip.bandwidth,
    exchange_seconds=exchange_seconds(facts.get("exchanged", {}), chips, chip.link), **facts,
  )  # fmt: skip


def exchange_seconds(exchanged, chips, link):
  """Time of collectives, a dict from kind to [number, bytes of the result, ...], around a ring of chips.

  >>> exchange_seconds({"all-reduce": [1, 90e9], "all-gather": [1, 90e9]}, 2, 90e9)
  1.5
  """
  share = (chips - 1) / chips
  rounds = {"all-reduce": 2 * share, "all-gather": share, "reduce-scatter": chips - 1}
  return sum(rounds.get(kind, 1.0) * size for kind, (_, size, *_) in exchanged.items()) / link
