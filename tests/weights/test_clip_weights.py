"""`jiqa convert clip-vit-b-32` and `jiqa convert liqe` on a small network in every layout that files come in."""

import numpy as np
import pytest
import safetensors.numpy

from configs import liqe
from jiqa.errors import UserError
from jiqa.weights import clip, convert, rename
from jiqa.weights.store import flatten, load_weights
from tests.models.test_clip import TEXT, VISION

RULES = rename.expand(lambda: clip.network(VISION, TEXT, 8))


@pytest.fixture(autouse=True)
def small(monkeypatch):
  for name, source in clip.SOURCES.items():
    small = source._replace(network=lambda: clip.network(VISION, TEXT, 8), probe=lambda network, card: np.ones((1, 3)))
    monkeypatch.setitem(convert.SOURCES, name, small)


def checkpoint():
  rng = np.random.default_rng(0)
  # Values that float16 can hold, as the released files do.
  return {rule.theirs: np.asarray(rng.normal(size=rule.shape)).astype(np.float16).astype(np.float32) for rule in RULES}


def transformers_layout(tensors):
  """The same network as transformers would write it: its names, three tensors for one, transposed projections."""
  found = {}
  for name, value in tensors.items():
    if name in ("visual.proj", "text_projection"):
      found[{"v": "visual_projection.weight", "t": "text_projection.weight"}[name[0]]] = value.T.copy()
      continue
    tower = "vision_model" if name.startswith("visual.") else "text_model"
    rest = name.removeprefix("visual.").replace("transformer.resblocks", "encoder.layers")
    rest = rest.replace("attn.", "self_attn.").replace("ln_1", "layer_norm1").replace("ln_2", "layer_norm2")
    rest = rest.replace("mlp.c_fc", "mlp.fc1").replace("mlp.c_proj", "mlp.fc2").replace("ln_pre", "pre_layrnorm")
    rest = rest.replace("ln_post", "post_layernorm").replace("ln_final", "final_layer_norm")
    rest = rest.replace("conv1", "embeddings.patch_embedding").replace("token_embed", "embeddings.token_embed")
    rest = rest.replace("positional_embedding", "embeddings.position_embedding.weight")
    rest = rest.replace("class_embedding", "embeddings.class_embedding")
    if "in_proj" in rest:
      for letter, part in zip("qkv", np.split(value, 3), strict=True):
        found[f"{tower}.{rest.replace('in_proj_', letter + '_proj.')}"] = part.copy()
    else:
      found[name if name == "logit_scale" else f"{tower}.{rest}"] = value
  return found | {"text_model.embeddings.position_ids": np.arange(24)[None]}


LAYOUTS = {
  "bare": lambda tensors: tensors,
  "float16": lambda tensors: {name: value.astype(np.float16) for name, value in tensors.items()},
  "prefixed": lambda tensors: {f"clip_model.{name}": value for name, value in tensors.items()},
  "module": lambda tensors: {f"module.{name}": value for name, value in tensors.items()},
  "sizes": lambda tensors: tensors | {"input_resolution": np.array(224), "vocab_size": np.array(46)},
  "transformers": transformers_layout,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_weights_and_they_come_back(layout, tmp_path):
  tensors, name = checkpoint(), "clip-vit-b-32" if layout in ("sizes", "transformers") else "liqe"
  stored = LAYOUTS[layout](tensors)
  assert layout in ("bare", "float16") or set(stored) != set(tensors)
  safetensors.numpy.save_file(stored, tmp_path / "file.safetensors")
  card = convert.convert(name, tmp_path / "file.safetensors", tmp_path / "weights")
  assert card["tensors"] == len(RULES) == 62 and card["source"] == name
  assert card.get("prompt") == (None if name == "clip-vit-b-32" else liqe.get_config().prompt)
  params, stats, _ = load_weights(tmp_path / "weights")
  kernel = flatten(params)["visual/transformer/resblocks[1]/attn/in_proj/kernel"]
  np.testing.assert_array_equal(kernel, tensors["visual.transformer.resblocks.1.attn.in_proj_weight"].T)
  assert not stats and params["logit_scale"].shape == ()
  assert convert.convert_back(name, tmp_path / "weights", tmp_path / "back.safetensors") == 62
  back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
  assert set(back) == set(tensors)
  for key, value in tensors.items():
    np.testing.assert_array_equal(back[key], value)


@pytest.mark.parametrize("layout", ["bare", "params", "training", "torchscript"])
def test_files_of_torch(layout, tmp_path, torch):
  tensors = {name: torch.from_numpy(value) for name, value in checkpoint().items()}
  path = tmp_path / "LIQE.pt"
  if layout == "torchscript":
    script, path = tmp_path / "ViT-B-32.pt", tmp_path / "clip.pt"
    module = torch.nn.Module()
    for name, value in {**tensors, "input_resolution": torch.tensor(24)}.items():
      *parents, leaf = name.split(".")
      inner = module
      for parent in parents:
        inner = inner._modules.setdefault(parent, torch.nn.Module())
      inner.register_buffer(leaf, value.half() if value.ndim > 1 else value)
    torch.jit.script(module).save(script)
    with pytest.raises(UserError, match=r"a TorchScript program.*torch\.save\(torch\.jit\.load\('ViT-B-32\.pt'"):
      convert.convert("clip-vit-b-32", script, tmp_path / "weights")
    torch.save(torch.jit.load(script, map_location="cpu").state_dict(), path)  # what the message says
  elif layout == "params":
    torch.save({"params": {f"clip_model.{name}": value for name, value in tensors.items()}}, path)
  elif layout == "training":
    torch.save({"epoch": 3, "model_state_dict": tensors, "optimizer_state_dict": {}, "all_results": {}}, path)
  else:
    torch.save({name: value.half() for name, value in tensors.items()}, path)
  name = "clip-vit-b-32" if layout == "torchscript" else "liqe"
  convert.convert(name, path, tmp_path / "weights")
  convert.convert_back(name, tmp_path / "weights", tmp_path / "back.pt")
  back = torch.load(tmp_path / "back.pt", weights_only=True)
  assert set(back) == set(tensors)
  assert all(torch.equal(back[key], value) and back[key].shape == value.shape for key, value in tensors.items())


def test_what_does_not_fit_is_listed(tmp_path):
  tensors = checkpoint()
  tensors["visual.transformer.resblocks.2.ln_1.weight"] = tensors.pop("visual.transformer.resblocks.1.ln_1.weight")
  tensors["text_projection"] = np.zeros((8, 9), np.float32)
  safetensors.numpy.save_file(tensors, tmp_path / "file.safetensors")
  with pytest.raises(UserError) as error:
    convert.convert("liqe", tmp_path / "file.safetensors", tmp_path / "weights")
  for words in ("file.safetensors", "1 missing: visual.transformer.resblocks.1.ln_1.weight", "1 surplus", "(8, 9)"):
    assert words in str(error.value)
  assert not (tmp_path / "weights").exists()
  incomplete = transformers_layout(checkpoint())
  del incomplete["text_model.encoder.layers.0.self_attn.k_proj.bias"]
  safetensors.numpy.save_file(incomplete, tmp_path / "file.safetensors")
  with pytest.raises(UserError, match=r"resblocks\.0\.attn\.in_proj_bias \(16,\) instead of \(24,\)"):
    convert.convert("clip-vit-b-32", tmp_path / "file.safetensors", tmp_path / "weights")
  (tmp_path / "ViT-B-32.pt").write_bytes(b"")
  with pytest.raises(UserError, match="its name says ViT-B-32"):
    convert.convert("liqe", tmp_path / "ViT-B-32.pt", tmp_path / "weights")
  assert rename.compare(checkpoint(), RULES) == ""
  with pytest.raises(UserError, match="its name says koniq"):
    convert.convert("liqe", tmp_path / "liqe_koniq.pt", tmp_path / "weights")


def test_the_state_of_a_run_comes_back_too(tmp_path):
  """Read from a checkpoint of ours, places in lists are text."""
  tensors = checkpoint()
  params = rename.to_ours(tensors, RULES, "CLIP")[0]

  def texts(tree):
    return {str(key): texts(value) for key, value in tree.items()} if isinstance(tree, dict) else tree

  found = texts(params)
  assert list(found["transformer"]["resblocks"]) == ["0", "1"]
  convert.convert_back("liqe", "a run", tmp_path / "back.safetensors", lambda folder: (found, {}, {}))
  back = safetensors.numpy.load_file(tmp_path / "back.safetensors")
  assert all((back[key] == value).all() for key, value in tensors.items()) and len(back) == 62


def test_the_card_says_which_prompts_the_weights_know(tmp_path):
  safetensors.numpy.save_file(checkpoint(), tmp_path / "liqe_koniq.safetensors")
  card = convert.convert("liqe-koniq", tmp_path / "liqe_koniq.safetensors", tmp_path / "weights")
  assert card["prompt"] == liqe.QUALITY
