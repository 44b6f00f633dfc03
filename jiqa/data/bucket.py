"""Prepared sets in a bucket: copied to this host when they are first opened, since ArrayRecord reads local files."""

import os
import pathlib
import shutil
import sys
import tempfile

from etils import epath


def at_hand(name, data_dir):
  """Where a set can be read on this host.

  Args:
    name: the set, such as "koniq10k/512x384".
    data_dir: where prepared sets lie: a folder, which is returned as it is, gs://BUCKET/FOLDER, or None.

  Returns:
    data_dir, or for a bucket the folder below $JIQA_CACHE (else ~/.cache/jiqa) that now holds a copy of the set.
  """
  if data_dir is None or "://" not in os.fspath(data_dir):
    return data_dir
  cache = pathlib.Path(os.environ.get("JIQA_CACHE") or "~/.cache/jiqa").expanduser()
  folder = cache / os.fspath(data_dir).replace("://", "/").strip("/")
  source, target = epath.Path(os.fspath(data_dir)) / name, folder / name
  if target.exists() or not source.exists():
    return folder
  print(f"{name}: copying {source} to {target}", file=sys.stderr)
  target.parent.mkdir(parents=True, exist_ok=True)
  # Under a name of its own until it is whole; of several processes on a host the first to finish gives the set.
  unfinished = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}_", dir=target.parent))
  try:
    _copy(source, unfinished)
    unfinished.rename(target)
  except OSError:
    if not target.exists():
      raise
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)
  return folder


def _copy(source, target):
  for path in source.iterdir():
    if path.is_dir():
      (target / path.name).mkdir()
      _copy(path, target / path.name)
    else:
      with path.open("rb") as there, open(target / path.name, "wb") as here:
        shutil.copyfileobj(there, here, 2**24)
