"""Videos: which frames are scored, and what becomes of them."""

import sys

import jax
import numpy as np
import pytest

import jiqa
from jiqa.errors import UserError
from jiqa.inference import command, video
from tests.inference import made
from tests.inference.test_command import rows


@pytest.fixture
def metric(brightness):
  return jiqa.load(brightness, devices=jax.devices()[:1])


def test_videos_become_rows_of_frames_and_a_pooled_row(metric, tmp_path):
  av = pytest.importorskip("av")
  path = tmp_path / "clip.mp4"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mpeg4", rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for i in range(30):
      pixels = np.full((48, 64, 3), 40 + 80 * (i // 10), np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    container.mux(stream.encode())
  image = made.files(tmp_path / "p", [(5, 5)])[0]
  (tmp_path / "broken.mkv").write_bytes(b"no video")
  out = tmp_path / "scores.csv"
  assert command.score(metric, [str(path), image, str(tmp_path / "broken.mkv")], out=out, frames_per_second=2.0) == 3
  found = rows(out)
  assert [row["path"].removeprefix(f"{tmp_path}/") for row in found] == [
    *(f"clip.mp4#frame={i}" for i in range(0, 30, 5)), "p/0000.png", "broken.mkv",
  ]  # fmt: skip
  for i, row in enumerate(found[:6]):
    assert float(row["score"]) == pytest.approx(2 * (40 + 80 * (i // 2)) / 255, abs=0.03)
  (pooled,) = rows(tmp_path / "scores.videos.csv")
  assert pooled["path"] == str(path) and pooled["frames"] == "6"
  assert float(pooled["mean"]) == pytest.approx(2 * 120 / 255, abs=0.03)
  assert float(pooled["minimum"]) == pytest.approx(2 * 40 / 255, abs=0.03)
  assert float(pooled["p10"]) == pytest.approx(np.percentile([float(row["score"]) for row in found[:6]], 10))
  command.score(metric, [str(path), image], out=out, frames_per_second=2.0)
  assert len(rows(out)) == 7


@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_video_that_was_cut_off_is_named(metric, tmp_path, kept):
  av = pytest.importorskip("av")
  path, rng = tmp_path / "clip.mp4", np.random.default_rng(0)
  with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
    stream = container.add_stream("mpeg4", rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for _ in range(30):
      pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    container.mux(stream.encode())
  data = path.read_bytes()
  start = data.index(b"mdat") + 4
  path.write_bytes(data[: start + int(kept * (len(data) - start))])
  found = list(video.frames(str(path), 10.0))
  assert len(found) < 25 and isinstance(found[-1].source, UserError) and found[-1].name == str(path)
  assert "frames can be decoded; the video is damaged" in str(found[-1].source)


@pytest.mark.parametrize(("rate", "per_second", "count"), [(24, 10.0, 20), (30, 7.0, 14), (10, 24.0, 20)])
def test_frames_do_not_fall_behind(tmp_path, rate, per_second, count):
  av = pytest.importorskip("av")
  with av.open(str(tmp_path / "clip.mp4"), "w") as container:
    stream = container.add_stream("mpeg4", rate=rate)
    stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
    for _ in range(2 * rate):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
    container.mux(stream.encode())
  numbers = [video.split_frame(item.name)[1] for item in video.frames(str(tmp_path / "clip.mp4"), per_second)]
  first = {-(-k * rate // int(per_second)) for k in range(2 * int(per_second))}  # at or after k / per_second
  first.discard(2 * rate)
  assert numbers == sorted(first) and len(numbers) == count


def test_sound_alone_is_no_video(tmp_path):
  av = pytest.importorskip("av")
  path = str(tmp_path / "sound.mp4")
  with av.open(path, "w") as container:
    stream = container.add_stream("aac", rate=44100)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 44100
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  (item,) = video.frames(path, 1.0)
  assert item.name == path and "sound.mp4: cannot be read as a video (it holds no moving images)" in str(item.source)


def test_videos_need_the_extra(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "av", None)
  (item,) = video.frames(str(tmp_path / "a.mp4"), 1.0)
  assert "needs PyAV; pip install 'av>=13'" in str(item.source)
