"""What one published checkpoint is, for `jiqa convert`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jiqa.runtime.state import merge_module, split_module
from jiqa.weights.rename import expand


class Source(NamedTuple):
  """One published checkpoint."""

  what: str  # its name in messages
  network: Callable  # () -> the nnx module that it fills
  card: dict  # plain values that go on the card
  # (network, card) -> [1, d], features of an image that anyone can make; they stand on the card, to compare conversions
  probe: Callable
  spellings: tuple = ()  # see `rename.expand`
  counters: bool = False  # see `rename.expand`
  ignored: tuple = ()  # endings of names that the file may have and that are not used
  not_named: tuple = ()  # words that must not stand in the file's name, for files that no table can tell apart
  wrapper: str = "model"  # the entry that holds the tensors in a file of torch that is written; "": there is none
  prefix: str = ""  # what stands before every name that is written
  installed: Callable | None = None  # () -> the file that an installed package brings, for calls without one
  adapt: Callable = dict  # from the tensors of a file, dict from name to array, to those of the table

  def tensors(self):
    """Every tensor of the checkpoint, see `rename.expand`."""
    return expand(self.network, self.spellings, self.counters)

  def used(self, tensors):
    """The tensors of a file without those that are ignored."""
    return {name: value for name, value in tensors.items() if not name.endswith(self.ignored)}

  def features(self, params, stats):
    """[d] float32: the features of the probe image with these weights."""
    graphdef = split_module(nnx.eval_shape(self.network))[0]
    run = jax.jit(lambda params, stats: self.probe(merge_module(graphdef, params, stats), self.card))
    return np.asarray(run(params, stats))[0]


def encoder_probe(network, card):
  """The features that an `Encoder` gives of an image of odd size."""
  return network.encoder(unit_waves(67, 93, card))


def waves(height, width):
  """[height, width, 3] float64 in [-1, 1]: an image that anyone can make again, for probes."""
  y, x = np.mgrid[:height, :width].astype(np.float64)
  return np.stack([np.sin(x / 7 + y / 11 + phase) * np.cos(x * y / 900 + phase) for phase in (0, 1, 2)], -1)


def unit_waves(height, width, card):
  """[1, height, width, 3] float32: `waves` in [0, 1], normalised by the 'mean' and 'std' of a card."""
  pixels = (0.5 + 0.5 * waves(height, width)).astype(np.float32)
  return jnp.asarray((pixels - np.float32(card["mean"])) / np.float32(card["std"]))[None]
