"""launch.py without --workdir."""

import os
import pathlib
import signal
import subprocess
import sys

import jax
import pytest
from absl.testing import flagsaver

import launch
from jiqa.runtime import host_memory

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
  ("config", "workdir"),
  [
    ("configs/reiqa.py", "runs/reiqa"),
    ("/elsewhere/mine.py:demo", "runs/mine_demo"),
    ("configs/reiqa.py:small,loss=queue", "runs/reiqa_small_loss=queue"),
    ("configs/reiqa.py:../a b:c", "runs/reiqa_.._a_b_c"),
  ],
)
def test_the_default_workdir_is_named_after_config_and_variant(config, workdir):
  assert launch.default_workdir(config) == workdir


def test_evaluating_without_a_run_says_so_and_writes_nothing(tmp_path):
  command = [sys.executable, ROOT / "launch.py", f"--config={ROOT}/configs/lml.py:demo", "--mode=evaluate"]
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
  assert done.returncode == 2 and "Traceback" not in done.stderr
  assert "no --workdir given: using runs/lml_demo" in done.stderr
  assert "checkpoint to evaluate; train first" in done.stderr
  assert not any(tmp_path.iterdir())


def cores(count, monkeypatch):
  monkeypatch.setattr(launch.os, "sched_getaffinity", lambda _: range(count))
  monkeypatch.delenv("XLA_FLAGS")
  devices = {}
  monkeypatch.setattr(jax.config, "update", lambda key, value: devices.update({key: value}))
  return devices


@pytest.mark.parametrize(("count", "batch_size", "expected"), [(4, 6, 3), (8, 8, 8), (6, 7, 1), (16, 24, 12)])
def test_a_batch_is_shared_evenly_by_as_many_cores_as_can(count, batch_size, expected, monkeypatch):
  devices = cores(count, monkeypatch)
  launch.use_every_core(batch_size)
  assert devices == {"jax_num_cpu_devices": expected}


def test_cores_share_the_distorted_images_of_a_step_too(tmp_path, monkeypatch):
  called, arguments = [], ["launch.py", f"--config={ROOT}/configs/supervised.py:demo", f"--workdir={tmp_path}"]
  monkeypatch.setattr(host_memory, "keep_freed", lambda: True)
  monkeypatch.setattr(launch, "use_every_core", called.append)
  monkeypatch.setattr("jiqa.train.train", lambda *_, **__: True)
  monkeypatch.setattr("jiqa.evaluate.evaluate", lambda *_, **__: {})
  monkeypatch.setattr(sys, "argv", arguments)
  with flagsaver.flagsaver():
    launch.parse_flags(arguments)
    launch.main([])
  assert called == [4]  # of a batch of 8


@pytest.mark.parametrize("flags", [(), ("--config.optimizer.learning_rate=0.5", "--config.data[0].weight=2.0")])
@pytest.mark.parametrize(("mode", "reached"), [("train", True), ("train", False), ("evaluate", None)])
def test_what_a_mode_calls_and_the_status_it_ends_with(mode, reached, flags, tmp_path, monkeypatch):
  called, config = [], f"--config={ROOT}/configs/lml.py:demo"
  monkeypatch.setattr(host_memory, "keep_freed", lambda: True)
  monkeypatch.setattr(launch, "use_every_core", lambda batch_size: called.append(batch_size))
  for module, result in (("train", reached), ("evaluate", {})):
    note = lambda *args, module=module, result=result, **more: called.append((module, *args[1:], more)) or result
    monkeypatch.setattr(f"jiqa.{module}.{module}", note)
  arguments = ["launch.py", config, f"--workdir={tmp_path}", f"--mode={mode}", "--config.batch_size=7", *flags]
  monkeypatch.setattr(sys, "argv", arguments)  # where overrides of a config are looked for
  with flagsaver.flagsaver():
    launch.parse_flags(arguments)
    if reached is False:
      with pytest.raises(SystemExit) as ended:
        launch.main([])
      assert ended.value.code == 143
    else:
      launch.main([])
  overrides = {"batch_size", "optimizer", "data"} if flags else {"batch_size"}
  training = ("train", str(tmp_path), {"profile": False, "overrides": overrides})
  evaluating = ("evaluate", str(tmp_path), {"overrides": overrides})
  expected = {True: [training, evaluating], False: [training], None: [evaluating]}[reached]
  assert called == [7, *expected]


def test_a_missing_accelerator_is_one_line(tmp_path):
  environment = {**os.environ, "JAX_PLATFORMS": "cuda"}
  for command in (
    [ROOT / "launch.py", f"--config={ROOT}/configs/lml.py:demo", f"--workdir={tmp_path / 'run'}"],
    ["-m", "jiqa.cli", "score", ROOT / "docs/images/scores.jpg"],
  ):
    done = subprocess.run(
      [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "jax finds no device for JAX_PLATFORMS='cuda'" in done.stderr and "JAX_PLATFORMS=cpu" in done.stderr
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("error", "status", "words"),
  [
    (MemoryError("no room"), 2, "out of memory (no room); use a smaller config.batch_size"),
    (
      RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore"),
      2,
      "out of memory (RESOURCE_EXHAUSTED: Out of memory); use",
    ),
    (KeyboardInterrupt(), signal.SIGINT, "stopped; checkpoints and results are kept: run the same command to go on"),
  ],
)
def test_what_ends_a_process_is_one_line(error, status, words, tmp_path, monkeypatch, capsys):
  def ended(status):
    raise SystemExit(status)

  def train(*_, **__):
    raise error

  monkeypatch.setattr(host_memory, "keep_freed", lambda: True)
  monkeypatch.setattr(launch, "use_every_core", lambda _: None)
  monkeypatch.setattr("jiqa.train.train", train)
  monkeypatch.setattr(launch.os, "_exit", ended)
  monkeypatch.setattr(launch.os, "kill", lambda process, number: ended(number))
  monkeypatch.setattr(launch.signal, "signal", lambda *_: None)
  arguments = ["launch.py", f"--config={ROOT}/configs/lml.py:demo", f"--workdir={tmp_path}"]
  monkeypatch.setattr(sys, "argv", arguments)
  with flagsaver.flagsaver(), pytest.raises(SystemExit) as exited:
    launch.parse_flags(arguments)
    launch.main([])
  told = capsys.readouterr().err
  assert exited.value.code == status and words in told and told.count("\n") == 1
