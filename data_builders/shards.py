"""Writes image files into ArrayRecord shards: in order, in parallel, and so that an interrupted run can go on.

TFDS's own writers work on one shard after the other, compress the images once more, and start over after an
interruption. Here a shard is the unit of work, of a thread or of Apache Beam. Finished shards wait in a staging folder
beside the set and move into it in the end; TFDS renames that whole folder into its place, so a set is either complete
or not there.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import itertools
import os
import pathlib
import shutil
import threading

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from data_builders.image_files import check_image
from jiqa.data.schema import AGAIN
from jiqa.errors import UserError

# One shard is one unit of parallel work and of resuming.
SHARD_BYTES = 128 << 20
# So many files between two messages to the progress bar, whose lock all threads share.
ADVANCE_EVERY = 16
# The files are compressed images already; group 1 is what makes random access cheap; the parallel work is over shards,
# where the threads inside a writer would cost more than they bring.
RECORD_OPTIONS = "group_size:1,uncompressed,max_parallelism:1"


@dataclasses.dataclass(frozen=True)
class Shard:
  """Consecutive rows of the label table that go into one file.

  Attributes:
    root: the folder that the image names are relative to.
    file: where the finished shard waits; the name is a fingerprint of all labels and files, and a number.
    split: TFDS split, "train" where the database has none.
    rows: tuple of dicts, one a record.
  """

  root: str
  file: str
  split: str
  rows: tuple


def write(builder, root, table, *, workers, skip_damaged, advance, beam):
  """Writes all shards of a set into `builder.data_dir`, several at once.

  Args:
    builder: a `data_builders.base.Builder` whose data_dir is the folder being prepared, its staging folder `locked`.
    root: pathlib.Path, the folder that the image names are relative to.
    table: label table in record order.
    workers: threads; None takes one a core.
    skip_damaged: leave damaged files out; not with Beam.
    advance: called with the number of records done since the last call, from any thread.
    beam: object with `beam_runner`, None to write in this process, and `beam_options`.

  Returns:
    (list of TFDS SplitInfo, dict from the names of the images left out to "file: reason").

  Raises:
    UserError: a damaged file (unless they are skipped), or every file is; nothing stays behind.
  """
  staging = staging_folder(builder)
  for stale in staging.parent.glob(f"incomplete.*_{builder.version}"):  # of a killed run; TFDS never looks again
    if stale != pathlib.Path(builder.data_dir):
      shutil.rmtree(stale, ignore_errors=True)
  try:
    shards = plan(root, table, staging)
    if beam.beam_runner is None:
      skipped = _write_with_threads(shards, workers or os.cpu_count(), skip_damaged, advance)
    else:
      skipped = _write_with_beam(shards, beam)
    left_out = dict(itertools.chain.from_iterable(names.items() for names in skipped))
    if len(left_out) == len(table):
      first = next(iter(left_out.values()))
      raise UserError(f"{root}: none of the {len(table)} files is an image; the first: {first}")
    lengths = [len(shard.rows) - len(names) for shard, names in zip(shards, skipped, strict=True)]
    splits = _move(builder, shards, lengths)
  except KeyboardInterrupt:
    raise  # what is finished waits for the next run
  except BaseException:
    shutil.rmtree(staging, ignore_errors=True)
    raise
  return splits, left_out


def staging_folder(builder):
  """Where the finished shards of a set wait."""
  return pathlib.Path(builder.data_dir).parent / f"staging.{builder.version}"


def plan(root, table, staging):
  """Cuts the label table into shards of about SHARD_BYTES; the same cut for the same files, on any machine.

  Args:
    root: pathlib.Path, the folder that the image names are relative to.
    table: label table in record order.
    staging: pathlib.Path, where finished shards wait.

  Returns:
    List of Shard.
  """
  rows, sizes, stamp = table.to_dict("records"), np.zeros(len(table), np.int64), hashlib.sha256()
  for i, row in enumerate(rows):
    try:
      stat = os.stat(root / row["image_name"])
    except OSError:
      continue  # such as a dangling link: `example` refuses it
    sizes[i] = stat.st_size
    stamp.update(repr((row, stat.st_size, stat.st_mtime_ns)).encode())
  shards, splits = [], np.array([row["split"] or "train" for row in rows])
  for split in dict.fromkeys(splits.tolist()):
    positions = np.flatnonzero(splits == split)
    total = sizes[positions].cumsum()
    count = max(1, round(total[-1] / SHARD_BYTES))
    cuts = np.searchsorted(total, total[-1] * np.arange(1, count) / count) + 1
    for part in filter(len, np.split(positions, cuts)):
      file = os.fspath(staging / f"{stamp.hexdigest()[:16]}-{len(shards):05d}")
      shards.append(Shard(os.fspath(root), file, split, tuple(rows[i] for i in part)))
  return shards


def write_shard(shard, skip_damaged=False, advance=lambda count: None):
  """Writes one shard, unless an interrupted run has.

  Returns:
    dict from the names of the images left out to "file: reason".
  """
  skipped = {}

  def records():
    for i, row in enumerate(shard.rows):
      if i % ADVANCE_EVERY == 0:
        advance(min(ADVANCE_EVERY, len(shard.rows) - i))
      try:
        record = example(pathlib.Path(shard.root), row)
      except UserError as error:
        if not skip_damaged:
          raise
        skipped[row["image_name"]] = str(error)
      else:
        yield serialized(record)

  if os.path.exists(shard.file) and ArrayRecordReader(shard.file).num_records() == len(shard.rows):
    advance(len(shard.rows))
    return skipped
  _write_records(f"{shard.file}.partial", records())
  os.rename(f"{shard.file}.partial", shard.file)
  return skipped


def example(root, row):
  """The record of one row: the labels and the file's bytes, checked to be a complete image.

  Raises:
    UserError: unreadable or damaged file; names it.
  """
  path = root / row["image_name"]
  try:
    data = path.read_bytes()
  except OSError as error:
    raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
  check_image(data, str(path))
  return {**row, "image": data}


def serialized(record):
  """The tf.Example of one record, as TFDS's serializer makes it, without the arrays that it goes through.

  Args:
    record: dict of the schema's features as Python values; 'image' is bytes.

  Returns:
    bytes.
  """
  message = tf_example_pb2.Example()
  for name, value in record.items():
    feature = message.features.feature[name]
    if isinstance(value, float):
      feature.float_list.value.append(value)
    elif isinstance(value, int):
      feature.int64_list.value.append(value)
    else:
      feature.bytes_list.value.append(value if isinstance(value, bytes) else value.encode())
  return message.SerializeToString()


def _write_records(path, records):
  """Writes serialized records; a full disk is an OSError, never a short file."""
  writer, count = ArrayRecordWriter(path, RECORD_OPTIONS), 0
  try:
    for record in records:
      writer.write(record)
      count += 1
    writer.close()
  except RuntimeError as error:  # what riegeli makes of a failed write
    raise OSError(errno.EIO, str(error).partition(";")[0], path) from error
  finally:
    with contextlib.suppress(RuntimeError):
      writer.close()
  if count and (complete := ArrayRecordReader(path).num_records()) != count:
    raise OSError(errno.ENOSPC, f"{path} holds {complete} of {count} records; is the disk full?")


def _write_with_threads(shards, workers, skip_damaged, advance):
  """`write_shard` of every shard; the first failure or Ctrl-C stops them all."""
  stop = threading.Event()

  def advance_unless_stopped(count):
    if stop.is_set():
      raise InterruptedError
    advance(count)

  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    jobs = [pool.submit(write_shard, shard, skip_damaged, advance_unless_stopped) for shard in shards]
    try:
      for job in concurrent.futures.as_completed(jobs):
        job.result()
    except BaseException:
      stop.set()
      pool.shutdown(cancel_futures=True)
      raise
  return [job.result() for job in jobs]


def _write_with_beam(shards, config):
  import apache_beam as beam

  with beam.Pipeline(runner=config.beam_runner, options=config.beam_options) as pipeline:
    _ = pipeline | beam.Create(shards) | beam.Reshuffle() | beam.Map(write_shard)
  return [{} for _ in shards]


def _move(builder, shards, lengths):
  """Moves the shards into the set; returns the SplitInfos. A shard of which nothing is left is dropped."""
  infos = []
  for split in dict.fromkeys(shard.split for shard in shards):
    kept = [(s.file, n) for s, n in zip(shards, lengths, strict=True) if s.split == split and n]
    if kept:
      template = builder._get_filename_template(split_name=split)
      paths = template.sharded_filepaths(len(kept))
      size = sum(os.path.getsize(file) for file, _ in kept)
      for (file, _), path in zip(kept, paths, strict=True):
        os.rename(file, path)
      counts = [count for _, count in kept]
      infos.append(tfds.core.SplitInfo(name=split, shard_lengths=counts, num_bytes=size, filename_template=template))
  return infos


def locate(info):
  """(file, its first record, the end) of every shard of a prepared set, given its TFDS DatasetInfo.

  A UserError names one that is missing, cut off or from somewhere else.
  """
  shards, first = [], 0
  for split in info.splits.values():
    for file, count in zip(split.filepaths, split.shard_lengths, strict=True):
      try:
        records = ArrayRecordReader(os.fspath(file)).num_records()
      except Exception as error:
        raise UserError(f"{file}: this shard of a prepared set is missing or damaged ({error}); {AGAIN}") from error
      if records != count:
        raise UserError(f"{file}: this shard of a prepared set has {records:,} records instead of {count:,}; {AGAIN}")
      shards.append((file, first, first + count))
      first += count
  return shards


@contextlib.contextmanager
def locked(staging, wait):
  """Holds the staging folder for this process; the lock goes with the process, however that ends.

  Where another process holds it: waits until it ends, or raises a UserError.
  """
  staging.mkdir(parents=True, exist_ok=True)
  with open(staging / "lock", "w") as handle:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
      raise UserError(f"{staging}: another process is preparing this set; wait for it to end.") from error
    try:
      yield
    finally:
      (staging / "lock").unlink(missing_ok=True)
      with contextlib.suppress(OSError):
        staging.rmdir()  # only where it is empty
