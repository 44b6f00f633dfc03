"""Weights and images that the tests of this folder make themselves."""

import json
import pathlib

import jax
import numpy as np
from PIL import Image

from configs import reiqa
from jiqa.evaluation.head import Head
from jiqa.methods import build_method
from jiqa.weights.store import save_weights
from tests import brightness_method
from tests.helpers import mesh_of

# Of different sizes, in three frames.
SIZES = ((40, 52), (90, 70), (48, 60), (70, 90), (1, 5))


def images(sizes=SIZES, seed=0):
  """Noise over a gradient: [h, w, 3] uint8 each."""
  rng = np.random.default_rng(seed)
  ramps = (np.add.outer(np.linspace(0, 120, h), np.linspace(0, 60, w))[..., None] for h, w in sizes)
  return [(ramp + rng.integers(0, 70, (*ramp.shape[:2], 3))).astype(np.uint8) for ramp in ramps]


def files(folder, sizes=SIZES, seed=0):
  """The same as PNG files; their paths as text."""
  folder.mkdir(parents=True, exist_ok=True)
  paths = [str(folder / f"{i:04d}.png") for i in range(len(sizes))]
  for path, pixels in zip(paths, images(sizes, seed), strict=True):
    Image.fromarray(pixels).save(path)
  return paths


def config(expert="reiqa", **changes):
  """The smallest Re-IQA that has every kind of layer."""
  found = reiqa.get_config("demo")
  with found.unlocked():
    found.update(depth=10, width=4, embedding=8, method=expert, **changes)
  return found


def network(seed=0, config=None):
  """(params, stats): random float32 arrays of a Re-IQA expert, nothing compiled."""
  method = build_method(config or globals()["config"](), mesh_of(1))
  like = jax.eval_shape(lambda key: method.init(key), jax.random.key(0))
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    if path[-1].key == "kernel":
      return rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape).astype(np.float32)
    centre = 0.0 if path[-1].key in ("bias", "mean") else 1.0
    return (centre + rng.uniform(-0.3, 0.3, leaf.shape)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(fill, (like.params, like.stats))


def head(card, seed=0, size=64):
  """A random head with scores around 50."""
  rng = np.random.default_rng(seed)
  return Head(rng.normal(0, 3, size), rng.uniform(0, 1, size), rng.uniform(0.5, 2, size), np.float64(50), card)


def weights(folder, seed=0, with_head=True, **changes):
  """A folder of weights of such a network, with a head."""
  made, folder = config(**changes), pathlib.Path(folder)
  params, stats = network(seed, made)
  card = save_weights(
    folder, params, stats, {"method": made.method, "config": json.loads(made.to_json_best_effort()), "licence": "none"}
  )
  if with_head:
    head({"weights_sha256": card["weights_sha256"], "range": [0, 100]}, seed).save(folder / "head.safetensors")
  return folder


def brightness(folder, slope=2.0, method=brightness_method.NAME):
  """A folder of weights of tests/brightness_method.py: the score is slope times the mean pixel in [0, 1]."""
  card = {"method": method, "config": {"method": method, "batch_size": 1}}
  save_weights(folder, {"slope": np.float32(slope)}, {}, card)
  return pathlib.Path(folder)
