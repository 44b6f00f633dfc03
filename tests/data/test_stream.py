"""Windows and the training stream."""

import collections

import numpy as np
import pytest
from PIL import Image

from jiqa.data.crops import random_window
from jiqa.data.mixture import Subset, training_batches


class Squares:
  """A source of n small PNG files, the i-th of gray level first + i."""

  def __init__(self, count, first=0, size=(9, 7)):
    self.count, self.first, self.size = count, first, size

  def __len__(self):
    return self.count

  def __getitem__(self, i):
    import io

    file = io.BytesIO()
    Image.new("RGB", self.size, (self.first + int(i),) * 3).save(file, "PNG")
    return {"image": file.getvalue(), "image_name": f"{i}.png"}


def cut(image, record, rng):
  assert record["image_name"].endswith(".png") and "image" not in record
  return {"level": image[0, 0, 0], "draw": rng.integers(1 << 30)}


def stream(start=0, **changes):
  arguments = dict(batch_size=6, seed=5, start=start, threads=2) | changes
  return training_batches([Squares(20), Squares(10, first=100)], [3, 1], cut, **arguments)


def take(batches, n):
  return [next(batches) for _ in range(n)]


def same(a, b):
  return all((x[name] == y[name]).all() for x, y in zip(a, b, strict=True) for name in x)


def test_the_stream_is_a_function_of_the_step_alone():
  reference = take(stream(), 12)
  assert same(reference[5:], take(stream(start=5), 7))
  assert same(reference, take(stream(threads=1), 12))
  for start in (0, 4):
    hosts = [take(stream(start, host=i, hosts=3), 12 - start) for i in range(3)]
    merged = [{k: np.concatenate([part[k] for part in parts]) for k in parts[0]} for parts in zip(*hosts, strict=True)]
    assert same(reference[start:], merged)


def test_the_seed_decides_the_order_and_the_random_draws():
  one, other = (
    {k: np.stack([batch[k] for batch in take(stream(seed=s), 12)]) for k in ("level", "draw")} for s in (5, 6)
  )
  assert (one["level"] != other["level"]).mean() > 0.5 and not (one["draw"] == other["draw"]).any()


def test_sources_of_one_size_are_shuffled_differently():
  twins = training_batches(
    [Squares(20), Squares(20, first=100)], [1, 1], cut, batch_size=2, seed=5, start=0, counts=(1, 1)
  )
  levels = np.stack([batch["level"] for batch in take(twins, 20)]).astype(int)
  assert (np.sort(levels, 0) == [[i, 100 + i] for i in range(20)]).all()
  assert (levels[:, 0] != levels[:, 1] - 100).any()


def test_sources_are_mixed_by_weight_and_every_epoch_shows_every_image_once():
  levels = np.concatenate([batch["level"] for batch in take(stream(), 40)]).astype(int)
  first = levels[levels < 100]
  assert abs(len(first) / len(levels) - 0.75) < 0.02
  for epoch in range(len(first) // 20):
    assert sorted(first[20 * epoch : 20 * (epoch + 1)]) == list(range(20))
  assert list(first[:20]) != list(first[20:40])


def test_random_draws_differ_between_visits_of_one_image():
  batches = take(stream(), 40)
  draws = collections.defaultdict(set)
  for batch in batches:
    for level, draw in zip(batch["level"], batch["draw"], strict=True):
      draws[int(level)].add(int(draw))
  assert min(len(seen) for seen in draws.values()) > 3


def test_a_fixed_composition_holds_in_every_batch_and_survives_a_restart():
  def fixed(start=0, **changes):
    return stream(start, **{"counts": (4, 2)} | changes)

  reference = take(fixed(), 15)
  levels = np.stack([batch["level"] for batch in reference]).astype(int)
  assert (levels[:, :4] < 100).all() and (levels[:, 4:] >= 100).all()
  for part, size in ((levels[:, :4], 20), (levels[:, 4:], 10)):
    for epoch in range(part.size // size):  # every epoch of a source shows each of its images once
      assert len(set(part.ravel()[size * epoch : size * (epoch + 1)])) == size
  assert same(reference[7:], take(fixed(start=7), 8))
  hosts = [take(fixed(host=i, hosts=3), 15) for i in range(3)]
  merged = [{k: np.concatenate([part[k] for part in parts]) for k in parts[0]} for parts in zip(*hosts, strict=True)]
  assert same(reference, merged)
  with pytest.raises(ValueError, match="sum of the counts"):
    fixed(counts=(4, 3))


def test_a_subset_reads_the_named_positions_and_tells_what_it_knows():
  subset = Subset(Squares(9), np.array([4, 2]), {"database": "squares"})
  assert len(subset) == 2 and subset[0]["image_name"] == "4.png" and subset[1]["database"] == "squares"


def test_only_the_examples_asked_for_are_read_ahead():
  source, reads = Squares(20), []

  class Counting(Squares):
    def __getitem__(self, i):
      reads.append(i)
      return source[i]

  next(training_batches([Counting(20)], [1], cut, batch_size=6, seed=0, start=0, threads=2, buffered=4))
  assert len(reads) <= 6 + 4 + 2 + 6


def test_stream_refuses_what_it_cannot_do():
  with pytest.raises(ValueError, match="multiple of the 4 processes"):
    stream(hosts=4)
  with pytest.raises(ValueError, match="empty"):
    training_batches([Squares(0)], [1], cut, batch_size=2, seed=0, start=0)


def test_window_of_a_large_image_is_a_part_of_it():
  image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
  corners = set()
  for seed in range(300):
    cut = random_window(image, 32, 16, np.random.default_rng(seed))
    assert cut["image"].shape == (32, 32, 3) and list(cut["size"]) == [32, 32]
    found = [
      (top, left)
      for top in range(9)
      for left in range(19)
      if (image[top : top + 32, left : left + 32] == cut["image"]).all()
    ]
    assert len(found) == 1
    corners.update(found)
  assert {top for top, _ in corners} == set(range(9)) and {left for _, left in corners} == set(range(19))


def test_window_of_a_small_image_is_mirrored_and_says_how_much_is_real():
  image = np.random.default_rng(0).integers(0, 256, (5, 50, 3), dtype=np.uint8)
  cut = random_window(image, 32, 4, np.random.default_rng(0))
  assert list(cut["size"]) == [5, 32]
  assert (cut["image"][5:10] == cut["image"][:5][::-1]).all()
  assert list(random_window(image, 32, 16, np.random.default_rng(0))["size"]) == [16, 32]
  tiny = random_window(image[:1, :1], 32, 16, np.random.default_rng(0))
  assert (tiny["image"] == image[0, 0]).all()
