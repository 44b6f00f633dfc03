"""Losses: pure functions of arrays, float32; the contrastive ones give one value per query.

They are written for the global batch. Under jit with a sharded batch axis XLA places the collectives.
"""

import math

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


def local_manifold(query, keys, salient, image_id, *, temperature=0.2, w_intra=1.0, w_inter=1.0, anchors="all"):
  """Contrasts crops with the salient crop of their image, against its other crops and the crops of other images.

  Gao et al. 2024 (LML-IQA, arXiv 2406.19247) in words; no formula of theirs was available. With P the exponential of
  the similarity to the salient crop's key, an anchor's loss is -log(P / (P + w_intra A + w_inter E)), where A sums the
  other crops of its image, itself left out, and E all crops of other images. The rows of a batch that show one image
  are no negatives of each other.

  Args:
    query: [b, k, d] float32, unit length: k crops of each of b pictures, from the network that learns.
    keys: [b, k, d] float32, unit length: the same crops, from the teacher. No gradient flows into them.
    salient: [b] int, the salient crop of each picture.
    image_id: [b] or [b, m] int; equal where rows show the same image.
    temperature: > 0; similarities are divided by it.
    w_intra: >= 0, weight of the negatives within an image; 0 leaves them out.
    w_inter: >= 0, weight of the negatives from other images; 0 leaves them out.
    anchors: "all": every crop learns, as the paper's first version says; "salient": the salient one, as the second.

  Returns:
    [b, k] ("all") or [b, 1] ("salient") float32, loss in nats; 0 where an anchor has no negatives.

  Raises:
    ValueError: on an unknown kind of anchors.

  Example:
    >>> crops = jnp.eye(4).reshape(2, 2, 4)
    >>> loss = local_manifold(crops, crops, jnp.array([0, 0]), jnp.array([7, 8]), temperature=1.0)
    >>> [round(float(x), 4) for x in loss[0]]  # log(1 + 3 / e), and without the intra-class negative log(1 + 2)
    [0.7437, 1.0986]
  """
  if anchors not in ("all", "salient"):
    raise ValueError(f"anchors is {anchors!r}; expected 'all' or 'salient'")
  b, k, d = query.shape
  row, crop = jnp.repeat(jnp.arange(b), k), jnp.tile(jnp.arange(k), b)
  is_salient = crop == salient[row]
  image_id = image_id.reshape(b, -1)
  same_image = (image_id[:, None] == image_id).all(-1)[row][:, row]
  if anchors == "salient":
    query = jnp.take_along_axis(query, salient[:, None, None], 1)
    anchor_row, anchor_crop, same_image = jnp.arange(b), salient, same_image[::k]
  else:
    anchor_row, anchor_crop = row, crop
  same_row = anchor_row[:, None] == row
  positive = same_row & is_salient
  intra = same_row & ~is_salient & (anchor_crop[:, None] != crop)
  keys = jax.lax.stop_gradient(keys).reshape(b * k, d)
  logits = jnp.matmul(query.reshape(-1, d), keys.T, precision=_EXACT) / temperature
  matched = jnp.where(positive, logits, 0).sum(-1)  # there is exactly one
  for negatives, weight in ((intra, w_intra), (~same_image, w_inter)):
    logits = jnp.where(negatives, logits + math.log(weight) if weight else -jnp.inf, logits)
  # The positive always stays, so that no set is empty and gradients are finite.
  logits = jnp.where(positive | intra | ~same_image, logits, -jnp.inf)
  return (jax.nn.logsumexp(logits, -1) - matched).reshape(b, -1)


def smooth_l1(prediction, target):
  """Huber's loss with its corner at 1: half the square of small errors, the absolute value less 1/2 of large ones.

  Args:
    prediction, target: arrays of one shape, or that broadcast.

  Returns:
    Array, element by element.

  Example:
    >>> smooth_l1(jnp.array([0.5, -3.0]), 0.0).tolist()
    [0.125, 2.5]
  """
  error = jnp.abs(prediction - target)
  return jnp.where(error < 1, 0.5 * jnp.square(error), error - 0.5)


def _masked(logits, mask):
  return logits if mask is None else jnp.where(mask, logits, -jnp.inf)
