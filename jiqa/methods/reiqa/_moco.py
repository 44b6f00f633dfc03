"""What both experts of Re-IQA share: encoder, projector, key encoder and queue (MoCo-v2, Chen et al. 2020), features.

Queries are contrasted with keys of a slowly following copy of the encoder; keys of earlier steps wait in a queue.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jiqa import losses
from jiqa.data.crops import half_scale
from jiqa.distortions import resample
from jiqa.methods.base import NetworkMethod, check
from jiqa.models import tiles
from jiqa.models.encoders import build_encoder
from jiqa.models.layers import Projector, unit_pixels
from jiqa.runtime.state import new_state, split_module


def converted(expert):
  """`Method.published` of an expert."""
  keys = ("depth", "width", "embedding")
  return ({"card": {"model": "reiqa", "expert": expert}, "config": f"reiqa:{expert}", "keys": keys},)


class Network(nnx.Module):
  """Encoder and training-only head; names as in the published checkpoints."""

  def __init__(self, config, *, rngs):
    dtype = jnp.dtype(config.dtype)
    self.encoder = build_encoder(config, rngs=rngs)
    self.head = Projector(self.encoder.num_features, config.embedding, dtype=dtype, rngs=rngs)

  def __call__(self, x, *, train):
    """[b, h, w, 3], normalised, to [b, embedding] float32 of unit length."""
    return self.head(self.encoder(x, train=train))


class MomentumContrast(NetworkMethod):
  """A contrastive method; subclasses say where the pairs are from (`preprocess_train`, `loss`, `pairs`).

  The encoder's pixels in [0, 1] are normalised by `mean` and `std`.
  """

  losses = ("queue", "in_batch")  # values of config.loss
  training_only, optional = ("params/head",), ("head",)  # the projector
  input = "RGB of any size, at full and at half scale, neither cropped nor brought to a common size"
  mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

  def pairs(self):
    """Pairs of one step."""
    return self.config.batch_size

  def check_training(self):
    c, pairs, in_batch = self.config, self.pairs(), self.config.loss == "in_batch"
    check(
      (c.loss in self.losses, f"config.loss is {c.loss!r}; expected one of {', '.join(self.losses)}"),
      (
        c.bn_groups == 1 or not in_batch,
        "config.bn_groups must be 1 for loss 'in_batch', whose two views are normalised together",
      ),
      (
        pairs % (c.bn_groups * c.accumulate) == 0,
        f"config.bn_groups {c.bn_groups} does not divide the {pairs // c.accumulate} pairs of a micro-batch",
      ),
      (c.temperature > 0, f"config.temperature is {c.temperature}; expected more than 0"),
      (0 <= c.key_momentum <= 1, f"config.key_momentum is {c.key_momentum}; expected 0 to 1"),
      (
        c.split < 0 or not (c.evaluation.databases or c.validate_every),
        f"config.split is {c.split}; features are tested by heads that are fitted on all splits, so it must be -1",
      ),
      (in_batch or c.queue >= pairs, f"config.queue is {c.queue}; it must hold the {pairs} keys of one step"),
    )

  def build(self, rngs):
    return Network(self.config, rngs=rngs)

  def fresh(self, key):
    return super().fresh(jax.random.split(key)[0])

  def first_state(self, key, params, stats):
    if self.config.loss == "in_batch":
      return new_state(params, stats)
    queue = jax.random.normal(jax.random.split(key)[1], (self.config.queue, self.config.embedding))
    queue = queue / jnp.linalg.norm(queue, axis=-1, keepdims=True)
    extra = {"key_params": params, "key_stats": stats, "queue": queue, "pointer": jnp.zeros((), jnp.int32)}
    return new_state(params, stats, extra)

  def contrast(self, params, state, crops, key, labels=None):
    """The configured loss of the pairs of a step; params, state, key and what it returns as in `Method.loss`.

    Args:
      crops: [2, n, h, w, 3] in [0, 1]: first and second crop of every pair.
      labels: [b, n / b] int32: consecutive pairs are of one image, and those with one label look alike. None: every
        pair is of an image of its own.
    """
    crops = self.normalise(crops)
    if self.config.loss == "in_batch":
      return self._in_batch_loss(params, state.stats, crops, labels)
    query, stats = self._embed(params, state.stats, crops[0])
    keys, key_stats = self._embed_keys(state, crops[1], key)
    group_negatives = group_mask = None
    if self.config.loss == "queue+chunk":
      group_negatives = keys.reshape(labels.shape[0], -1, keys.shape[-1])
      group_mask = (labels[:, :, None] != labels[:, None, :]).reshape(query.shape[0], -1)
    options = {"group_negatives": group_negatives, "group_mask": group_mask, "temperature": self.config.temperature}
    loss = losses.info_nce(query, keys, state.extra["queue"], **options).mean()
    aux = {"keys": keys, "key_stats": key_stats}
    return loss, (stats, aux, {"positive_similarity": (query * keys).sum(-1).mean()})

  def _in_batch_loss(self, params, stats, crops, labels):
    # Both crops of a pair on one device: all first ones before all second ones would send half of them elsewhere. Side
    # by side they would lie in an axis of two, and without the barrier in one of the versions: TPUs pad both to 128.
    n, devices = crops.shape[1], self.mesh.size
    crops = jnp.swapaxes(crops.reshape(2, devices, -1, *crops.shape[2:]), 0, 1)
    crops = jax.lax.optimization_barrier(crops.reshape(2 * n, *crops.shape[3:]))
    embedding, stats = self._embed(params, stats, crops)
    first, second = jnp.swapaxes(embedding.reshape(devices, 2, n // devices, -1), 0, 1).reshape(2, n, -1)
    mask = None
    if labels is not None:
      # Labels of different images differ too: one number per (image, look).
      labels = (labels + labels.shape[1] * jnp.arange(labels.shape[0])[:, None]).reshape(-1)
      mask = labels[:, None] != labels[None, :]
    loss = losses.in_batch_info_nce(first, second, temperature=self.config.temperature, mask=mask).mean()
    return loss, (stats, {}, {"positive_similarity": (first * second).sum(-1).mean()})

  def _embed_keys(self, state, crops, key):
    """Keys without gradient, and the key encoder's statistics.

    With bn_groups > 1 the statistics that query and key share would betray a pair; so the keys are shuffled over the
    groups (ShuffleBN, He et al. 2020, section 3.3).
    """
    params, stats = state.extra["key_params"], state.extra["key_stats"]
    if self.config.bn_groups == 1:
      keys, stats = self._embed(params, stats, crops)
    else:
      order = jax.random.permutation(key, crops.shape[0])
      keys, stats = self._embed(params, stats, crops[order])
      keys = jnp.zeros_like(keys).at[order].set(keys)
    return jax.lax.stop_gradient(keys), stats

  def _embed(self, params, stats, crops):
    network = self.network(params, stats)
    return network(crops, train=True), split_module(network)[2]

  def merge_aux(self, aux):
    if self.config.loss == "in_batch":
      return aux
    keys = aux["keys"].reshape(-1, aux["keys"].shape[-1])
    return {"keys": keys, "key_stats": super().merge_aux(aux["key_stats"])}

  def post_update(self, state, aux):
    if self.config.loss == "in_batch":
      return state
    extra, momentum = dict(state.extra), self.config.key_momentum
    average = lambda old, new: momentum * old + (1 - momentum) * new
    extra["key_params"] = jax.tree.map(average, extra["key_params"], state.params)
    extra["key_stats"] = aux["key_stats"]
    rows = (extra["pointer"] + jnp.arange(aux["keys"].shape[0])) % self.config.queue
    extra["queue"] = extra["queue"].at[rows].set(aux["keys"])
    extra["pointer"] = (extra["pointer"] + aux["keys"].shape[0]) % self.config.queue
    return state.replace(extra=extra)

  def normalise(self, pixels):
    """[..., 3] in [0, 1], or uint8, to what the encoder expects, float32."""
    pixels = unit_pixels(pixels)
    if (self.mean, self.std) == ((0.0,) * 3, (1.0,) * 3):
      return pixels
    return (pixels - jnp.array(self.mean)) / jnp.array(self.std)

  def preprocess_eval(self, image):
    """Full and half scale, the half as published."""
    return {"full": image, "half": half_scale(image)}

  def preprocess_float(self, images):
    return {"full": images, "full_size": None, "half": resample.reduce(images, 2), "half_size": None}

  def predict(self, params, stats, extra, batch):
    """The published features: the query encoder's at full and half scale, not brought to unit length."""
    encoder = self.network(params, stats).encoder
    scales = [tiles.features(encoder, batch[name], batch[name + "_size"], self.normalise) for name in ("full", "half")]
    return {"features": jnp.concatenate(scales, -1)}
