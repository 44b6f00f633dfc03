"""A power cut at any moment leaves what was there or what was to be there, whole."""

import os
import pathlib

import numpy as np
import pytest

from jiqa.evaluation.outputs import write_bytes
from jiqa.inference.results import Results
from jiqa.runtime.workdir import replace_text
from jiqa.weights.store import save_weights

OLD, NEW = b"old\n" * 50, b"new\n" * 5000


class Disk:
  """Notes after every sync and rename under a folder what a power cut then would leave there.

  A file holds what it held at its last sync, nothing if it never was; a name is that of its folder's last sync, or,
  if the disk was quick, today's.
  """

  def __init__(self, root, monkeypatch):
    self.root, self.left = root, []
    self._contents, self._names = {}, {}
    self._sync, self._replace = os.fsync, os.replace
    for folder in [root, *filter(pathlib.Path.is_dir, root.rglob("*"))]:
      self._note_folder(folder)
    for file in filter(pathlib.Path.is_file, root.rglob("*")):
      self._contents[file.stat().st_ino] = file.read_bytes()
    monkeypatch.setattr(os, "fsync", self.fsync)
    monkeypatch.setattr(os, "replace", self.replace)

  def _note_folder(self, folder):
    self._names[folder.stat().st_ino] = {
      entry.name: (entry.stat().st_ino, entry.is_dir()) for entry in folder.iterdir()
    }

  def fsync(self, descriptor):
    self._sync(descriptor)
    path = pathlib.Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    if path.is_dir():
      self._note_folder(path)
    else:
      self._contents[path.stat().st_ino] = path.read_bytes()
    self._cut()

  def replace(self, source, target):
    self._replace(source, target)
    self._cut()

  def _cut(self):
    today = {path.stat().st_ino: path for path in [self.root, *self.root.rglob("*")] if path.is_dir()}
    quick = {
      number: {entry.name: (entry.stat().st_ino, entry.is_dir()) for entry in path.iterdir()}
      for number, path in today.items()
    }
    for names in (self._names, quick):
      self.left.append(self._tree(self.root.stat().st_ino, names))

  def _tree(self, folder, names):
    return {
      name: self._tree(number, names) if is_folder else self._contents.get(number, b"")
      for name, (number, is_folder) in names.get(folder, {}).items()
    }


WRITERS = pytest.mark.parametrize("write", [write_bytes, lambda path, data: replace_text(path, data.decode())])


@WRITERS
def test_a_file_is_the_old_or_the_new_one(write, tmp_path, monkeypatch):
  path = tmp_path / "results.json"
  path.write_bytes(OLD)
  disk = Disk(tmp_path, monkeypatch)
  write(path, NEW)
  found = [left["results.json"] for left in disk.left]
  assert set(found) == {OLD, NEW} and found[-1] == found[-2] == NEW


@WRITERS
def test_two_that_write_one_file_do_not_meet(write, tmp_path, monkeypatch):
  path, sync = tmp_path / "results.json", os.fsync

  def while_another_writes(descriptor):
    monkeypatch.setattr(os, "fsync", sync)
    write(path, OLD)
    assert path.read_bytes() == OLD

  monkeypatch.setattr(os, "fsync", while_another_writes)
  write(path, NEW)
  assert path.read_bytes() == NEW and list(tmp_path.iterdir()) == [path]


@WRITERS
def test_what_cannot_be_written_leaves_the_old_file_alone(write, tmp_path, monkeypatch):
  path = tmp_path / "results.json"
  path.write_bytes(OLD)

  def full(descriptor):
    raise OSError("No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(OSError, match="No space"):
    write(path, NEW)
  assert path.read_bytes() == OLD and list(tmp_path.iterdir()) == [path]


def test_a_folder_of_weights_appears_whole(tmp_path, monkeypatch):
  disk = Disk(tmp_path, monkeypatch)
  save_weights(tmp_path / "weights", {"kernel": np.ones((3, 4), np.float32)}, {}, {"method": "made"})
  whole = {path.name: path.read_bytes() for path in (tmp_path / "weights").iterdir()}
  found = [left.get("weights") for left in disk.left]
  assert None in found and all(folder in (None, whole) for folder in found) and found[-1] == found[-2] == whole


def test_rows_of_scores_are_synced_while_a_run_goes_on(tmp_path, monkeypatch):
  monkeypatch.setattr("jiqa.inference.results.SYNC_SECONDS", -1)
  path = tmp_path / "scores.csv"
  results = Results(path, {"weights": "a", "head": "b"})
  disk = Disk(tmp_path, monkeypatch)
  row = {"path": "1.png", "file": "", "height": 1, "width": 2, "score": 0.5, "seconds": 0.1, "error": ""}
  results.add(row)
  assert b"1.png" in disk.left[-1]["scores.csv"]
  results.close()
