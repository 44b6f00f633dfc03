"""Freed memory stays with the process, or does not."""

import subprocess
import sys

import pytest

from jiqa.runtime import host_memory

PROBE = """
import resource
import sys

from jiqa.runtime import host_memory

if sys.argv[1] == "keep" and not host_memory.keep_freed():
  sys.exit(77)

import jax
import jax.numpy as jnp

jax.config.update("jax_num_cpu_devices", 2)
mesh = jax.make_mesh((2,), ("data",))
x = jax.device_put(jnp.ones((2, 8 << 20)), jax.NamedSharding(mesh, jax.P("data")))
f = jax.jit(lambda x: (x[:, ::-1] + 1).sum())
for step in range(12):
  if step == 6:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  jax.block_until_ready(f(x * step))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
  """Page faults of six steps on two devices, after six others, in a process of its own."""
  done = subprocess.run([sys.executable, "-c", PROBE, how], capture_output=True, text=True)
  if done.returncode == 77:
    pytest.skip("malloc is not glibc's")
  assert done.returncode == 0, done.stderr
  return int(done.stdout)


def test_steps_on_a_cpu_use_freed_memory_again():
  kept, left = faults("keep"), faults("leave")
  assert kept < 0.5 * left, (kept, left)


GAPS = """
import pathlib

from jiqa.runtime import host_memory

def resident():
  return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [b"%07d" % i * 15_000 for i in range(3000)]  # 315 MB, all written to
blocks = blocks[::100]  # what is left lies all over the heap
before = resident()
print(int(host_memory.give_back()), before - resident())
"""


def test_gaps_are_given_back():
  done = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True)
  agreed, less = map(int, done.stdout.split())
  if not agreed:
    pytest.skip("malloc is not glibc's")
  assert less > 150e6, less


def test_nothing_happens_where_malloc_has_no_such_function(monkeypatch):
  monkeypatch.setattr(host_memory, "_of_libc", lambda name: None)
  assert not host_memory.give_back() and not host_memory.keep_freed()
