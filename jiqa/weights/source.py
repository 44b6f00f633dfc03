"""What one published checkpoint is, for `jiqa convert`."""

from collections.abc import Callable
from typing import NamedTuple


class Source(NamedTuple):
  """One published checkpoint.

  Attributes:
    what: its name in messages.
    rules: function () -> list of `rename.Rule`, one for every tensor.
    card: dict of plain values that go on the card: what a reader of the weights must know.
    probe: function (params, stats, card) -> [d] float32, features of an image that the source makes itself; printed
      and kept on the card, so that two conversions can be compared.
    ignored: endings of names that the file may or may not have and that are not used.
    not_named: words that must not stand in the file's name; for files that no table can tell apart.
    wrapper, prefix: on the way back, the entry that holds the tensors in a file of torch ("": the file is nothing
      else), and what stands before every name.
    adapt: function from the tensors of a file, dict from name to array, to those that the rules know; for networks of
      which files of several layouts are about.
  """

  what: str
  rules: Callable
  card: dict
  probe: Callable
  ignored: tuple = ()
  not_named: tuple = ()
  wrapper: str = "model"
  prefix: str = ""
  adapt: Callable = dict
