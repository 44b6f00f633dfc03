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
  """One published checkpoint.

  Attributes:
    what: its name in messages.
    network: function () -> nnx module that the checkpoint fills.
    rules: tuple of `rename.Rule` over the paths of the network.
    card: dict of plain values that go on the card.
    probe: function (network, card) -> [1, d], features of an image that the source makes itself; they stand on the
      card, so that two conversions can be compared.
    ignored: endings of names that the file may have and that are not used.
    not_named: words that must not stand in the file's name, for files that no table can tell apart.
    wrapper: the entry that holds the tensors in a file of torch that is written; "": the file is nothing else.
    prefix: what stands before every name that is written.
    adapt: function from the tensors of a file, dict from name to array, to those that the rules know.
  """

  what: str
  network: Callable
  rules: tuple
  card: dict
  probe: Callable
  ignored: tuple = ()
  not_named: tuple = ()
  wrapper: str = "model"
  prefix: str = ""
  adapt: Callable = dict

  def tensors(self):
    """Every tensor of the checkpoint, see `rename.expand`."""
    return expand(self.network, self.rules)

  def used(self, tensors):
    """The tensors of a file without those that are ignored."""
    return {name: value for name, value in tensors.items() if not name.endswith(self.ignored)}

  def features(self, params, stats):
    """[d] float32: the features of the probe image with these weights."""
    graphdef = split_module(nnx.eval_shape(self.network))[0]
    run = jax.jit(lambda params, stats: self.probe(merge_module(graphdef, params, stats), self.card))
    return np.asarray(run(params, stats))[0]


def waves(height, width):
  """[height, width, 3] float64 in [-1, 1]: an image that anyone can make again, for probes."""
  y, x = np.mgrid[:height, :width].astype(np.float64)
  return np.stack([np.sin(x / 7 + y / 11 + phase) * np.cos(x * y / 900 + phase) for phase in (0, 1, 2)], -1)


def unit_waves(height, width, card):
  """[1, height, width, 3] float32: `waves` in [0, 1], normalised by the 'mean' and 'std' of a card."""
  pixels = (0.5 + 0.5 * waves(height, width)).astype(np.float32)
  return jnp.asarray((pixels - np.float32(card["mean"])) / np.float32(card["std"]))[None]
