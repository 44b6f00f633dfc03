"""The methods by the name a config gives them; each is imported when it is asked for."""

import importlib

METHODS = {
  "reiqa": "jiqa.methods.reiqa:ReIQA",
  "reiqa_content": "jiqa.methods.reiqa_content:ReIQAContent",
  "lml": "jiqa.methods.lml:LML",
  "liqe": "jiqa.methods.liqe:LIQE",
}


def build_method(config, shards):
  """The method that a config names.

  Args:
    config: ConfigDict with `method` and whatever that method reads.
    shards: number of devices of the mesh.

  Returns:
    see methods/base.py.

  Raises:
    ValueError: if there is no such method, or it cannot run this config.
  """
  if config.method not in METHODS:
    raise ValueError(f"config.method is {config.method!r}; expected one of {', '.join(METHODS)}")
  module, _, name = METHODS[config.method].partition(":")
  return getattr(importlib.import_module(module), name)(config, shards)
