"""Which negatives are worth having, and what crops that share much cost: short runs of Re-IQA on BIQ2021.

    python -m benchmarks.reiqa_losses --workdir=runs/reiqa_losses --seeds=3

A narrow encoder is trained without labels on the 4,923 images of the training part, equally many steps with every loss,
and once more with windows of 256 pixels, in whose half the crops of a pair share 44 to 67 % of their area instead of 10
to 30 %. Then heads are fitted to labelled training images and predict

- the validation part of ten choices, the penalty being chosen on another one;
- the official test images, which no choice is made by.

Every finished run is kept in the workdir: run the command again to go on.

    python -m benchmarks.reiqa_losses --judge=runs/reiqa_small

prints the same figures of a run of `launch.py`, trained and untrained, with all training images labelled, and those
across subsets (head on two, test on the third).
"""

import argparse
import json
import pathlib
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.thesis import inner_splits
from configs import reiqa
from jiqa.data.source import open_database
from jiqa.data.splits import TEST, UNUSED, run_splits
from jiqa.evaluation import protocol
from jiqa.evaluation.correlation import srcc
from jiqa.inference.predictor import Network, predict_database
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.sharding import make_mesh
from jiqa.train import build, build_optimizer, init_state, train

DATABASE = "biq2021"
# Name: loss and window; a half of 256 pixels is too small for the pairs.
RUNS = {
  "untrained": (None, 384),
  "queue": ("queue", 384),
  "queue+chunk": ("queue+chunk", 384),
  "in_batch": ("in_batch", 384),
  "queue, window 256": ("queue", 256),
  "in_batch, window 256": ("in_batch", 256),
}


def config_of(loss, window, seed, steps):
  """The `small` variant made narrow, with a queue of the published depth: the keys of the last 4 to 5 steps."""
  c = reiqa.get_config("small")
  with c.unlocked():
    c.seed, c.loss, c.steps, c.checkpoint_every = seed, loss, steps, 10_000
    c.depth, c.width, c.window, c.batch_size = 10, 16, window, 12
    # So few steps would leave the published average, 0.999, at the initial weights.
    c.queue, c.key_momentum = 432, 0.99
    c.optimizer.warmup_steps = 20
    c.evaluation.pixels_per_batch = 4 * 512 * 512
  return c


def across(splits, domains, left_out):
  """Splits that fit the other subsets' training parts and test on the test part of `left_out`."""
  inside = np.array(domains) == left_out
  return np.where(inside, np.where(splits == TEST, TEST, UNUSED), np.where(splits == TEST, UNUSED, splits))


def sample(splits, count, seed):
  """Splits in which `count` images of all those that are not tested keep their part, the others being unused."""
  known = np.flatnonzero((splits != TEST).all(0))
  left_out = np.random.default_rng(seed).permutation(known)[count:]
  sampled = splits.copy()
  sampled[:, left_out] = UNUSED
  return sampled


def judge(config, state, method, mesh, labelled=None, transfer=False):
  """SRCC of heads on the features of a network.

  Args:
    labelled: so many training images have labels, the same ones for every network; None: all.
    transfer: also heads that are fitted to the other subsets.

  Returns:
    dict from what to float: the mean over ten choices of the validation part, and on the official test images the
    median over them; of all images and inside every subset.
  """
  database = open_database(DATABASE, config.data_dir or None)
  splits = run_splits(config, database.table, DATABASE, "official")
  splits = sample(splits, labelled, 0) if labelled else splits
  rows = np.flatnonzero((splits != UNUSED).any(0))
  splits, mos, domains = splits[:, rows], database.table.mos.to_numpy()[rows], np.array(database.domains)[rows]
  features = predict_database(Network.of_state(method, state, mesh), database, rows, DATABASE)["features"]
  alphas = np.geomspace(*config.evaluation.alphas[:2], int(config.evaluation.alphas[2]))
  correlations, subsets = {}, sorted(map(str, np.unique(domains)))
  for part, asked, middle in (("validation", inner_splits(splits), np.mean), ("test", splits, np.median)):
    result = protocol.fit_heads(features, mos, asked, alphas)
    correlations[part] = float(middle(result.srcc))
    for domain in subsets:
      tested = [np.isfinite(row) & (domains == domain) for row in result.predictions]
      inside = [srcc(row[r], mos[r]) for row, r in zip(result.predictions, tested, strict=True)]
      correlations[f"{part}, {domain}"] = float(middle(inside))
  for domain in subsets if transfer else ():
    other = protocol.fit_heads(features, mos, across(splits, domains, domain), alphas)
    correlations[f"others to {domain}"] = float(np.median(other.srcc))
  return correlations


def run(name, seed, steps, labelled, workdir):
  """Trains and judges one of `RUNS`, unless that is done already; 'untrained' judges the encoder as initialised."""
  path = workdir / f"{name.replace('+', '_').replace(', ', '_').replace(' ', '_')}_{seed}.json"
  if path.exists():
    return json.loads(path.read_text())
  loss, window = RUNS[name]
  config, mesh = config_of(loss or "in_batch", window, seed, steps), make_mesh()
  started, cpu = time.perf_counter(), time.process_time()
  method, (tx, _, _) = build(config, mesh), build_optimizer(config, config.batch_size)
  state = init_state(config, method, tx, mesh)
  if loss:
    folder = workdir / path.stem
    if not train(config, folder):
      raise SystemExit(143)
    state = Checkpoints(folder / "checkpoints").restore(state)
  seconds = time.perf_counter() - started
  record = {
    "run": name, "seed": seed, "steps": steps if loss else 0, "labelled": labelled, "seconds": round(seconds, 1),
    "cpu_seconds": round(time.process_time() - cpu, 1), "jax": jax.__version__,
    **judge(config, state, method, mesh, labelled),
  }  # fmt: skip
  path.write_text(json.dumps(record, indent=1) + "\n")
  return record


def judge_run(workdir):
  """`judge` of the newest checkpoint of any run with features, and of the same network untrained.

  Args:
    workdir: pathlib.Path of a run of launch.py.
  """
  saved = json.loads((workdir / "config.json").read_text())
  saved.pop("data_sha256")
  saved["data"] = [ConfigDict(entry) for entry in saved["data"]]  # as in configs/
  config, mesh = ConfigDict(saved), make_mesh()
  method, (tx, _, _) = build(config, mesh), build_optimizer(config, config.batch_size)
  fresh = init_state(config, method, tx, mesh)
  trained = Checkpoints(workdir / "checkpoints").restore(fresh)
  for label, state in (("trained", trained), ("untrained", fresh)):
    correlations = judge(config, state, method, mesh, transfer=True)
    print({"network": label, **{k: round(v, 3) for k, v in correlations.items()}}, flush=True)


def print_table(records):
  """Mean and range over the seeds, one row a run."""
  columns = [key for key in records[0] if isinstance(records[0][key], float) and "seconds" not in key]
  print("| run | seeds | " + " | ".join(columns) + " |")
  for name in dict.fromkeys(record["run"] for record in records):
    rows = np.array([[record[column] for column in columns] for record in records if record["run"] == name])
    ranges = zip(rows.mean(0), rows.min(0), rows.max(0), strict=True)
    cells = [f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in ranges]
    print(f"| {name} | {len(rows)} | " + " | ".join(cells) + " |")


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/reiqa_losses"))
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=220)
  parser.add_argument("--labelled", type=int, default=2000, help="so many training images have labels")
  parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after so long")
  parser.add_argument("--judge", type=pathlib.Path, help="no training: the same figures of this run of launch.py")
  options = parser.parse_args()
  if options.judge:
    return judge_run(options.judge)
  options.workdir.mkdir(parents=True, exist_ok=True)
  started, records = time.perf_counter(), []
  for seed in range(options.seeds):
    for name in RUNS:
      if time.perf_counter() - started > 60 * options.minutes:
        print_table(records)
        print("time is up; run the command again to go on")
        return
      records.append(run(name, seed, options.steps, options.labelled, options.workdir))
      print({k: round(v, 3) if isinstance(v, float) else v for k, v in records[-1].items()}, flush=True)
  print_table(records)


if __name__ == "__main__":
  main()
