"""Renaming that a power cut cannot undo by halves."""

import os


def replace(partial, path):
  """Renames a file, or a folder of files, to `path`, a pathlib.Path; a file there is replaced.

  What it holds is on the disk before the new name is, and that is when this returns: after a power cut there is the
  old or the new, whole.
  """
  for part in [*partial.rglob("*"), partial] if partial.is_dir() else [partial]:
    _sync(part)
  os.replace(partial, path)
  _sync(path.parent)


def _sync(path):
  if os.name == "nt":  # where folders cannot be opened
    return
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
