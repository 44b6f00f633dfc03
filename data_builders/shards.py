"""Writes image files into ArrayRecord shards: in order, in parallel, and so that an interrupted run can go on.

TFDS's own writer keeps up to 1 GB in memory, then needs TensorFlow, and always starts over; this one streams. Finished
shards wait in a staging folder beside the set, whose name is a fingerprint of labels and files, and move into the set
in the end; TFDS renames that whole folder into its place, so a set is either complete or not there.
"""

import concurrent.futures
import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import threading

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from jiqa.data.decode import check_image
from jiqa.errors import UserError

# One shard is one unit of parallel work, of resuming, and (with Beam) of memory.
SHARD_BYTES = 128 << 20
# So many files between two messages to the progress bar, whose lock all threads share.
ADVANCE_EVERY = 16
# The files are compressed images already; group 1 is what makes random access cheap; the parallel work is over shards,
# where the threads inside a writer would cost more than they bring.
RECORD_OPTIONS = "group_size:1,uncompressed,max_parallelism:1"
STAGING = "staging."


@dataclasses.dataclass(frozen=True)
class Shard:
  """Consecutive rows of the label table that go into one file.

  Attributes:
    root: the release's top folder.
    split: TFDS split, "train" where the database has none.
    index, count: which of how many shards of the split.
    rows: tuple of dicts, one a record.
    positions: (first, last + 1) in the label table.
    stamp: fingerprint of the rows and of the files' sizes and times.
  """

  root: str
  split: str
  index: int
  count: int
  rows: tuple
  positions: tuple
  stamp: str

  @property
  def file(self):
    return f"{self.split}-{self.index:05d}-{self.count:05d}-{self.stamp}"


class UncompressedWriter(tfds.core.dataset_builder.writer_lib.ExampleWriter):
  """TFDS's shard writer with our record options, for Beam."""

  def write(self, path, examples):
    _write_records(path, (record for _, record in examples))


def example(root, row):
  """The TFDS example of one row: the labels and the file's bytes, checked to be a complete image.

  Args:
    root: pathlib.Path of the release.
    row: dict of the label columns.

  Returns:
    Dict of the schema's features.

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
  """The tf.Example of one record, equal to what TFDS's serializer makes.

  The file's bytes are copied once: a message may come in parts, one after the other, so the protobuf library writes the
  labels and the image goes behind them, between the lengths of the messages that it is nested in.

  Args:
    record: dict of the schema's features as Python values; 'image' is bytes.

  Returns:
    bytes.
  """
  features = {}
  for name, value in record.items():
    if name == "image":
      continue
    if isinstance(value, bytes | str):
      value = value if isinstance(value, bytes) else value.encode()
      features[name] = tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[value]))
    elif isinstance(value, float):
      features[name] = tf_feature_pb2.Feature(float_list=tf_feature_pb2.FloatList(value=[value]))
    else:
      features[name] = tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=[value]))
  labels = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features)).SerializeToString()
  # Example.features (1) { Features.feature (1) { key (1), value (2): Feature.bytes_list (1) { BytesList.value (1) } } }
  feature = _field(1, *_field(1, record["image"]))
  image = _field(1, *_field(1, *_field(1, b"image"), *_field(2, *feature)))
  return b"".join((labels, *image))


def _field(number, *parts):
  """The parts of a protobuf field of wire type 2: its tag, the length as a varint, and the payload's own parts."""
  left, length = sum(map(len, parts)), bytearray()
  while left > 127:
    length.append(left & 127 | 128)
    left >>= 7
  length.append(left)
  return bytes((number << 3 | 2,)), bytes(length), *parts


def plan(root, table):
  """Cuts the label table into shards of about SHARD_BYTES; the same cut for the same files, on any machine.

  Args:
    root: pathlib.Path of the release.
    table: label table in record order.

  Returns:
    List of Shard.
  """
  rows = table.to_dict("records")
  stats = [os.stat(root / row["image_name"]) for row in rows]
  splits = [row["split"] or "train" for row in rows]
  shards = []
  for split in dict.fromkeys(splits):
    positions = [i for i, name in enumerate(splits) if name == split]
    cuts = _cuts([stats[i].st_size for i in positions])
    for index, (low, high) in enumerate(cuts):
      first, last = positions[low], positions[high - 1] + 1
      stamp = hashlib.sha256(
        repr([(rows[i], stats[i].st_size, stats[i].st_mtime_ns) for i in range(first, last)]).encode()
      ).hexdigest()[:16]
      shards.append(Shard(str(root), split, index, len(cuts), tuple(rows[first:last]), (first, last), stamp))
  return shards


def write(builder, root, table, *, workers, advance):
  """Writes all shards of a set into `builder.data_dir`, several at once.

  Args:
    builder: a `data_builders.base.Builder` whose data_dir is the folder being prepared.
    root: pathlib.Path of the release.
    table: label table in record order.
    workers: threads; None takes one a core.
    advance: called with the number of records done since the last call, from any thread.

  Returns:
    (table without the skipped rows, list of TFDS SplitInfo, list of "file: reason" of skipped files).

  Raises:
    UserError: a damaged file (unless the builder skips them), or every file is; nothing stays behind.
  """
  shards = plan(root, table)
  staging = pathlib.Path(builder.data_dir).parent / f"{STAGING}{builder.version}"
  with _locked(staging):
    for stale in staging.parent.glob(f"incomplete.*_{builder.version}"):  # of a killed run; TFDS never looks again
      if stale != pathlib.Path(builder.data_dir):
        shutil.rmtree(stale, ignore_errors=True)
    try:
      skipped = _write_all(builder, shards, staging, workers or os.cpu_count(), advance)
      table = table.drop(index=[position for position, _ in skipped]).reset_index(drop=True)
      if table.empty:
        raise UserError(f"{root}: none of the {len(skipped)} files is an image; the first: {skipped[0][1]}")
      infos = _move(builder, shards, staging)
    except KeyboardInterrupt:
      raise  # what is finished waits for the next run
    except BaseException:
      shutil.rmtree(staging, ignore_errors=True)
      raise
    shutil.rmtree(staging)
  return table, infos, [reason for _, reason in skipped]


def _cuts(sizes):
  """(first, last + 1) of runs whose sizes add up to about SHARD_BYTES."""
  count = max(1, round(sum(sizes) / SHARD_BYTES))
  target, cuts, first, total = sum(sizes) / count, [], 0, 0
  for i, size in enumerate(sizes):
    total += size
    if total >= target * (len(cuts) + 1) and len(cuts) < count - 1:
      cuts.append((first, i + 1))
      first = i + 1
  return [*cuts, (first, len(sizes))] if first < len(sizes) else cuts


def _write_all(builder, shards, staging, workers, advance):
  """Writes the shards that are not staged yet; returns [(position, reason)] of the files left out."""
  stop = threading.Event()
  with concurrent.futures.ThreadPoolExecutor(max_workers=workers) as pool:
    jobs = [pool.submit(_write_shard, builder, shard, staging, advance, stop) for shard in shards]
    try:
      for job in concurrent.futures.as_completed(jobs):
        job.result()
    except BaseException:
      stop.set()
      pool.shutdown(cancel_futures=True)
      raise
  return [
    (shard.positions[0] + i, reason) for shard, job in zip(shards, jobs, strict=True) for i, reason in job.result()
  ]


def _write_shard(builder, shard, staging, advance, stop):
  """Writes one shard and the list of what it leaves out; returns that list, also of a shard written before."""
  final, report = staging / shard.file, staging / f"{shard.file}.json"
  if final.exists() and report.exists():
    advance(len(shard.rows))
    return json.loads(report.read_text())
  skipped = []

  def records():
    for i, row in enumerate(shard.rows):
      if stop.is_set():
        raise InterruptedError
      try:
        record = example(pathlib.Path(shard.root), row)
      except UserError as error:
        if not builder.SKIPS_DAMAGED:
          raise
        skipped.append((i, str(error)))
      else:
        yield serialized(record)
      if (i + 1) % ADVANCE_EVERY == 0:
        advance(ADVANCE_EVERY)
    advance(len(shard.rows) % ADVANCE_EVERY)

  partial = staging / f"{shard.file}.partial"
  _write_records(partial, records())
  report.write_text(json.dumps(skipped))
  partial.rename(final)
  return skipped


def _write_records(path, records):
  """Writes serialized records; a full disk is an OSError, never a short file."""
  writer = array_record_module.ArrayRecordWriter(os.fspath(path), RECORD_OPTIONS)
  count = 0
  try:
    for record in records:
      writer.write(record)
      count += 1
    writer.close()
  except RuntimeError as error:  # what riegeli makes of a failed write
    raise OSError(errno.EIO, str(error).partition(";")[0], os.fspath(path)) from error
  finally:
    with contextlib.suppress(RuntimeError):
      writer.close()
  reader = array_record_module.ArrayRecordReader(os.fspath(path)) if count else None
  if reader is not None and reader.num_records() != count:
    raise OSError(errno.ENOSPC, f"{path} holds {reader.num_records()} of {count} records; is the disk full?")


def planned_splits(builder, shards):
  """The TFDS SplitInfos of shards that were written as planned, with nothing left out."""
  lengths = {}
  for shard in shards:
    lengths.setdefault(shard.split, []).append(len(shard.rows))
  return [_split_info(builder, split, split_lengths) for split, split_lengths in lengths.items()]


def _move(builder, shards, staging):
  """Moves the staged shards into the set; returns their SplitInfos. A shard of which nothing is left is dropped."""
  kept = {}
  for shard in shards:
    length = len(shard.rows) - len(json.loads((staging / f"{shard.file}.json").read_text()))
    if length:
      kept.setdefault(shard.split, []).append((shard, length))
  for split, split_shards in kept.items():
    template = builder._get_filename_template(split_name=split)
    for index, (shard, _) in enumerate(split_shards):
      target = template.sharded_filepath(shard_index=index, num_shards=len(split_shards))
      (staging / shard.file).rename(os.fspath(target))
  return [_split_info(builder, split, [length for _, length in split_shards]) for split, split_shards in kept.items()]


def _split_info(builder, split, lengths):
  template = builder._get_filename_template(split_name=split)
  size = sum(os.path.getsize(path) for path in template.sharded_filepaths(len(lengths)))
  return tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size, filename_template=template)


@contextlib.contextmanager
def _locked(staging):
  """Holds the staging folder for this process; the lock goes with the process, however that ends."""
  staging.mkdir(parents=True, exist_ok=True)
  with open(staging / "lock", "w") as handle:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise UserError(f"{staging}: another process is preparing this set; wait for it to end.") from error
    yield
