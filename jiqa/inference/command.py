"""`jiqa score`: every named image becomes a row; what cannot be read becomes a row too."""

import itertools
import pathlib
import sys
import time

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jiqa.inference import locations, video
from jiqa.inference.images import Item
from jiqa.inference.metric import probabilities
from jiqa.inference.results import Results, as_csv, printable, write

UNREADABLE = 3  # exit code where an image could not be read
VIDEO_COLUMNS = ("path", "frames", "mean", "p10", "median", "minimum")


def score(metric, names, *, out=None, shard=None, frames_per_second=1.0, threads=None):
  """Scores images and videos, and writes or prints a row for each.

  Args:
    metric: Metric.
    names: list of str, see `locations.expand`.
    out: file to write, .csv, .json or .parquet; None: scores are printed.
    shard: "i/n": this process scores every n-th image; OUT becomes OUT-i-of-n.
    frames_per_second: of videos.
    threads: that decode; None: one a core.

  Returns:
    exit code: 0, or UNREADABLE.

  Raises:
    UserError: there is nothing to score, the metric gives no score, or the output cannot be written.
  """
  metric.check_scores()
  names = locations.expand(names)
  if shard:
    names = locations.shard(names, shard)
    out = out and _shard_name(out, shard)
  output = _Printed(names) if out is None else _Filed(out, names, metric)
  # Buckets are known one by one: those that are done are passed over as they come.
  left = [name for name in names if name not in output.done]
  to_score = (item for item in items(left, frames_per_second) if item.name not in output.done)
  if output.done:
    print(f"jiqa: {out}: {len(output.done)} rows are done already", file=sys.stderr)
  started = time.perf_counter()
  try:
    counted, errors = _run(metric, to_score, None if any(map(video.is_video, left)) else len(left), output, threads)
    output.finish()
  finally:
    output.close()
  seconds = time.perf_counter() - started
  rate = f", {counted / seconds:.1f} images/s" if counted else ""
  print(f"jiqa: {counted} images in {seconds:.1f} s{rate}, {len(errors)} unreadable", file=sys.stderr)
  for error in errors[:10]:
    print(f"jiqa: unreadable: {error}", file=sys.stderr)
  if len(errors) > 10:
    print(f"jiqa: ... and {len(errors) - 10} more" + (f", see column 'error' of {out}" if out else ""), file=sys.stderr)
  return UNREADABLE if errors else 0


def _shard_name(out, shard):
  path, (number, _, count) = pathlib.Path(out), shard.partition("/")
  return path.with_name(f"{path.stem}-{number}-of-{count}{path.suffix}")


def items(names, frames_per_second):
  """The images behind names: each is one, but of a video its frames, see `video.frames`."""
  for name in names:
    if video.is_video(name):
      yield from video.frames(name, frames_per_second)
    else:
      yield Item(name, name)


def _run(metric, items, total, output, threads):
  """(number of images, their errors), every one handed to `output`."""
  counted, errors = 0, []
  columns = (
    TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()
  )  # fmt: skip
  console = Console(file=sys.stderr)
  with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
    task, started = progress.add_task("", total=total, rate=""), time.perf_counter()
    for found in metric.stream(items, threads):
      counted += 1
      errors += [found.error] if found.error else []
      output.add([as_row(found)])
      rate = counted / (time.perf_counter() - started)
      progress.update(task, completed=counted, rate=f"{rate:.1f} images/s")
  return counted, errors


def as_row(found):
  """An image's result as a flat row.

  Args:
    found: metric.Scored.

  Returns:
    dict: path, score, likeliest classes with their probabilities, further numbers, crops, width, height, seconds,
      error.
  """
  row = {"path": found.name}
  if not found.error:
    outputs = found.outputs
    row["score"] = _digits(outputs["score"])
    for name, (likeliest, probability) in probabilities(outputs).items():
      row |= {name: likeliest, f"{name}_probability": _digits(probability)}
    row |= {key: _digits(value) for key, value in outputs.items() if key != "score" and np.ndim(value) == 0}
    row |= {"crops": found.crops} if found.crops else {}
    row |= {"width": found.width, "height": found.height}
  return {**row, "seconds": f"{found.seconds:.4f}", "error": found.error}


def _digits(value):
  return f"{float(value):.7g}"


class _Filed:
  """Rows that go to a file."""

  def __init__(self, out, names, metric):
    self._results = Results(out, {"weights": metric.weights_sha256, "head": metric.head_sha256})
    self._names, self.done, self.add, self.close = names, self._results.done, self._results.add, self._results.close

  def finish(self):
    """Writes the final file, and the pooled scores of videos beside it."""
    place = {name: i for i, name in enumerate(self._names)}

    def key(path):
      # Buckets come where their video stands among the names.
      name, mark, number = path.rpartition(video.MARK)
      return place.get(path, place.get(name, len(place))), int(number) if mark and number.isdigit() else 0

    rows = self._results.finish(key)
    print(f"jiqa: {self._results.path}: {len(rows)} rows", file=sys.stderr)
    pooled = video.pooled(rows)
    if pooled:
      path = self._results.path.with_suffix(".videos.csv")
      write(path, as_csv(VIDEO_COLUMNS, pooled))
      print(f"jiqa: {path}: {len(pooled)} videos", file=sys.stderr)


class _Printed:
  """Rows that are printed, in the order of the names where each is one image."""

  def __init__(self, names):
    self._order, self._held, self._frames = list(names), {}, []
    self._in_order = not any(map(video.is_video, names))
    self.done = frozenset()

  def add(self, rows):
    """Prints those whose turn it is."""
    for row in rows:
      self._held[row["path"]] = row
    if not self._in_order:
      self._order, self._frames = [], self._frames + rows
      ready = list(self._held)
    else:
      ready = list(itertools.takewhile(lambda name: name in self._held, self._order))
      self._order = self._order[len(ready) :]
    for name in ready:
      row = self._held.pop(name)
      if not row["error"]:
        further = "  ".join(row[key] for key in ("scene", "distortion") if key in row)
        print(f"{float(row['score']):9.4f}  {printable(name)}" + (f"  {further}" if further else ""), flush=True)

  def finish(self):
    """Prints the pooled scores of videos."""
    for of in video.pooled(self._frames):
      print(
        f"{of['mean']:9.4f}  {printable(of['path'])}  mean of {of['frames']} frames, 10th percentile {of['p10']:.4f}"
      )

  def close(self):
    """Nothing is open."""


def announce(metric, shipped):
  """Says on standard error which weights are used and what is known of them.

  Args:
    metric: Metric.
    shipped: whether they are those of the package because none were named.
  """
  score = metric.card["score"]
  head = score.get("head", {})
  told = f"weights {metric.weights_sha256} ({metric.card['method']})"
  if shipped:
    told = f"no --weights given: using the small {told} that come with jiqa; `jiqa card` says how good they are"
  if head.get("test"):
    told += f"; head fitted to {head.get('database')}, SRCC {head['test']['srcc']:.3f} on its test images"
  scale = score["range"]
  told += "; " + score["direction"] + (f", about {scale[0]:g} to {scale[1]:g}" if scale else "")
  print(f"jiqa: {told}", file=sys.stderr)
