"""launch.py without --workdir."""

import pathlib
import subprocess
import sys

import pytest

import launch

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
