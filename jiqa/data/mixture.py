"""The training stream: several databases mixed by weight, its position a pure function of the step."""

import dataclasses

import grain
import numpy as np

from jiqa.data.decode import decode_rgb


@dataclasses.dataclass(frozen=True)
class Decode:
  """Record to a training example: decodes the picture, then cuts what the method asks for.

  Attributes:
    cut: function ([h, w, 3] uint8, np.random.Generator) -> dict of arrays of static shape.
  """

  cut: object

  def __call__(self, record, rng):
    return self.cut(decode_rgb(record["image"], record["image_name"]), rng)


@dataclasses.dataclass(frozen=True)
class HostRows:
  """This process's consecutive rows of every global batch, as one random-access source.

  Attributes:
    stream: the global stream of examples.
    batch_size: rows of a global batch.
    first: this process's first row in a batch.
    count: its number of rows.
  """

  stream: object
  batch_size: int
  first: int
  count: int

  def __len__(self):
    return len(self.stream) // self.batch_size * self.count

  def __getitem__(self, i):
    step, row = divmod(i, self.count)
    return self.stream[step * self.batch_size + self.first + row]


@dataclasses.dataclass(frozen=True)
class Subset:
  """The records of a source at the given positions; random access and picklable as Grain asks."""

  source: object
  positions: np.ndarray

  def __len__(self):
    return len(self.positions)

  def __getitem__(self, i):
    return self.source[int(self.positions[i])]


def training_batches(sources, weights, cut, *, batch_size, seed, start, host=0, hosts=1, threads=4, buffered=8):
  """Batches from step `start` on, for ever; the same ones whatever the number of hosts, threads or restarts.

  Every source is shuffled anew each epoch and repeated; sources are interleaved by weight; each record gets its own
  random generator, derived from the seed and the record's position in the stream.

  Args:
    sources: sequence of random-access sources of records with 'image' (file bytes) and 'image_name'.
    weights: relative frequencies of the sources, same length.
    cut: see `Decode`.
    batch_size: global number of examples a step; a multiple of `hosts`.
    seed: int.
    start: the first step wanted.
    host, hosts: this process and the number of processes; process i reads rows [i B/hosts, (i+1) B/hosts) of a batch.
    threads: decoding threads.
    buffered: examples decoded ahead.

  Returns:
    iterator over dicts of stacked NumPy arrays, batch_size / hosts rows each.

  Raises:
    ValueError: if batch_size is no multiple of hosts, or a source is empty.
  """
  if batch_size % hosts:
    raise ValueError(f"batch_size {batch_size} is not a multiple of the {hosts} processes")
  if any(len(source) == 0 for source in sources):
    raise ValueError("a training source is empty")
  parts = [grain.MapDataset.source(source).seed(seed + 1000 * i).shuffle().repeat() for i, source in enumerate(sources)]
  stream = parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights=list(weights))
  stream = stream.seed(seed).random_map(Decode(cut))
  local = batch_size // hosts
  rows = HostRows(stream, batch_size, host * local, local)
  # Examples are read ahead and batched afterwards: reading batches ahead would hold `buffered` of them in memory.
  examples = grain.MapDataset.source(rows)[start * local :]
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffered)
  return iter(examples.to_iter_dataset(options).batch(local, drop_remainder=True))
