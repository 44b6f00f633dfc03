"""Checkpoints that disks have damaged or refuse to take."""

import os
import resource
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jiqa.errors import UserError
from jiqa.runtime import checkpoint, distributed
from jiqa.runtime.checkpoint import Checkpoints, digest, read_arrays
from jiqa.runtime.sharding import make_mesh, state_sharding
from jiqa.runtime.state import new_state
from tests import QUICK_COMPILATION
from tests.processes import free_port


def state_of(step):
  weights = np.random.default_rng(0).normal(size=(160, 160)).astype(np.float32)
  return new_state({"a": jnp.asarray(weights), "b": jnp.ones(3)}, {}).replace(step=jnp.int32(step))


@pytest.fixture
def folder(tmp_path):
  with Checkpoints(tmp_path / "run") as checkpoints:
    for step in (4, 8):
      checkpoints.save(step, state_of(step))
  return tmp_path / "run"


def largest_file(folder):
  return max((p for p in folder.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)


def cut(folder):
  path = largest_file(folder)
  path.write_bytes(path.read_bytes()[:1000])


def flip(folder):
  path = largest_file(folder)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 255
  path.write_bytes(bytes(content))


def empty(folder):
  for path in folder.rglob("manifest.ocdbt"):
    path.write_bytes(b"")


def forget(folder):
  for path in list(folder.rglob("_METADATA")):
    path.unlink()


@pytest.mark.parametrize("damage", [cut, flip, empty, forget])
def test_a_damaged_newest_checkpoint_is_passed_over_and_replaced(folder, damage, capsys):
  damage(folder / "8")
  with Checkpoints(folder) as checkpoints:
    state = checkpoints.restore(state_of(0))
    assert int(state.step) == checkpoints.latest_step() == 4
    np.testing.assert_array_equal(state.params["a"], state_of(0).params["a"])
    assert f"{folder / '8'} is damaged" in capsys.readouterr().err
    checkpoints.save(6, state_of(6))  # as SIGTERM would ask for, between the two
    checkpoints.save(8, state_of(8))
  with Checkpoints(folder) as checkpoints:
    assert checkpoints.steps() == [8, 6] and int(checkpoints.restore(state_of(0)).step) == 8


def test_arrays_can_be_read_whatever_devices_wrote_them(tmp_path):
  state = state_of(7).replace(extra={"queue": [jnp.arange(4)]})
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(3, jax.tree.map(jnp.zeros_like, state))
    checkpoints.save(7, jax.device_put(state, state_sharding(state, make_mesh(), "fsdp")))
  step, saved = read_arrays(tmp_path)
  assert step == 7 and saved["stats"] == {} and set(saved) == {"params", "stats", "extra"}
  assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(saved))
  np.testing.assert_array_equal(saved["params"]["a"], state.params["a"])
  flip(tmp_path / "7")
  forget(tmp_path / "7")
  with pytest.raises(UserError, match="7: this checkpoint is damaged"):
    read_arrays(tmp_path)
  with pytest.raises(UserError, match="no complete checkpoint"):
    read_arrays(tmp_path / "none")


def test_nothing_but_damage_is_an_error_that_says_where(folder):
  for step in ("4", "8"):
    flip(folder / step)
  with Checkpoints(folder) as checkpoints, pytest.raises(UserError, match=r"8: .* damaged .*params\['a'\]"):
    checkpoints.restore(state_of(0))


def _as_one_of_two(folder, port, process):
  """Saves steps 4 and 8, or restores what is there: an array that the two processes hold half each."""
  distributed.initialize(f"localhost:{port}", 2, int(process))
  mesh = make_mesh()
  state = jax.tree.map(np.asarray, new_state({"a": np.zeros((64, 4096), np.float32)}, {}))
  shardings = state_sharding(state, mesh, "fsdp")

  def at(step):
    values = state.replace(step=np.int32(step), params={"a": np.random.default_rng(step).normal(size=(64, 4096))})
    return jax.tree.map(
      lambda x, like, sharding: jax.make_array_from_callback(x.shape, sharding, lambda i: x[i].astype(like.dtype)),
      values, state, shardings,
    )  # fmt: skip

  with Checkpoints(folder) as checkpoints:
    if checkpoints.steps():
      print("restored", checkpoints.restore(at(0)).step)
    else:
      for step in (4, 8):
        checkpoints.save(step, at(step))


def test_a_file_that_one_of_two_processes_needs_is_cut(tmp_path):
  code = "import sys; from tests.runtime.test_checkpoint import _as_one_of_two; _as_one_of_two(*sys.argv[1:])"
  environment = os.environ | {
    "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {QUICK_COMPILATION}",
    "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
  }

  def run_both():
    port = free_port()
    commands = [[sys.executable, "-c", code, tmp_path / "run", str(port), str(i)] for i in range(2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipes) for command in commands]
    try:
      said = [process.communicate(timeout=60) for process in processes]
    finally:
      for process in processes:
        process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    return said

  run_both()
  path = largest_file(tmp_path / "run" / "8" / "state" / "ocdbt.process_1")
  path.write_bytes(path.read_bytes()[:100_000])
  (output, errors), (other, _) = run_both()
  assert "restored 4" in output and "restored 4" in other
  assert f"{tmp_path / 'run' / '8'} is damaged" in errors and "going on from step 4" in errors


def test_what_only_this_process_cannot_read_ends_it_with_the_cure(folder, monkeypatch):
  with Checkpoints(folder) as checkpoints:
    monkeypatch.setattr(checkpoint, "from_main", lambda message: "")  # process 0 reads it
    monkeypatch.setattr(checkpoints, "damage", lambda step, like: "")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    flip(folder / "8")
    with pytest.raises(UserError, match=r"8: process 0 cannot read this checkpoint .* see the same files"):
      checkpoints.restore(state_of(0))
    monkeypatch.undo()


def test_another_structure_is_an_error(folder):
  other = new_state({"a": jnp.zeros((2, 2))}, {})
  with Checkpoints(folder) as checkpoints:
    with pytest.raises(UserError, match="does not fit the configured model"):
      checkpoints.restore(other)
    assert checkpoints.damage(8, other)
    wider = other.replace(params={"a": jnp.zeros((160, 161)), "b": jnp.ones(3)})
    assert "(160, 160)" in checkpoints.damage(8, wider)
    assert checkpoints.damage(8, state_of(0)) == ""


def test_a_disk_that_is_full_ends_with_what_to_do(folder):
  code = f"""
import resource, sys
from jiqa.runtime import checkpoint, distributed
from jiqa.runtime.checkpoint import Checkpoints, UserError
from tests.runtime.test_checkpoint import state_of
state = state_of(12)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
  with Checkpoints({str(folder)!r}) as checkpoints:
    checkpoints.save(12, state)
except UserError as error:
  sys.exit(str(error))
"""
  if resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY:
    pytest.skip("files are limited already")
  environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
  done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
  assert "could not be written" in done.stderr and "The last complete one is step 8" in done.stderr
  with Checkpoints(folder) as checkpoints:
    assert int(checkpoints.restore(state_of(0)).step) == 8
    checkpoints.save(12, state_of(12))  # there is room again
  with Checkpoints(folder) as checkpoints:
    assert checkpoints.latest_step() == 12


def test_checksums_see_values_and_places_but_not_shardings():
  state = state_of(0)
  spread_out = jax.device_put(state, state_sharding(state, make_mesh(), "fsdp"))
  assert not spread_out.params["a"].sharding.is_fully_replicated
  assert digest(state) == digest(spread_out)
  for changed in (state.params["a"].at[3, 4].add(1e-3), state.params["a"][::-1], state.params["a"].T):
    assert digest(state.replace(params=state.params | {"a": changed})) != digest(state)


@pytest.mark.parametrize(
  ("processes", "error", "cure"),
  [
    (2, "UNAVAILABLE: failed to connect to all addresses", "Another process of the run is gone"),
    (2, "DEADLINE_EXCEEDED: Barrier timed out", "Another process of the run is gone"),
    (2, "No space left on device", "Make room"),
    (1, "UNAVAILABLE: the bucket does not answer", "Make room"),
  ],
)
def test_a_process_that_is_gone_is_not_blamed_on_the_disk(folder, monkeypatch, processes, error, cure):
  def fail(*_, **__):
    raise RuntimeError(error)

  with Checkpoints(folder) as checkpoints:
    monkeypatch.setattr(checkpoints._manager, "save", fail)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    with pytest.raises(UserError, match=rf"could not be written \({error[:20]}.*step 8\. {cure}"):
      checkpoints.save(12, state_of(12))
    monkeypatch.undo()
