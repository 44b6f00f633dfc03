"""Re-IQA (Saha, Mishra, Bovik, CVPR 2023, arXiv 2304.00451): the quality expert.

Every image of a batch is rendered in several versions, the first pristine, the others each with one distortion. Two
crops of one version that overlap a little form a positive pair: what they share is the version's quality, hardly its
content. docs/reiqa.md tells the negatives of every `config.loss`, and where the published code differs.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jiqa.data.crops import random_window
from jiqa.distortions import bank, resample
from jiqa.methods.base import check
from jiqa.methods.reiqa._moco import MomentumContrast, converted
from jiqa.methods.reiqa._pairs import crop_pair, half_swap, looks_pristine, official_half, official_pair
from jiqa.models.layers import unit_pixels
from jiqa.runtime.state import BLOCK


class ReIQA(MomentumContrast):
  """The quality expert behind the contract of `methods/base.py`."""

  losses = ("queue", "queue+chunk", "in_batch")
  expert, feature_order = "quality", 1  # its features stand after the content expert's
  defaults = {"every_scale": True}
  published = converted(expert)
  how_to_get = "jiqa convert reiqa-quality quality_aware_r50.pth weights/quality"

  def pairs(self):
    config = self.config
    return config.batch_size * config.versions * (len(config.scales) if config.every_scale else 1)

  def check_training(self):
    c, fixed = self.config, self.config.compat == "fixed"
    kinds, scales, known = tuple(c.kinds), tuple(c.scales), len(bank.names())
    least, most, parts = c.crop * max(scales), len(kinds) + 1, c.accumulate * len(scales)
    different = len(set(kinds)) == len(kinds) and set(kinds) <= set(range(known))
    too_few = f"config.versions is {c.versions}; {len(kinds)} kinds give at most {most} different versions"
    check(
      (c.compat in bank.COMPAT, f"config.compat is {c.compat!r}; expected one of {', '.join(bank.COMPAT)}"),
      (fixed or scales in ((1,), (1, 2)), f"config.scales is {scales}; compat 'official' knows (1,) and (1, 2)"),
      (c.window >= least, f"config.window is {c.window}; the largest scale needs {least} pixels"),
      (c.versions >= 2, f"config.versions is {c.versions}; expected at least 2"),
      (different, f"config.kinds is {kinds}; expected different numbers in 0..{known - 1}"),
      (c.versions <= most, too_few),
      (c.every_scale or fixed, "config.every_scale is False, which config.compat 'official' does not know"),
      (
        c.every_scale or c.batch_size % parts == 0,
        f"config.every_scale is False: config.batch_size {c.batch_size} is not a multiple of {parts}, that is "
        f"of {len(scales)} scales times {c.accumulate} micro-batches",
      ),
    )
    super().check_training()

  def preprocess_train(self, image, record, rng):
    # The published code pads small images with black; ours counts mirrored pixels as real where they are needed.
    least = self.config.crop * max(self.config.scales) if self.config.compat == "fixed" else 1
    return random_window(image, self.config.window, least, rng)

  def render(self, batch, key):
    """Distorts a batch from `preprocess_train` on the device.

    (versions [b, v, w, w, 3] uint8, alike [b, v] int32): the first version is the image itself; versions of one image
    with one label look the same.
    """
    config = self.config
    b, distorted = batch["image"].shape[0], config.versions - 1
    kind_key, level_key, noise_key = jax.random.split(key, 3)
    images = batch["image"].astype(jnp.float32) / 255
    kinds = bank.cyclic_kinds(kind_key, b, distorted, config.kinds)
    levels = jax.random.randint(level_key, (b, distorted), 0, 5)
    # Dispatched on each device for itself once its part of the batch fills the blocks of all kinds twice; the pixels
    # are the same either way.
    local = b // self.mesh.size * distorted >= 2 * len(config.kinds)
    versions = bank.distort_versions(
      images, kinds, levels, noise_key, allowed=config.kinds, groups=self.mesh.size if local else 1,
      compat=config.compat, mesh=self.mesh if local else None, dtype=jnp.uint8,
    )  # fmt: skip
    versions = jnp.concatenate([batch["image"][:, None], versions], 1)
    return versions, jnp.where(looks_pristine(versions), 0, jnp.arange(config.versions))

  def crop_pairs(self, batch, key):
    """Distorts, halves and crops a batch from `preprocess_train` on the device.

    (crops [2, b, s, v, crop, crop, 3], alike [b, v] int32): the pairs over scales and versions in config.dtype, to
    which the encoder rounds them first, in [0, 1] with compat 'fixed', s = 1 unless `config.every_scale`; and a label
    per version, see `render`.
    """
    config, b = self.config, batch["image"].shape[0]
    render_key, crop_key = jax.random.split(key)
    turns = self._turns(jax.random.fold_in(crop_key, 0), b)
    versions, alike = self.render(batch, render_key)
    versions = unit_pixels(versions) if config.compat == "official" else versions
    crops = []
    for index, scale in enumerate(config.scales):
      first_half = jnp.arange(config.versions) < config.versions // 2
      swapped = config.swap & (first_half if index % 2 == 0 else ~first_half)
      keys = jax.random.split(jax.random.fold_in(crop_key, scale), b)
      if config.compat == "official":
        pairs, versions = self._official_scale(keys, versions, batch["size"], scale, swapped)
      else:
        keys, scaled, size = (_turn(x, turns, index) for x in (keys, versions, batch["size"]))
        scaled = scaled if scale == 1 else resample.reduce(unit_pixels(scaled), scale)
        pairs = jax.vmap(lambda k, v, frame: crop_pair(k, v, frame, config.crop))(keys, scaled, size // scale)
        pairs = jax.vmap(half_swap, (0, None))(pairs, swapped)
      crops.append(self.normalise(pairs).astype(config.dtype))
    if turns is None:
      crops = jnp.stack(crops, 2)
    else:  # back from the order of the scales to that of the images
      crops = jax.vmap(lambda group, turn: group[jnp.argsort(turn)])(jnp.stack(crops, 1), turns)
      crops = crops.reshape(b, 2, 1, *crops.shape[3:])
    return jnp.moveaxis(crops, 0, 1), alike

  def _turns(self, key, b):
    """[b / n, n] int32: which of n consecutive images is seen at each of the n scales; None: all at every scale.

    Groups are consecutive, so that each lies on one device where a device's share is a multiple of n.
    """
    if self.config.every_scale:
      return None
    n = len(self.config.scales)
    return jax.vmap(lambda k: jax.random.permutation(k, n))(jax.random.split(key, b // n))

  def _official_scale(self, keys, versions, size, scale, swapped):
    """The pairs of one scale, and the versions as the exchange has left them for the next scale."""
    scaled = versions if scale == 1 else jax.vmap(official_half)(versions, size)
    pair = jax.vmap(lambda k, v, frame: official_pair(k, v, frame, self.config.crop, swapped))
    pairs, left = pair(keys, scaled, size // scale)
    return pairs, left if scale == 1 else versions

  def loss(self, params, state, batch, key):
    crop_key, shuffle_key = jax.random.split(key)
    with jax.named_scope("augment"):  # its arithmetic is not the model's
      crops, alike = checkpoint_name(self.crop_pairs(batch, crop_key), BLOCK)  # with remat they are not made twice
    labels = jnp.tile(alike, (1, crops.shape[2]))  # in the order of the pairs: scales, then versions
    return self.contrast(params, state, crops.reshape(2, -1, *crops.shape[-3:]), shuffle_key, labels)


def _turn(images, turns, index):
  """The images whose turn it is at the index-th scale: [b, ...] to [b / n, ...], or all where turns is None."""
  if turns is None:
    return images
  groups = images.reshape(*turns.shape, *images.shape[1:])
  return jax.vmap(lambda group, turn: group[turn[index]])(groups, turns)
