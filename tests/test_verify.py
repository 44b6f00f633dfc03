"""`jiqa verify`: a whole run passes; of a damaged one the damaged part alone is named."""

import json
import shutil

import pytest

from data_builders.prepare import prepare
from jiqa import evaluate, train
from jiqa.errors import UserError
from jiqa.verify import verify
from tests.brightness_method import Brightness

STEPS = ("checkpoints/15", "checkpoints/10")


@pytest.fixture
def run(brightness_run, monkeypatch):
  config, workdir = brightness_run
  config.evaluation.databases = ("csv/gray",)
  for module in (train, evaluate):
    monkeypatch.setattr(module, "build", lambda config, mesh: Brightness(config, mesh))
  assert train.train(config, workdir)
  evaluate.evaluate(config, workdir)
  return workdir


def flip(folder):
  for path in (folder / "state").rglob("*"):
    if path.is_file() and path.parent.name == "d":  # where Orbax keeps arrays
      data = bytearray(path.read_bytes())
      data[len(data) // 2] ^= 0xFF
      path.write_bytes(data)


def torn(path):
  path.write_text(path.read_text() + '{"step": 1')


def other_weights(path):
  results = json.loads(path.read_text())
  path.write_text(json.dumps(results | {"weights_sha256": "0" * 16}))


def no_schedule(path):
  config = json.loads(path.read_text())
  del config["optimizer"]["schedule"]
  path.write_text(json.dumps(config))


def half(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_scores(path):
  images = path.parent / "images"
  scores = (images / "scores.csv").read_text().replace("0.png,0.0", "0.png,1.0", 1)
  (images / "scores.csv").write_text(scores)
  shutil.rmtree(path.parent / "data")
  prepare("csv/gray", images, path.parent / "data")


DAMAGES = [
  ("metrics.jsonl", torn, "metrics.jsonl", "line 16 is no JSON"),
  ("results.json", other_weights, "results.json", "is of weights 0000000000000000"),
  ("results.json", half, "results.json", "is damaged"),
  ("config.json", no_schedule, "checkpoints", "does not fit this version"),
  ("scores_csv_gray.npz", half, "scores_csv_gray.npz", "cannot be read"),
  ("checkpoints/10", flip, "checkpoints/10", "is damaged"),
  (".", other_scores, "data csv/gray", "prepare the same release"),
]


def test_a_run_is_verified_and_damage_is_named(run):
  whole = dict(verify(run))
  assert not any(whole.values()), whole
  assert {"config.json", "data csv/gray", "metrics.jsonl", *STEPS, "scores_csv_gray.npz", "results.json"} == {*whole}


@pytest.mark.parametrize(("file", "damage", "part", "words"), DAMAGES)
def test_the_damaged_part_is_named(run, file, damage, part, words):
  damage(run / file if file != "." else run)
  problems = {what: problem for what, problem in verify(run) if problem}
  assert list(problems) == [part] and words in problems[part], problems


def test_what_is_no_run_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"no config\.json; expected the --workdir of a run"):
    list(verify(tmp_path))
  (tmp_path / "config.json").write_text('{"method"')
  with pytest.raises(UserError, match=r"config\.json: is damaged"):
    list(verify(tmp_path))
