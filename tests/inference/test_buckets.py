"""Padded sizes: a fixed list, few for any folder, and every image back as it was."""

import collections
import math

import numpy as np
import pytest

from jiqa.inference.buckets import QUARTERS, SIDES, bucket_of, bucketed_batches, shapes_of


def test_the_bucket_is_the_smallest_of_the_list_that_holds_the_image():
  shapes = [(side * quarters // 4, side) for side in SIDES for quarters in QUARTERS]
  shapes += [shape[::-1] for shape in shapes]
  rng = np.random.default_rng(0)
  for height, width in [*rng.integers(1, 2049, (300, 2)), (1, 1), (2048, 2048), (768, 1024), (1024, 768), (385, 500)]:
    holding = [shape for shape in shapes if shape[0] >= height and shape[1] >= width]
    assert bucket_of(height, width) in holding, (height, width)
    assert math.prod(bucket_of(height, width)) == min(map(math.prod, holding)), (height, width)
  assert bucket_of(12_300, 600) == (13_312, 1024)  # not the next power of two, which would be a gigabyte
  assert bucket_of(6000, 1) == (6144, 128) and bucket_of(500, 3000) == (512, 3072)


@pytest.mark.parametrize(("low", "high"), [(300, 800), (40, 200), (20, 3000), (4000, 9000)])
def test_padding_is_bounded_and_a_folder_needs_few_programs(low, high):
  rng, shapes, padded, real = np.random.default_rng(0), set(), 0, 0
  for _ in range(50):
    height, width = (int(n) for n in rng.integers(low, high, 2))
    image = np.broadcast_to(np.uint8(0), (height, width, 3))
    full, half = shapes_of({"full": image, "half": image[: height // 2, : width // 2]})
    assert full[0] >= height and full[1] >= width and half[0] >= height // 2 and half[1] >= width // 2
    assert half == (full[0] // 2, full[1] // 2, 3)
    shapes.add((full, half))
    padded, real = padded + math.prod(full), real + 3 * height * width
  assert len(shapes) <= 35 and padded < 2 * real


def test_an_image_of_one_pixel_and_an_entry_that_is_larger_than_the_first():
  assert shapes_of({"full": np.zeros((1, 5, 3)), "half": np.zeros((1, 2, 3))}) == ((24, 32, 3), (12, 16, 3))
  assert shapes_of({"small": np.zeros((30, 30, 3)), "large": np.zeros((90, 60, 3))}) == ((32, 32, 3), (96, 72, 3))


def test_views_of_one_size_are_stacked_as_they_are():
  crops = [np.full((3, 8, 8, 3), i, np.uint8) for i in range(5)]
  batches = list(bucketed_batches(((i, {"crops": c}) for i, c in enumerate(crops)), 2 * 3 * 8 * 8, multiple=1))
  assert [indices for indices, _ in batches] == [[0, 1], [2, 3], [4]]
  assert all(batch["crops"].shape == (2, 3, 8, 8, 3) and set(batch) == {"crops"} for _, batch in batches)
  assert [int(batch["crops"][0, 0, 0, 0, 0]) for _, batch in batches] == [0, 2, 4]


def test_stacks_of_different_numbers_of_crops_never_meet():
  crops = [np.full((n, 8, 8, 3), n, np.uint8) for n in (1, 2, 3, 4, 5, 6, 7, 9, 7, 8, 1)]
  batches = list(bucketed_batches(((i, {"crops": c}) for i, c in enumerate(crops)), 1, 2))
  assert sorted(i for indices, _ in batches for i in indices) == list(range(len(crops)))
  for indices, batch in batches:
    for row, index in enumerate(indices):
      np.testing.assert_array_equal(batch["crops"][row], crops[index])


def test_batches_give_back_every_image_once():
  rng = np.random.default_rng(0)
  images = [rng.integers(0, 256, (*rng.integers(20, 120, 2), 3), dtype=np.uint8) for _ in range(23)]
  items = ((i, {"full": image, "half": image[::2, ::2]}) for i, image in enumerate(images))
  seen, shapes = [], collections.defaultdict(set)
  for indices, batch in bucketed_batches(items, pixels_per_batch=5 * 64 * 64, multiple=2):
    assert batch["full"].shape[0] % 2 == 0
    shapes[batch["full"].shape[1:], batch["half"].shape[1:]].add(batch["full"].shape[0])
    for row, index in enumerate(indices):
      height, width = batch["full_size"][row]
      assert (batch["full"][row, :height, :width] == images[index]).all()
      assert not batch["full"][row, height:].any() and not batch["full"][row, :, width:].any()
      height, width = batch["half_size"][row]
      assert (batch["half"][row, :height, :width] == images[index][::2, ::2]).all()
      seen.append(index)
  assert sorted(seen) == list(range(23))
  assert all(len(sizes) == 1 for sizes in shapes.values())  # one program a bucket
