"""What is known about every database, as one table."""

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from data_builders import builder_class, make_builder, names
from data_builders.base import default_data_dir
from data_builders.doctor import variants
from jiqa.data.schema import LABELS_FILE
from jiqa.data.schema.tables import published_protocols

HEADERS = {"references": "refs", "direction": "better", "prepared": "here"}  # so that 80 columns are enough
KINDS = ("synthetic", "authentic", "generated", "restored", "unlabelled", "your own")


def catalogue(data_dir=None):
  """What is known about every database, and whether it is prepared.

  Args:
    data_dir: where prepared sets lie; None takes $TFDS_DATA_DIR, else TFDS's ~/tensorflow_datasets.

  Returns:
    DataFrame with one row a variant, ordered by kind: name, images and references (None where not fixed), kind, scale
    (of mos), direction (of the raw score), splits, licence, prepared. Of a kind that the user names, each prepared set
    has a row too.
  """
  data_dir = data_dir or default_data_dir()
  databases = sorted(names(), key=lambda database: KINDS.index(builder_class(database).KIND))
  return pd.DataFrame([_row(name, data_dir) for database in databases for name in _variants(database, data_dir)])


def _variants(database, data_dir):
  if not builder_class(database).USER_NAMED:
    return variants(database)
  folder = make_builder(f"{database}/NAME", data_dir).data_path.parent.parent
  prepared = sorted(path.parent.parent.name for path in folder.glob(f"*/*/{LABELS_FILE}"))
  return [f"{database}/{variant}" for variant in ("NAME", *prepared)]


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
    "prepared": builder.is_prepared,
  }


def print_catalogue(data_dir=None):
  """Prints `catalogue` as a table, the terms below it."""
  rows = catalogue(data_dir)
  terms = rows.pop("licence")
  title = f"databases; prepared sets in {data_dir or default_data_dir()}"
  table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False, collapse_padding=True)
  for column in rows:
    justify = "right" if column in ("images", "references") else "left"
    table.add_column(
      HEADERS.get(column, column), justify=justify, overflow="fold", no_wrap=column not in ("scale", "splits")
    )
  for row in rows.astype(object).itertuples(index=False):
    table.add_row(*map(_cell, row))
  console = Console()
  console.print(table)
  for name, licence in zip(rows.name, terms, strict=True):
    console.print(f"{name}: {licence}", highlight=False)


def _cell(value):
  if isinstance(value, bool):
    return "yes" if value else ""
  if pd.isna(value):
    return ""
  return value if isinstance(value, str) else f"{int(value):,}"
