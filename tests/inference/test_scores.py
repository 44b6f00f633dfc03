"""What Python users see: the names of the package, what a metric takes, and what they can do with scores."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import jiqa
from jiqa.inference.card import list_models
from jiqa.inference.metric import PRETRAINED, Scores, shipped
from tests.inference import made

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def metric(brightness):
  return jiqa.load(brightness, devices=jax.devices()[:1])


def test_the_package_shows_its_names():
  assert set(dir(jiqa)) == {*jiqa.__all__, "__version__"} and {"load", "list_models", "Scores"} <= set(dir(jiqa))
  assert all(getattr(jiqa, name).__doc__ for name in jiqa.__all__)
  assert jiqa.list_models is list_models and jiqa.Scores is Scores
  with pytest.raises(AttributeError, match="no attribute 'lod'"):
    _ = jiqa.lod
  assert (ROOT / "jiqa/py.typed").is_file()


def test_dir_imports_nothing():
  code = "import sys, jiqa; dir(jiqa); sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_models_are_listed_with_what_is_known():
  models = list_models()
  assert set(shipped()) < set(models) and all({"predicts", "how_to_get"} <= set(model) for model in models.values())
  small = models["reiqa-small"]
  assert (
    small["predicts"] == "score 0 to 1" and small["srcc"] == 0.626 and "299 images of biq2021" in small["tested_on"]
  )
  size = sum(file.stat().st_size for file in (PRETRAINED / "reiqa_small").iterdir())
  assert small["megabytes"] == pytest.approx(size / 1e6, abs=0.05)
  assert models["supervised-lite0"]["predicts"] == "score 0 to 100" and "BIQ2021" in small["licence"]
  assert models["liqe"]["predicts"] == "score 1 to 5, scene, distortion" and "convert" in models["liqe"]["how_to_get"]


def test_a_metric_says_what_it_is(metric):
  assert metric.weights_sha256 in repr(metric) and "higher is better" in repr(metric) and "1 x cpu" in repr(metric)


def test_scores_are_a_sequence_an_array_and_a_table(metric):
  grays = [30, 120, 90]
  scores = metric([np.full((8, 9, 3), gray, np.uint8) for gray in grays])
  expected = 2 * np.array(grays) / 255
  np.testing.assert_allclose(list(scores), expected, rtol=1e-6)
  np.testing.assert_allclose(np.asarray(scores), expected, rtol=1e-6)
  assert np.asarray(scores, np.float32).dtype == np.float32 and isinstance(scores[1], float)
  assert scores[-1] == pytest.approx(expected[-1]) and np.argsort(scores).tolist() == [0, 2, 1]
  part = scores[1:]
  assert part.names == ["image 1", "image 2"] and part.columns["brightness"].shape == (2,)
  table = scores.to_pandas()
  assert list(table) == ["image_name", "score", "brightness", "error"]
  np.testing.assert_allclose(table.brightness, expected / 2, rtol=1e-6)


def test_a_table_has_the_likeliest_classes():
  columns = {"scene": np.array([[0.2, 0.8], [0.9, 0.1]]), "map": np.zeros((2, 3, 3)), "std": np.ones(2)}
  table = Scores(["a", "b"], np.zeros(2), columns, ["", ""], {"scene": ("night", "plant")}).to_pandas()
  assert table.scene.tolist() == ["plant", "night"] and list(table) == ["image_name", "score", "scene", "std", "error"]


def test_an_image_without_a_score_has_no_class():
  columns = {"scene": np.array([[0.2, 0.8], [np.nan, np.nan]]), "std": np.array([1, np.nan])}
  table = Scores(["a", "b"], np.array([1, np.nan]), columns, ["", "gone"], {"scene": ("night", "plant")}).to_pandas()
  assert table.scene[0] == "plant" and pd.isna(table.scene[1]) and pd.isna(table["std"][1])
  assert list(table) == ["image_name", "score", "scene", "std", "error"]


def test_images_that_cannot_be_read_may_be_returned(metric, tmp_path):
  Image.new("RGB", (9, 9), (51, 51, 51)).save(tmp_path / "good.png")
  paths = [str(tmp_path / "gone.png"), str(tmp_path / "good.png")]
  scores = metric(paths, errors="return")
  np.testing.assert_allclose(scores.score, [np.nan, 0.4], rtol=1e-6)
  assert scores.errors == [f"{paths[0]}: no such file", ""] and np.isnan(scores.columns["brightness"][0])
  assert pd.isna(scores.to_pandas().score[0])
  assert np.isnan(metric(paths[0], errors="return").score).all()
  with pytest.raises(jiqa.UserError, match=r"gone\.png: no such file"):
    metric(paths)
  with pytest.raises(jiqa.UserError, match=r"errors is 'ignore'"):
    metric(paths, errors="ignore")


def test_folders_gray_arrays_and_bytes_are_images(metric, tmp_path):
  paths = made.files(tmp_path / "folder/deep")
  (tmp_path / "folder/clip.mp4").write_bytes(b"no image")
  (tmp_path / "folder/notes.txt").write_bytes(b"no image")
  assert metric(tmp_path / "folder").names == paths
  assert metric([paths[2], tmp_path / "folder"]).names == [paths[2], *paths]
  gray = np.arange(56, dtype=np.uint8).reshape(7, 8)
  for given in (gray, jax.numpy.asarray(gray), Image.fromarray(gray), gray / np.float32(255)):
    assert float(metric(given)) == pytest.approx(2 * gray.mean() / 255, rel=1e-5)
  assert float(metric(pathlib.Path(paths[0]).read_bytes())) == pytest.approx(float(metric(paths[0])))


@pytest.mark.parametrize(("given", "what"), [(5, "int"), (None, "NoneType"), ([object()], "image 0: object")])
def test_what_is_no_image_is_a_type_error_that_lists_what_is(metric, given, what):
  with pytest.raises(TypeError, match=rf"{what} is no image; expected a path .*folder.*bytes.*PIL image.*array"):
    metric(given)
