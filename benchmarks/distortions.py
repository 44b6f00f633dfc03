"""The distortion bank against PIL, SciPy and scikit-image, per core, on the same photographs in one run.

  python -m benchmarks.distortions [--photos=FOLDER] [--repeats=5]

The other side is tests/distortions/reference_bank.py, which does what the published Re-IQA code does with the same
libraries. Both sides run in this process on one core and are timed in turns by the CPU time they use.

  kinds    every kind at its five levels on a 512x384 photograph: images in, images out.
  item     one training item of Re-IQA: 11 versions of one photograph, half-size copies, two crops of 160 px from every
           version at both scales; all pixels of a 512x384 photograph on both sides.
  window   the same item from a 1024x768 photograph, where the bank distorts only the 606x606 window that the crops of
           the half-size copies can need, and the reference the whole photograph, as the published code does.

On a machine with an accelerator the bank runs there, timed by the wall, and ratios compare it with one core.
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import sys
import time

if __name__ == "__main__":
  with contextlib.suppress(AttributeError):  # before jax starts its threads; Linux only
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "distortions"))

import jax
import jax.numpy as jnp
import numpy as np
import reference_bank
import skimage.data
from PIL import Image

from jiqa.distortions import bank, resample

VERSIONS, CROP = 11, 160
SHIFT = (128, 20)  # a typical offset between the two crops of a pair, down and to the right
WINDOW = 606  # twice the largest window of a crop pair


def load_photos(folder, width, height):
  """Two photographs scaled and cropped to size, 8-bit RGB."""
  if folder:
    images = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))[:2]]
  else:
    images = [Image.fromarray(pixels) for pixels in (skimage.data.coffee(), skimage.data.astronaut())]
  fitted = []
  for image in images:
    scale = max(width / image.width, height / image.height)
    image = image.resize((max(width, round(image.width * scale)), max(height, round(image.height * scale))))
    fitted.append(np.asarray(image)[:height, :width])
  return fitted


def seconds(work):
  """CPU seconds of one call; wall time on an accelerator, whose work the CPU does not do."""
  clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
  start = clock()
  jax.block_until_ready(work())
  return clock() - start


def interleaved(sides, repeats):
  """Median seconds of every side, the sides taking turns; one unmeasured call of each first."""
  for work in sides:
    jax.block_until_ready(work())
  times = [[seconds(work) for work in sides] for _ in range(repeats)]
  return [statistics.median(column) for column in zip(*times, strict=True)]


def compare_kind(kind, photo, repeats):
  """Median seconds of one kind at its five levels: (reference, ours)."""
  images, rng = jnp.asarray(photo[None], jnp.float32) / 255, np.random.default_rng(0)
  kinds, levels = jnp.full((1, bank.LEVELS), kind), jnp.arange(bank.LEVELS)[None]
  distort = jax.jit(lambda images, key: bank.distort_versions(images, kinds, levels, key, allowed=(kind,)))
  sides = [
    lambda: [reference_bank.KINDS[kind](photo, level, rng) for level in range(bank.LEVELS)],
    lambda: distort(images, jax.random.key(0)),
  ]
  return interleaved(sides, repeats)


def compare_kinds(photos, repeats):
  """Prints a line for every kind, then the totals."""
  print(f"{'kind':24s}{'reference':>12s}{'jiqa':>10s}{'ratio':>8s}    (ms an image, 512x384)")
  rows = []
  for kind, name in enumerate(bank.names()):
    times = [compare_kind(kind, photo, repeats) for photo in photos]
    reference, ours = (1000 * statistics.mean(column) / bank.LEVELS for column in zip(*times, strict=True))
    rows.append((reference, ours))
    print(f"{name:24s}{reference:12.1f}{ours:10.1f}{reference / ours:8.1f}", flush=True)
  reference, ours = (statistics.mean(column) for column in zip(*rows, strict=True))
  print(f"{'mean of all kinds':24s}{reference:12.1f}{ours:10.1f}{reference / ours:8.1f}")
  ratios = [first / second for first, second in rows]
  slower = sum(ratio < 1 for ratio in ratios)
  print(
    f"geometric mean of the ratios {statistics.geometric_mean(ratios):.1f}; slower than the reference: {slower} of 26"
  )


def half_size_matrix(size):
  """The published halving: cubic interpolation with a = -0.75, corners aligned, not antialiased."""
  small = size // 2
  places = np.arange(small) * (size - 1) / (small - 1)
  matrix, a = np.zeros((small, size)), -0.75
  for tap in range(-1, 3):
    columns = np.floor(places).astype(int) + tap
    x = np.abs(places - columns)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    np.add.at(matrix, (np.arange(small), np.clip(columns, 0, size - 1)), np.where(x <= 1, near, far))
  return matrix


def reference_item(photo, kinds, levels, rng, matrices):
  """The published training item: distort the whole photograph, halve all versions, crop."""
  versions = [photo, *(reference_bank.KINDS[k](photo, level, rng) for k, level in zip(kinds, levels, strict=True))]
  versions = np.stack(versions).astype(np.float32) / 255
  half = np.einsum("ij,bjwc->biwc", matrices[0], versions, optimize=True)
  half = np.einsum("ij,bhjc->bhic", matrices[1], half, optimize=True)
  crops = []
  for images in (versions, half):
    top, left = (int(rng.integers(0, max(1, images.shape[i + 1] - SHIFT[i] - CROP + 1))) for i in (0, 1))
    for dy, dx in ((0, 0), SHIFT):
      top_left = min(top + dy, images.shape[1] - CROP), min(left + dx, images.shape[2] - CROP)
      crops.append(images[:, top_left[0] : top_left[0] + CROP, top_left[1] : top_left[1] + CROP].copy())
  return np.stack(crops)


def reference_item_of(seed):
  """Makes the reference's training item of a 512x384 photograph, with kinds and levels drawn from a seed."""
  rng = np.random.default_rng(seed)
  photo = load_photos(None, 512, 384)[0]
  matrices = [half_size_matrix(size).astype(np.float32) for size in photo.shape[:2]]
  kinds, levels = rng.permutation(26)[:VERSIONS], rng.integers(0, bank.LEVELS, VERSIONS)
  return reference_item(photo, kinds, levels, rng, matrices).shape


def our_item(image, kinds, levels, key, bands):
  """The same on the accelerator; image: [h, w, 3] uint8."""
  image = image[None].astype(jnp.float32) / 255
  versions = bank.distort_versions(image, kinds[None], levels[None], key)[0]
  versions = jnp.concatenate([image, versions])
  planes, zero = jnp.swapaxes(versions, 2, 3), jnp.zeros(VERSIONS + 1, jnp.int32)
  half = resample.along(1, bands[0], zero, resample.along(3, bands[1], zero, planes))
  crops = []
  for images, stream in ((planes, 0), (half, 1)):
    room = jnp.asarray([max(1, images.shape[i] - SHIFT[j] - CROP + 1) for j, i in enumerate((1, 3))])
    top, left = jax.random.randint(jax.random.fold_in(key, stream), (2,), 0, room)
    for dy, dx in ((0, 0), SHIFT):
      start = (0, top + dy, 0, left + dx)  # dynamic_slice keeps the window inside, as min() does above
      crops.append(jax.lax.dynamic_slice(images, start, (VERSIONS + 1, CROP, 3, CROP)))
  return jnp.swapaxes(jnp.stack(crops), 3, 4)


def compare_items(title, photo, window, repeats):
  """Times whole items of 26 / 11 sets of kinds, so that every kind occurs equally often; prints means and the ratio."""
  (h, w), (top, left) = photo.shape[:2], ((photo.shape[0] - window[0]) // 2, (photo.shape[1] - window[1]) // 2)
  matrices = [half_size_matrix(size).astype(np.float32) for size in (h, w)]
  bands = [resample.banded([half_size_matrix(size)]) for size in window]
  ours = jax.jit(lambda image, kinds, levels, key: our_item(image, kinds, levels, key, bands))
  cut = jnp.asarray(photo[top : top + window[0], left : left + window[1]])
  kinds = np.asarray(bank.cyclic_kinds(jax.random.key(0), 26, VERSIONS))
  levels, rng = np.random.default_rng(1).integers(0, bank.LEVELS, kinds.shape), np.random.default_rng(0)
  program = ours.lower(cut, jnp.asarray(kinds[0]), jnp.asarray(levels[0]), jax.random.key(0)).compile()
  totals = []
  for row in range(0, 26, max(1, 26 // (2 * repeats))):
    sides = [
      lambda row=row: reference_item(photo, kinds[row], levels[row], rng, matrices),
      lambda row=row: program(cut, jnp.asarray(kinds[row]), jnp.asarray(levels[row]), jax.random.key(row)),
    ]
    totals.append(interleaved(sides, 1))
  reference, mine = (1000 * statistics.mean(column) for column in zip(*totals, strict=True))
  print(
    f"{title}: reference {reference:.0f} ms, jiqa {mine:.0f} ms, ratio {reference / mine:.1f}  ({len(totals)} items)"
  )


def report_memory(batch):
  """Prints the peak of one training batch of 512x384 photographs, as compiled for this backend."""
  shape = (batch, 384, 512, 3)
  kinds = jax.ShapeDtypeStruct((batch, VERSIONS), jnp.int32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  program = jax.jit(bank.distort_versions).lower(jax.ShapeDtypeStruct(shape, jnp.float32), kinds, kinds, key).compile()
  memory = program.memory_analysis()
  output, scratch = memory.output_size_in_bytes, memory.temp_size_in_bytes
  print(
    f"memory, {batch} photographs x {VERSIONS} versions of 512x384: output {output / 2**20:.0f} MiB, "
    f"scratch {scratch / 2**20:.0f} MiB ({scratch / output:.1f} x output)"
  )


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--photos", type=pathlib.Path, help="folder of PNG photographs; default: scikit-image's")
  parser.add_argument("--repeats", type=int, default=5, help="timed turns of every comparison")
  options = parser.parse_args()
  print(f"backend {jax.default_backend()}, jax {jax.__version__}, one CPU core")
  photos = load_photos(options.photos, 512, 384)
  compare_kinds(photos, options.repeats)
  compare_items("training item, same pixels (512x384)", photos[0], (384, 512), options.repeats)
  large = load_photos(options.photos, 1024, 768)[0]
  compare_items(f"training item, window {WINDOW}x{WINDOW} of 1024x768", large, (WINDOW, WINDOW), options.repeats)
  for batch in (1, 8, 32):
    report_memory(batch)


if __name__ == "__main__":
  main()
