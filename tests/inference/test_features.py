"""Features of files: every size, the right experts in the right columns, few programs, nothing undefined."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jiqa.cli import app
from jiqa.errors import UserError
from jiqa.inference import features as rooms
from jiqa.inference import metric as metric_module
from jiqa.inference.loading import Model
from jiqa.runtime.sharding import make_mesh
from tests import tiny_experts

SIZES = [(20, 20), (1, 1), (3, 30), (64, 64), (60, 61), (65, 75), (27, 32)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  folder = tmp_path_factory.mktemp("weights")
  for seed, expert in enumerate(("quality", "content")):
    tiny_experts.save(folder / expert, expert, seed)
  return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  folder = tmp_path_factory.mktemp("photos")
  rng = np.random.default_rng(0)
  for i, (height, width) in enumerate(SIZES):
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
  return folder


def one_device(monkeypatch):
  monkeypatch.setattr(metric_module, "make_mesh", lambda *_: make_mesh(jax.devices()[:1]))


def test_rows_are_the_features_of_each_image_alone(weights, photos, tmp_path, monkeypatch):
  one_device(monkeypatch)
  (photos / "notes.txt").write_text("no image")
  damaged = tmp_path / "damaged.png"
  damaged.write_bytes((photos / "5.png").read_bytes()[:60])
  out = tmp_path / "out" / "features.npz"
  command = ["features", str(photos), str(damaged), f"--out={out}"]
  run = CliRunner().invoke(app, [*command, f"--weights={weights / 'quality'}", f"--weights={weights / 'content'}"])
  assert run.exit_code == 3  # something was left out, and it says what
  assert "features of 7 images" in run.output and f"left out: {damaged}" in run.output
  with np.load(out) as file:
    names, found, card = file["image_name"], file["features"], json.loads(str(file["card"]))
  assert names.tolist() == [str(photos / f"{i}.png") for i in range(len(SIZES))]
  assert found.shape == (len(SIZES), 2 * 2 * 16) and found.dtype == np.float32 and np.isfinite(found).all()
  assert [each["expert"] for each in card["networks"]] == ["content", "quality"]
  assert sum(each["columns"] for each in card["networks"]) == found.shape[1]
  mesh = make_mesh(jax.devices()[:1])
  for expert, columns in (("content", slice(0, 32)), ("quality", slice(32, 64))):
    model = Model(weights / expert, mesh)
    for i in (1, 5):
      views = model.method.preprocess_eval(np.asarray(Image.open(photos / f"{i}.png")))
      batch = {name: view[None] for name, view in views.items()}
      batch |= {name + "_size": np.int32([view.shape[:2]]) for name, view in views.items()}
      alone = np.asarray(model.run(model.program(batch).result(), batch)["features"])[0]
      np.testing.assert_allclose(found[i, columns], alone, rtol=1e-5, atol=1e-5 * np.abs(alone).max())


def test_one_program_a_bucket_whatever_came_before(weights):
  sizes = [(33, 40), (40, 35), (64, 50), (47, 64), (33, 34), (60, 60)]
  rng = np.random.default_rng(1)
  images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
  for order in (images, images[::-1]):
    metric = metric_module.load(weights=weights / "quality", devices=jax.devices()[:1])
    features = metric.features(order)
    assert np.isfinite(features).all() and len(np.unique(features, axis=0)) == len(sizes)
    assert len(metric.models[0].programs._programs) == 4  # buckets of 36 x 48, 48 x 36, 64 x 64 and 48 x 64


def test_mistakes_are_refused(weights, photos, tmp_path, monkeypatch):
  one_device(monkeypatch)
  quality = weights / "quality"

  def refuse(match, names=(photos,), folders=(quality,), model=None, out=tmp_path / "f.npz"):
    with pytest.raises(UserError, match=match):
      rooms.write_features(metric_module.load(model, folders), list(map(str, names)), out)

  refuse("holds weights of 'reiqa', not of 'liqe'", model="liqe")
  refuse("empty list", folders=())
  refuse(r"f.csv: expected a name that ends in \.npz", out=tmp_path / "f.csv")
  refuse("its folder cannot be made", out=__file__ + "/f.npz")
  with monkeypatch.context() as patched:
    patched.setattr("os.access", lambda *_: False)
    refuse("its folder cannot be written to")
  refuse("no such folder", folders=(tmp_path / "none",))
  (tmp_path / "x.png").write_bytes(b"nothing")
  refuse("no image can be read: .*x.png", names=(tmp_path / "x.png",))
  assert not (tmp_path / "f.npz").exists()
