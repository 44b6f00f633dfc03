"""The commands of docs/protocols.md: what they name exists, and the runs that they begin can be built."""

import io
import json
import pathlib
import re
import shlex
import sys

import jax
import numpy as np
import pandas as pd
import pytest
import typer
from absl.testing import flagsaver
from PIL import Image

import launch
from configs import reiqa
from jiqa import cli
from jiqa import evaluate as evaluation
from jiqa import train as loop
from jiqa.data.schema import COLUMNS, tables
from jiqa.data.source import check_name
from jiqa.data.splits import check_protocol
from jiqa.evaluation.protocol import SHOWN
from jiqa.inference import regress, views
from jiqa.methods import method_class
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.sharding import make_mesh
from tests import tiny_experts, tiny_runs

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
    assert set(config.features) == {"quality", "content", "concat"} and all(config.weights.values())


def test_every_other_command_of_the_page_is_parsed():
  commands = typer.main.get_command(cli.app).commands
  lines = [line for line in BLOCKS.splitlines() if line and "launch.py" not in line]
  assert len(lines) > 5
  for line in lines:
    program, name, *arguments = shlex.split(line)
    assert program == "jiqa"
    commands[name].make_context(name, arguments)


class Dummy:
  """Sixty images of noise under the names of a database, of every part of its first split as many as there are."""

  def __init__(self, protocol, name):
    self.name, self.label, self.shorter_side = name, "made up", 0
    names, parts = [f"{i}.png" for i in range(60)], ("train", "validation", "test")
    if protocol in ("liqe", "arniqa"):
      table = tables.read(protocol, name)
      names = [image for part in "012" for image in table.index[table.splits.str[0] == part][:20]]
    columns = dict.fromkeys(COLUMNS, "") | {"image_name": names, "mos": np.arange(60.0), "mos_std": np.nan, "level": -1}
    self.table = pd.DataFrame(columns | {"split": [parts[i // 20] for i in range(60)]})
    self.domains, self.metadata = [""] * 60, {"range": [0.0, 60.0], "labels_sha256": "made up", "score": "made up"}

  def __len__(self):
    return 60

  def __getitem__(self, index):
    file = io.BytesIO()
    noise = np.random.default_rng(index).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return {"image": file.getvalue(), **self.table.iloc[index].to_dict()}


# A paper's method by each of the protocols of the page.
@pytest.mark.parametrize(
  ("method", "protocol", "name"),
  [("reiqa", "official", "koniq10k"), ("liqe", "liqe", "bid"), ("arniqa", "arniqa", "csiq"), ("lml", "folds", "clive")],
)
def test_every_protocol_evaluates_made_up_images(method, protocol, name, tmp_path, monkeypatch):
  opened = lambda name, data_dir=None, score="mos": Dummy(protocol, name)
  if method == "arniqa":
    tiny_experts.save(tmp_path / "quality", "quality")
    config = reiqa.get_config("arniqa")
    config.weights.quality, config.features = str(tmp_path / "quality"), ("quality",)
    config.evaluation.update(databases=(name,), splits=1)
    monkeypatch.setattr(regress, "open_database", opened)
    monkeypatch.setattr(regress, "make_mesh", lambda _: make_mesh(jax.devices()[:1]))
    monkeypatch.setattr(views, "CROP", 24)
    found = regress.regress(config, tmp_path / "run")["databases"][name]["candidates"]["quality ridge"]
  else:
    further = {"evaluation__databases": (name,), "evaluation__protocol": protocol}
    config, mesh = tiny_runs.config_of(method, "", **further), make_mesh(jax.devices()[:1])
    state = loop.init_state(config, loop.build(config, mesh), loop.build_optimizer(config, 64)[0], mesh)
    (tmp_path / "run").mkdir()
    with Checkpoints(tmp_path / "run/checkpoints") as checkpoints:
      checkpoints.save(0, state)
    plain = json.loads(config.to_json_best_effort())
    (tmp_path / "run/config.json").write_text(json.dumps(plain | {"data_sha256": {}}))
    monkeypatch.setattr(evaluation, "open_database", opened)
    found = evaluation.evaluate(config, tmp_path / "run", jax.devices()[:1])
    assert found["protocol"] == protocol
  assert (
    len(found["srcc"]) == 1 and found["images"][0][2] >= 12 and all(abs(found["median"][key]) <= 1 for key in SHOWN)
  )
