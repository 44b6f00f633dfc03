"""One image, one score: however it is handed over, whatever else is in the batch, on any number of devices."""

import dataclasses
import functools
import pathlib
import types
import weakref
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import jiqa
from jiqa.errors import UserError
from jiqa.inference import command, predictor
from jiqa.inference.inputs import Item
from jiqa.inference.metric import Metric, trained_on
from jiqa.inference.predictor import MAX_HELD, Prediction
from jiqa.models.resnet import ResNet
from jiqa.runtime.state import merge_module, split_module
from jiqa.weights.store import load_weights
from tests.inference import made

IMAGES = made.images()


@functools.cache
def on_devices(folder, count):
  return jiqa.load(folder, devices=jax.devices()[:count])


@pytest.fixture(scope="module")
def expected(weights):
  """Scores by the network alone: no padding, no batch; the head in NumPy."""
  params, stats, _ = load_weights(weights)
  graphdef = split_module(nnx.eval_shape(lambda: ResNet(10, 4, rngs=nnx.Rngs(0))))[0]
  run = jax.jit(lambda x: merge_module(graphdef, params["encoder"], stats["encoder"])(x))
  head, scores = made.head({}), []
  for image in IMAGES:
    h, w = image.shape[:2]
    half = Image.fromarray(image).resize((max(w // 2, 1), max(h // 2, 1)), Image.Resampling.BICUBIC)
    parts = [run(jnp.asarray(np.asarray(view)[None] / 255, jnp.float32))[0] for view in (image, half)]
    features = np.concatenate(parts).astype(np.float64)
    scores.append(((features - head.mean) / head.scale) @ head.weights + 50)
  return np.array(scores)


@settings(max_examples=15, deadline=None)
@given(
  order=st.lists(st.integers(0, len(IMAGES) - 1), min_size=1, max_size=12),
  devices=st.sampled_from([1, 4]),
)
def test_score_depends_on_the_image_alone(weights, expected, order, devices):
  metric = on_devices(weights, devices)
  scores = metric([IMAGES[i] for i in order]).score
  np.testing.assert_allclose(scores, expected[order], rtol=0, atol=1e-4)
  assert np.ptp(expected) > 1  # and the images do differ


def test_every_way_of_handing_over_gives_the_same(metric, tmp_path):
  paths = made.files(tmp_path)
  by_path = metric(paths).score
  by_pil = metric([Image.open(path) for path in paths]).score
  by_array = metric(IMAGES).score
  by_jax = metric([jnp.asarray(image) for image in IMAGES]).score
  by_float = metric([np.clip((image - 0.4) / 255, 0, 1) for image in IMAGES]).score  # rounded to the nearest of 256
  for other in (by_pil, by_array, by_jax, by_float):
    np.testing.assert_allclose(other, by_path, rtol=0, atol=1e-4)
  assert float(metric(IMAGES[0])) == pytest.approx(by_path[0], abs=1e-4)
  assert float(metric(tmp_path / "0002.png")) == pytest.approx(by_path[2], abs=1e-4)
  stacked = metric(np.stack([IMAGES[2]] * 3))
  assert len(stacked) == 3 and stacked.names == ["image 0", "image 1", "image 2"]
  with pytest.raises(TypeError, match="3 scores"):
    float(stacked)
  assert repr(metric([IMAGES[0]])) == f"Scores(image 0: {by_path[0]:.4g})"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_one_opened_image_may_be_handed_over_often(metric, tmp_path, kind):
  Image.fromarray(np.tile(IMAGES[1], (4, 4, 1))).save(tmp_path / "a", format=kind)
  expected = float(metric(tmp_path / "a"))
  for _ in range(3):
    lazy = Image.open(tmp_path / "a")  # is decoded when its pixels are first asked for, which threads do
    np.testing.assert_allclose(metric([lazy] * 8).score, expected, rtol=0, atol=1e-4)


def test_what_the_network_cannot_take_is_named(metric, monkeypatch):
  def preprocess_eval(image):
    raise UserError("too thin")

  monkeypatch.setattr(metric.models[0].method, "preprocess_eval", preprocess_eval)
  with pytest.raises(UserError, match=r"^image 0: too thin"):
    metric(IMAGES[0])


def test_pil_modes_are_read_as_files_are(metric, tmp_path):
  gray = np.arange(0, 65536, 31, np.uint16)[: 40 * 50].reshape(40, 50)
  modes = {"gray16": Image.fromarray(gray), "alpha": Image.fromarray(IMAGES[0]).convert("RGBA")}
  modes["bilevel"] = Image.fromarray(IMAGES[1]).convert("1")
  for name, image in modes.items():
    image.save(tmp_path / f"{name}.png")
    assert float(metric(image)) == pytest.approx(float(metric(tmp_path / f"{name}.png")), abs=1e-4), name


def broken(value):
  image = IMAGES[0] / 255
  image[3, 4, 1] = value
  return image


@pytest.mark.parametrize(
  ("image", "message"),
  [
    (broken(np.nan), r"image 1: holds nan at row 3, column 4, channel 1"),
    (broken(-np.inf), r"image 1: holds -inf at row 3"),
    (broken(1.01), r"image 1: float pixels from .* to 1.01; expected \[0, 1\]. Divide by 255"),
    (IMAGES[0].astype(np.float32), r"image 1: float pixels .*Divide by 255"),
    (IMAGES[0].astype(np.int64), r"image 1: holds int64; expected a path"),
    (IMAGES[0][..., 0, None, None], r"image 1: has the shape \(40, 52, 1, 1\); expected \[height, width, 3\]"),
    (np.moveaxis(IMAGES[0], -1, 0), r"image 1: has the shape \(3, 40, 52\)"),
    (np.zeros((0, 4, 3), np.uint8), r"image 1: has the shape \(0, 4, 3\)"),
    (Image.new("F", (4, 4)), r"image 1: 32-bit float pixels"),
    ("nowhere.png", r"nowhere.png: no such file"),
  ],
)
def test_what_is_no_image_is_named(metric, image, message):
  with pytest.raises(UserError, match=message):
    metric([IMAGES[0], image])


def test_nothing_and_empty_folders_are_refused(metric, tmp_path):
  with pytest.raises(UserError, match="no image to score"):
    metric([])
  with pytest.raises(UserError, match=r"holds no image"):
    metric(tmp_path)


def test_features_are_those_that_the_head_takes(metric):
  features = metric.features(IMAGES)
  assert features.shape == (len(IMAGES), 64) and features.dtype == np.float32
  np.testing.assert_allclose(made.head({})(features), metric(IMAGES).score, rtol=0, atol=1e-9)


def test_stream_goes_on_after_what_cannot_be_read_and_takes_no_more_than_it_needs(metric):
  taken = []

  def items():
    for i in range(200):
      taken.append(i)
      yield Item(f"{i}", IMAGES[2] if i % 3 else IMAGES[2].astype(np.int64))

  stream = metric.stream(items(), threads=2)
  first = [next(stream) for _ in range(10)]
  assert len(taken) < 40  # the rest has not been asked for
  found = {each.index: each for each in (*first, *stream)}
  assert sorted(found) == list(range(200))
  assert {i for i, each in found.items() if each.error} == set(range(0, 200, 3))
  assert found[3].error.startswith("3: holds int64; expected a path")
  assert (found[1].height, found[1].width) == (48, 60) and found[1].seconds > 0


def test_images_pass_those_whose_program_is_still_being_made(metric, monkeypatch):
  model, late = metric.models[0], futures.Future()
  small, large = IMAGES[2], np.full((200, 200, 3), 9, np.uint8)
  expected = metric([small, large]).score  # and now all programs are there
  program, asked = model.program, []

  def slow(batch):
    if batch["full"].shape[1] < 200:
      return program(batch)
    asked.append(batch)
    return late

  monkeypatch.setattr(model, "program", slow)
  monkeypatch.setattr(predictor, "_cores", lambda: 2)  # so many may be computing when the wait begins
  many = metric.models[0].mesh.size
  stream = metric.stream([Item("", large)] * many + [Item("", small)] * 6 * many, threads=2)
  early = [next(stream) for _ in range(2 * many)]
  assert asked and all(found.width < 200 for found in early)
  late.set_result(program(asked[0]).result())
  found = [*early, *stream]
  assert sorted(each.index for each in found) == list(range(7 * many))
  for each in found:
    assert each.outputs["score"] == pytest.approx(expected[int(each.width == 200)], abs=1e-4)


def test_no_more_than_a_few_batches_wait_for_a_program(metric, monkeypatch):
  model, never, taken = metric.models[0], futures.Future(), []
  monkeypatch.setattr(model, "program", lambda batch: never)
  many = metric.models[0].mesh.size

  def items():
    for i in range(100 * many):
      taken.append(i)
      yield Item("", IMAGES[2])

  def give_up(waiting, return_when):
    never.set_exception(UserError("no memory to compile it"))

  monkeypatch.setattr(futures, "wait", give_up)
  with pytest.raises(UserError, match="no memory to compile it"):
    next(metric.stream(items(), threads=2))
  assert len(taken) <= (MAX_HELD + 1) * many + 6


def test_card_says_what_it_is(metric, weights):
  card = metric.card
  assert card["method"] == "reiqa"
  (network,) = card["weights"]
  assert network["folder"] == str(weights) and network["weights_sha256"] == metric.weights_sha256
  assert network["trained_on"] == "demo; without human scores" and network["licence"] == "none"
  assert "any size" in network["input"]
  assert card["score"]["direction"] == "higher is better" and card["score"]["range"] == [0, 100]
  assert card["score"]["head"]["file"] == "head.safetensors"


def test_a_card_names_what_was_trained_on_and_counts_splits_from_one():
  entries = [{"name": "koniq10k", "protocol": "official"}, {"name": "csiq"}]
  assert trained_on({"split": 3, "data": entries}) == (
    "koniq10k (training part of split 4 of official), csiq; with human scores"
  )
  assert trained_on({}) == "unknown; without human scores"


def test_a_head_that_was_never_saved_has_no_file(metric):
  assert Metric(metric.models, made.head({"range": [0, 100]})).card["score"]["head"] == {
    **made.head({"range": [0, 100]}).card, "file": None,
  }  # fmt: skip


def test_the_checksum_of_a_head_is_that_of_all_its_numbers(metric):
  def checksum(head):
    return Metric(metric.models, head, pathlib.Path("head.safetensors")).head_sha256

  head = made.head({"range": [0, 100]})
  assert checksum(head) == checksum(made.head({})) == metric.head_sha256 and len(metric.head_sha256) == 16
  others = {checksum(head)}
  for name in ("weights", "mean", "scale", "intercept"):
    numbers = np.array(getattr(head, name))
    numbers.flat[numbers.size - 1] += 1e-9
    others.add(checksum(dataclasses.replace(head, **{name: numbers})))
  others.add(checksum(dataclasses.replace(head, mean=head.scale, scale=head.mean)))
  assert len(others) == 6 and Metric(metric.models).head_sha256 == ""


def test_the_likeliest_of_every_kind_of_classes():
  classes = {"scene": ("city", "plant", "water"), "level": ("low", "high")}
  method = types.SimpleNamespace(classes=classes)
  outputs = {"level": np.array([0.75, 0.25]), "score": 3.0, "scene": np.array([0.125, 0.25, 0.625])}
  outputs |= {"score_std": np.float32(0.5), "features": np.zeros(4)}
  told = Metric.columns(types.SimpleNamespace(models=[types.SimpleNamespace(method=method)]), outputs)
  expected = {"scene": "water", "scene_probability": 0.625, "level": "low", "level_probability": 0.75, "score_std": 0.5}
  assert told == expected and list(told) == list(expected)
  row = command.as_row(Prediction(0, "a.png", outputs, 30, 40, 0.5), lambda _: told)
  assert (row["scene"], row["scene_probability"], row["score"]) == ("water", "0.625", "3")
  assert (row["width"], row["height"], row["error"]) == (40, 30, "")


def test_other_methods_scores_and_columns(brightness):
  metric = jiqa.load(brightness, devices=jax.devices()[:2])
  found = metric(IMAGES)
  mean = np.array([image.mean() / 255 for image in IMAGES])
  np.testing.assert_allclose(found.score, 2 * mean, atol=1e-5)
  np.testing.assert_allclose(found.columns["brightness"], mean, atol=1e-5)
  with pytest.raises(UserError, match="Brightness' gives scores and no features"):
    metric.features(IMAGES)


def test_two_networks_are_joined_in_the_order_of_the_head(tmp_path):
  first, second = (made.weights(tmp_path / f"{i}", seed=i, with_head=False) for i in range(2))
  devices = jax.devices()[:1]
  shas = [jiqa.load(folder, devices=devices).weights_sha256 for folder in (first, second)]
  made.head({"weights_sha256": "+".join(shas)}, size=128).save(tmp_path / "both.safetensors")
  one, other = (
    jiqa.load(weights=folders, head=tmp_path / "both.safetensors", devices=devices)
    for folders in ([first, second], [second, first])
  )
  np.testing.assert_array_equal(one(IMAGES[:2]).score, other(IMAGES[:2]).score)
  with pytest.raises(UserError, match=r"both.safetensors: was fitted to features of the weights .*jiqa fit"):
    jiqa.load(first, head=tmp_path / "both.safetensors")
  with pytest.raises(UserError, match=r"gives features; a score needs a head. Fit one to your own ratings"):
    jiqa.load(first)(IMAGES[0])
  with pytest.raises(UserError, match=r"0 and .*1: the score of several networks is that of a head .*Fit one"):
    jiqa.load(weights=[first, second], devices=devices)(IMAGES[0])


def test_several_networks_that_give_scores_need_a_head_all_the_same(brightness):
  metric = jiqa.load(weights=[brightness, brightness], devices=jax.devices()[:1])
  with pytest.raises(UserError, match="the score of several networks"):
    metric(IMAGES[0])


def test_memory_does_not_grow_with_the_number_of_images(brightness):
  metric = jiqa.load(brightness, devices=jax.devices()[:2])
  made_so_far, alive = 0, weakref.WeakValueDictionary()

  def items():
    nonlocal made_so_far
    for i in range(1000):
      image = np.full((24 + i % 5, 30 + i % 7, 3), i % 256, np.uint8)
      alive[i], made_so_far = image, i + 1
      yield Item(f"{i}", image)
      del image

  most = 0
  for found in metric.stream(items(), threads=2):
    assert not found.error
    most = max(most, len(alive))
  assert made_so_far == 1000 and most < 30
