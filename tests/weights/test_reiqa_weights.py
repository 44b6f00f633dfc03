"""Re-IQA's checkpoints: features equal a PyTorch ResNet-50's, nothing is lost on the way there and back."""

import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner

from configs import reiqa as config_file
from jiqa.cli import app
from jiqa.errors import UserError
from jiqa.methods import build_method
from jiqa.weights import convert, rename
from jiqa.weights import reiqa as tables
from jiqa.weights.store import load_weights
from tests.helpers import mesh_of
from tests.published_resnet import NETWORKS, photographs, random_tensors

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "resnet_features.npz"


@pytest.fixture(scope="module")
def fixture():
  with np.load(FIXTURE) as stored:
    return dict(stored)


def shapes_of(fixture, network):
  """Names and shapes of a PyTorch network's state dict."""
  return {name: tuple(shape) for name, shape in json.loads(str(fixture[f"{network}/shapes"])).items()}


def unprefixed(tensors):
  return {name.removeprefix("module."): value for name, value in tensors.items()}


@pytest.fixture
def narrow_tables(monkeypatch, fixture):
  """The sources with the narrow network's table and card, so that conversions are quick."""
  width = NETWORKS["narrow"]
  for name in ("reiqa-quality", "reiqa-content"):
    source = tables.SOURCES[name]
    card = source.card | {"width": width}
    monkeypatch.setitem(convert.SOURCES, name, source._replace(network=lambda: tables.expert(50, width), card=card))
  return shapes_of(fixture, "narrow")


@pytest.mark.parametrize("network", NETWORKS)
def test_the_table_has_the_322_tensors_of_the_pytorch_network(fixture, network):
  theirs = shapes_of(fixture, network)
  source = tables.SOURCES["reiqa-quality"]._replace(network=lambda: tables.expert(50, NETWORKS[network]))
  rules = source.tensors()
  assert {"module." + rule.theirs: rule.shape for rule in rules} == theirs
  assert len(rules) == 322 and len({rule.ours for rule in rules if rule.ours}) == 322 - 53


@pytest.mark.parametrize("network", NETWORKS)
def test_features_equal_a_pytorch_resnet_at_both_scales(fixture, network):
  tensors = unprefixed(random_tensors(shapes_of(fixture, network)))
  source = tables.SOURCES["reiqa-quality"]._replace(network=lambda: tables.expert(50, NETWORKS[network]))
  rules = source.tensors()
  params, stats, _ = rename.to_ours(tensors, rules, "a test")
  for expert in ("quality", "content") if network == "narrow" else ("quality",):
    config = config_file.get_config(expert)
    with config.unlocked():
      config.update(width=NETWORKS[network], dtype="float32", batch_size=1)
    method = build_method(config, mesh_of(1))
    predict = jax.jit(method.predict)
    for photo, expected in zip(photographs(), fixture[f"{network}/{expert}"], strict=True):
      batch = {}
      for name, view in method.preprocess_eval(photo).items():
        # In one frame for both photographs, which is compiled once: what is outside must not matter.
        frame = np.full((1, 104, 136, 3) if name == "full" else (1, 52, 68, 3), 99, np.uint8)
        frame[0, : view.shape[0], : view.shape[1]] = view
        batch |= {name: frame, name + "_size": np.int32([view.shape[:2]])}
      ours = np.asarray(predict(params, stats, {}, batch)["features"])[0]
      assert ours.shape == expected.shape
      assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()
      np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def test_a_file_is_converted_and_comes_back_tensor_for_tensor(narrow_tables, tmp_path):
  published = random_tensors(narrow_tables)
  path = tmp_path / "quality_aware_r50.safetensors"
  safetensors.numpy.save_file({name: np.asarray(value, order="C") for name, value in published.items()}, path)
  card = convert.convert("reiqa-quality", path, tmp_path / "weights")
  assert (card["tensors_read"], card["tensors"]) == (322, 269)
  assert len(card["file_sha256"]) == 64 and card["file"] == path.name and card["expert"] == "quality"
  params, stats, again = load_weights(tmp_path / "weights")
  assert again == json.loads(json.dumps(card))
  features = convert.SOURCES["reiqa-quality"].features(params, stats)
  assert convert.summary(features) == card["probe"] and features.std() > 0
  assert convert.convert_back("reiqa-quality", tmp_path / "weights", tmp_path / "back.safetensors") == 322
  back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
  assert set(back) == set(published)
  for name, value in published.items():
    np.testing.assert_array_equal(back[name], value, err_msg=name)
    assert back[name].dtype == value.dtype and back[name].shape == value.shape


def test_a_training_checkpoint_of_torch_is_converted_and_written_back(narrow_tables, tmp_path, torch):
  published = {name: torch.from_numpy(value) for name, value in random_tensors(narrow_tables).items()}
  other = {name: value + 1 for name, value in published.items()}
  whole = {"model": published, "model_ema": other, "contrast": {"memory": torch.zeros(4, 2)}, "epoch": 25}
  torch.save(whole, tmp_path / "quality_aware_r50.pth")
  convert.convert("reiqa-quality", tmp_path / "quality_aware_r50.pth", tmp_path / "weights")
  convert.convert_back("reiqa-quality", tmp_path / "weights", tmp_path / "back.pth")
  back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
  assert set(back) == set(published)
  assert all(torch.equal(back[name], value) for name, value in published.items())


def test_the_fixture_is_what_pytorch_computes_today(fixture, torch):
  from tests.fixtures import make_resnet_fixture

  made = make_resnet_fixture.make()
  assert set(made) == set(fixture)
  for name, value in made.items():
    if value.dtype.kind == "U":
      assert str(value) == str(fixture[name])
    else:
      np.testing.assert_allclose(value, fixture[name], rtol=1e-4, atol=1e-5 * np.abs(value).max())


def test_wrong_files_are_refused_with_what_is_missing_and_surplus(narrow_tables, tmp_path):
  published = random_tensors(narrow_tables)
  path = tmp_path / "quality.safetensors"

  def refusal(tensors, source="reiqa-quality", file=path):
    safetensors.numpy.save_file({name: np.asarray(value, order="C") for name, value in tensors.items()}, file)
    with pytest.raises(UserError) as error:
      convert.convert(source, file, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()
    return str(error.value)

  without = {name: value for name, value in published.items() if not name.startswith("module.head.2.")}
  message = refusal(without | {"module.fc.weight": np.zeros((3, 3), np.float32)})
  assert (
    "quality.safetensors: this is not Re-IQA's quality expert" in message and "321 tensors, expected 322" in message
  )
  assert "2 missing: head.2.bias, head.2.weight" in message and "1 surplus: fc.weight" in message
  name = "module.encoder.layer1.0.conv1.weight"
  message = refusal(published | {name: np.zeros((8, 8, 3, 3), np.float32)})
  assert "1 of another shape: encoder.layer1.0.conv1.weight (8, 8, 3, 3) instead of (8, 8, 1, 1)" in message
  message = refusal(published, file=tmp_path / "content_aware_r50.safetensors")
  assert "its name says content" in message
  imagenet = {tensor.theirs: np.zeros(tensor.shape, np.float32) for tensor in tables.SOURCES["resnet50"].tensors()}
  imagenet |= {"fc.weight": np.zeros((10, 2048), np.float32), "fc.bias": np.zeros(10, np.float32)}
  message = refusal(imagenet)
  assert "It fits resnet50: an ImageNet ResNet-50" in message
  with pytest.raises(UserError, match=r"no source 'clip'; expected one of reiqa-quality"):
    convert.source_of("clip")


def test_an_imagenet_network_starts_a_training_run(monkeypatch, tmp_path):
  """With and without the counters and the classifier; the projector stays as initialised."""

  source = tables.SOURCES["resnet50"]
  narrow = source._replace(network=lambda: tables.resnet(10, 4), card=source.card | {"depth": 10, "width": 4})
  monkeypatch.setitem(convert.SOURCES, "resnet50", narrow)
  tensors = random_tensors({tensor.theirs: tensor.shape for tensor in narrow.tensors()})
  extra = {"fc.weight": np.zeros((9, 32), np.float32), "bn1.num_batches_tracked": np.array(3)}
  safetensors.numpy.save_file(tensors | extra, tmp_path / "r.safetensors")
  card = convert.convert("resnet50", tmp_path / "r.safetensors", tmp_path / "w")
  assert card["ignored"] == sorted(extra)
  params, stats, _ = load_weights(tmp_path / "w")
  config = config_file.get_config("demo")
  with config.unlocked():
    config.update(depth=10, width=4, embedding=8, loss="queue", queue=512)
  method = build_method(config, mesh_of(1))
  state = method.init(jax.random.key(0), (params, stats))
  kernel = tensors["layer2.0.conv1.weight"].transpose(2, 3, 1, 0)
  for network in (state.params, state.extra["key_params"]):
    np.testing.assert_array_equal(network["encoder"]["layer2"][0]["conv1"]["kernel"], kernel)
  np.testing.assert_array_equal(state.stats["encoder"]["bn1"]["mean"], tensors["bn1.running_mean"])
  assert np.abs(state.params["head"]["layers"]["0"]["kernel"]).max() > 0


def test_the_command_prints_counts_checksum_and_features(narrow_tables, tmp_path):
  path = tmp_path / "c.safetensors"
  published = random_tensors(narrow_tables)
  safetensors.numpy.save_file({name: np.asarray(value, order="C") for name, value in published.items()}, path)
  run = CliRunner().invoke(app, ["convert", "reiqa-content", str(path), str(tmp_path / "w")])
  assert run.exit_code == 0, run.output
  card = load_weights(tmp_path / "w")[2]
  for words in ("322 tensors read", "269 arrays", card["weights_sha256"], f"{card['probe']['norm']:.6g}"):
    assert words in run.output
  run = CliRunner().invoke(
    app, ["convert", "reiqa-content", str(tmp_path / "w"), str(tmp_path / "b.safetensors"), "--back"]
  )
  assert run.exit_code == 0 and "322 tensors" in run.output
  assert "resnet50: an ImageNet ResNet-50" in CliRunner().invoke(app, ["convert", "list"]).output
