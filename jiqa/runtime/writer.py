"""What a run says of itself: metrics.jsonl, TensorBoard and the console, without TensorFlow."""

import contextlib
import json
import math
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from jiqa.runtime.distributed import is_main
from jiqa.runtime.workdir import replace_text


class Writer(contextlib.ExitStack):
  """Records scalars by step in a workdir and shows progress, in the main process only.

  `start` is the first step of this process, whose records by an earlier one are dropped; `steps` the last.
  """

  def __init__(self, workdir, start, steps):
    super().__init__()
    self._speaks, self._steps = is_main(), steps
    shown = TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[shown]}")
    hidden = not (self._speaks and sys.stderr.isatty())
    bar = Progress(*shown, TimeRemainingColumn(), console=Console(file=sys.stderr), disable=hidden)
    self._bar = self.enter_context(bar)
    self._task = self._bar.add_task("", total=steps, completed=start, shown="compiling")
    if self._speaks:
      _drop_records(workdir / "metrics.jsonl", start)
      self._file = self.enter_context(open(workdir / "metrics.jsonl", "a", buffering=1))
      board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start, max_queue=1000, flush_secs=60)
      self._board = self.enter_context(board)
    if start:
      self._print(start, "goes on from a checkpoint")

  def advance(self, step):
    """Moves the progress bar to `step`."""
    self._bar.update(self._task, completed=step)

  def write(self, step, values):
    """Records a step's dict of floats, among them 'loss', 'images_per_second' and 'input_wait'."""
    self._record(step, values)
    shown = f"loss {values['loss']:.4f}  {values['images_per_second']:.1f} images/s"
    self._bar.update(self._task, shown=shown)
    self._print(step, f"{shown}  waiting for input {100 * values['input_wait']:.1f} % of the time")

  def note(self, step, values):
    """Records what was measured after `step` steps, such as a validation: dict of floats, nan where undefined."""
    self._record(step, {name: value if math.isfinite(value) else None for name, value in values.items()})
    self._print(step, "  ".join(f"{name} {value:.4g}" for name, value in values.items()))

  def _print(self, step, text):
    if self._speaks and self._bar.disable:
      print(f"step {step}/{self._steps}  {text}", file=sys.stderr, flush=True)

  def _record(self, step, values):
    if self._speaks:
      self._file.write(json.dumps({"step": step, **values}) + "\n")
      for name, value in values.items():
        if value is not None:
          self._board.add_scalar(name, value, step)


def _drop_records(path, start):
  """Removes the records of steps >= start, which a resumed run writes again, and lines that are damaged."""
  if not path.exists():
    return
  kept = []
  for line in path.read_bytes().splitlines():
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
      if json.loads(line)["step"] < start:
        kept.append(line.decode())
  replace_text(path, "".join(line + "\n" for line in kept))
