"""What has to be settled before jax is imported by a command."""

import os
import pathlib
import platform


def prepare():
  """One XLA device a CPU core, and programs that later commands find compiled; what the environment says stays.

  XLA runs some convolutions on one thread: with one device a core, every core has an image of its own. GPUs and TPUs
  are not affected. Programs for CPUs fit one kind of CPU only, so each host has its own folder.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  if "xla_force_host_platform_device_count" not in flags:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={cores}".strip()
  cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "jiqa" / f"compiled_{platform.node()}"))
