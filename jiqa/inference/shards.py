"""Shards of images, streamed and never unpacked: a Parquet file of scores for each.

WebDataset (.tar, also compressed), Parquet with a column of image files (bytes, or Hugging Face's {bytes, path}), and
the ArrayRecord and TFRecord files of sets that TFDS has prepared; on disk or in any store of fsspec.
"""

import contextlib
import functools
import glob
import io
import itertools
import json
import os
import pathlib
import struct
import sys
import tarfile
import threading
import uuid
from typing import NamedTuple

from jiqa import durable
from jiqa.errors import UserError
from jiqa.inference import inputs, results
from jiqa.inference.command import UNREADABLE, as_row
from jiqa.inference.metric import load

try:
  import fsspec
  import pyarrow as pa
  import pyarrow.parquet as pq
except ImportError as error:
  raise UserError(f"shards need {error.name}: pip install 'pyarrow>=17' 'fsspec>=2024.6'") from error

ROWS = 64  # that are read at once
TYPES = {"score": pa.float64(), "error": pa.string()}  # also where all are missing
MOST = inputs.MAX_BYTES  # of a member, or of what a header announces, which is looked at before it is read


class Sample(NamedTuple):
  """One image of a shard."""

  key: str
  image: object  # bytes of a file, its path, or the UserError that says why there is none
  kept: dict  # from column to value


def score_shards(metric, names, out, *, shard=None, **options):
  """Scores shards into a folder, each into a Parquet file of its own, which appears when it is complete.

  Args:
    metric: Metric.
    names: paths, addresses or patterns of shards.
    out: folder or address.
    shard: "i/n": this process takes every n-th file.
    options: see `score_shard`.

  Returns:
    exit code: 0, or UNREADABLE.
  """
  named = targets(names, out)
  counts = [score_shard(metric, *pair, **options) for pair in (inputs.shard(named, shard) if shard else named)]
  return UNREADABLE if any(errors for _, errors in counts) else 0


def targets(names, out):
  """The (address, file of scores) of every shard that is named; makes the folder `out`."""
  addresses = list(dict.fromkeys(address for name in names for address in _expand(name)))
  ends = [inputs.SHARD.search(address) for address in addresses]
  if None in ends:
    raise UserError(f"{addresses[ends.index(None)]}: is no shard; expected .tar, .parquet, .array_record or .tfrecord")
  by_target = {}
  for end in ends:
    address = end.string
    target = f"{out.rstrip('/')}/{address[: end.start()].rpartition('/')[2]}{end[2] or ''}.parquet"
    if (other := by_target.setdefault(target, address)) != address:
      raise UserError(f"{other} and {address}: the scores of both would be {target}; score them into different folders")
    if _place(target) == _place(address):
      raise UserError(f"--out={out}: the scores of {address} would replace it; choose another folder")
  store, folder = fsspec.url_to_fs(out)
  try:
    store.makedirs(folder, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out={out}: no folder can be made of this name ({error}); choose another") from error
  return [(address, target) for target, address in by_target.items()]


def _place(address):
  """What is the same for all names of one file, links resolved."""
  store, path = fsspec.url_to_fs(address)
  return store, path if inputs.is_address(address) else os.path.realpath(path)


def score_shard(metric, address, target, *, keep=(), overwrite=False, sandbox=False):
  """Scores a shard into a file, which is passed over if it is there, made by the same weights of the same input.

  What cannot be read of it is a row with an error; where the shard itself is cut off, it is also tried again the next
  time. Processes may score the same shard at once: the last file to be complete stays, and is as the others were.

  Args:
    metric: Metric.
    address, target: of the shard, and of the Parquet file.
    keep: columns, sidecar files (txt) or keys of a sidecar json to carry along.
    overwrite: score it again.
    sandbox: see `inputs.Item`.

  Returns:
    how many (rows, of them with an error) the file holds.
  """
  metric.check_scores()
  (source, path), (store, file_name) = fsspec.url_to_fs(address), fsspec.url_to_fs(target)
  made_by = {"weights": metric.weights_sha256, "head": metric.head_sha256}
  made_by |= {"keep": list(keep), "bytes": source.info(path)["size"], "complete": True}
  known = None if overwrite else _made_by(store, file_name, made_by)
  if known and made_by.items() <= known.items():
    return known["rows"], known["errors"]
  scored, rows = _scored(metric, address, keep, sandbox)
  made_by["complete"] = all(sample.key for sample in scored)
  made_by |= {"rows": len(rows), "errors": sum(bool(row["error"]) for row in rows)}
  columns = {"key": [results.printable(sample.key) for sample in scored], "row": range(len(rows))}
  for key in dict.fromkeys(["score", *(key for row in sorted(rows, key=len, reverse=True) for key in row)]):
    columns[key] = pa.array(results.typed(key, [row.get(key, "") for row in rows]), TYPES.get(key))
  for name in keep:
    columns[name + "_of_shard" * (name in columns)] = _column([sample.kept.get(name) for sample in scored])
  table = pa.table(columns).replace_schema_metadata({"jiqa": json.dumps(made_by)})
  unfinished = f"{file_name}.{uuid.uuid4().hex[:8]}.new"
  try:
    with store.open(unfinished, "wb") as file:
      pq.write_table(table, file)
    if inputs.is_address(target):
      store.mv(unfinished, file_name)
    else:
      durable.replace(pathlib.Path(unfinished), pathlib.Path(file_name))
  except OSError as error:
    with contextlib.suppress(OSError):
      store.rm(unfinished)
    raise UserError(f"{target}: cannot be written ({error}); make room, and run the same command again") from error
  print(f"jiqa: {target}: {made_by['rows']} rows, {made_by['errors']} with an error", file=sys.stderr)
  return made_by["rows"], made_by["errors"]


def _column(values):
  """A column of what shards carry along; of text where the values have no type in common, or none that Parquet has."""
  try:
    column = pa.array(values)
    if pa.types.is_nested(column.type):  # some of which Arrow holds, and Parquet does not
      pq.write_table(pa.table([column], ["values"]), io.BytesIO())
    return column
  except (pa.ArrowException, UnicodeError, OverflowError):
    texts = (value if isinstance(value, str | None) else json.dumps(value, default=str) for value in values)
    return pa.array([text if text is None else results.printable(text) for text in texts], pa.string())


def score_in_worker(pair, *, model=None, weights=None, head=None, **options):
  """`score_shard` of a pair of `targets`, in a worker of an engine (Beam, Spark), which loads the metric once.

  model, weights (a folder or a tuple of several), head: see `metric.load`; options: see `score_shard`.
  """
  return score_shard(loaded(model, weights, head), *pair, **options)


def loaded(model, weights, head):
  """`metric.load`, once a process; arguments that can be hashed."""
  with _LOADING:
    return _load(model, weights, head)


_LOADING, _load = threading.Lock(), functools.lru_cache(1)(load)


def _expand(name):
  store, path = fsspec.url_to_fs(name)
  paths = [path] if store.exists(path) else sorted(store.glob(path)) if glob.has_magic(name) else ()
  if not paths:
    raise UserError(f"{name}: no such shard")
  return [store.unstrip_protocol(path) if inputs.is_address(name) else path for path in paths]


def _made_by(store, target, expected):
  """What a file of scores says of itself; None where there is no such file. A UserError where other weights made it."""
  if not store.exists(target):
    return None
  try:
    with store.open(target) as file:
      made_by = json.loads((pq.read_schema(file).metadata or {})[b"jiqa"])
  except (KeyError, ValueError, pa.ArrowInvalid) as error:
    raise UserError(f"{target}: holds something else than scores; choose another --out, or --overwrite") from error
  if any(made_by[key] != expected[key] for key in ("weights", "head")):
    raise UserError(f"{target}: holds scores of other weights; choose another --out, or --overwrite")
  return made_by


def _scored(metric, address, keep, sandbox):
  """The samples of a shard without their images, and their rows, see `command.as_row`, in its order."""
  scored, rows = [], {}

  def items():
    for sample in samples(address, keep):
      scored.append(sample._replace(image=None))
      yield inputs.Item(f"{address}: {sample.key}", sample.image, sandbox)

  for prediction in metric.stream(items()):
    rows[prediction.index] = as_row(prediction, metric.columns)
    del rows[prediction.index]["path"]
  return scored, [rows[i] for i in range(len(rows))]


def samples(address, keep=()):
  """Yields the `Sample`s of a shard; of one that cannot be read on, a last one with an empty key and the error."""
  kind = inputs.SHARD.search(address)[1].lower()
  reader = {"parquet": _parquet, "tfrecord": _records, "array_record": _records}.get(kind, _tar)
  number = 0
  try:
    with fsspec.open(address) as file:
      for sample in reader(file, address, keep):
        yield sample
        number += 1
  except UserError:
    raise
  except Exception as error:  # every format and store has exceptions of its own
    message = f"{address}: cannot be read after {number} samples ({type(error).__name__}: {error})"
    yield Sample("", UserError(message), {})


class _Strict(tarfile.TarInfo):
  """A member's header; what is none in the middle of an archive would otherwise be taken for its end."""

  @classmethod
  def fromtarfile(cls, archive):
    try:
      return super().fromtarfile(archive)
    except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError) as error:
      raise tarfile.ReadError(f"the archive is damaged or cut off: {error}") from error

  @classmethod
  def frombuf(cls, *arguments):
    header = super().frombuf(*arguments)
    if not header.isreg() and header.size > MOST:  # a long name, or other facts of the next member
      raise tarfile.InvalidHeaderError(f"{header.size:,} bytes beside the files; at most {MOST:,} are read")
    return header


def _tar(file, address, keep):
  def files():
    with tarfile.open(fileobj=file, mode="r|*", tarinfo=_Strict) as tar:
      for member in tar:
        folder, slash, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if member.isfile() and stem:
          ending, data = ending.lower(), None
          if ending in {"json", *keep} or f".{ending}".endswith(inputs.SUFFIXES):
            much = UserError(f"{address}: {member.name}: {member.size:,} bytes; at most {MOST:,} are read")
            data = much if member.size > MOST else tar.extractfile(member).read()
          yield folder + slash + stem, ending, data

  for key, parts in itertools.groupby(files(), lambda part: part[0]):
    parts = {ending: data for _, ending, data in parts}
    image = next((data for data in parts.values() if isinstance(data, UserError)), None) or next(
      (data for ending, data in parts.items() if f".{ending}".endswith(inputs.SUFFIXES)), None
    )
    if image is None:
      image = UserError(f"{address}: {key}: no image among {', '.join(parts)}")
    known = {}
    with contextlib.suppress(ValueError, TypeError, RecursionError):
      known = dict(json.loads(parts.get("json", b"{}")))
    texts = {name: parts[name].decode(errors="replace") for name in keep if isinstance(parts.get(name), bytes)}
    yield Sample(key, image, {name: texts.get(name, known.get(name)) for name in keep})


def _parquet(file, address, keep):
  table = pq.ParquetFile(file)

  def holds_files(of):
    of = of.field("bytes").type if pa.types.is_struct(of) and of.get_field_index("bytes") >= 0 else of
    return pa.types.is_binary(of) or pa.types.is_large_binary(of)  # and not text, which would be a path

  schema = table.schema_arrow
  columns = [field.name for field in schema if holds_files(field.type)]
  columns = ["image"] if "image" in columns else columns
  if len(columns) != 1 or not set(keep) <= set(schema.names):
    raise UserError(
      f"{address}: columns {', '.join(schema.names)}; expected {', '.join(['one of image files', *keep])}, as 'image'"
    )
  number = itertools.count()
  for batch in table.iter_batches(ROWS, columns=[*columns, *keep]):
    for row in batch.to_pylist():
      image, key = row[columns[0]], str(next(number))
      if isinstance(image, dict):
        key = str(image.get("path") or key)
        image = image["bytes"] or (_beside(key, address) if image.get("path") else None)
      missing = UserError(f"{address}: {key}: the column {columns[0]} is empty")
      yield Sample(key, missing if image is None else image, {name: row[name] for name in keep})


def _beside(name, address):
  """The file that a row names, or a UserError: whoever made the shard must not choose among files of the reader."""
  folder = pathlib.Path(address).resolve().parent
  with contextlib.suppress(ValueError, OSError):  # what can be no path
    path = (folder / name).resolve()
    if path.is_relative_to(folder) and not inputs.is_address(address):
      return path
  return UserError(f"{address}: {name}: no bytes in the shard, and no file in its folder; write the images into it")


def _records(file, address, keep):
  import tensorflow_datasets as tfds

  features = tfds.builder_from_directory(address.rpartition("/")[0] or ".").info.features
  image = next(name for name, feature in features.items() if isinstance(feature, tfds.features.Image))
  kind = inputs.SHARD.search(address)[1].lower()
  for number, record in enumerate(_tfrecords(file) if kind == "tfrecord" else _array_records(address)):
    example = features.deserialize_example_np(record, decoders={image: tfds.decode.SkipDecoding()})
    named = next((example[name].decode() for name in ("image_name", "file_name", "key") if name in example), number)
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in example.items()}
    kept = {name: plain[name].decode() if isinstance(plain[name], bytes) else plain[name] for name in keep}
    yield Sample(str(named), example[image], kept)


def _tfrecords(file):
  while header := file.read(12):
    (length,) = struct.unpack("<Q", header[:8])
    data = file.read(min(length, MOST) + 4)
    if len(data) < length + 4:
      raise EOFError(f"a record is cut off, or longer than {MOST:,} bytes")
    yield data[:-4]


def _array_records(address):
  from array_record.python.array_record_module import ArrayRecordReader

  reader = ArrayRecordReader(fsspec.open_local(f"simplecache::{address}") if inputs.is_address(address) else address)
  for start in range(0, reader.num_records(), ROWS):
    yield from reader.read(start, min(start + ROWS, reader.num_records()))
