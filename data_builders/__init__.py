"""One file per database: what its official release looks like, what its numbers mean, and how to get it.

`NAMES` lists them; `builder_class(name)` loads one.
"""

import difflib
import importlib

from jiqa.errors import UserError

NAMES = (
  "live",
  "csiq",
  "tid2013",
  "kadid10k",
  "clive",
  "koniq10k",
  "bid",
  "spaq",
  "flive",
  "pipal",
  "agiqa3k",
  "biq2021",
  "kadis700k",
  "imagenet2012",
  "image_folder",
  "csv",
  "demo",
)


def builder_class(name):
  """The builder class of a database.

  Args:
    name: one of NAMES, with or without a variant ("koniq10k", "koniq10k/512x384").

  Returns:
    A subclass of `data_builders.base.Builder`.

  Raises:
    UserError: unknown name; says the nearest one.
  """
  database = name.partition("/")[0]
  if database not in NAMES:
    near = difflib.get_close_matches(database, NAMES, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"no database is called {database!r}; {hint}Known: {', '.join(NAMES)}.")
  return importlib.import_module(f"data_builders.{database}").Builder
