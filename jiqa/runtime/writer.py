"""What a run says of itself: metrics.jsonl, TensorBoard and the console, without TensorFlow."""

import json
import math
import os
import pathlib
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from jiqa.runtime.distributed import is_main


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


class Writer:
  """Records scalars by step and shows progress; says nothing in any process but the main one.

  Args:
    workdir: pathlib.Path; metrics.jsonl and the TensorBoard files go here.
    start: first step of this process; later records of an earlier process are dropped.
    steps: last step, for the progress bar.
  """

  def __init__(self, workdir, start, steps):
    self._speaks = is_main()
    self._start, self._steps = start, steps
    self._bar = Progress(
      TextColumn("training"),
      BarColumn(),
      MofNCompleteColumn(),
      TextColumn("{task.fields[shown]}"),
      TimeRemainingColumn(),
      console=Console(file=sys.stderr),
      disable=not (self._speaks and sys.stderr.isatty()),
    )
    self._task = self._bar.add_task("", total=steps, completed=start, shown="compiling")
    if self._speaks:
      drop_from(workdir / "metrics.jsonl", start)
      self._file = open(workdir / "metrics.jsonl", "a", buffering=1)
      self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start, max_queue=1000, flush_secs=60)

  def __enter__(self):
    self._bar.start()
    return self

  def __exit__(self, *_):
    self._bar.stop()
    if self._speaks:
      self._board.close()
      self._file.close()

  def advance(self, step):
    """Moves the progress bar to `step`."""
    self._bar.update(self._task, completed=step)

  def write(self, step, values):
    """Records one step.

    Args:
      step: int.
      values: dict of floats, among them 'loss' and 'images_per_second'.
    """
    self._store(step, values)
    shown = f"loss {values['loss']:.4f}  {values['images_per_second']:.1f} images/s"
    self._bar.update(self._task, shown=shown)
    self._say(f"step {step}/{self._steps}  {shown}  waiting for input {100 * values['input_wait']:.1f} % of the time")

  def note(self, step, values):
    """Records what was measured between two steps, such as a validation.

    Args:
      step: int, steps taken so far.
      values: dict of floats, nan where undefined.
    """
    self._store(step, {name: value if math.isfinite(value) else None for name, value in values.items()})
    self._say(f"step {step}/{self._steps}  " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()))

  def _say(self, text):
    if self._speaks and self._bar.disable:
      print(text, file=sys.stderr, flush=True)

  def _store(self, step, values):
    if self._speaks:
      self._file.write(json.dumps({"step": step, **values}) + "\n")
      for name, value in values.items():
        if value is not None:
          self._board.add_scalar(name, value, step)
