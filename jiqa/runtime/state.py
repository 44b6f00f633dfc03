"""The training state: one plain pytree, and the bridge between nnx modules and such trees."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

# The `checkpoint_name` of what the blocks of a network hand on: all that config.remat keeps for the gradient.
BLOCK = "block"


@flax.struct.dataclass
class State:
  """What a run carries from one step to the next, and what a checkpoint holds.

  `params`, `stats` (of batch normalisation) and `extra` (key encoder, queue, teacher) are nested dicts of arrays.
  """

  step: jax.Array  # [] int32, optimiser steps taken so far
  params: Any  # float32, what the optimiser changes
  stats: Any
  opt_state: Any = None
  extra: Any = flax.struct.field(default_factory=dict)


def new_state(params, stats, extra=None):
  """A state at step 0, without optimiser state."""
  return State(step=jnp.zeros((), jnp.int32), params=params, stats=stats, extra=extra or {})


def split_module(module):
  """An nnx module as (graphdef, params, stats): its structure and two nested dicts of arrays."""
  graphdef, params, stats = nnx.split(module, nnx.Param, ...)
  return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def merge_module(graphdef, params, stats):
  """The inverse of `split_module`; changing the new module leaves `stats` alone."""
  return nnx.merge(graphdef, nnx.State(params), nnx.State(stats), copy=True)
