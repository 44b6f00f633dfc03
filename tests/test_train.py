"""The loop as users run it: crashes, resumes, device counts, NaN, SIGTERM, mistakes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import reiqa as config_file
from data_builders.prepare import prepare
from jiqa import train as loop
from jiqa.errors import UserError
from jiqa.methods import build_method
from jiqa.runtime import optimizer
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.sharding import make_mesh, put_batch
from tests import QUICK_COMPILATION
from tests.brightness_method import Brightness
from tests.helpers import mesh_of

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = {
  "depth": 10,
  "width": 4,
  "embedding": 8,
  "window": 64,
  "crop": 24,
  "scales": (1, 2),
  "versions": 4,
  "batch_size": 4,
  "steps": 24,
  "kinds": (0, 6, 7, 13),
  "log_every": 1,
  "checkpoint_every": 4,
  "threads": 2,
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """An unlabelled set of small images, prepared as a user would."""
  images, data_dir = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("data")
  rng = np.random.default_rng(0)
  for i in range(12):
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    coarse.resize((80 + i, 70), Image.Resampling.BICUBIC).save(images / f"{i}.png")
  prepare("image_folder/tiny", images, data_dir)
  return data_dir


def tiny_config(**changes):
  config = config_file.get_config("demo")
  with config.unlocked():
    config.update(TINY)
    config.data[0].update(name="image_folder/tiny", distortion="")
    config.evaluation.databases = ()
    config.update_from_flattened_dict(changes)
  return config


def command(data_dir, workdir, *more):
  flags = [f"--config.{name}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in TINY.items()]
  return [
    sys.executable,
    "launch.py",
    "--config=configs/reiqa.py:demo",
    f"--workdir={workdir}",
    f"--config.data_dir={data_dir}",
    "--config.data[0].name=image_folder/tiny",
    "--config.data[0].distortion=",
    "--config.evaluation.databases=()",
    *flags,
    *more,
  ]


@pytest.fixture(scope="module")
def environment():
  """Two virtual devices for the processes of this file."""
  return os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {QUICK_COMPILATION}"}


def run(arguments, environment, expected=0):
  done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
  assert done.returncode == expected, done.stderr[-3000:]
  return done


def curve(workdir):
  records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [(record["step"], record["loss"], record["gradient_norm"]) for record in records]


def final_arrays(workdir):
  config = tiny_config()
  mesh = make_mesh(jax.devices()[:1])
  method, (tx, _, _) = loop.build(config, mesh), loop.build_optimizer(config, 12)
  like = loop.init_state(config, method, tx, mesh)
  return jax.tree.leaves(Checkpoints(workdir / "checkpoints").restore(like))


def start_and_signal(arguments, environment, workdir, step, number):
  """Starts a run and sends it a signal once it has recorded `step`."""
  workdir.mkdir(exist_ok=True)
  with open(workdir / "stderr", "w") as errors:  # a pipe that nobody empties would stop the run
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=errors, stderr=errors)
  deadline = time.monotonic() + 240
  while process.poll() is None and time.monotonic() < deadline:
    metrics = workdir / "metrics.jsonl"
    if metrics.exists() and len(metrics.read_text().splitlines()) > step:
      break
    time.sleep(0.02)
  process.send_signal(number)
  return process.wait(timeout=60), (workdir / "stderr").read_text()


def test_a_run_killed_in_the_middle_ends_like_an_uninterrupted_one(data_dir, environment, tmp_path):
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  run(command(data_dir, whole), environment)
  code, _ = start_and_signal(command(data_dir, killed), environment, killed, 10, signal.SIGKILL)
  assert code == -signal.SIGKILL
  with open(killed / "metrics.jsonl", "a") as file:
    file.write('{"step": 99, "lo')  # a record that the crash cut short
  saved = Checkpoints(killed / "checkpoints").latest_step()
  assert 4 <= saved < 24
  resumed = run(command(data_dir, killed), environment)
  assert f"step {saved}/24" in resumed.stderr and f"step {saved - 1}/24" not in resumed.stderr
  assert [step for step, *_ in curve(whole)] == list(range(24))
  assert curve(killed) == curve(whole)
  for ours, theirs in zip(final_arrays(killed), final_arrays(whole), strict=True):
    np.testing.assert_array_equal(ours, theirs)

  refused = run(command(data_dir, whole, "--config.seed=1"), environment, expected=2)
  assert "seed was 0, is 1" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.slow
def test_sigterm_saves_and_says_how_to_go_on(data_dir, environment, tmp_path):
  run(command(data_dir, tmp_path / "whole"), environment)
  code, errors = start_and_signal(command(data_dir, tmp_path / "c"), environment, tmp_path / "c", 3, signal.SIGTERM)
  assert code == 143 and "run the same command" in errors
  stopped_at = Checkpoints(tmp_path / "c" / "checkpoints").latest_step()
  assert 3 < stopped_at < 24
  assert curve(tmp_path / "c") == curve(tmp_path / "whole")[:stopped_at]


@pytest.mark.parametrize(
  "loss", ["in_batch", *(pytest.param(loss, marks=pytest.mark.slow) for loss in ("queue", "queue+chunk"))]
)
def test_one_step_on_one_and_on_eight_devices_agrees(loss):
  config = tiny_config(loss=loss, queue=160, batch_size=16, versions=5)  # enough for dispatch on every device
  config.optimizer.warmup_steps = 0
  rng = np.random.default_rng(0)
  batch = {
    "image": rng.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8),
    "size": np.tile(np.int32([64, 60]), (16, 1)),
  }
  results = []
  for devices in (jax.devices()[:1], jax.devices()):
    mesh = make_mesh(devices)
    method = build_method(config, mesh_of(mesh.size))
    tx, schedule = optimizer.build(config.optimizer, 24, 3)
    state = loop.init_state(config, method, tx, mesh)
    before = jax.device_get(state.params)
    step = loop.make_step(method, tx, schedule, config.seed)
    results.append(step(state, put_batch(batch, mesh)))
  (one, one_metrics), (eight, eight_metrics) = jax.device_get(results)
  assert one_metrics["loss"] == pytest.approx(eight_metrics["loss"], abs=1e-5)
  for path, a in jax.tree_util.tree_leaves_with_path(one):
    b = dict(jax.tree_util.tree_leaves_with_path(eight))[path]
    np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4, err_msg=jax.tree_util.keystr(path))
  moved = jax.tree.map(lambda old, new: np.abs(old - new).max(), before, one.params)
  assert min(jax.tree.leaves(moved)) > 1e-5


def test_steps_are_those_of_gradient_descent_by_hand(brightness_run, monkeypatch):
  config, workdir = brightness_run
  config.update(steps=4, seed=5, batch_size=40)  # all images in every step
  config.optimizer.update(learning_rate=0.4, warmup_steps=2)
  begun, note = {}, lambda self, step, state: begun.update({step: float(state.params["slope"])})
  monkeypatch.setattr(loop.Trace, "before", note)
  assert loop.train(config, workdir, jax.devices()[:1])
  brightness, target = np.float64(6 * np.arange(40)) / 255, np.arange(40) / 39
  slope, momentum, expected = begun[0], 0.0, []
  for step, rate in enumerate((0.2, 0.3, 0.4, 0.2)):  # after the warm-up half a cosine
    error = slope * brightness - target
    gradient = 2 * (error * brightness).mean()
    expected.append((step, (error**2).mean(), rate, abs(gradient)))
    assert begun[step] == pytest.approx(slope, rel=1e-5)
    momentum = 0.9 * momentum + gradient
    slope -= rate * momentum
  records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  found = [[record[key] for key in ("step", "loss", "learning_rate", "gradient_norm")] for record in records]
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_epochs_are_of_whole_batches_of_the_training_images():
  config = tiny_config(steps=0, epochs=3, batch_size=8)
  config.optimizer.warmup_steps = 0
  assert loop.build_optimizer(config, 55)[2] == 18 and loop.build_optimizer(config, 5)[2] == 3


def named_batches(config, count):
  """The first batches of a run: which entry of config.data every row is of, and the image."""

  class Names:
    @staticmethod
    def preprocess_train(image, record, rng):
      return {"entry": np.int32(record["entry"]), "image": np.int32(record["image_name"].removesuffix(".png"))}

  sources, weights, _ = loop.open_sources(config)
  batches = loop.batches_from(config, sources, weights, Names, 0)
  return [next(batches) for _ in range(count)]


def test_counts_and_weights_of_the_entries_decide_what_a_batch_holds(brightness_run):
  config, _ = brightness_run
  config.data = [ConfigDict(config.data[0].to_dict() | {"count": count}) for count in (6, 2)]
  assert all(batch["entry"].tolist() == [0] * 6 + [1] * 2 for batch in named_batches(config, 5))
  config.data = [ConfigDict(config.data[0].to_dict() | {"count": 0, "weight": weight}) for weight in (1.0, 3.0)]
  assert np.mean([batch["entry"] for batch in named_batches(config, 10)]) == pytest.approx(0.75, abs=0.05)


def test_a_process_reads_its_own_share_of_every_batch(brightness_run, monkeypatch):
  config, _ = brightness_run
  whole = named_batches(config, 7)
  for process in range(2):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda process=process: process)
    for ours, batch in zip(named_batches(config, 7), whole, strict=True):
      np.testing.assert_array_equal(ours["image"], batch["image"][4 * process : 4 * process + 4])


def test_sigterm_saves_the_state_and_the_next_run_goes_on_from_it(brightness_run, monkeypatch, tmp_path):
  config, workdir = brightness_run
  before, handler = loop.Trace.before, signal.getsignal(signal.SIGTERM)

  def interrupted(self, step, state):
    if step == 7:
      os.kill(os.getpid(), signal.SIGTERM)
    before(self, step, state)

  with monkeypatch.context() as patch:
    patch.setattr(loop.Trace, "before", interrupted)
    assert not loop.train(config, workdir, jax.devices()[:1])
  assert signal.getsignal(signal.SIGTERM) == handler
  assert Checkpoints(workdir / "checkpoints").latest_step() == 8
  assert [step for step, *_ in curve(workdir)] == list(range(8))
  assert loop.train(config, workdir, jax.devices()[:1]) and loop.train(config, tmp_path / "whole", jax.devices()[:1])
  assert curve(workdir) == curve(tmp_path / "whole") and len(curve(workdir)) == 15


def nan_loss(slope, at_six):
  return jnp.where(at_six, jnp.nan, 0.0)  # its gradient is 0


def infinite_gradient(slope, at_six):
  # The square root of 1, at step 6 of 0: the loss stays finite.
  return jnp.sqrt(slope - jax.lax.stop_gradient(slope) + 1.0 - at_six)


@pytest.mark.parametrize(
  ("term", "message"),
  [(nan_loss, r"loss nan, gradient norm \d"), (infinite_gradient, r"loss \d.*, gradient norm inf")],
)
def test_what_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
  term, message, brightness_run, monkeypatch
):
  def loss(self, params, state, batch, key):
    error = params["slope"] * batch["brightness"] - batch["target"]
    return (error**2).mean() + term(params["slope"], state.step == 6), (state.stats, {}, {})

  monkeypatch.setattr(Brightness, "loss", loss)
  config, workdir = brightness_run
  config.log_every = 4  # steps that are not logged count too
  with pytest.raises(loop.NotFinite, match=rf"step 6: {message}.*checkpoint is step 5 in"):
    loop.train(config, workdir, jax.devices()[:1])
  assert [step for step, *_ in curve(workdir)] == [0, 3]


def test_every_step_draws_its_own_random_numbers_from_the_seed(brightness_run, monkeypatch, tmp_path):
  def loss(self, params, state, batch, key):
    return params["slope"] ** 2, (state.stats, {}, {"draw": jax.random.uniform(key)})

  monkeypatch.setattr(Brightness, "loss", loss)
  config, _ = brightness_run
  config.steps, draws = 6, []
  for seed in (3, 4):
    config.seed = seed
    loop.train(config, tmp_path / str(seed), jax.devices()[:1])
    draws += [json.loads(line)["draw"] for line in (tmp_path / str(seed) / "metrics.jsonl").read_text().splitlines()]
  assert len(draws) == len(set(draws)) == 12
  assert curve(tmp_path / "3")[0][1] != curve(tmp_path / "4")[0][1]  # another slope to begin with


def test_mistakes_exit_with_a_message_and_without_a_traceback(data_dir, environment, tmp_path):
  base = [sys.executable, "launch.py", f"--workdir={tmp_path / 'run'}"]
  cases = {
    ("--config=configs/reiqa.py", f"--config.data_dir={data_dir}"): (
      "kadis700k",
      "Download page",
      "jiqa prepare kadis700k",
    ),
    ("--config=configs/reiqa.py:smal",): ("no variant 'smal'; expected one of quality, ",),
    ("--config=configs/reiqa.py", "--config.sede=1"): ("no key 'sede'; did you mean 'seed'",),
    ("--config=configs/reiqa.py", "--config.seed=abc"): ("seed", "'abc'"),
    ("--config=configs/reiqa.py", "--config.nope=1"): ("the config has no key 'nope'",),
    ("--config=configs/reiqa.py", "--config.optimizer.nope=1"): ("the config has no key 'nope'",),
    ("--config=configs/none.py",): ("configs/none.py",),
    ("--config=configs/reiqa.py", "stray"): ("unexpected argument 'stray'",),
    ("--config=configs/reiqa.py", "--config.data[7].name=x"): ("index out of range",),
    ("--config=configs/reiqa.py", "--workdir="): ("--workdir is missing",),
  }
  for arguments, expected in cases.items():
    errors = run([*base, *arguments], environment, expected=2).stderr
    assert "Traceback" not in errors
    for text in expected:
      assert text in errors, errors
  assert not (tmp_path / "run").exists()


def test_what_the_entries_of_the_data_ask_for_must_be_possible(data_dir, tmp_path):
  for key, value, message in (
    ("count", 3, r"the counts are \[3\] and config.batch_size is 4"),
    ("weight", -1.0, r"config.data\[0\].weight is -1.0; expected 0"),
  ):
    config = tiny_config(data_dir=str(data_dir))
    config.data[0][key] = value
    with pytest.raises(UserError, match=message):
      loop.train(config, tmp_path / "run", jax.devices()[:1])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"steps": 0}, "exactly one must be positive"),
    ({"steps": 5, "epochs": 1}, "config.steps is 5 and config.epochs 1: exactly one must be positive"),
    ({"batch_size": 3}, "not a multiple of 8 devices"),
    ({"batch_size": 0}, "config.batch_size is 0; expected at least 1"),
    ({"batch_size": 10**9}, "config.batch_size is 1000000000; expected at least 1, at most 1,048,576"),
    ({"seed": -1}, "config.seed is -1; expected at least 0"),
    ({"seed": 2**31}, "config.seed is 2147483648; expected at least 0, at most 2,147,483,647"),
    ({"width": 0}, "config.width is 0"),
    ({"width": 10**6}, "config.width is 1000000; .* at most 16,384"),
    ({"crop": 10**6}, "config.crop is 1000000"),
    ({"optimizer.learning_rate": -0.1}, "config.optimizer.learning_rate is -0.1; expected at least 0"),
    ({"optimizer.learning_rate": float("nan")}, "config.optimizer.learning_rate is nan"),
    ({"evaluation.splits": 10**9}, "config.evaluation.splits is 1000000000; .*at most 1,000"),
    ({"evaluation.splits": 0}, "config.evaluation.splits is 0; expected at least 1"),
    ({"evaluation.databases": ("biq2021",)}, "biq2021 is not prepared"),
    ({"evaluation.databases": ("image_folder/tiny",)}, "image_folder/tiny has no scores to be evaluated by"),
    ({"evaluation.alphas": (-1.0, 10.0, 3)}, "config.evaluation.alphas is"),
    ({"checkpoint_every": 0}, "config.checkpoint_every is 0; expected at least 1"),
    ({"steps": -5, "epochs": 1}, "config.steps is -5; expected at least 0"),
    ({"loss": "nce"}, "expected one of queue"),
    ({"dtype": "flaot32"}, "config.dtype is 'flaot32'; expected float32 or bfloat16"),
    ({"evaluation.checkpoint": "bset"}, "config.evaluation.checkpoint is 'bset'"),
    ({"evaluation.checkpoint": "best", "validate_every": 0}, "best with config.validate_every above 0"),
    ({"data_dir": "/nonexistent"}, "not prepared"),
  ],
)
def test_configs_that_cannot_run_are_refused(changes, message, data_dir, tmp_path):
  with pytest.raises(UserError, match=message):
    devices = None if changes.get("batch_size") == 3 else jax.devices()[:1]
    loop.train(tiny_config(**{"data_dir": str(data_dir), **changes}), tmp_path / "run", devices)
  assert not (tmp_path / "run").exists()


def test_the_first_step_is_logged_and_then_every_so_many():
  log, rates = mock.Mock(), mock.Mock()
  rates.read.return_value = {"images_per_second": 2.0}
  for step in range(9):
    loop.record(log, rates, step, {"loss": 1.0, "gradient_norm": 0.5}, 4, None)
  values = {"loss": 1.0, "gradient_norm": 0.5, "images_per_second": 2.0}
  assert log.write.mock_calls == [mock.call(step, values) for step in (0, 3, 7)]
  assert rates.step.call_count == 9 and log.advance.mock_calls == [mock.call(step) for step in range(1, 10)]
