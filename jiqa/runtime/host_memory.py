"""What glibc's malloc does with freed memory: keep it for the next training step on a CPU, or give it back."""

import ctypes
import importlib.metadata
import importlib.util
import os

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # as in malloc.h


def keep_freed():
  """Tells malloc to keep freed memory, unless jax will use an accelerator; returns whether it has agreed.

  XLA's CPU client takes a program's scratch memory anew at every call: hundreds of megabytes that would be mapped, and
  zeroed, at every step. To be called before jax starts its threads, which must share malloc's first arena: no other can
  hold large blocks without mapping them.
  """
  if importlib.metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("libtpu"):
    return False
  mallopt = _of_libc("mallopt")
  return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(M_ARENA_MAX, 1))


def give_back():
  """Gives freed memory back, in which images of many sizes leave gaps; returns whether there was any. Takes 25 ms."""
  trim = _of_libc("malloc_trim")
  return bool(trim and trim(0))


def _of_libc(name):
  """A function of the C library, or None where it has none of that name."""
  return None if os.name == "nt" else getattr(ctypes.CDLL(None), name, None)
