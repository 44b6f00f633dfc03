"""The methods, one folder a paper: `reiqa` is the class in `methods/reiqa/reiqa.py`.

Methods are discovered from their files; those that begin with an underscore support them.
"""

import functools
import importlib
import os
import pathlib
import sys

from ml_collections import ConfigDict

from jiqa.methods.base import Method


@functools.cache
def names():
  """The names that `config.method` may have, found without importing a method: dict from name to module."""
  folder = pathlib.Path(__file__).parent
  files = [path for path in sorted(folder.glob("*/*.py")) if not path.name.startswith("_")]
  return {path.stem: f"{__name__}.{path.parent.name}.{path.stem}" for path in files}


def method_class(name):
  """The class of a method, one of `names()` or "package.module:Class"; a ValueError where there is none."""
  module, _, attribute = name.partition(":")
  if not attribute and name not in names():
    raise ValueError(f'config.method is {name!r}; expected one of {", ".join(names())}, or "package.module:Class"')
  if attribute and os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())  # commands find a method beside which they are started
  try:
    module = importlib.import_module(module if attribute else names()[name])
    defined = [x for x in vars(module).values() if isinstance(x, type) and x.__module__ == module.__name__]
    method = getattr(module, attribute) if attribute else next(x for x in defined if issubclass(x, Method))
  except (ImportError, AttributeError) as error:
    raise ValueError(f"config.method is {name!r}, which cannot be imported ({error})") from error
  if not (isinstance(method, type) and issubclass(method, Method)):
    raise ValueError(f"config.method is {name!r}, which is no subclass of jiqa.methods.base.Method")
  return method


def build_method(config, mesh):
  """The method that a config names; a ValueError where there is none, or it cannot run this config."""
  method = method_class(config.method)
  if method.defaults.keys() - config.keys():
    config = ConfigDict({**method.defaults, **config})
  return method(config, mesh)
