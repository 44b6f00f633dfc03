"""Preparing and reading a set of KonIQ-10k's size, beside the copying of its files and the decoding of its images.

    python -m benchmarks.databases --images=10073 --folder=/scratch

Both sides write to the same disk and wait until it has everything (fsync); the first turn warms the page cache and does
not count. Prints seconds and ratios.
"""

import argparse
import io
import os
import pathlib
import shutil
import tempfile
import time
from concurrent import futures

import numpy as np
from PIL import Image

from data_builders.prepare import prepare
from jiqa.data.decode import decode_rgb
from jiqa.data.source import open_database


def photograph(seed):
  """The bytes of a 1024x768 JPEG of about 160 kB, as KonIQ-10k's are on average."""
  noise = np.random.default_rng(seed).integers(0, 48, (768, 1024, 3))
  pixels = np.add.outer(np.arange(768), np.arange(1024))[..., None] // 9 + noise
  file = io.BytesIO()
  Image.fromarray(pixels.astype(np.uint8)).save(file, format="JPEG", quality=82)
  return file.getvalue()


def timed(function, *arguments):
  """Seconds until `function` has returned and the disk has what it wrote."""
  start = time.perf_counter()
  function(*arguments)
  os.sync()
  return time.perf_counter() - start


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--images", type=int, default=10_073)
  parser.add_argument("--folder", help="where to write; default the system's temporary folder")
  parser.add_argument("--turns", type=int, default=3)
  flags = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
    folder = pathlib.Path(folder)
    measure(folder, flags.images, flags.turns)


def measure(folder, images, turns):
  """Writes `images` files below `folder`, then copies, prepares, reads and decodes them."""
  files = [photograph(seed) for seed in range(8)]
  (folder / "photos").mkdir()
  for i in range(images):
    (folder / f"photos/{i:06d}.jpg").write_bytes(files[i % len(files)])
  jobs = {
    "copy": (shutil.copytree, folder / "photos", folder / "copy"),
    "set": (prepare, "image_folder/photos", folder / "photos", folder / "set"),
  }
  seconds = {name: [] for name in jobs}
  for turn in range(turns + 1):
    # Memory for the page cache is dear on a virtual machine that has not held it before: both take it in turn, from
    # the same state.
    for name in sorted(jobs, reverse=turn % 2 == 1):
      seconds[name].append(timed(*jobs[name]))
      shutil.rmtree(folder / name)
  copy, ours = (np.median(seconds[name][1:]) for name in ("copy", "set"))
  print(
    f"{images:,} files of {len(files[0]) / 1e3:.0f} kB: copy {copy:.2f} s, prepare {ours:.2f} s, {ours / copy:.2f} x"
  )

  prepare("image_folder/photos", folder / "photos", folder / "set")
  database = open_database("image_folder/photos", folder / "set")
  count = min(images, 400)
  start = time.perf_counter()
  records = [database[i] for i in range(count)]
  reading = count / (time.perf_counter() - start)
  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    start = time.perf_counter()
    list(pool.map(lambda record: decode_rgb(record["image"]).shape, records))
    decoding = count / (time.perf_counter() - start)
  print(f"reading {reading:,.0f} records/s, decoding on {os.cpu_count()} cores {decoding:,.0f} images/s")


if __name__ == "__main__":
  main()
