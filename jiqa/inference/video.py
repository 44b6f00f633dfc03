"""Frames of videos, read with PyAV where it is installed, and the pooled scores of videos."""

import math

import numpy as np

from jiqa.errors import UserError
from jiqa.inference.inputs import VIDEO_SUFFIXES, Item, is_address

MARK = "#frame="


def is_video(name):
  """True for names with the ending of a video."""
  return name.lower().endswith(VIDEO_SUFFIXES)


def items(names, per_second):
  """Yields the items behind names: one an image, and of a video its frames, see `frames`."""
  for name in names:
    if is_video(name):
      yield from frames(name, per_second)
    else:
      yield Item(name, name)


def frames(name, per_second):
  """Yields the frames of a video to score, the first at or after each of the times k / per_second seconds.

  Items are called NAME#frame=NUMBER. Where the video cannot be read (on), or ends before what its header announces, an
  Item called NAME has the UserError as its source.
  """
  try:
    import av
  except ImportError:
    yield Item(name, UserError(f"{name}: reading videos needs PyAV; pip install 'av>=13'"))
    return
  if is_address(name):
    yield Item(name, UserError(f"{name}: videos are read from files only; download it first"))
    return
  try:
    with av.open(name) as container:
      if not container.streams.video:
        raise ValueError("it holds no moving images")
      stream, due, number = container.streams.video[0], 0.0, 0
      for number, frame in enumerate(container.decode(stream), 1):
        seconds = frame.time if frame.time is not None else (number - 1) / float(stream.average_rate or 25)
        if seconds + 1e-6 >= due:
          due = (math.floor((seconds + 1e-6) * per_second) + 1) / per_second
          yield Item(f"{name}{MARK}{number - 1}", np.asarray(frame.to_ndarray(format="rgb24")))
      # FFmpeg reports no error where a file is cut off. Containers that count their frames may be off by a few.
      if number < max(1, 0.9 * stream.frames):
        announced = f" of {stream.frames}" if stream.frames else ""
        yield Item(name, UserError(f"{name}: {number}{announced} frames can be decoded; the video is damaged"))
  except (av.FFmpegError, OSError, ValueError) as error:
    yield Item(name, UserError(f"{name}: cannot be read as a video ({error})"))


def split_frame(path):
  """(name of the video, number of the frame) of a frame's name; (name, None) of an image's."""
  name, mark, number = path.rpartition(MARK)
  return (name, int(number)) if mark and number.isdecimal() else (path, None)


def pooled(rows):
  """One row a video from the rows of its frames: path, frames, mean, p10 (a tenth score less), median, minimum.

  Example:
    >>> pooled([{"path": f"a.mp4#frame={i}", "score": i, "error": ""} for i in range(11)])
    [{'path': 'a.mp4', 'frames': 11, 'mean': 5.0, 'p10': 1.0, 'median': 5.0, 'minimum': 0.0}]
  """
  scores = {}
  for row in rows:
    name, number = split_frame(row["path"])
    if number is not None and not row["error"]:
      scores.setdefault(name, []).append(float(row["score"]))
  return [
    {
      "path": name, "frames": len(values), "mean": float(np.mean(values)), "p10": float(np.percentile(values, 10)),
      "median": float(np.percentile(values, 50)), "minimum": min(values),
    }
    for name, values in scores.items()
  ]  # fmt: skip
