"""Writing and renaming that a power cut cannot undo by halves."""

import os
import uuid


def write(path, data):
  """Writes bytes to a file, a pathlib.Path, that is then whole or as it was before, whoever else writes it."""
  partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.new")
  try:
    partial.write_bytes(data)
    replace(partial, path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise


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
