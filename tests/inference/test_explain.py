"""`jiqa explain`: what is drawn, from weights and from a run, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import lml as config_file
from jiqa.errors import UserError
from jiqa.inference import explain
from jiqa.methods.lml.lml import LML, box_means
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.weights.store import save_weights
from tests.helpers import mesh_of


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """(method, state, folder of weights, workdir of a run): the run's teacher is not its network."""
  root = tmp_path_factory.mktemp("explain")
  config = config_file.get_config("demo")
  config.update(crop=16, patch=4, width=8, depth=1, heads=2, test_crops=5, batch_size=1)
  method = LML(config, mesh_of(1))
  state = method.init(jax.random.key(0))
  rng = np.random.default_rng(0)
  shaken = lambda p: p + jnp.asarray(rng.normal(0, 0.2, p.shape), jnp.float32)
  state = state.replace(params=jax.tree.map(shaken, state.params), extra=jax.tree.map(shaken, state.extra))
  plain = json.loads(config.to_json_best_effort())
  save_weights(root / "weights", jax.device_get(state.params), {}, {"model": "lml", "config": plain})
  (root / "run").mkdir()
  (root / "run" / "config.json").write_text(json.dumps(plain))
  with Checkpoints(root / "run" / "checkpoints") as checkpoints:
    checkpoints.save(7, state)
  image = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
  Image.fromarray(image).save(root / "image.png")
  return method, state, root, image


def test_an_explanation_is_what_the_score_is_made_of(folders):
  method, state, _, image = folders
  found = method.explain(state.params, {}, {"teacher": state.extra["teacher"]}, image)
  crops = method.preprocess_eval(image)["crops"]
  np.testing.assert_array_equal(found["crops"], crops)
  scores = jax.jit(lambda p, x: method.network(p)(x)["score"])(state.params, crops)
  np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
  assert float(found["score"]) == pytest.approx(float(np.mean(scores)), abs=1e-5)
  assert found["map"].shape == (4, 4) and found["map"].std() > 0
  saliency = box_means(jnp.asarray(found["map"])[None], jnp.asarray(found["boxes"])[None])[0]
  np.testing.assert_allclose(found["saliency"], saliency, rtol=1e-5)
  corners = np.round(found["boxes"][:, :2] * [40, 60]).astype(int)
  assert all((image[y : y + 16, x : x + 16] == crop).all() for (y, x), crop in zip(corners, crops, strict=True))


def test_a_run_is_explained_by_its_teacher_and_weights_by_themselves(folders, tmp_path):
  method, state, root, image = folders
  lines = {
    name: explain.explain("lml", root / "image.png", root / name, tmp_path / f"{name}.png")
    for name in ("weights", "run")
  }
  for name, teacher in (("weights", state.params), ("run", state.extra["teacher"])):
    expected = method.explain(state.params, {}, {"teacher": teacher}, image)
    salient = int(expected["saliency"].argmax())
    assert f"score {expected['score']:.3f}" in lines[name]
    assert f"salient crop {salient + 1} of 5 with {expected['scores'][salient]:.3f}" in lines[name]
    with Image.open(tmp_path / f"{name}.png") as drawn:
      assert drawn.width > 1000 and np.asarray(drawn.convert("L")).std() > 20
  assert (tmp_path / "run.png").read_bytes() != (tmp_path / "weights.png").read_bytes()


def test_the_salient_crop_is_the_one_in_colour(folders):
  method, state, _, image = folders
  found = method.explain(state.params, {}, {"teacher": state.extra["teacher"]}, image)
  salient = int(found["saliency"].argmax())
  figure = explain.draw({"image": image, **found})
  titles = [(axis.get_title(), axis.title.get_color()) for axis in figure.get_axes()]
  coloured = [title for title, colour in titles if colour == explain.CHOSEN]
  assert len(coloured) == 1 and coloured[0].startswith(f"{salient + 1}: score {found['scores'][salient]:.2f}")
  assert sum("score" in title for title, _ in titles) == 5
  # Of an image of 40 x 60 pixels; every crop has 16 x 16 of them.
  outlined = {tuple(np.round([p.get_y(), p.get_x(), p.get_height(), p.get_width()]).astype(int))
              for axis in figure.get_axes() for p in axis.patches}  # fmt: skip
  assert outlined == {(*np.round(box[:2] * [40, 60]).astype(int), 16, 16) for box in found["boxes"]}


def test_names_of_images_are_no_mathematics(folders, tmp_path):
  name = tmp_path / "a$_{$\udce4.png"
  Image.fromarray(folders[3]).save(name)
  assert "score" in explain.explain("lml", name, folders[2] / "weights", tmp_path / "x.png")


@pytest.mark.parametrize(
  ("name", "image", "weights", "out", "message"),
  [
    ("liqe", "image.png", "weights", "x.png", "holds weights of 'lml', not of 'liqe'"),
    ("lml", "nothing.png", "weights", "x.png", "nothing.png: no such file"),
    ("lml", "image.png", "weights", "x.doc", "x.doc: cannot be written"),
    ("lml", "weights/card.json", "weights", "x.png", "card.json: not an image"),
    ("lml", "image.png", "nowhere", "x.png", "nowhere: no such folder"),
  ],
)
def test_mistakes_are_named(folders, tmp_path, name, image, weights, out, message):
  with pytest.raises(UserError, match=message):
    explain.explain(name, folders[2] / image, folders[2] / weights, tmp_path / out)
