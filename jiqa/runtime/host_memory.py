"""Keeps the memory that a step on a CPU gives back for the next one."""

import ctypes
import importlib.metadata
import importlib.util

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def accelerator_expected():
  """Whether jax has a plugin for anything but CPUs; asked before jax starts, which it does on its first use."""
  return bool(importlib.metadata.entry_points(group="jax_plugins")) or importlib.util.find_spec("libtpu") is not None


def keep_freed():
  """Tells glibc's malloc to keep freed memory instead of giving it back to the kernel; does nothing elsewhere.

  XLA's CPU client takes the scratch memory of a program anew at every call. Hundreds of megabytes are then mapped, and
  zeroed page by page, at every step: 6 to 14 % of the time of a training step, measured with ResNet-18 and ViT-S.

  To be called before jax starts its threads: they must share malloc's first arena, because no other can hold large
  blocks without mapping them.

  Returns:
    bool: whether malloc has agreed.
  """
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(M_ARENA_MAX, 1))
