"""Prepared sets in an object store: copied to this host when they are first opened; ArrayRecord reads local files."""

import os
import pathlib
import shutil
import sys
import uuid

import fsspec

from jiqa.errors import UserError


def local_data_dir(name, data_dir):
  """The data_dir on this host in which the set `name` ("koniq10k/512x384/1.0.0") can be read.

  For an address (gs://BUCKET/FOLDER): the folder below $JIQA_CACHE, else ~/.cache/jiqa, that now holds a copy.
  """
  if data_dir is None or "://" not in os.fspath(data_dir):
    return data_dir
  cache = pathlib.Path(os.environ.get("JIQA_CACHE") or "~/.cache/jiqa").expanduser()
  folder = cache / os.fspath(data_dir).replace("://", "/").strip("/")
  target = folder / name
  address = f"{os.fspath(data_dir).rstrip('/')}/{name}"
  try:
    store, source = fsspec.url_to_fs(address)
  except (ImportError, ValueError) as error:  # the store's package is not installed, or there is no such store
    raise UserError(f"{address}: cannot be opened ({error})") from error
  if target.exists() or not store.exists(source):
    return folder
  print(f"{name}: copying {address} to {target}", file=sys.stderr)
  target.parent.mkdir(parents=True, exist_ok=True)
  # Under another name until it is whole; of several processes on a host the first to finish gives the set.
  unfinished = target.with_name(f".{target.name}_{uuid.uuid4().hex}")
  try:
    store.get(f"{source}/", f"{unfinished}/", recursive=True)
    unfinished.rename(target)
  except OSError:
    if not target.exists():
      raise
  finally:
    shutil.rmtree(unfinished, ignore_errors=True)
  return folder
