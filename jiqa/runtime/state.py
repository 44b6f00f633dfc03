"""The training state: one plain pytree, and the bridge between nnx modules and such trees."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

# What blocks of a network hand on bears this name (`jax.ad_checkpoint.checkpoint_name`); with config.remat nothing else
# is kept for the gradient.
BLOCK = "block"


@flax.struct.dataclass
class State:
  """Everything a run carries from one step to the next; also exactly what a checkpoint holds.

  Attributes:
    step: [] int32, optimiser steps taken so far.
    params: nested dict of float32 arrays, what the optimiser changes.
    stats: nested dict of running statistics (batch normalisation).
    opt_state: the optimiser's state.
    extra: nested dict of whatever else the method carries (key encoder, queue, teacher).
  """

  step: jax.Array
  params: Any
  stats: Any
  opt_state: Any = None
  extra: Any = flax.struct.field(default_factory=dict)


def new_state(params, stats, extra=None):
  """A state at step 0, without optimiser state."""
  return State(step=jnp.zeros((), jnp.int32), params=params, stats=stats, extra={} if extra is None else extra)


def split_module(module):
  """An nnx module as (graphdef, params, stats): the structure, and two nested dicts of arrays."""
  graphdef, params, stats = nnx.split(module, nnx.Param, ...)
  return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def merge_module(graphdef, params, stats):
  """The inverse of `split_module`; the module it returns is a new one, changing it leaves `stats` alone."""
  return nnx.merge(graphdef, nnx.State(params), nnx.State(stats), copy=True)
