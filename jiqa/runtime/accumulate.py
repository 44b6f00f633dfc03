"""Gradient accumulation: a step in several micro-batches, one after the other, for batches that memory cannot hold."""

import jax
import jax.numpy as jnp


def split(batch, parts, mesh):
  """A dict of arrays [b, ...], sharded over `mesh`, as [parts, b / parts, ...]; every device keeps its rows."""

  def deal(x):
    dealt = x.reshape(mesh.size, parts, -1, *x.shape[1:]).swapaxes(0, 1).reshape(parts, -1, *x.shape[1:])
    return jax.lax.with_sharding_constraint(dealt, jax.NamedSharding(mesh, jax.P(None, "data")))

  return jax.tree.map(deal, batch)


def accumulated(value_and_grad, join, parts, mesh):
  """`value_and_grad` over micro-batches: the means of their losses, gradients, statistics and metrics.

  A loss whose negatives are the batch's sees those of its micro-batch only, and batch normalisation its pixels.

  `value_and_grad` is a function (params, state, batch, key) -> ((loss, (stats, aux, metrics)), gradient); `join` makes
  the step's aux of the stacked aux of the micro-batches. The batch's size is a multiple of `parts` times the devices.
  """

  def whole_batch(params, state, batch, key):
    def one(gradients, item):
      number, part = item
      (loss, (stats, aux, metrics)), gradient = value_and_grad(params, state, part, jax.random.fold_in(key, number))
      return jax.tree.map(jnp.add, gradients, gradient), (loss, stats, aux, metrics)

    items = jnp.arange(parts), split(batch, parts, mesh)
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    gradients, (loss, stats, aux, metrics) = jax.lax.scan(one, zeros, items)
    loss, stats, metrics = jax.tree.map(lambda x: x.mean(0), (loss, stats, metrics))
    return (loss, (stats, join(aux), metrics)), jax.tree.map(lambda x: x / parts, gradients)

  return whole_batch
