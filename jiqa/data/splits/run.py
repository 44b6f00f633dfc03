"""The splits of a database as one run uses them."""

from jiqa.data.splits import assign
from jiqa.errors import UserError


def run_splits(config, table, name, protocol):
  """The splits of a database that a run's config means, by `assign`: [k, n] int8.

  Without labels (config.split is -1) all of them, since training leaves out what any of them tests on; otherwise one. A
  UserError where the protocol has no split of that number.
  """
  number, evaluation = config["split"], config["evaluation"]
  options = {"num_splits": max(evaluation["splits"], number + 1), "fractions": tuple(evaluation["fractions"])}
  splits = assign(table, name, protocol, seed=config["seed"], **options)
  if number >= len(splits):
    raise UserError(f"config.split is {number}, but protocol {protocol!r} of {name} has {len(splits)} split(s)")
  return splits if number < 0 else splits[number : number + 1]
