"""Tiny networks of all methods compiled for eight v5e chips: what they exchange, against a recorded table."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

TABLE = pathlib.Path(__file__).with_name("tpu_collectives.json")
SCRIPT = """
import json, sys
from jiqa.plan import machines
machines.prepare()
from jiqa.plan import measure, programs
from tests import tiny_runs
changes = {"dtype": "bfloat16", "batch_size": 48, "steps": 8}
found = {}
for case in sys.argv[1:]:
  name, sharding, *reduce_dtype = case.split(", ")
  further = {"loss": "in_batch"} if name == "reiqa" else {}
  further |= {"reduce_dtype": reduce_dtype[0]} if reduce_dtype else {}
  config = tiny_runs.config_of(name, "", **changes, **further, sharding=sharding)
  program = programs.trace(config, machines.devices("v5e:2x4"), "train")
  each = measure.plan(program, "train", "v5e:2x4")
  assert each.fits, each
  found[case] = {kind: [number, types] for kind, (number, _, types) in each.exchanged.items()}
print(json.dumps(found))
"""


CHIPS = """
import json
from jiqa.plan import machines
machines.prepare()
print(json.dumps({name: [list(d.coords) for d in machines.devices(f"{name}:2x2x1")] for name in ("v4", "v5p")}))
"""

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed: pip install 'jax[tpu]'"),
]


def printed(code, *arguments, **environment):
  """What a program prints last, as JSON."""
  command = [sys.executable, "-c", code, *arguments]
  result = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
  assert result.returncode == 0, result.stderr[-3000:]
  return json.loads(result.stdout.splitlines()[-1])


def test_every_device_is_a_whole_chip():
  """jax joins both cores of a v4 or v5p chip to one device."""
  for name, places in printed(CHIPS).items():
    assert sorted(places) == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]], name


def test_collectives_of_all_methods_are_those_of_the_table(tmp_path):
  """A regression shows as another kind, more bytes by 5 %, or gradients in another type."""
  recorded = json.loads(TABLE.read_text())
  found = printed(SCRIPT, *recorded, XDG_CACHE_HOME=str(tmp_path))
  for name, kinds in recorded.items():
    assert found[name].keys() == kinds.keys(), name
    for kind, (number, types) in kinds.items():
      assert found[name][kind][0] <= number, (name, kind)
      assert found[name][kind][1].keys() == types.keys(), (name, kind)
      for dtype, size in types.items():
        assert found[name][kind][1][dtype] <= 1.05 * size + 64, (name, kind, dtype)
