"""`jiqa score`, whatever it is given and however it is interrupted: a row for every input, and the same bytes."""

import csv
import os
import pathlib
import shutil
import tempfile
import types
from unittest import mock

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

import jiqa
from jiqa.inference import command, predictor
from tests.inference import made

PHASES = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # a failure is reported as it is, not made smaller
QUICK = hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None, phases=PHASES)
BROKEN = ("broken.png", "empty.png", "new\nline, broken.png", "gone.png")


@pytest.fixture(scope="module", autouse=True)
def timeless():
  """Seconds stand in every row and differ; here no time passes."""
  with mock.patch.object(predictor, "time", types.SimpleNamespace(perf_counter=lambda: 0.0)):
    yield


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
  return jiqa.load(made.brightness(tmp_path_factory.mktemp("weights")), devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  """A folder of images, some of them broken, with a folder in it: the paths of all, and of one that is not there."""
  folder = tmp_path_factory.mktemp("images")
  (folder / "inner").mkdir()
  names = ["a.png", "b.png", 'quo"te, comma.png', "inner/c.png", "inner/d.png", "re\rturn\n.png", "z.png"]
  for name, pixels in zip(names, made.images([(5, 7), (40, 9), (5, 5), (70, 3), (6, 6), (5, 7), (5, 5)]), strict=True):
    Image.fromarray(pixels).save(folder / name)
  for name in BROKEN[:3]:
    (folder / name).write_bytes(b"no image" if name != "empty.png" else b"")
  return folder, [str(folder / name) for name in (*names, *BROKEN)]


def rows(path):
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def test_rows_are_the_inputs_in_order_and_once(metric, images):
  folder, paths = images
  below = lambda start: sorted(p for p in paths if p.startswith(start) and os.path.exists(p))
  folders = [str(folder), str(folder / "inner")]

  @QUICK
  @hypothesis.given(st.lists(st.sampled_from([*paths, *folders]), min_size=1, max_size=12), st.sampled_from([1, 3]))
  def check(inputs, threads):
    expected = []
    for name in inputs:
      expected += below(name + "/") if name in folders else [name]
    expected = list(dict.fromkeys(expected))
    with tempfile.TemporaryDirectory() as out:
      code = command.score(metric, inputs, out=f"{out}/scores.csv", threads=threads)
      found = rows(f"{out}/scores.csv")
    assert [row["path"] for row in found] == expected
    for row in found:
      broken = row["path"].removeprefix(f"{folder}/") in BROKEN
      assert bool(row["error"]) == broken == (not row["score"])
      if not broken:
        assert float(row["score"]) == pytest.approx(2 * np.asarray(Image.open(row["path"])).mean() / 255, abs=1e-5)
    assert code == (command.UNREADABLE if any(row["error"] for row in found) else 0)

  check()


class Stopped(Exception):
  """Stands for whatever ends a process."""


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_an_interrupted_file_ends_with_the_same_bytes(suffix, metric, images, tmp_path):
  _, paths = images
  whole = tmp_path / f"whole{suffix}"
  expected_code = command.score(metric, paths, out=whole)
  stream, expected = metric.stream, whole.read_bytes()

  @QUICK
  @hypothesis.given(
    stops=st.lists(st.integers(0, len(paths)), min_size=1, max_size=3), lost=st.integers(0, 2000), order=st.randoms()
  )
  def check(stops, lost, order):
    with tempfile.TemporaryDirectory() as folder:
      out = pathlib.Path(folder, f"scores{suffix}")
      for stop in stops:

        def stopping(items, threads, stop=stop):
          for number, prediction in enumerate(stream(items, threads)):
            if number == stop:
              raise Stopped
            yield prediction
          raise Stopped  # when all rows are there, and before they are sorted

        with mock.patch.object(metric, "stream", stopping), pytest.raises(Stopped):
          command.score(metric, order.sample(paths, len(paths)), out=out)
        journal = out if suffix == ".csv" else out.with_name(out.name + ".part")
        content = journal.read_bytes()
        journal.write_bytes(content[: max(len(content) - lost, 0)])
      assert command.score(metric, paths, out=out) == expected_code
      assert out.read_bytes() == expected
      assert [path.name for path in out.parent.iterdir()] == [out.name]

  check()


def test_a_finished_file_cut_at_any_byte_is_completed(metric, images, tmp_path):
  _, paths = images
  whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
  command.score(metric, paths, out=whole)
  expected = whole.read_bytes()
  for length in range(0, len(expected), 7):
    cut.write_bytes(expected[:length])
    command.score(metric, paths, out=cut)
    assert cut.read_bytes() == expected, length


def test_a_shard_of_any_number_has_its_share(metric, images, tmp_path):
  _, paths = images
  for number in (1, 2, 5, len(paths) + 2):
    folder = tmp_path / str(number)
    shares = [paths[i::number] for i in range(number)]
    for i, share in enumerate(shares):
      command.score(metric, paths, out=folder / "scores.csv", shard=f"{i}/{number}")
      assert [row["path"] for row in rows(folder / f"scores-{i}-of-{number}.csv")] == share
    shutil.rmtree(folder)
