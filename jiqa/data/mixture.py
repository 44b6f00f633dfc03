"""The training stream: several databases mixed by weight, its position a pure function of the step."""

import dataclasses
import sys

import grain
import numpy as np

from jiqa.data.decode import decode_rgb
from jiqa.errors import UserError


class Decoded:
  """A source with decoded images; for each of up to `most` damaged records it gives the next whole one.

  Which one that is depends on the records alone: the stream stays a function of the step.
  """

  def __init__(self, source, most):
    self._source, self._most, self._damaged = source, min(most, len(source) - 1), {}

  def __len__(self):
    return len(self._source)

  def __getitem__(self, i):
    while True:
      try:
        if i not in self._damaged:
          record = self._source[i]
          return {**record, "image": decode_rgb(record["image"], record["image_name"])}
      except UserError as error:
        warning = f"warning: {error}"
        first = self._damaged.setdefault(i, warning) is warning  # two threads may meet it at once
        if len(self._damaged) > self._most:
          raise UserError(f"{error} (damaged records passed over, by config.damaged_records: {self._most})") from error
        if first:
          print(f"{warning}\npassed over: {len(self._damaged)} of at most {self._most}", file=sys.stderr)
      i = (i + 1) % len(self)


@dataclasses.dataclass(frozen=True)
class HostRows:
  """The `count` consecutive rows from `first` on of every global batch of a stream, one after the other."""

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
class FixedComposition:
  """Interleaves endless streams so that every batch holds `counts` examples of each, in their order."""

  streams: tuple
  counts: tuple

  def __len__(self):
    batches = min(len(stream) // count for stream, count in zip(self.streams, self.counts, strict=True))
    return min(batches * sum(self.counts), sys.maxsize)  # repeated streams are as long as Python allows

  def __getitem__(self, i):
    step, row = divmod(i, sum(self.counts))
    for stream, count in zip(self.streams, self.counts, strict=True):
      if row < count:
        return stream[step * count + row]
      row -= count
    raise IndexError(i)


@dataclasses.dataclass(frozen=True)
class Subset:
  """The records of a source at `positions`, [n] int, with `facts` added to each."""

  source: object
  positions: np.ndarray
  facts: dict = dataclasses.field(default_factory=dict)

  def __len__(self):
    return len(self.positions)

  def __getitem__(self, i):
    return {**self.source[int(self.positions[i])], **self.facts}


def training_batches(
  sources, weights, preprocess_train, *, batch_size, seed, start, host=0, hosts=1, threads=4, buffered=8, counts=None,
  damaged=0,
):  # fmt: skip
  """Batches from step `start` on, for ever; the same ones whatever the number of hosts, threads or restarts.

  Every source is shuffled anew each epoch and repeated; each record gets a random generator, derived from the seed and
  the record's position in the stream.

  Args:
    sources: sequence of random-access sources of records with 'image' (file bytes) and 'image_name'.
    weights: relative frequencies of the sources, same length; not used with `counts`.
    preprocess_train: see `Method.preprocess_train`.
    batch_size: global number of examples a step; a multiple of `hosts`.
    seed, start: int; `start` is the first step.
    host, hosts: this process and the number of processes; process i reads rows [i B/hosts, (i+1) B/hosts) of a batch.
    threads, buffered: decoding threads, examples decoded ahead.
    counts: how many examples of every source a batch holds, in this order; None: by weight.
    damaged: how many records of every source may be damaged, see `Decoded`.

  Returns:
    iterator over dicts of stacked NumPy arrays, batch_size / hosts rows each.

  Raises:
    ValueError: batch_size is no multiple of hosts or not the sum of the counts, or a source is empty.
  """

  def example(record, rng):
    record = dict(record)
    return preprocess_train(record.pop("image"), record, rng)

  if counts and sum(counts) != batch_size:
    raise ValueError(f"batch_size {batch_size} is not the sum of the counts {tuple(counts)}")
  if batch_size % hosts:
    raise ValueError(f"batch_size {batch_size} is not a multiple of the {hosts} processes")
  if any(len(source) == 0 for source in sources):
    raise ValueError("a training source is empty")
  streams = tuple(
    grain.MapDataset.source(Decoded(source, damaged)).seed(seed + 1000 * i).shuffle().repeat()
    for i, source in enumerate(sources)
  )
  if counts:
    mixed = grain.MapDataset.source(FixedComposition(streams, tuple(counts)))
  else:
    mixed = streams[0] if len(streams) == 1 else grain.MapDataset.mix(streams, weights=list(weights))
  local = batch_size // hosts
  rows = HostRows(mixed.seed(seed).random_map(example), batch_size, host * local, local)
  # Examples are read ahead and batched afterwards: reading batches ahead would hold `buffered` of them in memory.
  examples = grain.MapDataset.source(rows)[start * local :]
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffered)
  return iter(examples.to_iter_dataset(options).batch(local, drop_remainder=True))
