"""One file per database: what its official release looks like, what its numbers mean, and how to get it.

Every file here with a class `Builder` is a database. Importing this package registers them with TFDS, so that
`tfds.builder("koniq10k")` works; a file is imported when its database is first asked for.
"""

import difflib
import functools
import importlib
import pathlib

from tensorflow_datasets.core import registered

from jiqa.errors import UserError


@functools.cache
def names():
  """The names of all databases, in alphabetical order."""
  files = sorted(pathlib.Path(__file__).parent.glob("*.py"))
  return tuple(file.stem for file in files if file.stem != "base" and "\nclass Builder(" in file.read_text("utf-8"))


def builder_class(name):
  """The builder class of a database.

  Args:
    name: one of `names()`, with or without a variant ("koniq10k", "koniq10k/512x384").

  Returns:
    A subclass of `data_builders.base.Builder`.

  Raises:
    UserError: unknown name; says the nearest one.
  """
  database = name.partition("/")[0]
  if database not in names():
    near = difflib.get_close_matches(database, names(), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"no database is called {database!r}; {hint}Known: {', '.join(names())}.")
  return importlib.import_module(f"data_builders.{database}").Builder


def make_builder(name, data_dir=None):
  """The TFDS builder of a database or of one of its variants; nothing is read or written yet.

  Args:
    name: "koniq10k", "koniq10k/512x384"; for a set of the user's own "image_folder/NAME".
    data_dir: where prepared sets lie; None takes $TFDS_DATA_DIR, else ~/tensorflow_datasets.

  Returns:
    A `data_builders.base.Builder`.

  Raises:
    UserError: no such database or variant.
  """
  return builder_class(name)(data_dir=data_dir, config=name.partition("/")[2] or None)


class _Provider:
  """What TFDS asks for builders; before its own catalogue, which has an imagenet2012 too."""

  def has_dataset(self, name):
    return name in names()

  def get_builder_cls(self, name):
    return builder_class(name)


registered.add_dataset_builder_provider(_Provider(), index=0)
