"""The commands of docs/protocols.md: what they name exists, and the runs that they begin can be built."""

import pathlib
import re
import shlex
import sys

import jax
import pytest
from absl.testing import flagsaver

import launch
from jiqa import cli
from jiqa import train as loop
from jiqa.data.source import check_name
from jiqa.data.splits import check_protocol
from jiqa.methods import method_class
from jiqa.runtime.sharding import make_mesh

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs/protocols.md").read_text()
BLOCKS = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.S)).replace("$split", "9")
LAUNCHED = re.findall(r"python launch\.py ([^;\n]*)", BLOCKS)


def test_the_page_has_a_command_for_every_paper():
  assert {re.search(r"configs/(\w+)\.py", command)[1] for command in LAUNCHED} == {"reiqa", "liqe", "lml"}
  assert len(LAUNCHED) >= 9


@pytest.mark.parametrize("command", LAUNCHED)
def test_a_run_of_the_page_can_be_built(command, monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(sys, "argv", ["launch.py", *shlex.split(command)])
  with flagsaver.flagsaver():
    launch.parse_flags(sys.argv)
    config = launch.CONFIG.value
  evaluation = config.evaluation
  for name in evaluation.databases:
    check_name(name)
    check_protocol(name, evaluation.protocol, tuple(evaluation.fractions))
  if "data" in config:
    loop.build(config, make_mesh(jax.devices()[:1]))
    assert config.split in (0, 9) and method_class(config.method)
  else:
    assert set(config.features) == {"quality", "content", "both"} and all(config.weights.values())


def test_every_other_command_of_the_page_exists():
  commands = {command.callback.__name__.replace("_", "-") for command in cli.app.registered_commands}
  commands |= {command.name for command in cli.app.registered_commands}
  for name in re.findall(r"^jiqa ([\w-]+)", BLOCKS, re.M):
    assert name in commands
  for code in re.findall(r'^python -c "(.*)"$', BLOCKS, re.M):
    compile(code, "docs/protocols.md", "exec")
