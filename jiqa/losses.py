"""Contrastive losses: pure functions of arrays, float32, one value per query.

They are written for the global batch. Under jit with a sharded batch axis XLA places the collectives.
"""

import jax
import jax.numpy as jnp

# Accelerators multiply float32 in bfloat16 or TF32 unless asked; a similarity is divided by a small temperature.
_EXACT = jax.lax.Precision.HIGHEST


def info_nce(query, positive, negatives, *, temperature=0.2, mask=None, own=None, own_mask=None):
  """Contrasts every query with its own positive against shared negatives and, optionally, negatives of its own.

  He et al. 2020 (MoCo), eq. 1.

  Args:
    query: [b, d] float32, unit length.
    positive: [b, d] float32, unit length; row i belongs to query i. No gradient flows into it.
    negatives: [k, d] float32, unit length, shared by all queries; k may be 0. No gradient flows into them.
    temperature: > 0; the softmax is taken over similarities divided by it.
    mask: [b, k] bool, False where a negative must not count (it shows what the query shows); None keeps all.
    own: [g, m, d] float32, unit length, further negatives; consecutive queries share a row, b / g of them. None: none.
    own_mask: [b, m] bool, as `mask`, for `own`.

  Returns:
    [b] float32, loss in nats; 0 where no negative counts.

  Raises:
    ValueError: if the number of queries is not a multiple of the number of rows of `own`.

  Example:
    >>> q = jnp.eye(2)
    >>> bool(jnp.all(info_nce(q, q, -q) < 1e-2))
    True
  """
  positive, negatives = jax.lax.stop_gradient((positive, negatives))
  logits = [(query * positive).sum(-1, keepdims=True), _masked(jnp.matmul(query, negatives.T, precision=_EXACT), mask)]
  if own is not None:
    groups, members, width = own.shape
    if query.shape[0] % groups:
      raise ValueError(f"{query.shape[0]} queries cannot share {groups} groups of own negatives evenly")
    grouped = query.reshape(groups, -1, width)
    similarity = jnp.einsum("gqd,gmd->gqm", grouped, jax.lax.stop_gradient(own), precision=_EXACT).reshape(-1, members)
    logits.append(_masked(similarity, own_mask))
  logits = jnp.concatenate(logits, -1) / temperature
  return jax.nn.logsumexp(logits, -1) - logits[:, 0]


def in_batch_info_nce(first, second, *, temperature=0.2, mask=None):
  """Contrasts two views of every item with all other items of the batch, in both directions.

  Chen et al. 2020 (SimCLR) without the same-view terms; the loss needs neither queue nor key encoder, and gradients
  flow into both views.

  Args:
    first: [b, d] float32, unit length, one view of each item.
    second: [b, d] float32, unit length, another view; row i shows item i.
    temperature: > 0.
    mask: [b, b] bool, False where item j must not be a negative of item i; the diagonal always counts. None keeps all.

  Returns:
    [b] float32, the mean over the two directions, in nats.

  Example:
    >>> x = jnp.eye(4)
    >>> round(float(in_batch_info_nce(x, x, temperature=1.0)[0]), 4)  # log(e + 3) - 1
    0.7437
  """
  logits = jnp.matmul(first, second.T, precision=_EXACT) / temperature
  if mask is not None:
    logits = jnp.where(mask | jnp.eye(logits.shape[0], dtype=bool), logits, -jnp.inf)
  diagonal = jnp.diagonal(logits)
  return (jax.nn.logsumexp(logits, 1) + jax.nn.logsumexp(logits, 0)) / 2 - diagonal


def _masked(logits, mask):
  return logits if mask is None else jnp.where(mask, logits, -jnp.inf)
