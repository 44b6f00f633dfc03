"""Whatever is wrong with a release: refused by name, and nothing half-written stays behind."""

import csv
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
import scipy.io

from data_builders import shards
from data_builders.prepare import main, prepare
from jiqa.data.source import open_database
from jiqa.errors import UserError
from tests.data_builders import dummy_trees

ROOT = pathlib.Path(__file__).parents[2]


def _left_behind(data_dir):
  return [path for path in data_dir.rglob("*") if path.is_file()] if data_dir.exists() else []


def _refused(name, release, tmp_path, *patterns, **options):
  """Asserts that preparing fails with every pattern in the message and leaves no file behind."""
  with pytest.raises(UserError) as caught:
    prepare(name, release, tmp_path / "prepared", **options)
  for pattern in patterns:
    assert pattern in str(caught.value)
  assert _left_behind(tmp_path / "prepared") == []
  return str(caught.value)


def _edit_csv(path, change):
  """Rewrites a table after `change(rows)`; row 0 is the header."""
  with path.open(newline="") as file:
    rows = list(csv.reader(file))
  change(rows)
  with path.open("w", newline="") as file:
    csv.writer(file).writerows(rows)


@pytest.fixture
def kadid(tmp_path):
  dummy_trees.kadid10k(tmp_path / "release")
  return tmp_path / "release/kadid10k"


def _own(tmp_path, name):
  """A copy that is no hard link, to be damaged alone."""
  data = (tmp_path / name).read_bytes()
  (tmp_path / name).unlink()
  (tmp_path / name).write_bytes(data)
  return tmp_path / name


def test_missing_image(kadid, tmp_path):
  (kadid / "images/I01_25_05.png").unlink()
  _refused("kadid10k", kadid, tmp_path, "dmos.csv line 3", "I01_25_05.png")


def test_truncated_image(kadid, tmp_path):
  path = _own(kadid, "images/I01_25_05.png")
  path.write_bytes(path.read_bytes()[:-40])
  _refused("kadid10k", kadid, tmp_path, "I01_25_05.png", "incomplete")


def test_file_that_is_no_image(kadid, tmp_path):
  _own(kadid, "images/I01_25_05.png").write_text("<html>not found</html>")
  _refused("kadid10k", kadid, tmp_path, "I01_25_05.png", "not an image")


def test_nan_score(kadid, tmp_path):
  _edit_csv(kadid / "dmos.csv", lambda rows: rows[2].__setitem__(2, "nan"))
  _refused("kadid10k", kadid, tmp_path, "dmos.csv line 3", "nan", "finite")


def test_score_that_is_no_number(kadid, tmp_path):
  _edit_csv(kadid / "dmos.csv", lambda rows: rows[1].__setitem__(2, "good"))
  _refused("kadid10k", kadid, tmp_path, "dmos.csv line 2", "good")


def test_swapped_columns(kadid, tmp_path):
  def swap(rows):
    for row in rows[1:]:
      row[2], row[3] = row[3], row[2]

  _edit_csv(kadid / "dmos.csv", swap)
  _refused("kadid10k", kadid, tmp_path, "dmos.csv line 2", "columns")


def test_extra_row(kadid, tmp_path):
  _edit_csv(kadid / "dmos.csv", lambda rows: rows.append(["I99_01_01.png", "I99.png", "3.0", "0.2"]))
  _refused("kadid10k", kadid, tmp_path, "dmos.csv line 5", "I99_01_01.png")


def test_duplicate_row(kadid, tmp_path):
  _edit_csv(kadid / "dmos.csv", lambda rows: rows.append(rows[1]))
  _refused("kadid10k", kadid, tmp_path, "dmos.csv line 5", "I01_01_01.png", "dmos.csv line 2")


def test_short_row_and_missing_column(kadid, tmp_path):
  _edit_csv(kadid / "dmos.csv", lambda rows: rows[2].pop())
  _refused("kadid10k", kadid, tmp_path, "dmos.csv line 3", "3 cells")
  _edit_csv(kadid / "dmos.csv", lambda rows: rows[0].__setitem__(2, "score"))
  _refused("kadid10k", kadid, tmp_path, "dmos.csv", "'dmos'")


def test_wrong_archive(kadid, tmp_path):
  _refused("csiq", kadid, tmp_path, "not the csiq release", "no dst_imgs", "Download page")


def test_empty_folder_and_no_folder(tmp_path):
  (tmp_path / "empty").mkdir()
  _refused("koniq10k", tmp_path / "empty", tmp_path, "no 1024x768", "koniq10k_distributions_sets.csv")
  _refused("image_folder/mine", tmp_path / "empty", tmp_path, "no images")
  _refused("image_folder/mine", tmp_path / "nowhere", tmp_path, "no such folder")
  _refused("koniq10k", None, tmp_path, "--manual_dir is missing", "Download page")
  (tmp_path / "koniq10k_1024x768.zip").touch()
  _refused("koniq10k", tmp_path / "koniq10k_1024x768.zip", tmp_path, "is a file; unpack it first")


def test_swapped_variables_and_lengths_in_matlab_files(tmp_path):
  dummy_trees.clive(tmp_path / "release")
  release = tmp_path / "release/ChallengeDB_release"
  path = release / "Data/AllMOS_release.mat"
  scores = scipy.io.loadmat(path)["AllMOS_release"]
  scipy.io.savemat(path, {"AllMOS_release": scores[:, :-1]})
  _refused("clive", release, tmp_path, "10 names, 9 scores")
  scipy.io.savemat(path, {"AllMOS_release": np.where(scores == 70, np.nan, scores)})
  _refused("clive", release, tmp_path, "entry 9", "nan")
  path.write_bytes(b"not a MATLAB file")
  _refused("clive", release, tmp_path, "AllMOS_release.mat", "not a readable MATLAB file")


def test_live_originals_that_contradict_the_scores(tmp_path):
  dummy_trees.live(tmp_path / "release")
  path = tmp_path / "release/databaserelease2/dmos_realigned.mat"
  content = scipy.io.loadmat(path)
  content["orgs"][0, 3] = 1
  scipy.io.savemat(path, {key: content[key] for key in ("dmos_new", "dmos_std", "orgs")})
  _refused("live", tmp_path / "release", tmp_path, "entry 4", "jpeg/img2.bmp")


def test_deviation_in_the_place_of_the_score(tmp_path):
  release = tmp_path / "release/CSIQ"
  dummy_trees.csiq(tmp_path / "release")
  (release / "csiq.DMOS.xlsx").unlink()
  dummy_trees.write_csiq_labels(release, [("snow", 6, "contrast", 4, 0.9, 0.05)])
  _refused("csiq", release, tmp_path, "csiq.DMOS.xlsx row 5", "0.9", "official order")


def test_koniq_score_that_contradicts_its_grades(tmp_path):
  dummy_trees.koniq10k(tmp_path / "release")
  release = tmp_path / "release/koniq-10k"
  _edit_csv(release / "koniq10k_distributions_sets.csv", lambda rows: rows[1].__setitem__(7, "0.44"))
  _refused("koniq10k", release, tmp_path, "line 2", "swapped")


def test_image_folder_leaves_damaged_files_out_and_says_so(tmp_path):
  dummy_trees.write_images(tmp_path / "photos", ["good.jpg", "b/good.png"])
  (tmp_path / "photos/broken.jpg").write_bytes(dummy_trees.image_bytes("jpg")[:-20])
  (tmp_path / "photos/empty.bmp").touch()
  prepare("image_folder/photos", tmp_path / "photos", tmp_path / "prepared")
  database = open_database("image_folder/photos", tmp_path / "prepared")
  assert database.table.image_name.tolist() == ["b/good.png", "good.jpg"]
  assert [database[i]["image_name"] for i in range(2)] == ["b/good.png", "good.jpg"]
  assert sorted(pathlib.Path(line.split(":")[0]).name for line in database.metadata["skipped"]) == [
    "broken.jpg", "empty.bmp",
  ]  # fmt: skip
  _refused("image_folder/strict", tmp_path / "photos", tmp_path / "other", "broken.jpg", strict=True)
  for name in ("good.jpg", "b/good.png"):
    (tmp_path / "photos" / name).unlink()
  _refused("image_folder/none", tmp_path / "photos", tmp_path / "third", "none of the 2 files is an image")


def test_unknown_names(tmp_path):
  with pytest.raises(UserError, match="did you mean koniq10k"):
    prepare("konig10k", tmp_path, tmp_path)
  with pytest.raises(UserError, match="variants 1024x768, 512x384"):
    prepare("koniq10k/640x480", tmp_path, tmp_path)
  with pytest.raises(UserError, match="name of its own"):
    prepare("image_folder", tmp_path, tmp_path)


def test_not_prepared(tmp_path):
  with pytest.raises(UserError) as caught:
    open_database("koniq10k", tmp_path)
  message = str(caught.value)
  assert f"python -m data_builders.koniq10k --manual_dir=FOLDER --data_dir={tmp_path}" in message
  assert "https://database.mmsp-kn.de/koniq-10k-database.html" in message


def test_command_line_ends_with_2_and_without_traceback(kadid, tmp_path):
  (kadid / "images/I01_25_05.png").unlink()
  command = [sys.executable, "-m", "data_builders.kadid10k", f"--manual_dir={kadid}", f"--data_dir={tmp_path / 'out'}"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert "I01_25_05.png" in done.stderr
  assert "Traceback" not in done.stderr


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
  _refused("kadid10k", kadid, tmp_path, str(data_dir), "Permission denied")


def test_full_disk(kadid, tmp_path):
  """A limit on the size of files stands for the disk that fills up while a shard is written."""
  noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
  for name in ("I01_01_01.png", "I01_25_05.png", "I02_05_03.png"):
    path = _own(kadid, f"images/{name}")
    dummy_trees.Image.fromarray(noise).save(path)
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
  assert _left_behind(tmp_path / "prepared") == []


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


def test_changed_files_are_written_anew_after_an_interruption(tmp_path, monkeypatch):
  photos = _many(tmp_path, 3)
  original = shards._move
  monkeypatch.setattr(shards, "_move", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
  with pytest.raises(KeyboardInterrupt):
    prepare("image_folder/photos", photos, tmp_path / "prepared")
  monkeypatch.setattr(shards, "_move", original)
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


def test_prepared_set_that_lost_a_record_is_refused(tmp_path):
  path = prepare("image_folder/photos", _many(tmp_path, 4), tmp_path / "prepared")
  labels = path / "labels.csv"
  lines = labels.read_text().splitlines(keepends=True)
  labels.write_text("".join(lines[:-1]))
  with pytest.raises(UserError, match="4 records but 3 labels"):
    open_database("image_folder/photos", tmp_path / "prepared")
  labels.write_text("".join([lines[0], lines[2], lines[1], *lines[3:]]))
  with pytest.raises(UserError, match="record 0 is not"):
    open_database("image_folder/photos", tmp_path / "prepared")[0]


def test_data_dir_of_the_environment(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "from_environment"))
  assert prepare("image_folder/photos", _many(tmp_path, 2)).is_relative_to(tmp_path / "from_environment")
  assert len(open_database("image_folder/photos")) == 2
  shutil.rmtree(tmp_path / "from_environment")
