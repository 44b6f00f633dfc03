"""The network of LML-IQA against a build in plain PyTorch; tests/fixtures/make_lml_fixture.py made its outputs."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from jiqa.models import vit
from jiqa.models.panel_decoder import PanelDecoder
from jiqa.models.vit import PooledViT, ViT
from jiqa.runtime.state import merge_module, split_module
from jiqa.weights import deit
from jiqa.weights.rename import to_ours
from jiqa.weights.store import flatten
from tests.helpers import randomised

SIZES = {"image": 48, "patch": 16, "width": 12, "depth": 2, "heads": 3}


class Network(nnx.Module):
  def __init__(self, image, patch, width, depth, heads, *, dtype=jnp.float32, rngs):
    self.encoder = ViT(image, patch, width, depth, heads, dtype=dtype, rngs=rngs)
    self.head = PanelDecoder(width, heads, dtype=dtype, rngs=rngs)

  def __call__(self, x):
    tokens, attention = self.encoder(x)
    return self.head(tokens), tokens, attention


def abstract(**sizes):
  return nnx.eval_shape(lambda: Network(**(SIZES | sizes), rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def fixture():
  stored = np.load(pathlib.Path(__file__).parents[1] / "fixtures" / "lml_network.npz")
  rules = deit.SOURCES["deiqt"]._replace(network=lambda: deit.deiqt(SIZES)).tensors()

  def tree(prefix):
    tensors = {name.removeprefix(prefix): stored[name] for name in stored.files if name.startswith(prefix)}
    return to_ours(tensors, rules, "the fixture")[0]

  return stored, tree("weights/"), tree("gradients/")


def test_outputs_and_gradients_equal_pytorchs(fixture):
  stored, params, gradients = fixture
  graphdef = split_module(abstract())[0]

  @jax.jit
  def run(params, images):
    def loss(params):
      scores, tokens, attention = merge_module(graphdef, params, {})(images)
      return jnp.square(scores).sum(), (scores, tokens, attention)

    return jax.grad(loss, has_aux=True)(params)

  ours, (scores, tokens, attention) = run(params, stored["images"])
  np.testing.assert_allclose(scores, stored["scores"], atol=1e-5)
  np.testing.assert_allclose(tokens, stored["tokens"], atol=1e-4)
  np.testing.assert_allclose(attention, stored["class_attention"], atol=1e-6)
  theirs = flatten(gradients)
  assert set(flatten(ours)) == set(theirs) and len(theirs) == 4 + 14 * 2 + 2 + 20
  for name, value in flatten(ours).items():
    np.testing.assert_allclose(value, theirs[name], rtol=1e-3, atol=2e-5 * np.abs(theirs[name]).max(), err_msg=name)


def test_another_gelu_would_be_noticed(fixture, monkeypatch):
  stored, params, _ = fixture
  graphdef = split_module(abstract())[0]
  monkeypatch.setattr(vit, "gelu", jax.nn.gelu)  # the approximation by tanh
  scores = jax.jit(lambda params, x: merge_module(graphdef, params, {})(x)[0])(params, stored["images"])
  assert np.abs(scores - stored["scores"]).max() > 1e-5


def test_sizes_of_the_published_network():
  _, params, stats = split_module(abstract(image=224, width=384, depth=12, heads=6))
  leaves = flatten(params)
  assert len(leaves) == 194 and not stats
  assert sum(leaf.size for leaf in leaves.values()) == 24_043_776
  assert sum(leaf.size for name, leaf in leaves.items() if name.startswith("encoder")) == 21_674_496


def test_initial_values_follow_the_published_ones():
  params = jax.jit(lambda key: split_module(Network(**(SIZES | {"width": 96}), rngs=nnx.Rngs(params=key)))[1])(
    jax.random.key(0)
  )
  flat = {name: np.asarray(value) for name, value in flatten(params).items()}
  block, layer = "encoder/blocks[0]/", "head/bunch_decoder/layers[0]/"
  for name in (block + "attn/qkv/kernel", block + "mlp/fc2/kernel", layer + "self_attn/out_proj/kernel"):
    assert flat[name].std() == pytest.approx(0.02 * 2, rel=0.05), name  # a quarter of the published width
  assert flat[layer + "multihead_attn/in_proj/kernel"].std() == pytest.approx((2 / (4 * 96)) ** 0.5, rel=0.05)
  assert flat["encoder/patch_embed/proj/kernel"].std() == pytest.approx(768**-0.5 / 3**0.5, rel=0.05)
  assert (flat[block + "gamma_1"] == np.float32(1e-4)).all() and not flat[block + "attn/qkv/bias"].any()


def test_bfloat16_products_keep_float32_around_them(fixture):
  stored, params, _ = fixture
  graphdef = split_module(nnx.eval_shape(lambda: Network(**SIZES, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))))[0]
  scores, tokens, attention = jax.jit(lambda p, x: merge_module(graphdef, p, {})(x))(params, stored["images"])
  assert scores.dtype == tokens.dtype == attention.dtype == jnp.float32
  error = np.abs(tokens - stored["tokens"]).max()
  assert 1e-5 < error < 0.15


def test_images_of_another_size_are_refused():
  with pytest.raises(ValueError, match=r"\(64, 48, 3\); this encoder takes \(48, 48, 3\)"):
    abstract().encoder(jnp.zeros((1, 64, 48, 3)))
  with pytest.raises(ValueError, match="multiple of patch 16"):
    abstract(image=50)


def numpy_pooled_vit(params, image, patch, heads):
  """Features of one image, patch by patch and head by head, float64."""
  params = jax.tree.map(np.float64, params)

  def linear(p, x):
    return x @ p["kernel"] + p["bias"]

  def norm(p, x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

  rows, columns = (-(-side // patch) for side in image.shape[:2])
  padded = np.zeros((rows * patch, columns * patch, 3))
  padded[: image.shape[0], : image.shape[1]] = image
  tokens = []
  for row, column in np.ndindex(rows, columns):
    cut = padded[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
    token = np.tensordot(cut, params["patch_embed"]["proj"]["kernel"], 3) + params["patch_embed"]["proj"]["bias"]
    waves = 10000.0 ** -(np.arange(len(token) // 4) / (len(token) // 4))
    places = [14 * (row + 0.5) / rows * waves, 14 * (column + 0.5) / columns * waves]
    tokens.append(token + np.concatenate([f(place) for place in places for f in (np.sin, np.cos)]))
  x = np.array(tokens)
  for block in params["blocks"].values() if isinstance(params["blocks"], dict) else params["blocks"]:
    query, key, value = np.split(linear(block["attn"]["qkv"], norm(block["norm1"], x)), 3, -1)
    mixed = []
    for q, k, v in zip(*(np.split(part, heads, -1) for part in (query, key, value)), strict=True):
      weights = np.exp(q @ k.T / q.shape[1] ** 0.5)
      mixed.append(weights / weights.sum(1, keepdims=True) @ v)
    x = x + block["gamma_1"] * linear(block["attn"]["proj"], np.concatenate(mixed, -1))
    hidden = linear(block["mlp"]["fc1"], norm(block["norm2"], x))
    hidden = hidden * scipy.stats.norm.cdf(hidden)
    x = x + block["gamma_2"] * linear(block["mlp"]["fc2"], hidden)
  return norm(params["norm"], x).mean(0)


def test_features_of_any_size_equal_a_plain_numpy_vit():
  graphdef, params, _ = randomised(lambda: PooledViT(2, 12, 4, 3, rngs=nnx.Rngs(0)))
  model = merge_module(graphdef, params, {})
  image = np.random.default_rng(1).uniform(0, 1, (11, 21, 3))
  expected = numpy_pooled_vit(params, image, 4, 3)
  ours = jax.jit(model)(np.float32(image)[None])[0]
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
