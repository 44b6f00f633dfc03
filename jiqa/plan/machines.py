"""The machines that a program can be compiled for, and what their vendors' data sheets say."""

import importlib.metadata
import importlib.util
import math
import os
import re
from typing import NamedTuple

from jiqa.errors import UserError


class Chip(NamedTuple):
  """A device as jax counts devices; its peak of arithmetic is in runtime/throughput.py."""

  kind: str  # beginning of jax's device_kind, as there
  memory: float  # bytes that the compiler gives a program; of GPUs, all
  bandwidth: float  # of the memory, bytes a second
  link: float  # to a neighbour, both directions, bytes a second


CHIPS = {
  "v4": Chip("TPU v4", 30.75 * 2**30, 1.228e12, 90e9),
  "v5e": Chip("TPU v5e", 15.75 * 2**30, 0.819e12, 90e9),
  "v5p": Chip("TPU v5p", 95.74 * 2**30, 2.765e12, 180e9),
  "v6e": Chip("TPU v6e", 31.25 * 2**30, 1.64e12, 180e9),
  "gpu16": Chip("NVIDIA RTX A4000", 16e9, 0.448e12, 64e9),
  "gpu40": Chip("NVIDIA A100", 40e9, 1.555e12, 300e9),
  "gpu80": Chip("NVIDIA H100", 80e9, 3.35e12, 450e9),
}
# What a program for GPUs is compiled for in their place: a chip with more memory than any of them.
STAND_IN = "v5p"
# Topologies from small to large, for those who ask what would be enough.
LADDER = {
  **dict.fromkeys(("v5e", "v6e"), ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")),
  **dict.fromkeys(("v5p", "v4"), ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8")),
  **dict.fromkeys(("gpu16", "gpu40", "gpu80"), ("1", "2", "4", "8", "16", "32")),
}


def parse(topology):
  """(name of the chip, sides) of a topology: "v5e:4x8" gives ("v5e", (4, 8)); a UserError says what there is."""
  name, _, shape = topology.partition(":")
  if name not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
    expected = f"CHIP:SHAPE such as v5e:4x8, v5p:2x2x4 or gpu80:8, CHIP being one of {', '.join(CHIPS)}"
    raise UserError(f"--topology is {topology!r}; expected {expected}")
  return name, tuple(map(int, shape.split("x")))


def prepare():
  """Lets jax, which is imported later, compile for TPUs; a UserError where their compiler is missing."""
  if not importlib.util.find_spec("libtpu"):
    raise UserError("jiqa plan needs the TPU compiler, which runs on any Linux machine: pip install 'jax[tpu]'")
  # Otherwise libtpu asks the network who its neighbours are, and one process at a time may compile.
  os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "JAX_PLATFORMS": "cpu"}
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


def compiler():
  """The versions of what compiles."""
  return " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu"))


def devices(topology):
  """The devices of a topology, none of which is here; `prepare` has been called.

  Raises:
    UserError: there is no such topology.
  """
  from jax.experimental import topologies

  name, sides = parse(topology)
  count = math.prod(sides)
  if name.startswith("gpu"):
    larger = [shape for shape in LADDER[STAND_IN] if chips(f"{STAND_IN}:{shape}") >= count]
    name, sides = parse(f"{STAND_IN}:{(larger or LADDER[STAND_IN])[0]}")
  options = {"chips_per_host_bounds": (1, 1, 1)} if sides == (1, 1) else {}
  if name == "v4":
    options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as jax has it there
  try:
    described = topologies.get_topology_desc(
      platform="tpu", topology_name=f"{name}:{'x'.join(map(str, sides))}", **options
    )
  except Exception as error:  # of jaxlib's own kind
    raise UserError(f"--topology is {topology!r}, which there is not ({str(error).splitlines()[0][:200]})") from error
  return list(described.devices[:count])


def chips(topology):
  """Number of chips of a topology."""
  return math.prod(parse(topology)[1])


def larger(topology):
  """The topologies of the same chip that are larger, from small to large."""
  name, _ = parse(topology)
  return [f"{name}:{shape}" for shape in LADDER[name] if chips(f"{name}:{shape}") > chips(topology)]
