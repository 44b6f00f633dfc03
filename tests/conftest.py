"""Asks for 8 CPU devices before jax is imported anywhere, and finds the optional real data."""

import os
import pathlib
import tempfile

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs that several tests or the processes they start have in common are compiled once.
_compiled = tempfile.TemporaryDirectory(prefix="jiqa_compiled_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import pytest  # noqa: E402

# Real photographs with human scores and real label files. They are not part of the project: point JIQA_REAL_DATA at a
# folder that has them, or lay it beside the checkout as ../shared/data.
REAL_DATA = pathlib.Path(
  os.environ.get("JIQA_REAL_DATA", pathlib.Path(__file__).resolve().parents[2] / "shared" / "data")
)


@pytest.fixture(scope="session")
def real_data():
  """The folder of real data; the test is skipped, saying so, where there is none."""
  if not REAL_DATA.is_dir():
    pytest.skip(f"no real data at {REAL_DATA} (set JIQA_REAL_DATA)")
  return REAL_DATA
