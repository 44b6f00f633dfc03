"""The strict renamer and the reader of checkpoint files; what needs torch is skipped where there is none."""

import argparse
import importlib
import sys

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jiqa.errors import UserError
from jiqa.weights import rename
from jiqa.weights.rename import Tensor

TABLE = [
  Tensor("conv1.weight", "params/conv1/kernel", (4, 3, 5, 6)),
  Tensor("fc.weight", "params/fc/kernel", (2, 7)),
  Tensor("fc.bias", "params/fc/bias", (2,)),
  Tensor("bn.running_mean", "stats/bn/mean", (4,)),
  Tensor("bn.num_batches_tracked", "", ()),
]


def checkpoint():
  rng = np.random.default_rng(0)
  tensors = {rule.theirs: rng.normal(size=rule.shape).astype(np.float32) for rule in TABLE if rule.ours}
  return tensors | {"bn.num_batches_tracked": np.array(17)}


def test_names_and_layouts_change_and_come_back():
  tensors = checkpoint()
  params, stats, left_out = rename.to_ours(tensors, TABLE, "a test")
  assert params["conv1"]["kernel"].shape == (5, 6, 3, 4)
  assert params["conv1"]["kernel"][1, 2, 0, 3] == tensors["conv1.weight"][3, 0, 1, 2]
  assert params["fc"]["kernel"][6, 1] == tensors["fc.weight"][1, 6]
  assert left_out == {"bn.num_batches_tracked": 17}
  params["list"] = {"0": {"bias": params["fc"].pop("bias")}}  # a place in a list, as a run's checkpoint keeps it
  rules = [rule._replace(ours="params/list[0]/bias") if rule.theirs == "fc.bias" else rule for rule in TABLE]
  back = rename.to_theirs(params, stats, rules, left_out)
  assert set(back) == set(tensors)
  for name, value in tensors.items():
    np.testing.assert_array_equal(back[name], value)
    assert back[name].shape == value.shape


def test_every_path_has_the_name_that_torch_gives_it():
  def network():
    bn = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    return nnx.Dict(layer=nnx.List([nnx.Conv(3, 4, (5, 6), use_bias=False, rngs=nnx.Rngs(0))]), bn=bn)

  tensors = {
    Tensor("layer.0.weight", "params/layer[0]/kernel", (4, 3, 5, 6)),
    Tensor("bn.weight", "params/bn/scale", (4,)),
    Tensor("bn.bias", "params/bn/bias", (4,)),
    Tensor("bn.running_mean", "stats/bn/mean", (4,)),
    Tensor("bn.running_var", "stats/bn/var", (4,)),
  }
  assert set(rename.expand(network)) == tensors
  counter = Tensor("bn.num_batches_tracked", "", ())
  assert set(rename.expand(network, counters=True)) == tensors | {counter}
  respelled = rename.expand(network, ((r"^bn\.", "norm."), ("^layer", "conv")))
  assert [tensor.theirs for tensor in respelled if tensor.ours.startswith("params/")] == [
    "norm.bias", "norm.weight", "conv.0.weight"
  ]  # fmt: skip
  with pytest.raises(ValueError, match="shorter"):  # no two paths may have one name
    rename.expand(network, (("running_(mean|var)", "running"),))


def test_projections_of_attention_and_bare_parameters_have_torchs_names():
  paths = ("params/attn/in_proj/kernel", "params/attn/in_proj/bias", "params/attn/out_proj/bias", "params/logit_scale")
  names = ["attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.bias", "logit_scale"]
  assert list(rename.respell(dict.fromkeys(paths), rename.TORCH)) == names


def test_every_tensor_must_fit():
  tensors = checkpoint()
  tensors["classifier.weight"] = tensors.pop("fc.weight")
  tensors["fc.bias"] = np.zeros(3, np.float32)
  with pytest.raises(UserError) as error:
    rename.to_ours(tensors, TABLE, "a test")
  for words in ("not a test", "1 missing: fc.weight", "1 surplus: classifier.weight", "fc.bias (3,) instead of (2,)"):
    assert words in str(error.value)
  broken = checkpoint()
  broken["fc.bias"][1] = np.nan
  with pytest.raises(UserError, match=r"fc\.bias holds values that are not finite"):
    rename.to_ours(broken, TABLE, "a test")
  with pytest.raises(UserError, match="1 surplus: params/more"):
    params, stats, left_out = rename.to_ours(checkpoint(), TABLE, "a test")
    rename.to_theirs(params | {"more": np.ones(1)}, stats, TABLE, left_out)


def test_safetensors_are_read_without_torch(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  path = tmp_path / "w.safetensors"
  safetensors.numpy.save_file({"module." + name: np.asarray(value) for name, value in checkpoint().items()}, path)
  found = rename.read_checkpoint(path)
  assert rename.compare(found, TABLE) == ""
  path.write_bytes(b"not that")
  with pytest.raises(UserError, match="damaged"):
    rename.read_checkpoint(path)
  (tmp_path / "w.pth").write_bytes(b"some pickle")
  with pytest.raises(UserError, match="needs torch"):
    rename.read_checkpoint(tmp_path / "w.pth")
  with pytest.raises(UserError, match="no such file"):
    rename.read_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", ["model", "state_dict", None])
def test_files_of_torch_are_unwrapped(tmp_path, wrapper, zipped, torch):
  tensors = {"module." + name: torch.from_numpy(value) for name, value in checkpoint().items()}
  whole = {"epoch": 3, "opt": argparse.Namespace(lr=0.1), wrapper: tensors} if wrapper else tensors
  torch.save(whole, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
  found = rename.read_checkpoint(tmp_path / "w.pth")
  assert rename.compare(found, TABLE) == ""
  np.testing.assert_array_equal(found["fc.bias"], checkpoint()["fc.bias"])


def test_wrappers_may_be_nested_in_any_order_and_other_entries_are_passed_over(tmp_path, torch):
  for prefix in ("module._orig_mod.", "_orig_mod.module.", "model.module."):
    tensors = {prefix + name: torch.from_numpy(value) for name, value in checkpoint().items()}
    torch.save({"state_dict": {**tensors, 7: torch.ones(2)}}, tmp_path / "w.pth")
    assert rename.compare(rename.read_checkpoint(tmp_path / "w.pth"), TABLE) == ""


def test_files_that_end_early_or_hold_no_plain_arrays_are_named(tmp_path, torch):
  torch.save({"a": torch.ones(3).to_sparse()}, tmp_path / "sparse.pth")
  for name, content in (("nothing.pth", b""), ("begun.pth", b"\x80\x02")):
    (tmp_path / name).write_bytes(content)
  for name, why in (("nothing", "EOFError"), ("begun", "EOFError"), ("sparse", "Sparse")):
    with pytest.raises(UserError, match=rf"{name}\.pth: cannot be read as weights \(.*{why}"):
      rename.read_checkpoint(tmp_path / f"{name}.pth")
  eighths = {"a": torch.ones(3).to(torch.float8_e4m3fn)}
  importlib.import_module("safetensors.torch").save_file(eighths, tmp_path / "eighths.safetensors")
  with pytest.raises(UserError, match=r"eighths\.safetensors: .*types that NumPy lacks .*float8"):
    rename.read_checkpoint(tmp_path / "eighths.safetensors")


def test_no_code_of_a_file_is_run(tmp_path, monkeypatch, torch):
  torch.jit.script(torch.nn.Linear(3, 2)).save(tmp_path / "script.pt")
  monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("a program was loaded"))
  with pytest.raises(UserError, match="a TorchScript program") as error:
    rename.read_checkpoint(tmp_path / "script.pt")
  assert "weights_only" not in str(error.value)
  (tmp_path / "w.pth").write_bytes(b"some pickle")
  with pytest.raises(UserError, match="cannot be read as weights"):
    rename.read_checkpoint(tmp_path / "w.pth")

  class Malicious:
    def __reduce__(self):
      return (tmp_path / "touched").touch, ()

  torch.save({"model": Malicious()}, tmp_path / "evil.pth")
  with pytest.raises(UserError, match="cannot be read as weights"):
    rename.read_checkpoint(tmp_path / "evil.pth")
  assert not (tmp_path / "touched").exists()
  torch.save({"model": 3}, tmp_path / "empty.pth")
  with pytest.raises(UserError, match="holds no tensors"):
    rename.read_checkpoint(tmp_path / "empty.pth")
