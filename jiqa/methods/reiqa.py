"""Re-IQA (Saha, Mishra, Bovik, CVPR 2023, arXiv 2304.00451): the quality expert.

Every image of a batch is rendered in several versions, the first pristine, the others each with one distortion. Two
crops of one version that overlap a little form a positive pair: what they share is the version's quality, hardly its
content. Depending on `config.loss` the negatives are

- 'queue': keys of earlier steps, hence of other images: what the published code computes;
- 'queue+chunk': also the other versions of the same image: what the paper describes;
- 'in_batch': all other pairs of the batch, symmetrised, without queue and key encoder.

Versions that look alike (the pristine one and distortions whose level does nothing) are never negatives of each other,
nor are two scales of one version.

Where the published code errs we do what the paper says: swapped crops are copies, so that exchanging them leaves their
pixels intact, the pair is displaced along either axis and in either direction rather than always downwards, and an
image too small for the published displacement gives the most distant pair that it holds instead of black bars.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from jiqa import losses
from jiqa.data.crops import random_window
from jiqa.distortions import bank
from jiqa.methods.base import Method
from jiqa.models.resnet import Projector, ResNet
from jiqa.runtime.sharding import replicated
from jiqa.runtime.state import merge_module, new_state, split_module
from jiqa.weights.store import adopt

LOSSES = ("queue", "queue+chunk", "in_batch")


class QualityNetwork(nnx.Module):
  """Encoder and training-only head; names as in the published checkpoints."""

  def __init__(self, config, *, rngs):
    dtype = jnp.dtype(config.dtype)
    self.encoder = ResNet(config.depth, config.width, bn_groups=config.bn_groups, dtype=dtype, rngs=rngs)
    self.head = Projector(self.encoder.num_features, config.embedding, dtype=dtype, rngs=rngs)

  def __call__(self, x, *, train):
    """[b, h, w, 3] in [0, 1] to [b, embedding] float32 of unit length."""
    return self.head(self.encoder(x, train=train))


def looks_pristine(versions):
  """Which versions one could not tell from the first: a shift by 0, a saturation on a gray photograph, ...

  Args:
    versions: [b, v, h, w, 3] in [0, 1].

  Returns:
    [b, v] bool: no value differs by more than 2/255.
  """
  return jnp.abs(versions - versions[:, :1]).max((2, 3, 4)) <= 2.5 / 255


def pair_offsets(key, crop, frame):
  """Displacement of the second crop of a pair from the first.

  The published rule: one axis is displaced by 70 to 90 % of the crop, the other so that the crops share 10 to 30 % of
  their area. Which axis, and both directions, are drawn at random. What the frame cannot hold is shortened.

  Args:
    key: jax PRNG key.
    crop: side of the crops, pixels.
    frame: [2] int32, height and width within which both crops must lie; at least `crop`.

  Returns:
    [2] int32, displacement in y and x, pixels, signed.
  """
  far_key, near_key, axis_key, sign_key = jax.random.split(key, 4)
  # Integer arithmetic, since 0.7 and 0.9 are no binary fractions: far in [0.7, 0.9) crop.
  far = jax.random.randint(far_key, (), -(-7 * crop // 10), -(-9 * crop // 10))
  most_near = jnp.maximum(0.0, (0.9 * crop * crop - crop * far) / (crop - far))
  near = jnp.floor(jax.random.uniform(near_key) * jnp.floor(most_near)).astype(jnp.int32)
  offset = jnp.where(jax.random.bernoulli(axis_key), jnp.stack([far, near]), jnp.stack([near, far]))
  offset = jnp.minimum(offset, frame - crop)
  return offset * jnp.where(jax.random.bernoulli(sign_key, shape=(2,)), 1, -1)


def crop_pair(key, versions, frame, crop):
  """Cuts the same pair of crops out of every version of one image.

  Args:
    key: jax PRNG key.
    versions: [v, h, w, 3].
    frame: [2] int32, the part of the versions that is image.
    crop: side of the crops, pixels.

  Returns:
    [2, v, crop, crop, 3]: first and second crop.
  """
  offset_key, place_key = jax.random.split(key)
  offset = pair_offsets(offset_key, crop, frame)
  free = frame - crop - jnp.abs(offset)
  corner = jnp.floor(jax.random.uniform(place_key, (2,)) * (free + 1)).astype(jnp.int32)
  first = corner + jnp.maximum(-offset, 0)

  def cut(at):
    return jax.lax.dynamic_slice(versions, (0, at[0], at[1], 0), (versions.shape[0], crop, crop, 3))

  return jnp.stack([cut(first), cut(first + offset)])


def half_swap(pairs, versions):
  """Exchanges the crops of some versions, so that a query's negatives also show the place it shows.

  Args:
    pairs: [2, v, ...].
    versions: [v] bool, which to exchange.
  """
  swap = versions.reshape(1, -1, *([1] * (pairs.ndim - 2)))
  return jnp.where(swap, pairs[::-1], pairs)


class ReIQA(Method):
  """The quality expert behind the contract of `methods/base.py`."""

  def __init__(self, config, shards):
    self.config, self.shards = config, shards
    self.pairs = config.batch_size * config.versions * len(config.scales)
    _check(config, shards, self.pairs)
    abstract = nnx.eval_shape(lambda: QualityNetwork(config, rngs=nnx.Rngs(0)))
    self.graphdef = split_module(abstract)[0]

  def init(self, key, mesh, weights=None):
    whole = replicated(mesh)
    network_key, queue_key = jax.random.split(key)
    params, stats = jax.jit(self._fresh, out_shardings=whole)(network_key)
    if weights is not None:
      params, stats = jax.device_put(
        (adopt(params, weights[0], optional=("head",)), adopt(stats, weights[1], optional=("head",))), whole
      )
    build = jax.jit(self._first_state, out_shardings=whole)
    return build(queue_key, params, stats)

  def _fresh(self, key):
    return split_module(QualityNetwork(self.config, rngs=nnx.Rngs(params=key)))[1:]

  def _first_state(self, queue_key, params, stats):
    extra = {}
    if self.config.loss != "in_batch":
      queue = jax.random.normal(queue_key, (self.config.queue, self.config.embedding))
      extra = {
        "key_params": params,
        "key_stats": stats,
        "queue": queue / jnp.linalg.norm(queue, axis=-1, keepdims=True),
        "pointer": jnp.zeros((), jnp.int32),
      }
    return jax.tree.map(jnp.copy, new_state(params, stats, extra))

  def cut(self, image, record, rng):
    del record
    return random_window(image, self.config.window, self.config.crop * max(self.config.scales), rng)

  def crop_pairs(self, batch, key):
    """Distorts, halves and crops a batch on the device.

    Args:
      batch: 'image' [b, w, w, 3] uint8 and 'size' [b, 2] int32, from `cut`.
      key: jax PRNG key.

    Returns:
      (crops [2, b, s, v, crop, crop, 3] float32 in [0, 1], alike [b, v] int32): the pairs over scales and versions,
      and a label per version; versions of one image with one label look the same.
    """
    config = self.config
    b, distorted = batch["image"].shape[0], config.versions - 1
    kind_key, level_key, noise_key, crop_key = jax.random.split(key, 4)
    images = batch["image"].astype(jnp.float32) / 255
    kinds = bank.cyclic_kinds(kind_key, b, distorted, config.kinds)
    levels = jax.random.randint(level_key, (b, distorted), 0, 5)
    # Dispatched on each device for itself once its part of the batch fills the blocks of all kinds twice; the pixels
    # are the same either way.
    local = b // self.shards * distorted >= 2 * len(config.kinds)
    groups = self.shards if local else 1
    versions = bank.distort_versions(images, kinds, levels, noise_key, allowed=config.kinds, groups=groups)
    versions = jnp.concatenate([images[:, None], versions], 1)
    like_pristine = looks_pristine(versions)
    alike = jnp.where(like_pristine, 0, jnp.arange(config.versions))

    crops = []
    for scale_index, scale in enumerate(config.scales):
      scaled = _reduce(versions, scale)
      keys = jax.random.split(jax.random.fold_in(crop_key, scale), b)
      pairs = jax.vmap(lambda k, v, frame: crop_pair(k, v, frame, config.crop))(keys, scaled, batch["size"] // scale)
      if config.swap:
        first_half = jnp.arange(config.versions) < config.versions // 2
        pairs = jax.vmap(half_swap, (0, None))(pairs, first_half if scale_index % 2 == 0 else ~first_half)
      crops.append(pairs)
    return jnp.moveaxis(jnp.stack(crops, 2), 0, 1), alike

  def loss(self, params, state, batch, key):
    crops, alike = self.crop_pairs(batch, key)
    crops = crops.reshape(2, -1, *crops.shape[-3:])
    if self.config.loss == "in_batch":
      return self._in_batch_loss(params, state.stats, crops, alike)
    query, stats = self._embed(params, state.stats, crops[0])
    keys, key_stats = self._embed(state.extra["key_params"], state.extra["key_stats"], crops[1])
    keys = jax.lax.stop_gradient(keys)
    own = own_mask = None
    if self.config.loss == "queue+chunk":
      labels = self._pair_labels(alike)
      own = keys.reshape(labels.shape[0], -1, keys.shape[-1])
      own_mask = (labels[:, :, None] != labels[:, None, :]).reshape(query.shape[0], -1)
    loss = losses.info_nce(
      query, keys, state.extra["queue"], temperature=self.config.temperature, own=own, own_mask=own_mask
    ).mean()
    aux = {"keys": keys, "key_stats": key_stats}
    return loss, (stats, aux, {"positive_similarity": (query * keys).sum(-1).mean()})

  def _in_batch_loss(self, params, stats, crops, alike):
    embedding, stats = self._embed(params, stats, crops.reshape(-1, *crops.shape[2:]))
    first, second = jnp.split(embedding, 2)
    labels = self._pair_labels(alike)
    # Labels of different images differ too: one number per (image, look).
    labels = (labels + self.config.versions * jnp.arange(labels.shape[0])[:, None]).reshape(-1)
    mask = labels[:, None] != labels[None, :]
    loss = losses.in_batch_info_nce(first, second, temperature=self.config.temperature, mask=mask).mean()
    return loss, (stats, {}, {"positive_similarity": (first * second).sum(-1).mean()})

  def post_update(self, state, aux):
    if self.config.loss == "in_batch":
      return state
    extra, momentum = dict(state.extra), self.config.key_momentum
    extra["key_params"] = jax.tree.map(
      lambda old, new: momentum * old + (1 - momentum) * new, extra["key_params"], state.params
    )
    extra["key_stats"] = aux["key_stats"]
    rows = (extra["pointer"] + jnp.arange(aux["keys"].shape[0])) % self.config.queue
    extra["queue"] = extra["queue"].at[rows].set(aux["keys"])
    extra["pointer"] = (extra["pointer"] + aux["keys"].shape[0]) % self.config.queue
    return state.replace(extra=extra)

  def views(self, image):
    """Full and half scale; the half as published: Pillow's antialiased bicubic to (w // 2, h // 2)."""
    height, width = image.shape[:2]
    half = Image.fromarray(image).resize((max(width // 2, 1), max(height // 2, 1)), Image.Resampling.BICUBIC)
    return {"full": image, "half": np.asarray(half)}

  def predict(self, state, batch):
    encoder = merge_module(self.graphdef, state.params, state.stats).encoder
    scales = [
      encoder(batch[name].astype(jnp.float32) / 255, batch[name + "_size"], train=False) for name in ("full", "half")
    ]
    return {"features": jnp.concatenate(scales, -1)}

  def _embed(self, params, stats, crops):
    network = merge_module(self.graphdef, params, stats)
    embedding = network(crops, train=True)
    return embedding, split_module(network)[2]

  def _pair_labels(self, alike):
    """[b, v] labels of versions to [b, s v] labels of pairs, in the order of `crop_pairs`."""
    return jnp.tile(alike, (1, len(self.config.scales)))


def _check(config, shards, pairs):
  """Raises ValueError for a config that could not run or would not train what it says."""
  kinds, least = tuple(config.kinds), config.crop * max(config.scales)
  known = len(bank.names())
  rules = [
    (config.loss in LOSSES, f"config.loss is {config.loss!r}; expected one of {', '.join(LOSSES)}"),
    (config.batch_size % shards == 0, f"config.batch_size {config.batch_size} is not a multiple of {shards} devices"),
    (config.window >= least, f"config.window is {config.window}; the largest scale needs {least} pixels"),
    (config.versions >= 2, f"config.versions is {config.versions}; expected at least 2"),
    (
      sorted(set(kinds)) == sorted(kinds) and set(kinds) <= set(range(known)),
      f"config.kinds is {kinds}; expected different numbers in 0..{known - 1}",
    ),
    (
      config.versions - 1 <= len(kinds),
      f"config.versions is {config.versions}; {len(kinds)} kinds give at most {len(kinds) + 1} different versions",
    ),
    (
      config.bn_groups == 1 or config.loss != "in_batch",
      "config.bn_groups must be 1 for loss 'in_batch', whose two views are normalised together",
    ),
    (pairs % config.bn_groups == 0, f"config.bn_groups {config.bn_groups} does not divide the {pairs} pairs of a step"),
    (
      config.loss == "in_batch" or config.queue >= pairs,
      f"config.queue is {config.queue}; it must hold the {pairs} keys of one step",
    ),
  ]
  for holds, message in rules:
    if not holds:
      raise ValueError(message)


def _reduce(versions, scale):
  """[b, v, h, w, 3] reduced by an integer factor: bicubic (a = -0.5), antialiased, as Pillow reduces pictures."""
  if scale == 1:
    return versions
  b, v, h, w, c = versions.shape
  return jnp.clip(jax.image.resize(versions, (b, v, h // scale, w // scale, c), "cubic"), 0, 1)
