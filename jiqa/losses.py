"""Losses: pure functions of arrays, float32; the contrastive ones give one value per query.

They are written for the global batch. Under jit with a sharded batch axis XLA places the collectives.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

# Accelerators multiply float32 in bfloat16 or TF32 unless asked; a similarity is divided by a small temperature.
_EXACT = jax.lax.Precision.HIGHEST
# Inside every square root of a fidelity, as published: it keeps gradients finite, and moves a perfect loss below 0.
FIDELITY_EPSILON = 1e-8


def info_nce(query, positive, negatives, *, temperature=0.2, group_negatives=None, group_mask=None):
  """Contrasts every query with its own positive against shared negatives and, optionally, negatives of its group.

  He et al. 2020 (MoCo), eq. 1. Gradients flow into the query alone.

  Args:
    query: [b, d] float32, unit length.
    positive: [b, d] float32, unit length; row i belongs to query i.
    negatives: [k, d] float32, unit length, shared by all queries; k may be 0.
    temperature: > 0; the softmax is taken over similarities divided by it.
    group_negatives: [g, m, d] float32, unit length, b / g consecutive queries share a row. None: none.
    group_mask: [b, m] bool, False where one of them must not count (it shows what the query shows); None: all count.

  Returns:
    [b] float32, loss in nats; 0 where no negative counts. A ValueError where g does not divide b.
  """
  positive, negatives, group_negatives = jax.lax.stop_gradient((positive, negatives, group_negatives))
  logits = [(query * positive).sum(-1, keepdims=True), jnp.matmul(query, negatives.T, precision=_EXACT)]
  if group_negatives is not None:
    groups, members, width = group_negatives.shape
    if query.shape[0] % groups:
      raise ValueError(f"{query.shape[0]} queries cannot share {groups} groups of own negatives evenly")
    grouped = query.reshape(groups, -1, width)
    similarity = jnp.einsum("gqd,gmd->gqm", grouped, group_negatives, precision=_EXACT).reshape(-1, members)
    logits.append(similarity if group_mask is None else jnp.where(group_mask, similarity, -jnp.inf))
  logits = jnp.concatenate(logits, -1) / temperature
  return jax.nn.logsumexp(logits, -1) - logits[:, 0]


def in_batch_info_nce(first, second, *, temperature=0.2, mask=None):
  """Contrasts two views of every item with all other items of the batch, in both directions.

  Chen et al. 2020 (SimCLR) without the same-view terms; gradients flow into both views.

  Args:
    first, second: [b, d] float32, unit length, the views; row i shows item i.
    temperature: > 0; similarities are divided by it.
    mask: [b, b] bool, False where item j must not be a negative of item i; the diagonal always counts. None: all do.

  Returns:
    [b] float32, the mean over the two directions, in nats.
  """
  logits = jnp.matmul(first, second.T, precision=_EXACT) / temperature
  if mask is not None:
    logits = jnp.where(mask | jnp.eye(logits.shape[0], dtype=bool), logits, -jnp.inf)
  # Products of rows: of a matrix that is split over devices, `jnp.diagonal` makes them exchange indices.
  positive = (first * second).sum(-1) / temperature
  return (jax.nn.logsumexp(logits, 1) + jax.nn.logsumexp(logits, 0)) / 2 - positive


def local_manifold(query, keys, salient, image_id, *, temperature=0.2, w_intra=1.0, w_inter=1.0, anchors="all"):
  """Contrasts crops with the salient crop of their image, against its other crops and the crops of other images.

  Gao et al. 2024 (LML-IQA, arXiv 2406.19247) in words; no formula of theirs was available: docs/lml.md has ours. The
  rows of a batch that show one image are no negatives of each other.

  Args:
    query: [b, k, d] float32, unit length: k crops of each of b images, from the network that learns.
    keys: [b, k, d] float32, unit length: the same crops, from the teacher. No gradient flows into them.
    salient: [b] int, the salient crop of each image.
    image_id: [b] or [b, m] int; equal where rows show the same image.
    temperature: > 0; similarities are divided by it.
    w_intra, w_inter: >= 0, weights of the negatives within an image and from others; 0 leaves them out.
    anchors: "all": every crop learns, as the paper's first version says; "salient": the salient one, as the second.

  Returns:
    [b, k] ("all") or [b, 1] ("salient") float32, loss in nats; 0 where an anchor has no negatives.
  """
  if anchors not in ("all", "salient"):
    raise ValueError(f"anchors is {anchors!r}; expected 'all' or 'salient'")
  b, k, d = query.shape
  salient, image_id = jnp.asarray(salient)[:, None], jnp.asarray(image_id).reshape(b, -1)
  crop = jnp.broadcast_to(jnp.arange(k), (b, k))
  is_salient = crop == salient
  anchor = crop
  if anchors == "salient":
    query, anchor = (query * is_salient[..., None]).sum(1, keepdims=True), salient
  # Of [b, anchors, b k]. Nothing is looked up by index: devices would exchange what they hold parts of.
  same_row = jnp.repeat(jnp.eye(b, dtype=bool), k, 1)[:, None]
  same_image = jnp.repeat((image_id[:, None] == image_id).all(-1), k, 1)[:, None]
  positive = same_row & jnp.tile(is_salient[:, None], b)
  intra = same_row & jnp.tile(~is_salient[:, None] & (anchor[..., None] != crop[:, None]), b)
  keys = jax.lax.stop_gradient(keys).reshape(b * k, d)
  logits = jnp.matmul(query, keys.T, precision=_EXACT) / temperature
  matched = jnp.where(positive, logits, 0).sum(-1)  # there is exactly one
  for negatives, weight in ((intra, w_intra), (~same_image, w_inter)):
    logits = jnp.where(negatives, logits + math.log(weight) if weight else -jnp.inf, logits)
  # The positive always stays, so that no set is empty and gradients are finite.
  logits = jnp.where(positive | intra | ~same_image, logits, -jnp.inf)
  return jax.nn.logsumexp(logits, -1) - matched


def smooth_l1(prediction, target):
  """Huber's loss with its corner at 1, element by element."""
  # `optax.huber_loss` has the same values, but a gradient that adds and subtracts 1 and so rounds small errors.
  error = jnp.abs(prediction - target)
  return jnp.where(error < 1, 0.5 * jnp.square(error), error - 0.5)


def fidelity(p, q, g):
  """1 - sqrt(p g + eps) - sqrt(q (1 - g) + eps): how far a probability p is from its target g, arrays.

  Tsai et al. 2007 (FRank). q is 1 - p, which the caller may know more exactly.
  """
  return 1 - _root(p * g) - _root(q * (1 - g))


def plcc_loss(score, mos, group=None):
  """1 - Pearson's linear correlation of scores with human scores within every group; the mean over groups.

  A group counts where it has at least two images and their mos differ. Where its scores are all equal its loss is 1,
  and the gradient pulls them apart as the mos are.

  Args:
    score, mos: [b] float, higher is better, in any units.
    group: [b] int, such as the database of each image; None: one group.

  Returns:
    float32 in [0, 2]; 0 where no group counts.

  Example:
    >>> round(float(plcc_loss(jnp.array([30.0, 10.0, 20.0]), jnp.array([1.0, 3.0, 2.0]))), 4)
    2.0
  """
  same = _same_group(score, group)
  mean = lambda x: jnp.matmul(same, x, precision=_EXACT) / same.sum(-1)

  def centred(x):
    # In units of the largest value: neither tiny nor huge units are lost in the squares, and what is equal but for
    # rounding is known as such.
    x = jnp.asarray(x, jnp.float32)
    peak = jax.lax.stop_gradient(jnp.where(same > 0, jnp.abs(x), 0).max(-1))
    x = x / jnp.where(peak > 0, peak, 1)
    x = x - mean(x)
    variance = mean(jnp.square(x))
    spread = variance > 1e-12
    return x / jnp.sqrt(jnp.where(spread, variance, 1)), spread

  (score, _), (mos, counts) = centred(score), centred(mos)
  weight = counts / same.sum(-1)  # of a group's images, 1 together
  return (weight * (1 - mean(score * mos))).sum() / jnp.maximum(weight.sum(), 1)


def rank_loss(score, mos, group=None, *, temperature=1.0):
  """1 - Spearman's correlation with soft ranks, within every group; the mean over groups as in `plcc_loss`.

  The rank of a score is the sum of sigmoids of its distances from the others (Qin et al. 2010, eq. 11), that of a mos
  is exact, ties with average ranks.

  Args:
    score, mos, group: [b], as in `plcc_loss`.
    temperature: > 0, in the unit of the scores; the closer to 0, the harder the ranks and the smaller the gradients.

  Returns:
    float32 in [0, 2].
  """
  same = _same_group(score, group)
  score, mos = jnp.asarray(score, jnp.float32), jnp.asarray(mos)
  soft = jax.nn.sigmoid((score[:, None] - score) / temperature)
  exact = (jnp.sign(mos[:, None] - mos) + 1) / 2
  return plcc_loss((same * soft).sum(-1), (same * exact).sum(-1), group)


def quality_fidelity(score, mos, group, groups, *, std=None):
  """Ranks scores as people do, inside every group; the mean over groups of the mean over their pairs.

  The chance that image i is the better one is Phi(score_i - score_j). LIQE (Zhang et al. 2023), as its code has it; the
  target is 1, 1/2 or 0 by the order of the mos, so scales of different databases never meet. A group without a pair
  weighs nothing, and counts among the groups.

  Args:
    score, mos: [b] float32, higher is better.
    group: [b] int, the database of each image, one of `groups`.
    std: [b] float32, > 0, deviation of each mos: the target is then Phi((mos_i - mos_j) / sqrt(std_i^2 + std_j^2)), as
      UNIQUE (Zhang et al. 2021) has it. Where one of the two is NaN, and with None, the order alone counts.
  """
  difference = score[:, None] - score
  target = (1 + jnp.sign(mos[:, None] - mos)) / 2
  if std is not None:
    spread = jnp.sqrt(jnp.square(std)[:, None] + jnp.square(std))
    known = spread > 0
    target = jnp.where(known, norm.cdf((mos[:, None] - mos) / jnp.where(known, spread, 1)), target)
  losses = fidelity(norm.cdf(difference), norm.cdf(-difference), target)
  pairs = jnp.triu(jnp.ones(losses.shape, bool), 1) & (group[:, None] == group)
  member = jax.nn.one_hot(group, groups)
  count = jnp.einsum("im,ij->m", member, pairs.astype(jnp.float32), precision=_EXACT)
  weight = jnp.where(count > 0, 1 / (groups * jnp.maximum(count, 1)), 0)[group]
  return (jnp.where(pairs, losses, 0) * weight[:, None]).sum()


def scene_fidelity(p, present):
  """Several scenes may be right, present [b, s] bool: the mean over scenes of each one's fidelity, then over images.

  LIQE, as its code has it. The probabilities p [b, s] of an image sum to 1: with two labels at least 0.0650 remains.
  """
  p = jnp.clip(p, 0, 1)
  return fidelity(p, 1 - p, present.astype(jnp.float32)).mean(-1).mean()


def distortion_fidelity(p, label):
  """One of the distortions p [b, a] is right, label [b] int: 1 - sum over classes of sqrt(p g + eps), then the mean.

  LIQE, as its code has it: a perfect prediction of 11 classes gives -0.001.
  """
  target = jax.nn.one_hot(label, p.shape[-1])
  return (1 - _root(jnp.clip(p, 0, 1) * target).sum(-1)).mean()


def dynamic_weights(last, before, temperature=2.0):
  """Dynamic weight averaging (Liu et al. 2019, MTAN): tasks whose loss falls more slowly get more weight.

  From the mean losses of k tasks over the last epoch and the one before, [k] float32, to weights [k] that sum to k. The
  larger the temperature, the more equal they are. A task whose loss was 0, since it had nothing to learn from, counts
  as unchanged.
  """
  ratio = jnp.where(before != 0, last / jnp.where(before != 0, before, 1), 1)
  return len(last) * jax.nn.softmax(ratio / temperature)


def _root(x):
  return jnp.sqrt(x + FIDELITY_EPSILON)


def _same_group(score, group):
  """[b, b] float32, 1 where two images are of one group."""
  group = jnp.zeros(len(score), int) if group is None else jnp.asarray(group)
  return (group[:, None] == group).astype(jnp.float32)
