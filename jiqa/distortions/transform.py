"""The bank as an augmentation: a function for batches on the accelerator, a Grain transformation for single images."""

import dataclasses

import grain
import jax
import jax.numpy as jnp
import numpy as np

from jiqa.distortions import bank as banks
from jiqa.errors import UserError

UNCHANGED = -1  # kind and level of an image that is left as it is
ALL_LEVELS = tuple(range(banks.LEVELS))


def random_distort(images, key, *, kinds=None, levels=ALL_LEVELS, probability=1.0, bank="reiqa26"):
  """Distorts images by kinds and levels drawn at random; pure, may stand inside `jax.jit`.

  Args:
    images: [b, h, w, 3] float32 in [0, 1], sides of at least 8 pixels.
    key: typed PRNG key; a fresh one for every step.
    kinds: names or numbers to draw from, of which only these are compiled; None: the whole bank. They are dealt out in
      turn, so that a batch has all of them equally often, up to one.
    levels: of 0..4, to draw from.
    probability: that an image is distorted at all.
    bank: 'reiqa26' or 'kadid25'.

  Returns:
    (images [b, h, w, 3] float32, kinds [b] int32, levels [b] int32); kind and level are -1 where an image is unchanged.

  Raises:
    UserError: as `bank.distort`, for an empty choice, or a probability outside [0, 1].
  """
  kinds, levels = _choices(kinds, levels, probability, bank)
  count, images = len(images), jnp.asarray(images)
  kind_key, level_key, coin_key, key = jax.random.split(key, 4)
  kind = banks.cyclic_kinds(kind_key, count, 1, kinds)
  level = jax.random.choice(level_key, jnp.array(levels), (count, 1))
  out = banks.distort_versions(images, kind, level, key, allowed=kinds, bank=bank)[:, 0]
  chosen = jax.random.bernoulli(coin_key, probability, (count,))
  kind, level = (jnp.where(chosen, each[:, 0], UNCHANGED) for each in (kind, level))
  return jnp.where(chosen[:, None, None, None], out, images), kind, level


@dataclasses.dataclass(frozen=True)
class RandomDistort(grain.transforms.RandomMap):
  """`random_distort` for elements of a Grain pipeline, dicts with an image [h, w, 3] of uint8 or of floats in [0, 1].

  It writes the image back in its own type, and its kind and level (-1 where unchanged) as `distortion` and `level`.
  Every kind is compiled for every size of image: cut images to one size before. It computes with jax on the default
  device: in worker processes (`mp_prefetch`) set JAX_PLATFORMS=cpu, or distort whole batches by `random_distort`.

  Example:
    >>> dataset = grain.MapDataset.source([{"image": np.full((16, 16, 3), 127, np.uint8)}]).seed(0)
    >>> dataset.random_map(RandomDistort(kinds=("JPEG", "darken"), levels=(3, 4)))[0]["level"] in (3, 4)
    True
  """

  kinds: tuple | None = None
  levels: tuple = ALL_LEVELS
  probability: float = 1.0
  bank: str = "reiqa26"
  image: str = "image"  # its key in an element

  def __post_init__(self):
    _choices(self.kinds, self.levels, self.probability, self.bank)

  def random_map(self, element, rng):
    if rng.random() >= self.probability:
      return element | {"distortion": np.int32(UNCHANGED), "level": np.int32(UNCHANGED)}
    kind, level = (rng.choice(each) for each in _choices(self.kinds, self.levels, self.probability, self.bank))
    image = np.asarray(element[self.image])
    pixels = image.astype(np.float32) / 255 if image.dtype == np.uint8 else image
    key = jax.random.key(rng.integers(2**32, dtype=np.uint32))
    out = np.asarray(banks.distort(pixels[None], kind, level, key, bank=self.bank))[0]
    out = (np.rint(out * 255) if image.dtype == np.uint8 else out).astype(image.dtype)
    return element | {self.image: out, "distortion": np.int32(kind), "level": np.int32(level)}


def _choices(kinds, levels, probability, bank):
  """(kinds, levels) to draw from, as sorted tuples of numbers; a UserError for what cannot be drawn."""
  kinds = tuple(range(len(banks.names(bank)))) if kinds is None else banks.numbers(kinds, bank)
  chosen = [tuple(np.unique(each).tolist()) for each in (kinds, banks.checked_levels(levels))]
  if not all(chosen) or not 0 <= probability <= 1:
    raise UserError(f"expected kinds, levels and a probability in [0, 1]; given {kinds}, {levels}, {probability}")
  return chosen
