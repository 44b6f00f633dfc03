"""Asks for 8 CPU devices before jax is imported anywhere, and finds the optional real data."""

import importlib
import os
import pathlib
import shutil
import tempfile

from tests import QUICK_COMPILATION

os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count=8 {QUICK_COMPILATION}"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs that several tests or the processes they start have in common are compiled once.
_compiled = tempfile.TemporaryDirectory(prefix="jiqa_compiled_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import pytest  # noqa: E402


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """With -n, a file stays on one worker: what its tests share is set up, and compiled, once."""
  from xdist.scheduler import LoadFileScheduling

  return LoadFileScheduling(config, log) if config.getvalue("dist") == "load" else None


# Real photographs with human scores and real label files. They are not part of the project: point JIQA_REAL_DATA at a
# folder that has them, or lay it beside the checkout as ../shared/data.
REAL_DATA = pathlib.Path(
  os.environ.get("JIQA_REAL_DATA", pathlib.Path(__file__).resolve().parents[2] / "shared" / "data")
)


@pytest.fixture(scope="session")
def real_data():
  """The folder of real data; where there is none the test is skipped, or fails if JIQA_REAL_DATA_REQUIRED is set."""
  if not REAL_DATA.is_dir():
    end = pytest.fail if os.environ.get("JIQA_REAL_DATA_REQUIRED") else pytest.skip
    end(f"no real data at {REAL_DATA} (set JIQA_REAL_DATA)")
  return REAL_DATA


@pytest.fixture(scope="session")
def torch(request):
  """PyTorch; where there is none the test is skipped, or fails if it was chosen by `-m torch`."""
  try:
    return importlib.import_module("torch")
  except ImportError:
    end = pytest.fail if request.config.option.markexpr == "torch" else pytest.skip
    end("torch is not installed (pip install -r requirements-torch.txt)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  for item in items:
    if "torch" in getattr(item, "fixturenames", ()):
      item.add_marker("torch")


@pytest.fixture
def browser(chromium):
  """A headless Chromium, see tests/browser.py, whose log is empty; where there is none the test is skipped."""
  chromium.get_log("browser")  # of earlier tests
  return chromium


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
  programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
  if not all(programs):
    pytest.skip("no Chromium here (Debian: apt-get install chromium chromium-driver)")
  from tests.browser import start

  yield from start(*programs, tmp_path_factory.mktemp("chromium"))


@pytest.fixture(scope="session")
def demo_dir(tmp_path_factory):
  """The demo's photographs and labels, prepared."""
  from data_builders.prepare import prepare

  folder = tmp_path_factory.mktemp("demo")
  prepare("demo", data_dir=folder)
  return folder


@pytest.fixture
def brightness_run(tmp_path, monkeypatch):
  """(config, workdir) of a run that takes a second: a method of one parameter on forty gray images."""
  from ml_collections import ConfigDict
  from PIL import Image

  from data_builders.prepare import prepare
  from tests import brightness_method

  images = tmp_path / "images"
  images.mkdir()
  rows = ["image_name,mos"]
  for i in range(40):
    Image.new("RGB", (16, 16), (6 * i,) * 3).save(images / f"{i}.png")
    rows.append(f"{i}.png,{2.5 * i}")
  (images / "scores.csv").write_text("\n".join(rows))
  prepare("csv/gray", images, tmp_path / "data")
  config = ConfigDict(
    {
      "method": brightness_method.NAME, "seed": 0, "split": -1, "threads": 1,
      "data_dir": str(tmp_path / "data"), "init_from": "",
      "data": [ConfigDict({"name": "csv/gray", "weight": 0.0, "count": 0, "protocol": "", "distortion": ""})],
      "batch_size": 8, "accumulate": 1, "remat": False, "sharding": "replicated", "epochs": 0, "steps": 15,
      "optimizer": {
        "name": "sgd", "schedule": "cosine", "learning_rate": 0.2, "weight_decay": 0.0, "warmup_steps": 0,
        "clip_norm": 0.0,
      },
      "checkpoint_every": 5, "checkpoints_kept": 2, "validate_every": 0, "log_every": 1,
      "evaluation": {
        "databases": (), "protocol": "folds", "splits": 3, "fractions": (0.6, 0.2, 0.2), "alphas": (1.0, 1.0, 1),
        "pixels_per_batch": 8 * 32 * 32, "untrained": True, "checkpoint": "newest",
      },
    }
  )  # fmt: skip
  return config, tmp_path / "workdir"
