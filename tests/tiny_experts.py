"""Folders of weights of very small Re-IQA experts, seeded."""

import jax
import numpy as np
from flax import nnx

from configs import reiqa as config_file
from jiqa.methods.reiqa._moco import Network
from jiqa.weights.store import save_weights
from tests.helpers import randomised


def save(folder, expert, seed=0):
  """Writes the weights of an expert; returns its card."""
  config = config_file.get_config(expert)
  with config.unlocked():
    config.update(depth=10, width=2, embedding=8, dtype="float32")
  _, params, stats = randomised(lambda: Network(config, rngs=nnx.Rngs(0)), seed)
  params, stats = jax.tree.map(np.asarray, (params, stats))
  card = {"model": "reiqa", "expert": expert, "depth": 10, "width": 2, "embedding": 8}
  return save_weights(folder, params, stats, card)
