"""What several tests need."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jiqa.runtime.sharding import make_mesh
from jiqa.runtime.state import split_module


def mesh_of(count):
  """A mesh of the first `count` devices."""
  return make_mesh(jax.devices()[:count])


def randomised(build, seed=0):
  """A module's (graphdef, params, stats) with NumPy-made values away from the defaults, none of them 0 or 1.

  Much faster than initialising: nothing is compiled.

  Args:
    build: function () -> nnx module.
    seed: int.
  """
  graphdef, params, stats = split_module(nnx.eval_shape(build))
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    name = path[-1].key
    if name == "kernel":
      return rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape).astype(np.float32)
    centre = {"bias": 0.0, "mean": 0.0}.get(name, 1.0)
    return (centre + rng.uniform(-0.3, 0.3, leaf.shape)).astype(np.float32)

  params, stats = jax.tree_util.tree_map_with_path(fill, (params, stats))
  return graphdef, *jax.tree.map(jnp.asarray, (params, stats))
