"""The folder of a run, on a disk or in a bucket (gs://), and whose it is."""

import contextlib
import json
import os
import pathlib
import platform
import sys
import tempfile
import threading
import time
import uuid

from etils import epath

from jiqa import durable
from jiqa.errors import UserError
from jiqa.runtime.distributed import is_main, on_main

# May change between runs on one workdir: what is trained stays the same, but see `check`. The last two are of heads,
# which every run fits anew.
FREE_KEYS = (
  "checkpoint_every", "checkpoints_kept", "log_every", "threads", "data_dir", "evaluation", "sharding", "remat",
  "damaged_records", "features", "regressors",
)  # fmt: skip
LOCK = "lock.json"
# Beginnings of what libraries that know buckets write themselves, or what is of one machine alone.
_NOT_COPIED = ("checkpoints", "best", "compiled", LOCK)
TOUCH_SECONDS = 2
# A lock that has not been touched for so long, as this process counts, is that of a dead run. Network file systems show
# a touch late.
SILENCE_SECONDS = 30


def is_bucket(path):
  """True for gs://BUCKET/... and the like."""
  return "://" in os.fspath(path)


def as_path(path):
  """An absolute pathlib.Path, in a bucket an epath.Path."""
  return epath.Path(os.fspath(path)) if is_bucket(path) else pathlib.Path(path).resolve()


def replace_text(path, text):
  """Writes a text file that readers see whole or not at all; objects of a bucket appear whole anyway."""
  path.write_text(text) if is_bucket(path) else durable.write(path, text.encode())


class Workdir(contextlib.ExitStack):
  """Small files go to `local`; checkpoints go to `remote`, which is the same folder unless the run lives in a bucket.

  Objects of a bucket cannot be appended to. So a run there writes to a temporary folder, which `sync` copies at every
  checkpoint and at the end.
  """

  def __init__(self, path):
    super().__init__()
    self.remote = self.local = as_path(path)
    self.in_bucket = is_bucket(path)
    if self.in_bucket:
      self.local = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory(prefix="jiqa_workdir_")))
      _copy(self.remote, self.local)
      self.callback(self.sync)

  def sync(self):
    """Copies what the main process has written to the bucket; nothing to do on a disk."""
    if self.in_bucket and is_main():
      _copy(self.local, self.remote)


def _copy(source, target):
  """Copies the files of a run that the target lacks or has otherwise."""
  for path in source.iterdir() if source.is_dir() else ():
    copy = target / path.name
    if path.name.startswith(_NOT_COPIED):
      continue
    if path.is_dir():
      _copy(path, copy)
    elif not copy.exists() or copy.read_bytes() != path.read_bytes():
      target.mkdir(parents=True, exist_ok=True)
      copy.write_bytes(path.read_bytes())


def read_config(path):
  """What config.json of a run holds, a dict; a UserError where it is damaged."""
  try:
    config = json.loads(path.read_text())
    if not isinstance(config, dict):
      raise ValueError(f"it holds a {type(config).__name__}")
  except (ValueError, RecursionError) as error:
    advice = "put back a copy of it, or delete the run and start it in another --workdir"
    raise UserError(f"{path}: is damaged ({error}); {advice}") from error
  return config


def check(config, workdir, free=(), defaults=()):
  """Raises a UserError, which names every change, for a workdir in which another config or other data have trained.

  `config` is a dict of plain values, as config.json holds them; keys in `free` may differ besides FREE_KEYS, such as
  those that only predictions read; `defaults` says what was done before there was a key, for a file that lacks it.
  """

  def fixed(config):
    values = dict(defaults) | config
    if any(entry.get("protocol") for entry in values.get("data", ())):
      # They also choose the images that are kept out of the training.
      values |= {f"evaluation.{key}": values.get("evaluation", {}).get(key) for key in ("splits", "fractions")}
    return {key: value for key, value in values.items() if key not in {*FREE_KEYS, *free}}

  if (path := workdir / "config.json").exists():
    was, now = fixed(read_config(path)), fixed(config)
    if changed := sorted(key for key in {*now, *was} if now.get(key) != was.get(key)):
      lines = "; ".join(f"{key} was {was.get(key)!r}, is {now.get(key)!r}" for key in changed)
      raise UserError(f"{path}: this run was started with another config: {lines}. Choose another --workdir.")


@contextlib.contextmanager
def claim(folder, config, defaults=()):
  """Keeps other runs out of a Workdir and records the config in it; yields the Lock.

  Raises a UserError, on all processes, if another run holds the workdir or `check` refuses it.
  """
  lock = Lock(folder.remote)

  def take():
    check(config, folder.local, defaults=defaults)  # first, so that nothing is written for a run that is refused
    stack.enter_context(lock)
    check(config, folder.local, defaults=defaults)
    replace_text(folder.local / "config.json", json.dumps(config, indent=2) + "\n")

  with contextlib.ExitStack() as stack:
    on_main(take)
    yield lock


class Lock:
  """Keeps a second run out of a workdir: a file that says who holds it. Entering raises a UserError if that run lives.

  Its touches of the file tell, never clocks, which differ between machines and jump; only a process of this machine
  that is gone is recognised at once.
  """

  def __init__(self, workdir):
    self._path, self._ended = workdir / LOCK, threading.Event()
    self._run = {"host": platform.node(), "pid": os.getpid(), "token": uuid.uuid4().hex, "turn": 0}

  def __enter__(self):
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._wait_for_silence()
    self._touch()
    time.sleep(0.1)  # of two that take over at once the one whose file is there in the end has won
    self.check("")
    self._thread = threading.Thread(target=self._keep_touching, name="lock", daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *_):
    self._ended.set()
    self._thread.join()
    if self._is_held():
      self._path.unlink(missing_ok=True)

  def check(self, more=" It took over while this run stood still."):
    """Raises a UserError if another run has taken the workdir over."""
    if not self._is_held():
      self._refuse(more)

  def _wait_for_silence(self):
    holder, deadline = self._holder(), time.monotonic() + SILENCE_SECONDS
    if holder is None:
      return
    print(f"{self._path}: held by {_who(holder)}; waiting to see whether it lives", file=sys.stderr)
    while time.monotonic() < deadline:
      time.sleep(0.25)
      now = self._holder()
      if now is None:
        return
      if now != holder:
        self._refuse()
    print(f"{self._path}: {_who(holder)} has been silent for {SILENCE_SECONDS} s; taking over", file=sys.stderr)

  def _refuse(self, more=""):
    advice = f"Wait for it, stop it, or choose another --workdir.{more}"
    raise UserError(f"{self._path}: {_who(self._holder())} works in this --workdir. {advice}")

  def _holder(self):
    """What the file says; None if there is none, half of one, or its process was one of this machine and is gone."""
    try:
      holder = json.loads(self._path.read_text())
      host, pid, _, _ = (holder[key] for key in ("host", "pid", "token", "turn"))
      if host == self._run["host"]:
        with contextlib.suppress(PermissionError):  # another user's process
          os.kill(pid, 0)
    except (FileNotFoundError, ValueError, TypeError, KeyError, OverflowError, ProcessLookupError):
      return None
    return holder

  def _is_held(self):
    return (self._holder() or {}).get("token") == self._run["token"]

  def _touch(self):
    self._run["turn"] += 1
    replace_text(self._path, json.dumps(self._run) + "\n")

  def _keep_touching(self):
    while not self._ended.wait(TOUCH_SECONDS):
      with contextlib.suppress(OSError):  # a full disk is for the checkpoint to report
        if not self._is_held():
          return  # `check` says so at the next checkpoint
        self._touch()


def _who(holder):
  return f"process {holder['pid']} on {holder['host']}" if holder else "another run"
