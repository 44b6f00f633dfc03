"""What a run says of itself: metrics.jsonl, TensorBoard and the console, without TensorFlow."""

import json
import math
import os
import pathlib
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter


def drop_from(path, start):
  """Removes the records of steps >= start, and a line cut short by a crash, from a metrics file.

  A resumed run writes those steps again; without this they would stand in the file twice.
  """
  path = pathlib.Path(path)
  if not path.exists():
    return
  kept = []
  for line in path.read_text().splitlines():
    try:
      if json.loads(line)["step"] < start:
        kept.append(line)
    except ValueError:
      break
  temporary = path.with_suffix(".tmp")
  temporary.write_text("".join(line + "\n" for line in kept))
  os.replace(temporary, path)


class Logbook:
  """Records scalars by step and shows progress.

  Args:
    workdir: metrics.jsonl and the TensorBoard files go here.
    start: first step of this process; later records of an earlier process are dropped.
    steps: last step, for the progress bar.
    images_per_step: to report images/s.
  """

  def __init__(self, workdir, start, steps, images_per_step):
    workdir = pathlib.Path(workdir)
    drop_from(workdir / "metrics.jsonl", start)
    self._file = open(workdir / "metrics.jsonl", "a", buffering=1)
    self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start, max_queue=1000, flush_secs=60)
    self._images_per_step = images_per_step
    self._last = (time.perf_counter(), start - 1)
    self._start, self._steps = start, steps
    self._bar = Progress(
      TextColumn("training"),
      BarColumn(),
      MofNCompleteColumn(),
      TextColumn("{task.fields[shown]}"),
      TimeRemainingColumn(),
      console=Console(file=sys.stderr),
      disable=not sys.stderr.isatty(),
    )
    self._task = self._bar.add_task("", total=steps, completed=start, shown="compiling")

  def __enter__(self):
    self._bar.start()
    return self

  def __exit__(self, *_):
    self._bar.stop()
    self._board.close()
    self._file.close()

  def advance(self, step):
    """Moves the progress bar to `step`."""
    self._bar.update(self._task, completed=step)

  def write(self, step, values):
    """Records one step.

    Args:
      step: int.
      values: dict of floats; 'images_per_second' since the last record is added.
    """
    now, (then, last_step) = time.perf_counter(), self._last
    self._last = (now, step)
    seconds_per_step = (now - then) / max(step - last_step, 1)
    values = {**values, "images_per_second": round(self._images_per_step / seconds_per_step, 2)}
    self._store(step, values)
    shown = f"loss {values['loss']:.4f}  {values['images_per_second']:.1f} images/s"
    self._bar.update(self._task, shown=shown)
    if self._bar.disable:
      remaining = seconds_per_step * (self._steps - step - 1)
      print(f"step {step}/{self._steps}  {shown}  {remaining:.0f} s left", file=sys.stderr, flush=True)

  def note(self, step, values):
    """Records what was measured between two steps, such as a validation; its time does not count as training's.

    Args:
      step: int, steps taken so far.
      values: dict of floats, nan where undefined.
    """
    self._store(step, {name: value if math.isfinite(value) else None for name, value in values.items()})
    self._last = (time.perf_counter(), step - 1)
    if self._bar.disable:
      shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
      print(f"step {step}/{self._steps}  {shown}", file=sys.stderr, flush=True)

  def _store(self, step, values):
    self._file.write(json.dumps({"step": step, **values}) + "\n")
    for name, value in values.items():
      if value is not None:
        self._board.add_scalar(name, value, step)
