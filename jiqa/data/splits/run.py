"""The splits of a database as one run uses them."""

from jiqa.data.splits.assignment import assign
from jiqa.errors import UserError


def run_splits(config, table, name, protocol):
  """The splits of a database that a run's config means, by `assign`: [k, n] int8.

  Without labels (config.split is -1) all of them, since training leaves out what any of them tests on; otherwise one. A
  UserError where the protocol has no split of that number.
  """
  number, evaluation = config["split"], config["evaluation"]
  count = max(evaluation["splits"], number + 1)
  splits = assign(
    table, name, protocol, num_splits=count, seed=config["seed"], fractions=tuple(evaluation["fractions"])
  )
  if number >= len(splits):
    raise UserError(f"config.split is {number}, but protocol {protocol!r} of {name} has {len(splits)} split(s)")
  return splits if number < 0 else splits[number : number + 1]
