"""Whose a workdir is, on a disk and in a bucket: a bucket in memory stands in for the real one.

Who may work is told by what the holder of a lock does, not by clocks or names.
"""

import json
import os
import platform
import subprocess
import sys
import threading
import time

import jax
import pytest
from etils import epath

from jiqa import train as loop
from jiqa.errors import UserError
from jiqa.inference.loading import read_folder
from jiqa.runtime import workdir as workdirs
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.workdir import LOCK, Lock, Workdir, check, claim
from tests import buckets


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(workdirs, "TOUCH_SECONDS", 0.1)
  monkeypatch.setattr(workdirs, "SILENCE_SECONDS", 1.0)


@pytest.fixture
def bucket():
  buckets.install()
  return epath.Path("gs://bucket/run")


def test_small_files_travel_and_come_back(bucket):
  with Workdir("gs://bucket/run") as folder:
    assert folder.in_bucket and folder.remote == bucket
    (folder.local / "tensorboard").mkdir()
    (folder.local / "tensorboard" / "events").write_bytes(b"1")
    (folder.local / "metrics.jsonl").write_text("one\n")
    (folder.local / "compiled_here").mkdir()
    (folder.local / "compiled_here" / "program").write_bytes(b"0")
    folder.sync()
    assert (bucket / "metrics.jsonl").read_text() == "one\n"
    (folder.local / "metrics.jsonl").write_text("two\n")  # as long as before
  assert (bucket / "metrics.jsonl").read_text() == "two\n" and (bucket / "tensorboard" / "events").exists()
  assert not (bucket / "compiled_here").exists() and not folder.local.exists()
  with Workdir(str(bucket)) as folder:
    assert (folder.local / "metrics.jsonl").read_text() == "two\n"


def test_a_bucket_is_locked_too(bucket):
  with Lock(bucket) as lock:
    lock.check()
    with pytest.raises(UserError, match="works in this --workdir"), Lock(bucket):
      pass
  with Lock(bucket):
    pass


def test_a_run_in_a_bucket_goes_on_where_it_stopped(bucket, brightness_run, monkeypatch, tmp_path):
  config, _ = brightness_run
  # Arrays are written by TensorStore, which knows real buckets only.
  monkeypatch.setattr(loop, "Checkpoints", lambda _, keep: Checkpoints(tmp_path / "checkpoints", keep))
  steps = config.steps
  stop = monkeypatch.setattr(loop.StopNotice, "received", lambda self, step: step == 7)
  assert stop is None and not loop.train(config, str(bucket), jax.devices()[:1])
  assert len((bucket / "metrics.jsonl").read_text().splitlines()) == 7
  monkeypatch.setattr(loop.StopNotice, "received", lambda self, step: False)
  assert loop.train(config, str(bucket), jax.devices()[:1])
  records = [json.loads(line) for line in (bucket / "metrics.jsonl").read_text().splitlines()]
  assert [record["step"] for record in records] == list(range(steps))
  config.seed = 3
  with pytest.raises(UserError, match="seed was 0, is 3"):
    loop.train(config, str(bucket), jax.devices()[:1])


def test_what_may_change_between_the_runs_on_one_workdir(tmp_path):
  begun = {"seed": 0, "log_every": 1, "pixels": 5, "optimizer": {"name": "sgd"}}
  with claim(Workdir(tmp_path), begun):
    pass
  check(begun | {"log_every": 2}, tmp_path)
  check(begun | {"pixels": 6}, tmp_path, free=("pixels",))
  check(begun | {"remat": True}, tmp_path)
  check(begun | {"augment": "none"}, tmp_path, defaults={"augment": "none", "seed": 7})
  for changes, message in {
    "pixels": (begun | {"pixels": 6}, "pixels was 5, is 6"),
    "nested": (begun | {"optimizer": {"name": "lars"}}, "optimizer was {'name': 'sgd'}, is {'name': 'lars'}"),
    "new": (begun | {"augment": "all"}, "augment was 'none', is 'all'"),
  }.values():
    with pytest.raises(UserError, match=f"started with another config: {message}"):
      with claim(Workdir(tmp_path), changes, defaults={"augment": "none"}):
        pass
  with pytest.raises(UserError, match="augment was None, is 'all'"):  # the user has set what the run did not know
    check(begun | {"augment": "all"}, tmp_path)
  with pytest.raises(UserError, match="pixels was 5, is None"):
    check({key: value for key, value in begun.items() if key != "pixels"}, tmp_path)
  assert json.loads((tmp_path / "config.json").read_text()) == begun and not (tmp_path / LOCK).exists()


def write_lock(folder, host, pid, turn=1):
  folder.joinpath(LOCK).write_text(json.dumps({"host": host, "pid": pid, "token": "other", "turn": turn}))


def test_a_second_run_is_refused_and_the_first_goes_on(tmp_path):
  with Lock(tmp_path) as first:
    with pytest.raises(UserError, match=rf"process {os.getpid()} on .* works in this --workdir"), Lock(tmp_path):
      pass
    first.check()
  assert not (tmp_path / LOCK).exists()
  with Lock(tmp_path):
    assert (tmp_path / LOCK).exists()


def test_the_lock_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path):
  gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
  write_lock(tmp_path, workdirs.platform.node(), int(gone.stdout))
  start = time.monotonic()
  with Lock(tmp_path):
    assert time.monotonic() - start < 0.5
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


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
    monkeypatch.setattr(workdirs.platform, "node", lambda: "renamed")
    monkeypatch.setattr(workdirs.time, "time", lambda: 0.0)
    os.utime(tmp_path / LOCK, (0, 0))
    time.sleep(0.3)
    lock.check()
    with pytest.raises(UserError, match="works in this"), Lock(tmp_path):
      pass


def test_a_run_that_stood_still_notices_that_it_was_replaced(tmp_path):
  with Lock(tmp_path) as lock:
    write_lock(tmp_path, "elsewhere", 1)
    with pytest.raises(UserError, match="took over while this run stood still"):
      lock.check()
  assert json.loads((tmp_path / LOCK).read_text())["host"] == "elsewhere"  # not removed: it is not ours


@pytest.mark.parametrize("text", ["", "{", '{"host": "x"}'])
def test_half_a_lock_is_none(tmp_path, text):
  (tmp_path / LOCK).write_text(text)
  with Lock(tmp_path) as lock:
    lock.check()


@pytest.mark.parametrize("text", ["7", "[]", "null", '"x"', '{"host": 3}', "{", "\udcff", '{"host": null, "pid": "x"}'])
def test_a_lock_that_says_nothing_is_nobodys(tmp_path, text):
  (tmp_path / LOCK).write_bytes(text.encode("utf-8", "surrogateescape"))
  with Lock(tmp_path) as lock:
    lock.check()


@pytest.mark.parametrize("pid", [10**30, "x", -1.5])
def test_a_lock_of_an_impossible_process_is_nobodys(tmp_path, pid):
  holder = {"host": platform.node(), "pid": pid, "token": "t", "turn": 1}
  (tmp_path / LOCK).write_text(json.dumps(holder))
  with Lock(tmp_path) as lock:
    lock.check()


@pytest.mark.parametrize("text", ['{"seed": 1, "da', "", "7", "[" * 10_000, "\udcff"])
def test_a_damaged_config_is_named(tmp_path, text):
  (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
  for reads in (lambda: check({"seed": 1}, tmp_path), lambda: read_folder(tmp_path)):
    with pytest.raises(UserError, match=r"config\.json: is damaged.*another --workdir"):
      reads()
