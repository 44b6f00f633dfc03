"""Ten thousand damaged files: whatever reads them says what is wrong, within seconds and a bound of memory."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARES = {"photograph": 6400, "weights": 1200, "card": 800, "table": 600, "labels": 400, "head": 400, "fitted": 200}

FUZZ = """
import io, json, pathlib, resource, signal, sys, warnings
import numpy as np
from PIL import Image
from data_builders import label_files
from jiqa.data.decode import decode_rgb
from jiqa.errors import UserError
from jiqa.evaluation import tables
from jiqa.inference import heads
from jiqa.inference.loading import read_folder
from jiqa.weights.store import load_weights, save_weights

kind, count, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
warnings.simplefilter("ignore")  # PIL's, about damaged metadata
rng = np.random.default_rng(sum(kind.encode()))
image = Image.fromarray(np.kron(rng.integers(0, 256, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8)))


def pictures():
  for form, options in [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}),
                        ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("JPEG2000", {}), ("PPM", {}), ("TGA", {})]:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    yield buffer.getvalue()


ones = np.ones((3, 4), np.float32)
save_weights(folder / "of", {"kernel": ones}, {"mean": ones[0]}, {"method": "lml"})
TEXT = b"image_name,mos,score\\n" + b"".join(b"photo_%d.jpg,%.2f,%.3f\\n" % (i, i / 3, i / 7) for i in range(12))
np.savez(folder / "head.npz", alpha=np.ones(1), **{name: np.ones((1, 3)) for name in heads.head_files.ARRAYS})
heads.head_files.Head(*np.ones((4, 3)), card={}).save(folder / "head.safetensors")
SEEDS = {
  "photograph": list(pictures()), "weights": [(folder / "of" / "weights.safetensors").read_bytes()],
  "card": [(folder / "of" / "card.json").read_bytes()], "table": [TEXT], "labels": [TEXT],
  "head": [(folder / "head.npz").read_bytes()], "fitted": [(folder / "head.safetensors").read_bytes()],
}


def written(name, data):
  path = folder / name
  path.write_bytes(data)
  return path


READ = {
  "photograph": lambda data: decode_rgb(data, "photo"),
  "weights": lambda data: (written("of/weights.safetensors", data), load_weights(folder / "of")),
  "card": lambda data: (written("of/card.json", data), read_folder(folder / "of")),
  "table": lambda data: tables.methods(tables.read(written("t.csv", data)), "t.csv", {"mos"}),
  "labels": lambda data: [r.number("mos") for r in label_files.read_csv(written("l.csv", data), ["image_name", "mos"])],
  "head": lambda data: heads.read(written("head.npz", data)),
  "fitted": lambda data: heads.read(written("head.safetensors", data)),
}


def damaged(data):
  data, how = bytearray(data), rng.integers(6)
  at = lambda: int(rng.integers(len(data)))
  if how == 0:  # bits
    for _ in range(rng.integers(1, 9)):
      data[at()] ^= 1 << int(rng.integers(8))
  elif how == 1:  # the end is missing
    del data[at():]
  elif how == 2:  # a piece is
    start = at()
    del data[start : start + int(rng.integers(1, 65))]
  elif how == 3:  # a number becomes as large as it can
    start = at()
    data[start : start + 4] = b"\\xff" * 4
  elif how == 4:  # a piece stands twice
    start = at()
    data[start:start] = data[start : start + int(rng.integers(1, 257))]
  else:  # another file goes on
    other = SEEDS["photograph"][rng.integers(len(SEEDS["photograph"]))]
    start = at()
    data[start:] = other[start:]
  return bytes(data)


def over(*_):
  raise RuntimeError("took more than 10 seconds")


signal.signal(signal.SIGALRM, over)
limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 2**30
read = refused = 0
for number in range(count):
  data = damaged(SEEDS[kind][number % len(SEEDS[kind])])
  signal.alarm(10)
  try:
    READ[kind](data)
    read += 1
  except UserError as error:
    assert str(error), "a refusal without words"
    refused += 1
  except BaseException:
    (folder / "failed").write_bytes(data)
    raise
  finally:
    signal.alarm(0)
  used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  assert used < limit, f"{used / 2**20:.0f} MiB after input {number}"
print(read, refused)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHARES)
def test_damaged_files_are_read_or_refused_in_words(kind, tmp_path):
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-c", FUZZ, kind, str(SHARES[kind]), str(tmp_path)]
  done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200)
  assert done.returncode == 0, f"{done.stderr[-3000:]}\nthe input: {tmp_path / 'failed'}"
  read, refused = map(int, done.stdout.split())
  assert read + refused == SHARES[kind] and refused > SHARES[kind] / 20
