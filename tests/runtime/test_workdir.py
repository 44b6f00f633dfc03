"""A run whose folder is a bucket: a bucket in memory stands in for the real one."""

import json

import jax
import pytest
from etils import epath

from jiqa import train as loop
from jiqa.errors import UserError
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.lock import Lock
from jiqa.runtime.workdir import Workdir
from tests import buckets


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
