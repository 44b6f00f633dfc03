"""DeiT III's and DEIQT's checkpoints at full size, made of random numbers: every layout gives the same weights."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from configs import lml as config_file
from jiqa.errors import UserError
from jiqa.methods.lml.lml import LML, QualityNetwork
from jiqa.runtime.state import split_module
from jiqa.weights import deit
from jiqa.weights.convert import convert, convert_back
from jiqa.weights.store import flatten, load_weights
from tests.helpers import mesh_of

CLASSIFIER = {"head.weight": np.zeros((1000, 384), np.float32), "head.bias": np.zeros(1000, np.float32)}


@pytest.fixture(scope="module")
def tensors():
  rng = np.random.default_rng(0)
  rules = deit.SOURCES["deiqt"].tensors()
  return {rule.theirs: rng.normal(0, 0.02, rule.shape).astype(np.float32) for rule in rules}


@pytest.fixture
def encoder(tensors):
  return {name: value for name, value in tensors.items() if not name.startswith("head.")}


def save(tensors, path):
  safetensors.numpy.save_file(tensors, path)
  return path


def test_the_tables_cover_the_network_exactly():
  network = nnx.eval_shape(lambda: QualityNetwork(config_file.get_config("livec"), rngs=nnx.Rngs(0)))
  own = flatten({"params": split_module(network)[1]})
  tensors = deit.SOURCES["deiqt"].tensors()
  assert len(deit.SOURCES["deit3-small"].tensors()) == 174 and len(tensors) == 194
  assert sorted(tensor.ours for tensor in tensors) == sorted(own)


@pytest.mark.slow
def test_both_spellings_give_the_same_weights_and_come_back(encoder, tmp_path):
  timm = {name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma"): x for name, x in encoder.items()}
  assert len(timm) == 174 and timm.keys() != encoder.keys()
  cards = [
    convert("deit3-small", save(encoder | CLASSIFIER, tmp_path / "facebook.safetensors"), tmp_path / "a"),
    convert("deit3-small", save(timm | CLASSIFIER, tmp_path / "timm.safetensors"), tmp_path / "b"),
    convert("deit3-small-timm", save(encoder, tmp_path / "bare.safetensors"), tmp_path / "c"),
  ]
  assert len({card["weights_sha256"] for card in cards}) == 1
  assert len({json.dumps(card["probe"]) for card in cards}) == 1
  assert [card["tensors_read"] for card in cards] == [174] * 3 and cards[0]["parameters"] == 21_674_496
  assert [card["ignored"] for card in cards] == [["head.bias", "head.weight"]] * 2 + [[]]
  params = load_weights(tmp_path / "a")[0]
  block = params["encoder"]["blocks"][7]
  np.testing.assert_array_equal(block["attn"]["qkv"]["kernel"], encoder["blocks.7.attn.qkv.weight"].T)
  patches = encoder["patch_embed.proj.weight"]
  np.testing.assert_array_equal(params["encoder"]["patch_embed"]["proj"]["kernel"], patches.transpose(2, 3, 1, 0))
  for source, expected in (("deit3-small", encoder), ("deit3-small-timm", timm)):
    out = tmp_path / f"{source}.safetensors"
    assert convert_back(source, tmp_path / "b", out) == 174
    found = safetensors.numpy.load_file(out)
    assert found.keys() == expected.keys() and all((found[name] == expected[name]).all() for name in found)


def test_deiqt_comes_with_its_head_and_both_start_a_run(tensors, encoder, tmp_path):
  card = convert("deiqt", save(tensors, tmp_path / "deiqt.safetensors"), tmp_path / "whole")
  assert card["tensors_read"] == 194 and card["parameters"] == 24_043_776
  convert("deit3-small", save(encoder, tmp_path / "deit.safetensors"), tmp_path / "part")
  config = config_file.get_config("livec")
  method = LML(config, mesh_of(1))
  method.fresh = lambda key: jax.tree.map(
    lambda leaf: np.full(leaf.shape, 7, leaf.dtype),
    split_module(nnx.eval_shape(lambda: QualityNetwork(config, rngs=nnx.Rngs(0))))[1:],
  )  # drawing 24 million numbers takes longer than the rest
  for folder, head in (("whole", tensors["head.bunch_embedding"]), ("part", 7)):
    params, stats, _ = load_weights(tmp_path / folder)
    state = method.init(jax.random.key(0), (params, stats))
    for network in (state.params, state.extra["teacher"]):
      assert (network["encoder"]["cls_token"] == tensors["cls_token"]).all()
      assert (network["head"]["bunch_embedding"] == head).all()


def test_what_does_not_fit_is_listed(tensors, encoder, tmp_path):
  del encoder["blocks.3.norm1.bias"]
  encoder["dist_token"] = np.zeros((1, 1, 384), np.float32)
  encoder["pos_embed"] = np.zeros((1, 576, 384), np.float32)
  path = save(encoder, tmp_path / "other.safetensors")
  with pytest.raises(UserError, match=r"(?s)missing: blocks\.3\.norm1\.bias.*surplus: dist_token.*pos_embed \(1, 576"):
    convert("deit3-small", path, tmp_path / "out")
  assert not (tmp_path / "out").exists()
  whole = save(tensors, tmp_path / "deiqt.safetensors")
  with pytest.raises(UserError, match="It fits deiqt"):
    convert("deit3-small", whole, tmp_path / "out")


def test_the_pth_of_torch_is_read(encoder, tmp_path, torch):
  path = tmp_path / "deit_3_small_224_1k.pth"
  torch.save({"model": {name: torch.tensor(x) for name, x in (encoder | CLASSIFIER).items()}}, path)
  assert convert("deit3-small", path, tmp_path / "out")["tensors_read"] == 174
