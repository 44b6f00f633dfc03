"""Images and a metric for the server's tests."""

import io
import os
import signal
import struct
import threading
import time
import zlib

import numpy as np
from PIL import Image

from jiqa.errors import UserError
from jiqa.serve.worker import FACTS, score_files


def encoded(size=(40, 30), kind="PNG", color=100):
  """File bytes of an image of one gray."""
  file = io.BytesIO()
  Image.new("RGB", size, (color, color, color)).save(file, format=kind)
  return file.getvalue()


def png_header(width, height):
  """A PNG of 57 bytes that announces any size: its pixels are missing."""
  chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b""))
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
  )


class Brightness:
  """A metric whose score is the mean gray / 255, and which stops where it is told to.

  Attributes:
    calls: list of the numbers of images of its calls.
    gate: a call waits until this event is set.
    entered: set once a call has begun.
  """

  name, weights_sha256, saliency = "brightness", "0123456789abcdef", True
  scale = {"low": 0.0, "high": 1.0, "higher_is_better": True}
  card = {"method": "brightness", "licence": "none", "note": "<script>alert(1)</script>"}

  def warm_up(self):
    pass

  def __init__(self):
    self.calls, self.gate, self.entered = [], threading.Event(), threading.Event()
    self.gate.set()

  def score(self, images, saliency):
    self.calls.append(len(images))
    self.entered.set()
    assert self.gate.wait(30)
    if any(image.shape[:2] == (13, 13) for image in images):
      raise RuntimeError("an image of 13 x 13 upsets it")
    return [self._row(image, wanted) for image, wanted in zip(images, saliency, strict=True)]

  @staticmethod
  def _row(image, wanted):
    from jiqa.serve.backend import map_as_png

    return {
      "score": float(image.mean() / 255),
      "columns": {"distortion": "=blur", "level": 2},
      "saliency": map_as_png(np.eye(3)) if wanted else None,
    }


class Rated(Brightness):
  """Scores of 0 to 100 with a deviation, and a card that says what they mean."""

  scale = {"low": 0.0, "high": 100.0, "higher_is_better": True}
  card = Brightness.card | {
    "weights": [{"trained_on": "<b>grays</b>", "licence": "free", "notes": ["Not for night."]}],
    "score": {
      "test": {
        "images": 299, "database": "greys", "srcc": 0.85294, "plcc": 0.8487, "within_90_percent_intervals": 0.876,
        "pairs_ordered_alike_by_points": {"1": 0.493, "10": 0.739},
      }
    },
  }  # fmt: skip

  @staticmethod
  def _row(image, wanted):
    row = Brightness._row(image, wanted)
    row["columns"] |= {"distortion_probability": 0.81, "score_std": 10.0}
    return row | {"score": 100 * row["score"], "saliency_shows": "where it is gray" if wanted else None}


class InProcess:
  """A `Worker` without a process, around a backend."""

  def __init__(self, backend):
    self._backend = backend
    for key in FACTS:
      setattr(self, key, getattr(backend, key))

  def score(self, files, saliency):
    return score_files(self._backend.score, files, saliency)

  def restart(self):
    raise AssertionError("nothing was lost")

  def stop(self):
    pass


class Slow(Brightness):
  """Says when it scores, and takes a second; for ever where an image is of 6 x 6 pixels, and dies of 7 x 7."""

  def score(self, images, saliency):
    print("scoring", flush=True)
    if any(image.shape[:2] == (7, 7) for image in images):
      os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3600 if any(image.shape[:2] == (6, 6) for image in images) else 1)
    return super().score(images, saliency)


class Refusing(Brightness):
  """Cannot be warmed up."""

  def warm_up(self):
    raise UserError("gives features; a score needs a head")
