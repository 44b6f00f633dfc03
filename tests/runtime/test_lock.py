"""Two runs on one workdir: who may work, told by what the holder does and not by clocks or names."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from jiqa.errors import UserError
from jiqa.runtime import lock as locks
from jiqa.runtime.lock import NAME, Lock


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(locks, "TOUCH_SECONDS", 0.1)
  monkeypatch.setattr(locks, "SILENCE_SECONDS", 1.0)


def write_lock(folder, host, pid, turn=1):
  folder.joinpath(NAME).write_text(json.dumps({"host": host, "pid": pid, "token": "other", "turn": turn}))


def test_a_second_run_is_refused_and_the_first_goes_on(tmp_path):
  with Lock(tmp_path) as first:
    with pytest.raises(UserError, match=rf"process {os.getpid()} on .* works in this --workdir"), Lock(tmp_path):
      pass
    first.check()
  assert not (tmp_path / NAME).exists()
  with Lock(tmp_path):
    assert (tmp_path / NAME).exists()


def test_the_lock_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path):
  gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
  write_lock(tmp_path, locks.platform.node(), int(gone.stdout))
  start = time.monotonic()
  with Lock(tmp_path):
    assert time.monotonic() - start < 0.5
    assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


def test_another_host_is_judged_by_its_touches(tmp_path, capsys):
  write_lock(tmp_path, "preempted", 1)
  start = time.monotonic()
  with Lock(tmp_path):
    assert time.monotonic() - start > 1.0
  assert "silent for 1.0 s; taking over" in capsys.readouterr().err

  ended = threading.Event()

  def live():
    turn = 1
    while not ended.wait(0.1):
      turn += 1
      write_lock(tmp_path, "elsewhere", 1, turn)

  write_lock(tmp_path, "elsewhere", 1)
  other = threading.Thread(target=live)
  other.start()
  try:
    with pytest.raises(UserError, match="process 1 on elsewhere"), Lock(tmp_path):
      pass
  finally:
    ended.set()
    other.join()


def test_a_run_whose_name_or_clock_changes_keeps_its_lock(tmp_path, monkeypatch):
  with Lock(tmp_path) as lock:
    monkeypatch.setattr(locks.platform, "node", lambda: "renamed")
    monkeypatch.setattr(locks.time, "time", lambda: 0.0)
    os.utime(tmp_path / NAME, (0, 0))
    time.sleep(0.3)
    lock.check()
    with pytest.raises(UserError, match="works in this"), Lock(tmp_path):
      pass


def test_a_run_that_stood_still_notices_that_it_was_replaced(tmp_path):
  with Lock(tmp_path) as lock:
    write_lock(tmp_path, "elsewhere", 1)
    with pytest.raises(UserError, match="took over while this run stood still"):
      lock.check()
  assert json.loads((tmp_path / NAME).read_text())["host"] == "elsewhere"  # not removed: it is not ours


@pytest.mark.parametrize("text", ["", "{", '{"host": "x"}'])
def test_half_a_lock_is_none(tmp_path, text):
  (tmp_path / NAME).write_text(text)
  with Lock(tmp_path) as lock:
    lock.check()
