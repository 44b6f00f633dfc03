"""Interrupted, killed, out of disk, twice at once: a set is complete or not there, and the same command goes on."""

import concurrent.futures
import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from data_builders import demo, shards
from data_builders.prepare import main, prepare
from jiqa.data.source import open_database
from jiqa.errors import UserError
from tests.data_builders import dummy_trees

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def kadid(tmp_path):
  dummy_trees.kadid10k(tmp_path / "release")
  return tmp_path / "release/kadid10k"


def _files(data_dir):
  return [path for path in data_dir.rglob("*") if path.is_file()]


def test_read_only_data_dir(kadid, tmp_path, monkeypatch):
  data_dir = tmp_path / "prepared"
  data_dir.mkdir(mode=0o555)
  if os.access(data_dir, os.W_OK):  # root may write everywhere; say what the kernel would say to others
    make = os.mkdir

    def refuse(path, *args, **kwargs):
      if pathlib.Path(path).is_relative_to(data_dir):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
      make(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", refuse)
  with pytest.raises(UserError, match="Permission denied") as caught:
    prepare("kadid10k", kadid, data_dir)
  assert str(data_dir) in str(caught.value)
  assert _files(data_dir) == []


def test_full_disk(kadid, tmp_path):
  """A limit on the size of files stands for the disk that fills up while a shard is written."""
  noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
  for name in ("I01_01_01.png", "I01_25_05.png", "I02_05_03.png"):
    (kadid / "images" / name).unlink()  # a hard link to the others
    dummy_trees.Image.fromarray(noise).save(kadid / "images" / name)
  program = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from data_builders.prepare import main
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
main("kadid10k", ["--manual_dir={kadid}", "--data_dir={tmp_path}/prepared"])
"""
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 2, done.stderr
  assert "cannot write the prepared kadid10k" in done.stderr
  assert "Traceback" not in done.stderr
  assert _files(tmp_path / "prepared") == []


def _many(tmp_path, count=40):
  rng = np.random.default_rng(0)
  (tmp_path / "photos").mkdir()
  for i in range(count):
    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    dummy_trees.Image.fromarray(pixels).save(tmp_path / f"photos/{i:03d}.png")
  return tmp_path / "photos"


def test_interrupted_preparation_goes_on_where_it_stopped(tmp_path, monkeypatch):
  monkeypatch.setattr(shards, "SHARD_BYTES", 5_000)
  photos = _many(tmp_path)
  read = []
  original = shards.example

  def interrupt_late(root, row):
    if len(read) == 25:
      raise KeyboardInterrupt
    read.append(row["image_name"])
    return original(root, row)

  monkeypatch.setattr(shards, "example", interrupt_late)
  with pytest.raises(KeyboardInterrupt):
    prepare("image_folder/photos", photos, tmp_path / "prepared", workers=1)
  with pytest.raises(UserError, match="not prepared"):
    open_database("image_folder/photos", tmp_path / "prepared")

  again = []
  monkeypatch.setattr(shards, "example", lambda root, row: again.append(row["image_name"]) or original(root, row))
  prepare("image_folder/photos", photos, tmp_path / "prepared", workers=1)
  assert 0 < len(again) < 40, "finished shards are not written again"
  database = open_database("image_folder/photos", tmp_path / "prepared")
  assert [database[i]["image_name"] for i in range(40)] == [f"{i:03d}.png" for i in range(40)]
  assert [database[i]["image"] for i in range(40)] == [path.read_bytes() for path in sorted(photos.iterdir())]
  (set_folder,) = (tmp_path / "prepared/image_folder/photos").iterdir()
  assert set_folder.name == "1.0.0", "no staging folder stays behind"


def _interrupted(photos, data_dir, monkeypatch):
  """Stops a preparation when all its shards are finished."""
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(shards, "_move", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    prepare("image_folder/photos", photos, data_dir)


def test_changed_files_are_written_anew_after_an_interruption(tmp_path, monkeypatch):
  photos = _many(tmp_path, 3)
  _interrupted(photos, tmp_path / "prepared", monkeypatch)
  (photos / "001.png").write_bytes(dummy_trees.image_bytes("png"))
  prepare("image_folder/photos", photos, tmp_path / "prepared")
  assert open_database("image_folder/photos", tmp_path / "prepared")[1]["image"] == dummy_trees.image_bytes("png")


def test_killed_preparation_leaves_nothing_readable(tmp_path):
  """SIGKILL in the middle of the first shard, then the same command once more."""
  photos = _many(tmp_path, 5)
  program = f"""
import os, signal
from data_builders import shards
from data_builders.prepare import main
original = shards.example
def kill(root, row):
  if row["image_name"] == "003.png":
    os.kill(os.getpid(), signal.SIGKILL)
  return original(root, row)
shards.example = kill
main("image_folder", ["--name=photos", "--manual_dir={photos}", "--data_dir={tmp_path}/prepared"])
"""
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False)
  assert done.returncode == -signal.SIGKILL
  with pytest.raises(UserError, match="not prepared"):
    open_database("image_folder/photos", tmp_path / "prepared")
  main("image_folder", ["--name=photos", f"--manual_dir={photos}", f"--data_dir={tmp_path / 'prepared'}"])
  assert len(open_database("image_folder/photos", tmp_path / "prepared")) == 5
  assert [path.name for path in (tmp_path / "prepared/image_folder/photos").iterdir()] == ["1.0.0"]


def test_two_processes_do_not_write_one_set(tmp_path, monkeypatch):
  photos = _many(tmp_path, 3)
  inside, go_on = threading.Event(), threading.Event()
  original = shards.example

  def wait(root, row):
    inside.set()
    go_on.wait(10)
    return original(root, row)

  monkeypatch.setattr(shards, "example", wait)
  first = threading.Thread(target=prepare, args=("image_folder/photos", photos, tmp_path / "prepared"))
  first.start()
  inside.wait(10)
  with pytest.raises(UserError, match="another process is preparing"):
    prepare("image_folder/photos", photos, tmp_path / "prepared")
  go_on.set()
  first.join()
  assert len(open_database("image_folder/photos", tmp_path / "prepared")) == 3


def test_of_processes_that_open_the_demo_set_at_once_one_prepares_it(tmp_path, monkeypatch):
  monkeypatch.setattr(demo, "PHOTOGRAPHS", {"chelsea": demo.PHOTOGRAPHS["chelsea"]})
  inside, waiting, go_on, rendered = threading.Event(), threading.Event(), threading.Event(), []
  original = shards.example

  def wait(root, row):
    rendered.append(row["image_name"])
    inside.set()
    go_on.wait(10)
    return original(root, row)

  flock = shards.fcntl.flock
  monkeypatch.setattr(shards, "example", wait)
  monkeypatch.setattr(shards.fcntl, "flock", lambda *args: (inside.is_set() and waiting.set(), flock(*args)))
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    first = pool.submit(open_database, "demo", tmp_path)
    assert inside.wait(10)
    second = pool.submit(open_database, "demo", tmp_path)
    assert waiting.wait(10)
    go_on.set()
    assert len(first.result()) == len(second.result()) == len(rendered) == 16
  assert [path.name for path in (tmp_path / "demo").iterdir()] == ["1.0.0"]


def test_a_wrong_folder_does_not_undo_what_an_interrupted_run_has_finished(tmp_path, monkeypatch):
  photos = _many(tmp_path, 3)
  _interrupted(photos, tmp_path / "prepared", monkeypatch)
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match="no images"):
    prepare("image_folder/photos", tmp_path / "empty", tmp_path / "prepared")
  monkeypatch.setattr(shards, "example", lambda *args: pytest.fail("a finished shard is written again"))
  prepare("image_folder/photos", photos, tmp_path / "prepared")
  assert [path.name for path in (tmp_path / "prepared/image_folder/photos").iterdir()] == ["1.0.0"]


def test_data_dir_of_the_environment(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "from_environment"))
  assert prepare("image_folder/photos", _many(tmp_path, 2)).is_relative_to(tmp_path / "from_environment")
  assert len(open_database("image_folder/photos")) == 2
  shutil.rmtree(tmp_path / "from_environment")
