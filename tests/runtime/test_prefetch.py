"""Batches ahead of the steps: bounded, in order, and errors reach the one that waits."""

import threading
import time

import numpy as np
import pytest

from jiqa.runtime.prefetch import Prefetch
from jiqa.runtime.sharding import make_mesh


def numbered(read, end=100):
  for number in range(end):
    read.append(number)
    yield {"x": np.full((8, 2), number, np.uint8)}


def test_batches_come_in_order_on_the_devices_and_few_wait():
  read, mesh = [], make_mesh()
  with Prefetch(numbered(read), mesh) as prefetch:
    first = next(prefetch)
    assert first["x"].sharding.num_devices == mesh.size and first["x"].dtype == np.uint8
    time.sleep(0.5)
    assert len(read) <= 3  # one in use, two waiting
    assert [int(next(prefetch)["x"][0, 0]) for _ in range(5)] == [1, 2, 3, 4, 5]
  assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_what_kills_the_reader_reaches_the_loop_after_the_batches_before_it():
  def failing():
    yield from numbered([], end=2)
    raise OSError("the disk is gone")

  with Prefetch(failing(), make_mesh()) as prefetch:
    assert [int(next(prefetch)["x"][0, 0]) for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
      next(prefetch)
