"""What has to be settled before jax is imported by a command."""

import os
import pathlib
import platform


def cache():
  """The folder for what can be made again."""
  return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jiqa"


def prepare():
  """Lets later commands find the programs of this one compiled; what the environment says stays.

  Programs for CPUs fit one kind of CPU only, so each host has its own folder.
  """
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache() / f"compiled_{platform.node()}"))
