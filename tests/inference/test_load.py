"""What a metric can be built from, and what is refused."""

import json
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import jiqa
from jiqa.errors import UserError
from jiqa.inference import heads, loading
from jiqa.inference import metric as metric_module
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.state import new_state
from jiqa.weights.store import checksum, load_weights, save_weights
from tests.inference import made

IMAGE = made.images()[0]


def load(*args, **options):
  return jiqa.load(*args, **options, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def run(weights, tmp_path_factory):
  """The --workdir of a run with the same network and the heads of two splits."""
  workdir = tmp_path_factory.mktemp("run")
  params, stats, card = load_weights(weights)
  with Checkpoints(workdir / "checkpoints") as checkpoints:
    checkpoints.save(7, jax.device_put(new_state(params, stats)))
  (workdir / "config.json").write_text(json.dumps(card["config"]))
  heads = [made.head({}, seed) for seed in range(2)]
  arrays = {
    name: np.stack([getattr(head, name) for head in heads]) for name in ("weights", "mean", "scale", "intercept")
  }
  np.savez(workdir / "heads_demo.npz", **arrays, alpha=np.array([1.0, 10.0]))
  found = {"label": "a proxy", "images": [[60, 8, 9], [60, 8, 9]], "srcc": [0.5, 0.6], "krcc": [0.4, 0.5]}
  found |= {"plcc": [0.7, 0.8], "rmse": [1.0, 2.0], "protocol": "folds", "split_sha256": "ab", "labels_sha256": "cd"}
  (workdir / "results.json").write_text(
    json.dumps({"databases": {"demo": found}, "weights_sha256": card["weights_sha256"]})
  )
  return workdir


def test_a_run_scores_like_its_weights(run, metric):
  from_run = load(run)
  assert float(from_run(IMAGE)) == pytest.approx(float(metric(IMAGE)), abs=1e-6)
  assert from_run.weights_sha256 == metric.weights_sha256
  assert from_run.card["weights"][0]["step"] == 7
  known = metric.card["weights"][0]["parameters"]
  assert (
    from_run.card["weights"][0]["parameters"]
    == known
    == sum(x.size for x in jax.tree.leaves(metric.models[0].weights[0]))
  )
  head = from_run.card["score"]["head"]
  assert head["test"] == {"images": 9, "srcc": 0.5, "krcc": 0.4, "plcc": 0.7, "rmse": 1.0} and head["alpha"] == 1.0


def test_a_run_without_checkpoint_or_with_a_damaged_one_is_refused(run, tmp_path):
  for name in ("config.json", "heads_demo.npz"):
    shutil.copy(run / name, tmp_path)
  with pytest.raises(UserError, match=r"checkpoints: no complete checkpoint; run the same launch.py command"):
    load(tmp_path)
  shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
  for path in (tmp_path / "checkpoints/7").rglob("*"):
    if path.is_file() and "METADATA" not in path.name:
      path.write_bytes(b"")
  with pytest.raises(UserError, match=r"checkpoints/7: this checkpoint is damaged"):
    load(tmp_path)


def test_several_heads_are_asked_about(run, tmp_path):
  shutil.copytree(run, tmp_path / "run")
  shutil.copy(run / "heads_demo.npz", tmp_path / "run/heads_tid2013.npz")
  with pytest.raises(UserError, match=r"holds heads for demo, tid2013; choose one with head= or --head"):
    load(tmp_path / "run")
  assert len(load(tmp_path / "run", head=tmp_path / "run/heads_tid2013.npz")(IMAGE)) == 1


def test_damaged_results_beside_heads_are_named(run, tmp_path):
  shutil.copy(run / "heads_demo.npz", tmp_path)
  (tmp_path / "results.json").write_text("{")
  with pytest.raises(UserError, match=r"^[^:]*results\.json: is damaged"):
    heads.read(tmp_path / "heads_demo.npz")


def test_half_precision_is_computed_in_single(weights, metric, tmp_path):
  params, stats, card = load_weights(weights)
  halves = [jax.tree.map(lambda x: x.astype(np.float16), tree) for tree in (params, stats)]
  written = save_weights(tmp_path / "half", *halves, {key: card[key] for key in ("method", "config")})
  made.head({"weights_sha256": written["weights_sha256"]}).save(tmp_path / "half/head.safetensors")
  half = load(tmp_path / "half")
  assert half.features(IMAGE).dtype == np.float32
  difference = np.abs(half.features(IMAGE) - metric.features(IMAGE)).max()
  assert 0 < difference < 5e-3


def test_what_predictions_do_not_read_may_be_missing_and_nothing_else(weights, metric, tmp_path):
  params, stats, card = load_weights(weights)
  card = {key: card[key] for key in ("method", "config")}
  save_weights(tmp_path / "lean", {"encoder": params["encoder"]}, stats, card)
  lean = load(tmp_path / "lean", head=None)
  np.testing.assert_array_equal(lean.features(IMAGE), metric.features(IMAGE))
  del params["encoder"]["layer2"][0]["conv1"]
  params["encoder"]["conv9"] = {"kernel": np.zeros(1, np.float32)}
  params["encoder"]["bn1"]["scale"] = np.zeros(3, np.float32)
  save_weights(tmp_path / "broken", params, stats, card)
  with pytest.raises(UserError) as caught:
    load(tmp_path / "broken")
  for part in (
    "broken: the weights do not fit this model",
    "1 missing: params/encoder/layer2[0]/conv1/kernel",
    "1 surplus: params/encoder/conv9/kernel",
    "params/encoder/bn1/scale (3,) instead of (4,)",
  ):
    assert part in str(caught.value)


@pytest.mark.parametrize("optional", ["extra"])
def test_a_queue_is_not_needed(optional, tmp_path):
  params, stats = made.network(config=made.config(loss="queue", queue=256))
  config = json.loads(made.config(loss="queue", queue=256).to_json_best_effort())
  save_weights(tmp_path / "queue", params, stats, {"method": "reiqa", "config": config})
  assert load(tmp_path / "queue").models[0].weights[2] == {}


@pytest.mark.parametrize("key", [None, False])
def test_how_the_scales_were_trained_on_does_not_matter(key, tmp_path):
  config = made.config(scales=(1, 2))
  with config.unlocked():
    del config["every_scale"]  # as in runs of before it was there
    if key is not None:
      config.every_scale = key
  save_weights(tmp_path / "w", *made.network(), {"method": "reiqa", "config": json.loads(config.to_json_best_effort())})
  assert load(tmp_path / "w").models[0].outputs == {"features": (64,)}


def test_published_weights_need_no_config(tmp_path):
  params, stats = made.network(config=made.config("reiqa"))
  card = {"model": "reiqa", "expert": "quality", "depth": 10, "width": 4, "embedding": 8, "source": "reiqa-quality"}
  save_weights(tmp_path / "quality", params, stats, {**card, "file": "q.pth"})
  metric = load("reiqa", tmp_path / "quality")
  assert metric.features(IMAGE).shape == (1, 64)
  assert metric.card["weights"][0]["trained_on"] == "see the paper; converted from q.pth"
  save_weights(tmp_path / "start", params, stats, {**card, "expert": "imagenet"})
  with pytest.raises(UserError, match=r"no method predicts with weights of model .reiqa., expert .imagenet."):
    load(tmp_path / "start")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["nowhere"], r"'nowhere' is neither a method \(.*reiqa.*\) nor a folder of weights"),
    (
      ["reiqa", "nowhere"],
      r"nowhere: no such folder of weights or of a run; a name of `jiqa models` is given",
    ),
    (["reiqa", []], r"weights is an empty list"),
    ([None, __file__], r"test_load.py: is a file; .* `jiqa convert SOURCE FILE OUT`"),
  ],
)
def test_what_is_no_folder_of_weights_is_named(arguments, message):
  with pytest.raises(UserError, match=message):
    load(*arguments)


def test_a_folder_may_have_any_name_and_what_is_none_is_said(weights, tmp_path, monkeypatch):
  shutil.copytree(weights, tmp_path / "at_10:30")
  expected = float(load(weights)(IMAGE))
  assert float(load(tmp_path / "at_10:30")(IMAGE)) == float(load(str(tmp_path / "at_10:30"))(IMAGE)) == expected
  with pytest.raises(UserError, match=r"expected .*@sha256: and the 64 digits"):
    load(f"{tmp_path}/at_10:30@sha256:0")
  with pytest.raises(UserError, match=r"'nowhere/at_10:30' is neither a method"):
    load("nowhere/at_10:30")
  with pytest.raises(UserError, match=r"'no_such:Method' cannot be used as a method \(No module named 'no_such'"):
    load("no_such:Method")
  with pytest.raises(UserError, match=r"'json:JSONDecoder' cannot be used as a method .*no subclass"):
    load("json:JSONDecoder", weights)


def test_other_refusals(weights, tmp_path, monkeypatch):
  with pytest.raises(UserError, match=r"neither a folder of weights \(card.json is missing\) nor the --workdir"):
    load(tmp_path)
  with pytest.raises(UserError, match=r"holds weights of 'reiqa', not of 'lml'"):
    load("lml", weights)
  with pytest.raises(UserError, match=r"head.safetensors: no such file"):
    load(weights, head=tmp_path / "head.safetensors")
  monkeypatch.setattr(metric_module, "PRETRAINED", tmp_path)
  with pytest.raises(UserError, match=r"no weights of liqe come with the package; .* jiqa convert liqe LIQE.pt"):
    load("liqe")
  shutil.copytree(weights, tmp_path / "reiqa_small")
  assert float(load("reiqa-small")(IMAGE)) == float(load("reiqa")(IMAGE))
  monkeypatch.setattr(metric_module, "DEFAULT", "other")
  with pytest.raises(UserError, match=r"other: the weights that come with jiqa are missing"):
    load()


def test_importing_is_light_and_quick():
  code = (
    "import time; start = time.process_time(); import jiqa; jiqa.load; seconds = time.process_time() - start\n"
    "import sys; heavy = ('torch', 'tensorflow', 'pandas', 'scipy', 'matplotlib')\n"
    "print(seconds, [name for name in heavy if name in sys.modules])"
  )
  answers = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
  found = [answer.stdout.strip().split(" ", 1) for answer in answers]
  assert {modules for _, modules in found} == {"[]"}
  # Processor seconds of the quicker one: a busy machine stretches the wall clock. 0.9 where this was written.
  assert min(float(seconds) for seconds, _ in found) < 2.5


def test_loading_is_quick(weights):
  load(weights)
  started = time.process_time()
  load(weights)
  assert time.process_time() - started < 5  # nothing is initialised or compiled


@pytest.mark.parametrize(("name", "megabytes"), [(None, 12), ("reiqa-small", 6)])
def test_the_weights_that_come_with_the_package_say_how_good_they_are(name, megabytes):
  metric = load(name)
  files = [path for path in metric.models[0].folder.iterdir() if path.is_file()]
  assert {"card.json", "weights.safetensors"} <= {path.name for path in files}
  assert sum(path.stat().st_size for path in files) < 1e6 * megabytes
  network = metric.card["weights"][0]
  known = metric.card["score"] if name is None else metric.card["score"]["head"]
  assert known["test"]["images"] == 299 and known["test"]["srcc"] > (0.8 if name is None else 0.6)
  assert network["recipe"] and network["licence"]
  # Of sizes that others are compiled for.
  image = made.images([(48, 60)])[0]
  if name is None:
    scores = metric([image, np.zeros_like(image), 255 - image])
    assert ((scores.score >= 0) & (scores.score <= 100)).all() and (scores.columns["score_std"] > 0).all()
  else:
    assert network["weights_sha256"] == known["weights_sha256"] and -0.5 < float(metric(image)) < 1.5


@pytest.mark.parametrize(("which", "slope"), [("best", 3.0), ("newest", 1.0)])
def test_a_run_predicts_with_the_checkpoint_that_its_evaluation_took(which, slope, tmp_path):
  config = {"method": "tests.brightness_method:Brightness", "evaluation": {"checkpoint": which}}
  (tmp_path / "config.json").write_text(json.dumps(config))
  for folder, value in (("checkpoints", 1.0), ("best", 3.0)):
    with Checkpoints(tmp_path / folder) as checkpoints:
      checkpoints.save(1, jax.device_put(new_state({"slope": np.float32(value)}, {})))
  metric = load(tmp_path)
  assert float(metric(IMAGE)) == pytest.approx(slope * IMAGE.mean() / 255, rel=1e-5)
  assert metric.card["weights"][0]["checkpoint"] == which


def test_a_run_predicts_and_is_known_by_what_its_method_says_predicts(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"method": "tests.brightness_method:Averaged"}))
  with Checkpoints(tmp_path / "checkpoints") as checkpoints:
    slopes = {name: {"slope": np.float32(slope)} for name, slope in (("raw", 1.0), ("average", 3.0))}
    checkpoints.save(1, jax.device_put(new_state(slopes["raw"], {}, {"average": slopes["average"]})))
  metric = load(tmp_path)
  assert float(metric(IMAGE)) == pytest.approx(3 * IMAGE.mean() / 255, rel=1e-5)
  assert metric.weights_sha256 == checksum(slopes["average"], {}) != checksum(slopes["raw"], {})
  assert loading.read_weights(tmp_path)[0] == slopes["average"]
