"""The benchmark for GPUs runs: its parts on a CPU, with networks of a few channels."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def test_every_part_of_the_gpu_benchmark_gives_rows(tmp_path):
  parts = ("ceilings", "step:lml", "predict:reiqa", "ridge")
  command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--repeats=1", f"--json={tmp_path / 'rows.json'}"]
  subprocess.run([*command, f"--parts={','.join(parts)}"], check=True, cwd=ROOT, timeout=300)
  rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
  assert list(dict.fromkeys(row["part"] for row in rows)) == list(parts)
  by_part = {row["part"]: row for row in reversed(rows)}  # the first of each
  step = by_part["step:lml"]
  assert step["images_per_second"] == pytest.approx(2 / step["seconds"]) and step["planned_gigabytes"] > 0
  assert 0 < step["of_product"] < 1
  assert by_part["predict:reiqa"]["images"] == 2


def test_a_part_that_fails_is_named_and_leaves_the_others(tmp_path):
  command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--repeats=1", f"--json={tmp_path / 'rows.json'}"]
  done = subprocess.run(
    [*command, "--parts=step:nothing,ceilings"], cwd=ROOT, timeout=300, capture_output=True, text=True
  )
  assert done.returncode == 1 and "step:nothing" in done.stderr.splitlines()[-1]
  assert [row["part"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]] == ["ceilings"]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["step:reiqa", "step:reiqa_queue", "step:content", "step:liqe", "bank", "profile:lml"])
def test_slow_parts_of_the_gpu_benchmark(part, tmp_path):
  command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--repeats=1", f"--json={tmp_path / 'rows.json'}"]
  subprocess.run([*command, f"--parts={part}"], check=True, cwd=ROOT, timeout=600)
  rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
  if part.startswith("step"):
    sides = [row["side"] for row in rows]
    others = ["augment"] if "reiqa" in part else ["published arithmetic"] if part == "step:liqe" else []
    assert sides[: 1 + len(others)] == ["jiqa", *others] and all(row["seconds"] > 0 for row in rows)
  elif part == "bank":
    assert rows[0]["ratio"] == pytest.approx(rows[0]["items_per_second"] / rows[0]["pil_items_per_second"])
  else:
    assert sum(rows[0].get(phase, 0) for phase in ("augment", "forward", "backward", "update and others")) == (
      pytest.approx(1)
    )
