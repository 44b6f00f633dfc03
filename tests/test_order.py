"""The benchmark of order: its damages against PIL and loops, its shares by hand."""

import io
import json
import types

import numpy as np
import pytest
from PIL import Image

from benchmarks import order
from jiqa.distortions import bank

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (19, 26, 3), np.uint8)


def test_every_kind_is_in_one_group():
  parts = [kind for group in ("trained", "held out", "left out") for kind in order.GROUPS[group]]
  assert sorted(parts) == sorted(bank.names("kadid25")) and "contrast" in order.GROUPS["left out"]
  assert set(order.GROUPS["all but left out"]) == {*order.GROUPS["trained"], *order.GROUPS["held out"]}


def test_simple_damages():
  np.testing.assert_array_equal(
    order.damaged(PHOTO, "overexposed, x2.2"), np.minimum(np.rint(2.2 * PHOTO.astype(np.float64)), 255)
  )
  np.testing.assert_array_equal(order.damaged(PHOTO, "dark, x0.2"), np.rint(PHOTO / 5))
  file = io.BytesIO()
  Image.fromarray(PHOTO).save(file, "JPEG", quality=5)
  np.testing.assert_array_equal(order.damaged(PHOTO, "JPEG 5"), np.asarray(Image.open(file)))
  blocks = order.damaged(PHOTO, "pixelated, 8x8")
  for top in range(0, 19, 8):
    for left in range(0, 26, 8):
      block = slice(top, top + 8), slice(left, left + 8)
      expected = np.rint(PHOTO[block].reshape(-1, 3).mean(0))
      np.testing.assert_array_equal(blocks[block], np.broadcast_to(expected, blocks[block].shape))
  gray = np.full((200, 200, 3), 128, np.uint8)
  noisy = order.damaged(gray, "noise 40", 3).astype(float)
  assert noisy.std() == pytest.approx(40, rel=0.02) and noisy.mean() == pytest.approx(128, abs=0.6)
  step = np.where(np.arange(200)[None, :, None] < 100, 0, np.full((200, 1, 3), 200)).astype(np.uint8)
  blurred = order.damaged(step, "blur 4").astype(float)
  # Of a step the slope in the middle is the height over sigma sqrt(2 pi); channels are not mixed.
  assert blurred[100, 100, 0] - blurred[100, 99, 0] == pytest.approx(200 / (4 * np.sqrt(2 * np.pi)), abs=1)
  noise = order.damaged(gray, "white noise", 1)
  assert (noise.min(), noise.max()) == (0, 255) and noise.std() == pytest.approx(256 / np.sqrt(12), rel=0.02)


def test_equal_scores_are_not_in_order():
  ladders = np.array([[[9, 8, 7, 6, 5, 4], [5, 5, 4, 6, 3, 5]], [[9, 8, 7, 6, 5, 9.5], [6, 5, 4, 3, 2, 1]]])
  found = order.in_order(ladders)
  assert found["ends_of"] == [0.5, 0.5] and found["neighbours_of"] == [0.9, 0.7]  # 5 + 4 and 2 + 5 of 10
  assert (found["ends"], found["neighbours"]) == (0.5, 0.8)


def test_the_command_tells_weights_apart(tmp_path, monkeypatch, capsys):
  """Bright is good to one metric, dark to the other."""
  monkeypatch.setattr(order, "NAMES", ("brighten", "darken"))
  groups = {"all": order.NAMES, "trained": ("darken",), "held out": ("brighten",), "left out": order.NAMES}
  monkeypatch.setattr(order, "GROUPS", groups)
  for i in range(3):
    Image.fromarray(np.clip(PHOTO // 4 + 60 + 10 * i, 0, 255).astype(np.uint8)).save(tmp_path / f"{i}.png")

  def load(weights):
    def metric(images):
      means = np.array([image.mean() for image in images])
      return types.SimpleNamespace(score=means if weights == "bright" else -means)

    metric.check_scores, metric.weights_sha256, metric.head_sha256 = lambda: None, weights, ""
    return metric

  monkeypatch.setattr(order.jiqa, "load", load)
  out = tmp_path / "order.json"
  order.main([f"--images={tmp_path}", "--weights=bright", "--weights=dim", f"--json={out}", "--limit=2"])
  found = json.loads(out.read_text())
  assert found["images"] == ["0.png", "1.png"]
  bright, dim = (found["weights"][name] for name in ("bright", "dim"))
  assert bright["kinds"]["darken"]["ends"] == bright["kinds"]["darken"]["neighbours"] == 1
  assert bright["kinds"]["brighten"]["ends"] == 0 and dim["kinds"]["brighten"]["neighbours"] == 1
  assert bright["groups"]["all"]["ends"] == 0.5 and bright["groups"]["held out"]["ends"] == 0
  assert bright["groups"]["trained"]["neighbours"] == 1
  first = np.asarray(Image.open(tmp_path / "0.png")).mean()
  assert bright["scores"]["kinds"][0][1][0] == pytest.approx(first, abs=1e-4)
  below = {name: row["below"] for name, row in bright["damages"].items()}
  assert below["dark, x0.2"] == 1 and below["overexposed, x2.2"] == 0 and below["original"] is None
  noise = np.array([-row[-1] for row in dim["scores"]["damages"]])
  assert dim["damages"]["white noise"]["highest"] == pytest.approx(-noise.min(), abs=1e-3)
  assert dim["damages"]["white noise"]["mean"] == pytest.approx(-noise.mean(), abs=1e-3)
  printed = capsys.readouterr()
  row = next(line for line in printed.out.splitlines() if line.startswith("| dark, x0.2"))
  assert [cell.strip() for cell in row.split("|")][3::3] == ["100.0", "0.0"]
  assert "2 of 2" in printed.err
