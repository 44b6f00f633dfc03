"""`jiqa score`: every named image becomes a row, also one that cannot be read."""

import collections
import contextlib
import pathlib
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jiqa.errors import UserError
from jiqa.evaluation.outputs import write_bytes
from jiqa.inference import inputs, results, video
from jiqa.inference.metric import PRETRAINED, load
from jiqa.inference.results import Results, as_csv, printable

UNREADABLE = 3  # exit code where an image could not be read
PROGRESS = (
  TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]:.1f} images/s"),
  TimeRemainingColumn(),
)  # fmt: skip


def score(metric, names, *, out=None, overwrite=False, shard=None, frames_per_second=1.0, threads=None, sandbox=False):
  """Scores images and videos, and writes or prints a row for each; the exit code, 0 or UNREADABLE.

  Args:
    metric, names: Metric; list of str, see `inputs.expand`.
    out: file to write, .csv, .json or .parquet; None: scores are printed.
    overwrite: keep nothing that OUT holds already.
    shard: "i/n": this process scores every n-th image; OUT becomes OUT-i-of-n.
    threads: that decode; None: one a core.
    sandbox: see `inputs.Item`; videos are then refused.
  """
  metric.check_scores()
  names = inputs.expand(names)
  if shard:
    names = inputs.shard(names, shard)
    if out:
      out = pathlib.Path(out)
      out = out.with_stem(f"{out.stem}-{shard.replace('/', '-of-')}")
  if sandbox and any(map(video.is_video, names)):
    raise UserError("--sandbox: videos are not decoded in it; score them without, if you trust them")
  made_by = {"weights": metric.weights_sha256, "head": metric.head_sha256}
  with _room(out), contextlib.closing(Results(out, made_by, overwrite)) if out else contextlib.nullcontext() as output:
    done = output.done if output else set()
    if output and (done or output.changed):
      others = len({video.split_frame(path)[0] for path in done}.difference(names))
      more = f", also of {others} files that are not named now" if others else ""
      more += f"; {output.changed} are scored again, because their files have changed" if output.changed else ""
      print(f"jiqa: {out}: {len(done)} rows are done already{more}", file=sys.stderr)
    # Frames are known one by one: those that are done are skipped as they come.
    left = [name for name in names if name not in done]
    items = (item for item in video.items(left, frames_per_second) if item.name not in done)
    stamps = {}  # of the files that are being scored, from before they are read
    items = (stamps.update({item.name: results.stamp(item.name)}) or item._replace(sandbox=sandbox) for item in items)
    rows = _rows(metric, items, None if any(map(video.is_video, left)) else len(left), threads)
    rows = ({**row, "file": stamps.pop(row["path"], "")} for row in rows)
    rows = _written(rows, output, names) if output else _printed(rows, names)
  errors = [row["error"] for row in rows if row["error"]]
  for error in errors[:10]:
    print(f"jiqa: unreadable: {error}", file=sys.stderr)
  if len(errors) > 10:
    print(f"jiqa: ... and {len(errors) - 10} more" + (f", see column 'error' of {out}" if out else ""), file=sys.stderr)
  return UNREADABLE if errors else 0


@contextlib.contextmanager
def _room(out):
  """Says what to do where the user ends it, or the disk of an output file is full or fails."""
  try:
    yield
  except KeyboardInterrupt:
    kept = f"{out} keeps the rows that are done; run the same command again to go on" if out else "nothing is kept"
    print(f"jiqa: stopped; {kept}", file=sys.stderr)
    sys.exit(130)
  except OSError as error:
    if out is None:
      raise
    again = "its complete rows are kept. Make room, and run the same command again to go on"
    raise UserError(f"{out}: cannot be written ({error}); {again}") from error


def score_files(names, model=None, weights=None, head=None, *, out=None, keep=(), **options):
  """`jiqa score`: loads a metric, says which, and scores; arguments of `metric.load` and of `score`, exit code."""
  shards = inputs.are_shards(names)
  if shards and out is None:
    raise UserError(f"{names[0]}: shards are scored into a folder; name one: --out=FOLDER")
  if keep and not shards:
    raise UserError(f"--keep={','.join(keep)}: columns of shards are kept, and these are no shards; leave it out")
  if out is not None and not shards:
    results.check(out)  # before anything is loaded
  inputs.check(names)
  metric = load(model, weights, head)
  announce(metric, shipped=weights is None and metric.models[0].folder.is_relative_to(PRETRAINED), model=model)
  if shards:
    from jiqa.inference.shards import score_shards

    del options["frames_per_second"]
    return score_shards(metric, names, out, keep=keep, **options)
  return score(metric, names, out=out, **options)


def _rows(metric, items, total, threads):
  """Yields a row of every item, and says on standard error how it goes; `total` may be None."""
  count, errors, seconds, started = 0, 0, 0.0, time.perf_counter()
  console = Console(file=sys.stderr)
  with Progress(*PROGRESS, console=console, disable=not console.is_terminal, transient=True) as progress:
    task = progress.add_task("", total=total, rate=0.0)
    for count, prediction in enumerate(metric.stream(items, threads), 1):
      errors += bool(prediction.error)
      yield as_row(prediction, metric.columns)
      seconds = time.perf_counter() - started
      progress.update(task, completed=count, rate=count / seconds)
  rate = f", {count / seconds:.1f} images/s" if count else ""
  what = f"{count} image{'' if count == 1 else 's'}"
  print(f"jiqa: {what} in {seconds:.1f} s{rate if count > 1 else ''}, {errors} unreadable", file=sys.stderr)


def _written(rows, output, names):
  """Writes rows to `Results`, in the end in the order of the names, and the pooled scores of videos beside them."""
  for row in rows:
    output.add(row)
  rows = output.finish(_order(names))
  print(f"jiqa: {output.path}: {len(rows)} rows", file=sys.stderr)
  pooled = video.pooled(rows)
  if pooled:
    path = output.path.with_suffix(".videos.csv")
    write_bytes(path, as_csv(pooled[0], pooled))
    print(f"jiqa: {path}: {len(pooled)} videos", file=sys.stderr)
  return rows


def _order(names):
  """A sort key for paths: the order of the names, the frames of a video where it stands among them."""
  places = {name: i for i, name in enumerate(names)}

  def key(path):
    name, number = video.split_frame(path)
    return places.get(path, places.get(name, len(places))), number or 0

  return key


def _printed(rows, names):
  """Prints rows, in the order of the names where each is one image; and the pooled scores of videos.

  Returns the rows with an error; of videos, whose frames come as they come, all rows.
  """
  videos, kept = any(map(video.is_video, names)), []
  for row in rows if videos else _in_order(rows, names):
    kept += [row] if videos or row["error"] else []
    if not row["error"]:
      labels = [value for key, value in row.items() if f"{key}_probability" in row]
      print(f"{float(row['score']):9.4f}", printable(row["path"]), *labels, sep="  ", flush=True)
  for pool in video.pooled(kept):
    summary = f"mean of {pool['frames']} frames, 10th percentile {pool['p10']:.4f}"
    print(f"{pool['mean']:9.4f}", printable(pool["path"]), summary, sep="  ")
  return kept


def _in_order(rows, names):
  """Rows in the order of the names, each as soon as those before it are there."""
  names, waiting = collections.deque(names), {}
  for row in rows:
    waiting[row["path"]] = row
    while names and names[0] in waiting:
      yield waiting.pop(names.popleft())


def as_row(prediction, columns):
  """A `Prediction` as a flat row of text: path, score, what `columns` (see `Metric.columns`) says, sizes, error."""
  row = {"path": prediction.name}
  if not prediction.error:
    values = {"score": prediction.outputs["score"], **columns(prediction.outputs)}
    row |= {key: value if isinstance(value, str) else f"{float(value):.7g}" for key, value in values.items()}
    row |= {"crops": prediction.crops} if prediction.crops else {}
    row |= {"width": prediction.width, "height": prediction.height}
  return {**row, "seconds": f"{prediction.seconds:.4f}", "error": prediction.error}


def announce(metric, shipped, model=None):
  """Says on standard error which weights are used, whether as those of the package, and what is known of them.

  model: the name by which they were asked for.
  """
  score = metric.card["score"]
  weights, test = f"weights {metric.weights_sha256} ({metric.card['method']})", score.get("head", score).get("test")
  if shipped:
    card = f"jiqa card {model}" if model else "jiqa card"
    weights = f"no --weights given: using the {weights} that come with jiqa; `{card}` says how good they are"
  known = "head fitted to" if "head" in score else "tested on"
  database = score["head"].get("database") if "head" in score else test and test["database"]
  test = f"; {known} {database}, SRCC {test['srcc']:.3f} on its test images" if test else ""
  about = "about " if "head" in score else ""  # a linear head knows no bounds
  scale = ", {}{:g} to {:g}".format(about, *score["range"]) if score["range"] else ""
  print(f"jiqa: {weights}{test}; {score['direction']}{scale}", file=sys.stderr)
