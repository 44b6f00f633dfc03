"""What is known about every database, as one table."""

import pathlib

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

import data_builders
from data_builders.base import LABELS_FILE
from data_builders.prepare import default_data_dir, make_builder
from jiqa.data.splits import published_protocols


def catalogue(data_dir=None):
  """What is known about every database, and whether it is prepared.

  Args:
    data_dir: where prepared sets lie; None takes $TFDS_DATA_DIR, else TFDS's ~/tensorflow_datasets.

  Returns:
    DataFrame with one row a variant: name, images and references (None where not fixed), kind, scale (of mos),
    direction (of the raw score), splits, licence, prepared. Sets of the user's own stand there once, and once more for
    each prepared one.
  """
  data_dir = pathlib.Path(data_dir or default_data_dir())
  return pd.DataFrame([_row(name, data_dir) for database in data_builders.NAMES for name in _names(database, data_dir)])


def _names(database, data_dir):
  cls = data_builders.builder_class(database)
  if cls.OWN_NAME:
    own = sorted(path.parent.parent.name for path in (data_dir / database).glob(f"*/*/{LABELS_FILE}"))
    return [f"{database}/NAME", *(f"{database}/{name}" for name in own)]
  return [f"{database}/{config.name}" for config in cls.BUILDER_CONFIGS] or [database]


def _row(name, data_dir):
  builder = make_builder(name, data_dir)
  low, high = builder.mos_range()
  official = ("official",) if builder.OFFICIAL_SPLIT else ()
  return {
    "name": name,
    "images": builder.IMAGES,
    "references": builder.REFERENCES,
    "kind": builder.KIND,
    "scale": f"{low:.4g}..{high:.4g}" if builder.SCORE and np.isfinite([low, high]).all() else "",
    "direction": builder.DIRECTION if builder.SCORE else "",
    "splits": ", ".join([*official, *published_protocols(name), "folds"]),
    "licence": builder.LICENCE,
    "prepared": (pathlib.Path(builder.data_dir) / LABELS_FILE).exists(),
  }


def print_catalogue(data_dir=None):
  """Prints `catalogue` as a table, the terms below it."""
  rows = catalogue(data_dir)
  terms = rows.pop("licence")
  table = Table(
    title=f"databases; prepared sets in {data_dir or default_data_dir()}", box=box.SIMPLE, padding=(0, 1, 0, 0)
  )
  for column in rows:
    justify = "right" if column in ("images", "references") else "left"
    table.add_column(column, justify=justify, overflow="fold", no_wrap=column in ("name", "kind"))
  for row in rows.astype(object).itertuples(index=False):
    table.add_row(*(_cell(value) for value in row))
  console = Console()
  console.print(table)
  for name, licence in zip(rows.name, terms, strict=True):
    console.print(f"{name}: {licence}", highlight=False)


def _cell(value):
  if isinstance(value, bool):
    return "yes" if value else ""
  if value is None or value != value:
    return ""
  return value if isinstance(value, str) else f"{int(value):,}"
