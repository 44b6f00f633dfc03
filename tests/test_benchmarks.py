"""The benchmark for GPUs runs: its parts on a CPU, with networks of a few channels."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

from benchmarks import gallery, reiqa_losses

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


def scored():
  """Two scenes, each as it is and in one kind at five levels: (score, scene, what, image)."""
  whats = ["as it is", *(f"darken {level}" for level in range(1, 6))]
  gray = lambda value: np.full((384, 384, 3), value, np.uint8)
  return [
    (scene - 10.0 * k, name, what, gray(scene + k))
    for name, scene in (("a", 90), ("b", 60))
    for k, what in enumerate(whats)
  ]


def test_the_gallery_lays_out_what_was_scored(monkeypatch, capsys):
  monkeypatch.setattr(gallery, "KINDS", ("darken",))
  page = np.asarray(gallery.distortions(scored(), "b", side=112))
  assert [page[5, 116 * k + 5, 0] for k in range(6)] == [60, 61, 62, 63, 64, 65]
  page = np.asarray(gallery.best_and_worst(scored()))
  rows = [page[172 * y + 5 : 172 * y + 6, 5::132, 0][0, :2].tolist() for y in range(3)]
  assert rows == [[90, 60], [65, 255], [94, 64]]  # best first; one kind at its worst; the least lost of levels 4 and 5
  assert capsys.readouterr().out.splitlines()[0] == "a, darken 4: 50.0, as it is 90.0"


def test_the_pool_of_the_gallery_says_what_its_images_show(tmp_path, monkeypatch):
  monkeypatch.setattr(gallery, "scenes", lambda: {"coffee": gallery.photographs()["coffee"]})
  entries = lambda images: [("coffee", "as it is", images["coffee"]), ("coffee", "JPEG 5", images["coffee"] // 2)]
  monkeypatch.setattr(gallery, "renderings", entries)
  gallery.write_pool(tmp_path / "pool")
  table = pd.read_csv(tmp_path / "pool" / "references.csv")
  assert table.image_name.tolist() == ["coffee_as_it_is.png", "coffee_JPEG_5.png"]
  assert (table.reference_name == "coffee").all() and table.ssim[0] == 1
  whole, half = (np.asarray(Image.open(tmp_path / "pool" / name)) for name in table.image_name)
  assert table.ssim[1] == pytest.approx(structural_similarity(whole, half, channel_axis=2), abs=1e-4)


def test_of_the_labelled_images_of_the_losses_every_split_keeps_the_same():
  splits = np.array([[0, 1, 0, 0, 2, 0, 1, 2, 0, 0], [1, 0, 0, 0, 2, 0, 0, 2, 1, 0]], np.int8)
  sampled = reiqa_losses.sample(splits, 5, seed=1)
  kept = (sampled != -1).all(0)
  assert kept.sum() == 5 + 2 and kept[[4, 7]].all()  # the tested ones stay
  assert (sampled == np.where(kept, splits, -1)).all()
  assert ((reiqa_losses.sample(splits, 5, seed=2) != -1).all(0) != kept).any()


def test_heads_across_subsets_see_no_image_of_the_one_they_are_tested_on():
  splits, domains = np.array([[0, 1, 2, 0, 1, 2]], np.int8), ["a", "a", "a", "b", "b", "b"]
  assert reiqa_losses.across(splits, domains, "b").tolist() == [[0, 1, -1, -1, -1, 2]]


def test_the_runs_of_the_losses_differ_in_loss_and_window_alone():
  configs = [reiqa_losses.config_of(loss or "in_batch", window, 3, 7) for loss, window in reiqa_losses.RUNS.values()]
  shown = [config.to_dict() for config in configs]
  keys = [key for key in shown[0] if len({str(config[key]) for config in shown}) > 1]
  assert keys == ["loss", "window"] and (shown[0]["seed"], shown[0]["steps"], shown[0]["epochs"]) == (3, 7, 0)
  assert [config["window"] for config in shown] == [384, 384, 384, 384, 256, 256]


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
