"""A run that was killed twice ends with the bits of one that was not, whatever the method and its loss."""

import json

import jax
import numpy as np
import pytest

from jiqa import train as loop
from jiqa.runtime.checkpoint import Checkpoints
from tests.tiny_runs import config_of

STEPS, EVERY = 11, 4
RUNS = {
  "reiqa, queue": ("reiqa", {"loss": "queue"}),
  "reiqa, queue+chunk": ("reiqa", {"loss": "queue+chunk"}),
  "reiqa, in_batch": ("reiqa", {"loss": "in_batch"}),
  "reiqa_content, queue": ("reiqa_content", {"loss": "queue"}),
  "reiqa_content, in_batch": ("reiqa_content", {"loss": "in_batch"}),
  "lml": ("lml", {}),
  "liqe": ("liqe", {}),
  "supervised": ("supervised", {}),
}
QUICK = ("lml", "reiqa_content, in_batch")
TIMES = ("images_per_second", "input_wait", "tflops_per_second", "mfu", "device_memory_bytes")


class Killed(BaseException):
  """Stands for a process that is gone."""


def run(config, workdir, monkeypatch, programs, death=None):
  """Trains until `death`, a step that is not taken; returns dict from step to the State saved there.

  The step is compiled once: `programs` is a list, empty before the first run.
  """
  saved, save, before, compiling = {}, Checkpoints.save, loop.Trace.before, loop.compile_step

  def noting(self, step, state):
    saved[step] = jax.device_get(state)
    save(self, step, state)

  def dying(self, step, state):
    if step == death:
      raise Killed
    before(self, step, state)

  def compile_once(*arguments):
    if not programs:
      programs.append(compiling(*arguments))
    return programs[0]

  with monkeypatch.context() as patch:
    patch.setattr(loop, "compile_step", compile_once)
    patch.setattr(Checkpoints, "save", noting)
    patch.setattr(loop.Trace, "before", dying)
    if death is None:
      assert loop.train(config, workdir, jax.devices()[:1])
    else:
      with pytest.raises(Killed):
        loop.train(config, workdir, jax.devices()[:1])
  return saved


def records(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [{name: x for name, x in json.loads(line).items() if name not in TIMES} for line in lines]


@pytest.mark.parametrize("name", [pytest.param(x, marks=[] if x in QUICK else pytest.mark.slow) for x in RUNS])
def test_a_killed_run_goes_on_with_the_same_bits(name, demo_dir, tmp_path, monkeypatch):
  method, changes = RUNS[name]
  config = config_of(method, demo_dir, steps=STEPS, checkpoint_every=EVERY, seed=2, **changes)
  together = monkeypatch, []
  whole = run(config, tmp_path / "whole", *together)
  assert list(whole) == [4, 8, 11]

  # Once between a checkpoint and the step after it, once in the middle between two checkpoints.
  middle = int(np.random.default_rng(list(RUNS).index(name)).choice([6, 7, 10]))
  cut = tmp_path / "cut"
  assert list(run(config, cut, *together, death=EVERY)) == [EVERY]
  with open(cut / "metrics.jsonl", "a") as file:
    file.write('{"step": 99, "lo')  # a record that was being written
  config.threads = 2
  first = list(run(config, cut, *together, death=middle))
  assert Checkpoints(cut / "checkpoints").latest_step() == middle // EVERY * EVERY and len(first) == (middle > 8)
  resumed = run(config, cut, *together)
  assert list(resumed) == [step for step in whole if step > middle]

  assert records(cut) == records(tmp_path / "whole") and [x["step"] for x in records(cut)] == list(range(STEPS))
  for (path, expected), found in zip(
    jax.tree_util.tree_leaves_with_path(whole[STEPS]), jax.tree.leaves(resumed[STEPS]), strict=True
  ):
    np.testing.assert_array_equal(found, expected, err_msg=jax.tree_util.keystr(path))
  # There is something to lose: parameters, optimiser, statistics, teachers and queues move between the checkpoints.
  for part in ("params", "opt_state", "stats", "extra"):
    before, after = (jax.tree.leaves(getattr(whole[step], part)) for step in (8, STEPS))
    assert not before or any((a != b).any() for a, b in zip(before, after, strict=True)), part
