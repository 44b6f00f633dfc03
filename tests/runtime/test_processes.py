"""What several processes tell each other, with their messages made up in one process."""

import os
import signal

import jax
import numpy as np
import pytest

from jiqa.errors import UserError
from jiqa.runtime import distributed
from jiqa.runtime.sharding import make_mesh


def test_rows_that_processes_share_come_back_in_their_order(monkeypatch):
  expected = np.random.default_rng(0).normal(size=(8, 2))
  shares = np.stack([np.resize(expected[p::3], (3, 2)) for p in range(3)])  # the last is filled up with some row
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  monkeypatch.setattr(distributed, "barrier", lambda: None)
  monkeypatch.setattr(distributed.multihost_utils, "process_allgather", lambda tree: {"x": shares})
  np.testing.assert_array_equal(distributed.all_gather_rows({"x": shares[0]}, 8)["x"], expected)
  monkeypatch.undo()
  np.testing.assert_array_equal(distributed.all_gather_rows({"x": expected}, 6)["x"], expected[:6])


def test_what_the_main_process_refuses_is_refused_everywhere(monkeypatch):
  def refuse():
    raise UserError("the disk is full")

  told = []
  monkeypatch.setattr(distributed, "from_main", lambda value: told.append(value) or value)
  with pytest.raises(UserError, match="the disk is full"):
    distributed.on_main(refuse)
  distributed.on_main(lambda: None)
  assert told == ["the disk is full", ""]
  monkeypatch.setattr(distributed, "is_main", lambda: False)
  monkeypatch.setattr(distributed, "from_main", lambda value: "the disk is full")
  with pytest.raises(UserError, match="the disk is full"):
    distributed.on_main(lambda: pytest.fail("only the main process does it"))


def test_a_notice_to_stop_is_kept_until_it_is_asked_for():
  before = signal.getsignal(signal.SIGTERM)
  with distributed.StopNotice() as stop:
    assert not stop.received(0)
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.received(1) and stop.received(2)
  assert signal.getsignal(signal.SIGTERM) == before


def test_devices_of_a_mesh_stand_in_the_order_of_their_processes():
  devices = jax.devices()
  assert (
    list(make_mesh(devices[::-1]).devices) == devices and list(make_mesh(devices[2:4][::-1]).devices) == devices[2:4]
  )
