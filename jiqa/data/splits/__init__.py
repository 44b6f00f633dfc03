"""Who trains and who tests: published split tables and seeded content-disjoint folds, from a label table.

A split is 0 for train, 1 validation, 2 test, -1 unused. Start with `assign`.
"""

import hashlib

import numpy as np

from jiqa.data.schema import tables
from jiqa.errors import UserError

TRAIN, VALIDATION, TEST, UNUSED = 0, 1, 2, -1
PROTOCOLS = ("official", "liqe", "arniqa", "folds")
FRACTIONS = (0.7, 0.1, 0.2)
# The share of an official training part that is set aside where the database has no validation part.
SET_ASIDE = 1 / 8


def assign(table, name, protocol="official", *, num_splits=10, seed=0, fractions=FRACTIONS, group="reference_name"):
  """Assigns every image of a database to train, validation or test, several times over: [k, n] int8, k <= num_splits.

  The result depends on names only, never on the order of the records. Images of one group always stay together.

  - "official": the database's parts. Where it has no validation part, 1/8 of the training groups are set aside,
    `num_splits` different times; where it has one, there is a single split.
  - "liqe", "arniqa": the first `num_splits` of the assignments published with the papers (Zhang et al., CVPR 2023;
    Agnolucci et al., WACV 2024).
  - "folds": seeded random divisions of the groups by `fractions`; test parts of two splits may overlap.

  Args:
    table: DataFrame of n rows with the columns image_name, reference_name and split.
    name: the database, with or without variant: "koniq10k/512x384".
    protocol, num_splits: see above.
    seed: int, for "official" and "folds".
    fractions: shares of train, validation and test for "folds".
    group: column of `table` that says which images share content; images where it is '' stand for themselves.

  Raises:
    UserError: the database has no such splits, or an image that the published table does not know; its own parts put
      images of one group both into the test part and into another.
  """
  check_protocol(name, protocol, fractions)
  if protocol == "official" and not (table.split != "").any():
    raise UserError(
      f"{name} has no official splits; it has: {', '.join((*tables.published_protocols(name), 'folds'))}."
    )
  if protocol == "folds":
    groups = _groups(table, group)
    return np.stack([_fold(groups, fractions, np.random.default_rng((seed, k))) for k in range(num_splits)])
  if protocol == "official":
    return _official(table, name, _groups(table, group), num_splits, seed)
  texts = tables.rows(protocol, name.partition("/")[0], table.image_name.tolist()).splits
  return np.array([[int(part.replace("-", str(UNUSED))) for part in text] for text in texts], np.int8).T[:num_splits]


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


def check_protocol(name, protocol, fractions=FRACTIONS):
  """Raises a UserError for arguments of `assign` that no database of this name can meet; opens nothing."""
  if protocol not in PROTOCOLS:
    raise UserError(f"no split protocol is called {protocol!r}; known: {', '.join(PROTOCOLS)}.")
  published = tables.published_protocols(name)
  if protocol not in ("official", "folds", *published):
    known = ", ".join((*published, "folds"))
    raise UserError(f"{name} has no {protocol} splits; it has: {known}, and official where its release has parts.")
  shares = np.asarray(fractions, float)
  possible = shares.shape == (3,) and (shares >= 0).all() and 0 < shares.sum() < np.inf
  if protocol == "folds" and not possible:
    raise UserError(
      f"the fractions are {tuple(fractions)}; expected the shares of train, validation and test: three numbers of at "
      "least 0, not all of them 0."
    )


def checksum(table, assignment):
  """16 hexadecimal digits for an assignment, [n] or [k, n]; the order of the records does not change them."""
  order = np.argsort(table.image_name.to_numpy(dtype=str), kind="stable")
  lines = zip(table.image_name.iloc[order], np.atleast_2d(assignment).T[order].tolist(), strict=True)
  return hashlib.sha256("\n".join(f"{image} {parts}" for image, parts in lines).encode()).hexdigest()[:16]


def _groups(table, group):
  """[n] str: what must not be torn apart; an image without a reference is a group by itself."""
  content = table[group].to_numpy(dtype=str)
  return np.where(content == "", table.image_name.to_numpy(dtype=str), content)


def _fold(groups, fractions, rng):
  names, member = np.unique(groups, return_inverse=True)
  if len(names) < 3:
    raise UserError(f"{len(names)} distinct contents cannot be divided into train, validation and test.")
  train, validation, _ = np.asarray(fractions) / np.sum(fractions)
  cuts = np.round(np.array([train, train + validation]) * len(names)).astype(int)
  # Every part that has a share gets something, however few the groups.
  least = (np.asarray(fractions) > 0).astype(int)
  cuts = np.clip(cuts, np.cumsum(least)[:2], len(names) - np.cumsum(least[::-1])[1::-1])
  parts = np.empty(len(names), np.int8)
  for part, chosen in enumerate(np.split(rng.permutation(len(names)), cuts)):
    parts[chosen] = part
  return parts[member]


def _official(table, name, groups, num_splits, seed):
  known = {"train": TRAIN, "validation": VALIDATION, "test": TEST, "": UNUSED}
  parts = table.split.map(known).to_numpy(np.int8)
  fitted = np.isin(parts, (TRAIN, VALIDATION))
  if len(torn := np.intersect1d(groups[parts == TEST], groups[fitted])):
    of = groups == torn[0]
    first, second = (table.image_name[of & part].iloc[0] for part in (parts == TEST, fitted))
    raise UserError(
      f"{name}: {len(torn)} content(s) stand both in the test part and in training or validation, the first is "
      f"{str(torn[0])!r} ({first} is tested, {second} is not); put all images of a content into one part of the column "
      "split, or divide them anew by the protocol 'folds'."
    )
  if (parts == VALIDATION).any():
    return parts[None]
  names = np.unique(groups[parts == TRAIN])
  if len(names) == 1:
    raise UserError(f"{name}: its training part shows one content alone: nothing can be set aside to validate.")
  splits = np.repeat(parts[None], num_splits, axis=0)
  for k, split in enumerate(splits):
    rng = np.random.default_rng((seed, k))
    set_aside = rng.permutation(names)[: max(1, round(len(names) * SET_ASIDE))]
    split[(parts == TRAIN) & np.isin(groups, set_aside)] = VALIDATION
  return splits
