"""Decoding in another process: the same pixels and words, and no file takes more memory or time than it may."""

import io
import os
import queue
import signal
import time

import numpy as np
import pytest
from PIL import Image

from jiqa.data import sandbox
from jiqa.data.decode import decode_rgb
from jiqa.errors import UserError


def encoded(size, kind="PNG", mode="RGB", **options):
  file = io.BytesIO()
  Image.new(mode, size).save(file, kind, **options)
  return file.getvalue()


def slow_jpeg(scans, side=2000):
  """A JPEG whose last scan is there many times; each passes over the whole image."""
  data = encoded((side, side), "JPEG", progressive=True)
  at = data.rindex(b"\xff\xda")
  return data[:at] + data[at:-2] * scans + data[-2:]


@pytest.fixture
def limits(monkeypatch):
  """Sets the limits of decoders that are started in the test."""
  monkeypatch.setattr(sandbox, "_IDLE", queue.SimpleQueue())

  def change(**values):
    for name, value in values.items():
      monkeypatch.setattr(sandbox, name, value)

  return change


def test_pixels_and_words_are_those_of_the_decoder():
  rng = np.random.default_rng(0)
  for shape, kind in (((31, 47, 3), "PNG"), ((64, 50), "PNG"), ((16, 90, 4), "WEBP")):
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(file, kind)
    found = sandbox.decode(file.getvalue(), "a.png")
    np.testing.assert_array_equal(found, decode_rgb(file.getvalue()))
    assert found.dtype == np.uint8
  for data, formats in ((b"", None), (b"no image", None), (encoded((9, 9))[:45], None), (encoded((9, 9)), ("JPEG",))):
    with pytest.raises(UserError) as expected:
      decode_rgb(data, "folder/a.png", formats)
    with pytest.raises(UserError) as raised:
      sandbox.decode(data, "folder/a.png", formats or ())
    assert str(raised.value) == str(expected.value)


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_a_file_that_takes_memory_is_refused_and_the_next_is_decoded(limits, mode):
  limits(MEMORY=500 << 20)
  bomb = encoded((7000, 7000), mode=mode)
  assert len(bomb) < 1 << 20
  with pytest.raises(UserError, match=r"^bomb.png: takes more than 0.49 GiB of memory$"):
    sandbox.decode(bomb, "bomb.png")
  assert sandbox.decode(encoded((40, 30))).shape == (30, 40, 3)


def test_a_file_that_takes_time_is_refused_and_the_next_is_decoded(limits):
  limits(SECONDS=1)
  small, slow = encoded((40, 30)), slow_jpeg(20_000)
  assert len(slow) < 32 << 20
  sandbox.decode(small)
  started = time.monotonic()
  with pytest.raises(UserError, match=r"^slow.jpg: takes more than 1 s of processor time$"):
    sandbox.decode(slow, "slow.jpg")
  assert time.monotonic() - started < 60
  assert sandbox.decode(small).shape == (30, 40, 3)


def test_the_limit_of_time_is_that_of_one_file(limits):
  limits(SECONDS=3)
  large, used = encoded((4000, 4000)), 0
  while used < 5:  # seconds, all files together
    assert sandbox.decode(large).shape == (4000, 4000, 3)
    process, pipe = sandbox._IDLE.get()
    fields = open(f"/proc/{process.pid}/stat").read().rpartition(")")[2].split()
    used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    sandbox._IDLE.put((process, pipe))


def test_a_decoder_that_was_killed_while_it_waited_takes_no_file_with_it(limits):
  small = encoded((40, 30))
  sandbox.decode(small)
  process, pipe = sandbox._IDLE.get()
  process.kill()
  process.wait(20)
  sandbox._IDLE.put((process, pipe))
  assert sandbox.decode(small).shape == (30, 40, 3)


def test_a_decoder_that_dies_takes_one_file_with_it(limits):
  small = encoded((40, 30))
  sandbox.decode(small)
  process, pipe = sandbox._IDLE.get()
  process.send_signal(signal.SIGKILL)
  process.poll = lambda: None  # as if it died after it was asked
  sandbox._IDLE.put((process, pipe))
  with pytest.raises(UserError, match=r"a.png: ends its decoder \(-9\)"):
    sandbox.decode(small, "a.png")
  assert sandbox.decode(small).shape == (30, 40, 3)


def test_it_ends_when_nobody_asks_any_more(limits):
  sandbox.decode(encoded((4, 4)))
  process, pipe = sandbox._IDLE.get()
  pipe.close()
  assert process.wait(20) == 0
