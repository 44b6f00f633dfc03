"""The folder of a run, on a disk or in a bucket (gs://), and whose it is."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile

from etils import epath

from jiqa.errors import UserError
from jiqa.runtime.distributed import is_main, on_main
from jiqa.runtime.lock import Lock

# May change between the runs on one workdir: they do not change what is trained, but see `_fixed`.
FREE_KEYS = (
  "checkpoint_every",
  "checkpoints_kept",
  "log_every",
  "threads",
  "data_dir",
  "evaluation",
  "sharding",
  "remat",
  "features",  # these two: of heads, which every run fits anew
  "regressors",
)
# Written by libraries that know buckets themselves.
_ELSEWHERE = ("checkpoints", "best", "compiled", "lock.json")


class Workdir:
  """Small files go to `local`; checkpoints go to `remote`, which is the same folder unless the run lives in a bucket.

  Objects of a bucket cannot be appended to, and figures are drawn to files; so a run in a bucket writes to a temporary
  folder, which `sync` copies at every checkpoint and at the end.

  Args:
    path: a folder, or gs://BUCKET/FOLDER.

  Attributes:
    remote: epath.Path, or pathlib.Path.
    local: pathlib.Path.
  """

  def __init__(self, path):
    if is_bucket(path):
      self.remote = epath.Path(os.fspath(path))
      self.local = pathlib.Path(tempfile.mkdtemp(prefix="jiqa_workdir_"))
      _copy(self.remote, self.local)
    else:
      self.remote = self.local = pathlib.Path(path).absolute()

  @property
  def in_bucket(self):
    """True if `local` is a copy."""
    return self.remote != self.local

  def sync(self):
    """Copies what the main process has written to the bucket; nothing to do on a disk."""
    if self.in_bucket and is_main():
      _copy(self.local, self.remote)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.sync()
    if self.in_bucket:
      shutil.rmtree(self.local)


def is_bucket(path):
  """True for gs://BUCKET/... and the like.

  Example:
    >>> is_bucket("gs://mine/run"), is_bucket("runs/mine")
    (True, False)
  """
  return "://" in os.fspath(path)


def _copy(source, target):
  """Copies files that the target lacks or that have another length; files of a run only grow or are written anew."""
  if not source.is_dir():
    return
  for path in source.iterdir():
    if path.name.startswith(_ELSEWHERE):
      continue
    if path.is_dir():
      _copy(path, target / path.name)
      continue
    content, there = path.read_bytes(), target / path.name
    if not there.exists() or there.read_bytes() != content:
      target.mkdir(parents=True, exist_ok=True)
      there.write_bytes(content)


def check(config, workdir):
  """Refuses a workdir in which another config, or other data, has trained.

  Args:
    config: dict of plain values, as config.json holds them.
    workdir: pathlib.Path.

  Raises:
    UserError: naming every key that differs, its value then and now.
  """
  path = workdir / "config.json"
  if not path.exists():
    return
  found, wanted = _fixed(json.loads(path.read_text())), _fixed(config)
  changed = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
  if changed:
    lines = "; ".join(f"{key} was {found.get(key)!r}, is {wanted.get(key)!r}" for key in changed)
    raise UserError(f"{path}: this run was started with another config: {lines}. Choose another --workdir.")


def _fixed(config):
  """What decides what a run trains on and how."""
  fixed = {key: value for key, value in config.items() if key not in FREE_KEYS}
  if any(entry.get("protocol") for entry in config.get("data", ())):
    # They also choose the images that are kept out of the training.
    evaluation = config.get("evaluation", {})
    fixed |= {f"evaluation.{key}": evaluation.get(key) for key in ("splits", "fractions")}
  return fixed


@contextlib.contextmanager
def claim(folder, config):
  """Keeps other runs out of a workdir and records the config in a new one; the main process does it for all.

  Args:
    folder: Workdir.
    config: as for `check`.

  Yields:
    Lock.

  Raises:
    UserError: see `check` and `Lock`.
  """
  lock = Lock(folder.remote)
  on_main(lambda: check(config, folder.local))  # first, so that nothing is written for a run that is refused
  with contextlib.ExitStack() as stack:
    on_main(lambda: stack.enter_context(lock))
    on_main(lambda: _write_config(config, folder.local))
    yield lock


def _write_config(config, workdir):
  check(config, workdir)
  path = workdir / "config.json"
  temporary = path.with_suffix(".tmp")
  temporary.write_text(json.dumps(config, indent=2) + "\n")
  temporary.replace(path)
