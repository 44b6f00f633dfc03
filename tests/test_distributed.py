"""Two processes as one run: the same numbers as one process, preemption, a process that dies, other numbers of them."""

import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from jiqa import train as loop
from jiqa.evaluate import evaluate
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.sharding import make_mesh
from tests.processes import finish, start
from tests.tiny_runs import config_of, flags_of

DRILL = {"steps": 60, "checkpoint_every": 7, "evaluation__databases": ()}


def curve(workdir):
  records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  records = [record for record in records if "loss" in record]  # not the validations
  return np.array([(record["step"], record["loss"], record["gradient_norm"]) for record in records])


def arrays(config, workdir):
  """dict from path to array: the newest state of a run, as one process sees it."""
  mesh = make_mesh()
  method, (tx, _, _) = loop.build(config, mesh), loop.build_optimizer(config, 64)
  state = Checkpoints(workdir / "checkpoints").restore(loop.init_state(config, method, tx, mesh))
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def gaps(expected, state):
  """[n] the differences of all numbers of two states."""
  return np.concatenate([np.abs(state[path].astype(np.float64) - x).ravel() for path, x in expected.items()])


def wait_for(workdir, step, processes):
  """Returns once a run has recorded `step`."""
  deadline, path = time.monotonic() + 240, workdir / "metrics.jsonl"
  while time.monotonic() < deadline and all(process.poll() is None for process in processes):
    if path.exists() and len(path.read_text().splitlines()) > step:
      return
    time.sleep(0.02)
  raise AssertionError([(workdir / f"stderr_{i}").read_text()[-3000:] for i in range(len(processes))])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reiqa", "lml", "liqe"])
def test_two_processes_with_four_devices_equal_one_with_eight(method, demo_dir, tmp_path):
  # Where a ReLU's input is nothing but rounding, the order of a sum decides whether it passes a gradient. With seed 0
  # one of about 170,000 inputs of Re-IQA's first step is 3e-7, and the gradient's norm changes by 4e-4.
  changes = {"steps": 3, "seed": 1, "evaluation__databases": () if method == "reiqa" else ("demo",)}
  if method == "liqe":
    changes |= {"validate_every": 2, "evaluation__checkpoint": "best"}
  one, two = tmp_path / "one", tmp_path / "two"
  finish(start(flags_of(method, demo_dir, two, **changes), two, processes=2, devices=4), two)
  config = config_of(method, demo_dir, **changes)
  assert loop.train(config, one)
  np.testing.assert_allclose(curve(two), curve(one), rtol=1e-5, atol=1e-5)
  assert (two / "best").exists() == (method == "liqe")
  # AdamW divides a gradient by its own size, also one that is nothing but rounding: that of an attention's key biases,
  # which the softmax cancels, and here and there another. A few parameters move by up to a step more or less: how
  # many depends on the processor (0.008 to 0.023 % were seen); a wrong share of the batch would move nearly all.
  apart = gaps(arrays(config, one), arrays(config, two))
  assert np.mean(apart > 1e-5) < 1e-3 and apart.max() < config.optimizer.learning_rate
  if method != "reiqa":
    results, shared = evaluate(config, one), json.loads((two / "results.json").read_text())
    assert shared["srcc"] == pytest.approx(results["srcc"], abs=0.02) and len(shared["devices"]) == 8
    scores = [np.load(run / "scores_demo.npz")["predictions"] for run in (one, two)]
    np.testing.assert_allclose(*scores, atol=1e-3, rtol=1e-4)
  assert [name.name for name in two.glob("metrics*")] == ["metrics.jsonl"] and not (two / "lock.json").exists()


@pytest.fixture(scope="module")
def whole(demo_dir, tmp_path_factory):
  """An uninterrupted run of two processes."""
  workdir = tmp_path_factory.mktemp("whole")
  finish(start(flags_of("lml", demo_dir, workdir, **DRILL), workdir, processes=2, devices=4), workdir)
  return workdir


@pytest.fixture(scope="module")
def preempted(demo_dir, tmp_path_factory):
  """A run of two processes of which one got SIGTERM."""
  workdir = tmp_path_factory.mktemp("preempted")
  processes = start(flags_of("lml", demo_dir, workdir, **DRILL), workdir, processes=2, devices=4)
  wait_for(workdir, 10, processes)
  processes[1].send_signal(signal.SIGTERM)
  outputs = finish(processes, workdir, expected=143)
  assert all("stopped by SIGTERM after a checkpoint" in output for output in outputs)
  return workdir


@pytest.mark.slow
def test_preempted_and_killed_runs_end_with_the_bits_of_an_uninterrupted_one(whole, preempted, demo_dir, tmp_path):
  workdir = shutil.copytree(preempted, tmp_path / "run")
  stopped_at = Checkpoints(workdir / "checkpoints").latest_step()
  assert 10 < stopped_at < DRILL["steps"] - 15 and len(curve(workdir)) == stopped_at
  flags = flags_of("lml", demo_dir, workdir, **DRILL)
  processes = start(flags, workdir, processes=2, devices=4)
  wait_for(workdir, stopped_at + 10, processes)
  processes[1].kill()
  processes[1].wait()
  # The survivor notices by itself, says so and ends.
  assert processes[0].wait(timeout=120) != 0
  assert len(curve(workdir)) < DRILL["steps"]
  finish(start(flags, workdir, processes=2, devices=4), workdir)
  np.testing.assert_array_equal(curve(workdir), curve(whole))
  config = config_of("lml", demo_dir, **DRILL)
  expected, resumed = arrays(config, whole), arrays(config, workdir)
  for path, array in expected.items():
    np.testing.assert_array_equal(resumed[path], array, err_msg=path)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_another_sharding(whole, preempted, demo_dir, tmp_path):
  workdir = shutil.copytree(preempted, tmp_path / "run")
  begun = len(curve(workdir))
  assert loop.train(config_of("lml", demo_dir, **DRILL, sharding="fsdp"), workdir, jax.devices()[:4])
  assert len(curve(workdir)) == DRILL["steps"] > begun
  np.testing.assert_array_equal(curve(workdir)[:begun], curve(whole)[:begun])
  np.testing.assert_allclose(curve(workdir)[begun : begun + 5], curve(whole)[begun : begun + 5], rtol=1e-4, atol=1e-5)


def test_mistakes_in_the_flags_say_what_to_give(tmp_path):
  mistakes = {
    ("--distributed",): "--coordinator=HOST:PORT --num_processes=N --process_id=I",
    ("--distributed", "--coordinator=localhost:1"): "give all three",
    ("--coordinator=localhost:1",): "without --distributed",
    ("--distributed", "--coordinator=a:1", "--num_processes=2", "--process_id=2"): "expected 0 to 1",
  }
  base = flags_of("lml", tmp_path, tmp_path / "run")
  started = [start([*base, *more], tmp_path / str(i)) for i, more in enumerate(mistakes)]
  for i, (processes, message) in enumerate(zip(started, mistakes.values(), strict=True)):
    output = finish(processes, tmp_path / str(i), expected=2)[0]
    assert message in output and "Traceback" not in output
