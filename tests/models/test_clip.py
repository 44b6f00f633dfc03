"""CLIP against a build in plain PyTorch; tests/fixtures/make_clip_fixture.py made its outputs and gradients."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jiqa.methods.liqe._prompts import encode
from jiqa.models.clip import CLIP, normalise, share_prefixes, similarity, unit
from jiqa.runtime.state import merge_module, split_module
from jiqa.weights import clip as table
from jiqa.weights.rename import expand, to_ours, to_theirs
from jiqa.weights.store import flatten

VISION = {"image": 24, "patch": 8, "width": 12, "depth": 2, "heads": 2}
TEXT = {"vocabulary": 46, "context": 24, "width": 8, "depth": 2, "heads": 2}
SIZES = {"vision": VISION, "embedding": 8, **TEXT, "logit_scale": 2.5}
# LIQE's prompts with their token ids counted anew, as in the fixture.
TOKENS = np.unique(encode(table.JOINT), return_inverse=True)[1].reshape(495, -1)


def abstract(**changes):
  return nnx.eval_shape(lambda: CLIP(**(SIZES | changes), rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def fixture():
  stored = np.load(pathlib.Path(__file__).parents[1] / "fixtures" / "clip_network.npz")
  rules = expand(lambda: table.network(VISION, TEXT, 8))

  def tree(prefix):
    tensors = {name.removeprefix(prefix): stored[name] for name in stored.files if name.startswith(prefix)}
    return to_ours(tensors, rules, "the fixture")[0]

  return stored, tree("weights/"), tree("gradients/")


def outputs(params, crops, encode_texts):
  """(image features, text features, probabilities, scores), as a LIQE of these sizes would give them."""
  model = merge_module(split_module(abstract())[0], params, {})
  images, texts = model.encode_image(crops.reshape(-1, *crops.shape[2:])), encode_texts(model)
  logits = similarity(images, unit(texts), model.logit_scale[...]).reshape(*crops.shape[:2], -1).mean(1)
  probabilities = jax.nn.softmax(logits)
  return images, texts, probabilities, probabilities.reshape(-1, 5, 99).sum(-1) @ jnp.arange(1.0, 6.0)


@pytest.mark.parametrize("way", ["one by one", "shared beginnings"])
def test_outputs_and_gradients_equal_pytorchs(fixture, way):
  stored, params, gradients = fixture
  prompts = share_prefixes(TOKENS)

  def encode_texts(model):
    return model.encode_text(TOKENS) if way == "one by one" else model.encode_prompts(prompts)

  @jax.jit
  def run(params):
    def loss(params):
      found = outputs(params, stored["crops"], encode_texts)
      return found[3].sum() + jnp.log(found[2][:, ::7]).mean(), found

    return jax.grad(loss, has_aux=True)(params)

  ours, found = run(params)
  for name, value in zip(("images", "texts", "probabilities", "scores"), found, strict=True):
    np.testing.assert_allclose(value, stored[name], rtol=1e-4, atol=1e-5, err_msg=name)
  theirs = flatten(gradients)
  for name, value in flatten(ours).items():
    np.testing.assert_allclose(value, theirs[name], rtol=1e-3, atol=5e-5 * np.abs(theirs[name]).max(), err_msg=name)


def test_pixels_are_normalised_by_openais_numbers():
  pixels = np.uint8([[0, 0, 0], [255, 255, 255], [51, 102, 204]])
  mean, deviation = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
  expected = (np.array([[0, 0, 0], [1, 1, 1], [0.2, 0.4, 0.8]]) - mean) / deviation
  np.testing.assert_allclose(normalise(pixels), expected, rtol=1e-5)


def test_later_tokens_and_padding_cannot_matter(fixture):
  _, params, _ = fixture
  model = merge_module(split_module(abstract(context=24))[0], params, {})
  encode_text = jax.jit(model.encode_text)
  short = encode_text(TOKENS[:3])
  after = TOKENS[:3].copy()
  after[after == 0] = 7
  np.testing.assert_array_equal(encode_text(after), short)  # what stands behind the end
  np.testing.assert_allclose(jax.jit(model.encode_text)(TOKENS[:3, :22]), short, atol=1e-5)  # or nothing


def shared_tokens(prompts):
  return prompts.prefix.size + prompts.suffix.size


def test_beginnings_are_shared_where_that_saves_tokens():
  prompts = share_prefixes(encode(table.JOINT))
  assert prompts.prefix.shape == (99, 21) and prompts.suffix.shape == (99, 5, 3) and shared_tokens(prompts) == 3564
  for template in (table.JOINT, table.QUALITY):
    tokens = encode(template)
    for multiple in (1, 8):
      prompts = share_prefixes(tokens, multiple)
      assert len(prompts.prefix) % multiple == 0
      for i, row in enumerate(tokens):  # put together again they are the texts
        group, member = divmod(int(prompts.order[i]), prompts.suffix.shape[1])
        whole = [*prompts.prefix[group, : prompts.length[group]], *prompts.suffix[group, member]]
        np.testing.assert_array_equal(whole, row[: row.argmax() + 1])


def test_texts_of_unequal_groups_equal_the_plain_tower(fixture):
  """Groups of different sizes, prefixes of different lengths, groups repeated for eight devices."""
  _, params, _ = fixture
  rng = np.random.default_rng(0)
  rows = [[44, *rng.integers(1, 4, size), 9, 45] for size in rng.integers(0, 6, 23)]
  tokens = np.zeros((23, 10), np.int32)
  for row, ids in zip(tokens, rows, strict=True):
    row[: len(ids)] = ids
  model = merge_module(split_module(abstract())[0], params, {})
  plain = jax.jit(model.encode_text)(tokens)
  for multiple in (1, 8):
    prompts = share_prefixes(tokens, multiple)
    assert shared_tokens(prompts) < tokens.size or multiple == 8
    np.testing.assert_allclose(jax.jit(lambda p=prompts: model.encode_prompts(p))(), plain, atol=1e-5)


def test_all_302_tensors_of_the_published_network_come_back():
  # Full names and numbers, the sizes cut to stay small.
  vision, text = VISION | {"depth": 12}, TEXT | {"depth": 12}
  rules = expand(lambda: table.network(vision, text, 8))
  rng = np.random.default_rng(0)
  tensors = {rule.theirs: rng.normal(size=rule.shape).astype(np.float32) for rule in rules}
  converted, *rest = to_ours(tensors, rules, "CLIP")
  _, params, stats = split_module(abstract(vision=vision, depth=12))
  assert {k: v.shape for k, v in flatten(converted).items()} == {k: v.shape for k, v in flatten(params).items()}
  assert not stats and rest == [{}, {}]
  back = to_theirs(converted, {}, rules, {})
  assert len(back) == 302
  for name, value in tensors.items():
    np.testing.assert_array_equal(back[name], value)
    assert back[name].shape == value.shape


def test_sizes_of_the_published_network():
  _, params, _ = split_module(
    nnx.eval_shape(lambda: CLIP(table.VISION, table.EMBEDDING, **table.TEXT, logit_scale=4.6, rngs=nnx.Rngs(0)))
  )
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 151_277_313
  assert len(jax.tree.leaves(params)) == 302


def test_bfloat16_keeps_what_is_summed_and_compared_float32():
  def run(crops):
    model = CLIP(**SIZES, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    return model.encode_image(crops), model.encode_prompts(share_prefixes(TOKENS)), split_module(model)[1]

  images, texts, params = jax.eval_shape(run, jnp.ones((2, 24, 24, 3)))
  assert {leaf.dtype for leaf in jax.tree.leaves((images, texts, params))} == {jnp.dtype("float32")}


def test_mistakes_are_refused():
  with pytest.raises(ValueError, match="image 25 must be a multiple of patch 8"):
    abstract(vision=VISION | {"image": 25})
  with pytest.raises(ValueError, match="width 8 must be a multiple of heads 3"):
    abstract(heads=3)
  with pytest.raises(ValueError, match="this tower takes"):
    jax.eval_shape(lambda: CLIP(**SIZES, rngs=nnx.Rngs(0)).encode_image(jnp.zeros((1, 32, 32, 3))))
  with pytest.raises(ValueError, match="text 1 has 1 token"):
    share_prefixes(np.array([[45, 46], [46, 0]]))
