"""One run a workdir: a lock file that says who holds it, and that its holder keeps touching.

Whether a holder still lives is told by its touches alone, never by clocks, which differ between machines and jump; only
a process of this machine that is gone is recognised at once.
"""

import json
import os
import platform
import sys
import threading
import time
import uuid

from jiqa.errors import UserError

NAME = "lock.json"
TOUCH_SECONDS = 2
# A holder that has not touched the file for so long, as this process counts, is dead. Network file systems show a touch
# late.
SILENCE_SECONDS = 30


class Lock:
  """Keeps a second run out of a workdir while this one goes on.

  Args:
    workdir: pathlib.Path or epath.Path; created if absent.

  Raises:
    UserError: on entering, if another run holds the workdir.
  """

  def __init__(self, workdir):
    self._path = workdir / NAME
    self._self = {"host": platform.node(), "pid": os.getpid(), "token": uuid.uuid4().hex}
    self._turns, self._ended = 0, threading.Event()

  def __enter__(self):
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._wait_for_silence()
    self._touch()
    # Of two that take over at once the one whose file is there in the end has won.
    time.sleep(0.1)
    if not self.held():
      raise UserError(self._refusal(self._read()))
    self._thread = threading.Thread(target=self._keep_touching, name="lock", daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *_):
    self._ended.set()
    self._thread.join()
    if self.held():
      self._path.unlink(missing_ok=True)

  def held(self):
    """True while the workdir is still this run's; another may have taken it over if this one stood still."""
    found = self._read()
    return found is not None and found["token"] == self._self["token"]

  def check(self):
    """Raises UserError if another run has taken the workdir over."""
    if not self.held():
      raise UserError(f"{self._refusal(self._read())} It took over while this run stood still.")

  def _wait_for_silence(self):
    holder = self._read()
    if holder is None or self._is_gone(holder):
      return
    deadline = time.monotonic() + SILENCE_SECONDS
    print(f"{self._path}: held by {_who(holder)}; waiting to see whether it lives", file=sys.stderr)
    while time.monotonic() < deadline:
      time.sleep(0.25)
      now = self._read()
      if now is None or self._is_gone(now):
        return
      if now != holder:
        raise UserError(self._refusal(now))
    print(f"{self._path}: {_who(holder)} has been silent for {SILENCE_SECONDS} s; taking over", file=sys.stderr)

  def _refusal(self, holder):
    who = "another run" if holder is None else _who(holder)
    return f"{self._path}: {who} works in this --workdir. Wait for it, stop it, or choose another --workdir."

  def _is_gone(self, holder):
    if holder["host"] != self._self["host"]:
      return False
    try:
      os.kill(holder["pid"], 0)
    except ProcessLookupError:
      return True
    except PermissionError:
      return False
    return False

  def _read(self):
    """What the file says; None if there is no lock, or half of one that a crash has left."""
    try:
      found = json.loads(self._path.read_text())
    except (FileNotFoundError, ValueError):
      return None
    return found if {"host", "pid", "token", "turn"} <= set(found) else None

  def _touch(self):
    self._turns += 1
    text = json.dumps(self._self | {"turn": self._turns}) + "\n"
    if isinstance(self._path, os.PathLike) and "://" not in str(self._path):
      temporary = self._path.with_name(f"{NAME}.{self._self['token']}")
      temporary.write_text(text)
      temporary.replace(self._path)
    else:  # objects of a bucket appear whole
      self._path.write_text(text)

  def _keep_touching(self):
    while not self._ended.wait(TOUCH_SECONDS):
      try:
        if not self.held():
          return  # `check` says so at the next checkpoint
        self._touch()
      except OSError:
        continue  # a full disk is for the checkpoint to report


def _who(holder):
  return f"process {holder['pid']} on {holder['host']}"
