"""Which negatives are worth having? The three losses of Re-IQA, several seeds each, on BIQ2021.

    python -m benchmarks.reiqa_losses --workdir=runs/reiqa_losses --seeds=3

A narrow encoder is trained on the images of the training part and a folder of further crops without labels, equally
many steps with every loss; then heads are fitted to the labelled training images and tested on the official test
images: in the database, and across its subsets (head on two, test on the third). Every finished run is kept in the
workdir: run the command again to go on.

    python -m benchmarks.reiqa_losses --judge=runs/reiqa_small

prints the same figures of a run of `launch.py`, trained and untrained.
"""

import argparse
import json
import pathlib
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import reiqa
from jiqa.data.source import open_database
from jiqa.data.splits import TEST, run_splits
from jiqa.evaluation import protocol
from jiqa.inference.predictor import Network, predict_database
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.sharding import make_mesh
from jiqa.train import build, build_optimizer, init_state, train

UNUSED = -1
DATABASE = "biq2021"


def config_of(loss, seed, steps):
  """The `small` variant made narrow, with a queue of the published depth: the keys of the last 4 to 5 steps."""
  c = reiqa.get_config("small")
  with c.unlocked():
    c.seed, c.loss, c.steps, c.epochs, c.checkpoint_every = seed, loss, steps, 0, 10_000
    c.depth, c.width, c.crop, c.window, c.batch_size, c.versions = 10, 16, 64, 192, 8, 8
    c.scales, c.every_scale, c.kinds = (1, 2), True, reiqa.SIMPLE_KINDS
    c.temperature, c.embedding = 0.2, 128
    # So few steps would leave the published average, 0.999, at the initial weights.
    c.queue, c.key_momentum = 576, 0.99
    c.optimizer.update(name="adamw", schedule="cosine", learning_rate=1e-3, weight_decay=1e-4, warmup_steps=20)
    c.evaluation.update(pixels_per_batch=4 * 512 * 512, alphas=(1e-2, 1e6, 25), splits=10)
  return c


def across(splits, domains, left_out):
  """Splits that fit the other subsets' training parts and test on the test part of `left_out`."""
  inside = np.array(domains) == left_out
  return np.where(inside, np.where(splits == TEST, TEST, UNUSED), np.where(splits == TEST, UNUSED, splits))


def judge(config, state, method, mesh):
  """SRCC on the official test images: all, inside every subset, and with the head fitted to the other subsets.

  Returns:
    dict from what to the median over the choices of the validation part.
  """
  database = open_database(DATABASE)
  network = Network.of_state(method, state, mesh)
  features = predict_database(network, database, np.arange(len(database)), DATABASE)["features"]
  splits = run_splits(config, database.table, DATABASE, "official")
  mos, domains = database.table.mos.to_numpy(), np.array(database.domains)
  alphas = np.geomspace(*config.evaluation.alphas[:2], int(config.evaluation.alphas[2]))
  result = protocol.fit_heads(features, mos, splits, alphas)
  found = {"all": float(np.median(result.srcc))}
  for domain in map(str, np.unique(domains)):
    rows = [np.isfinite(row) & (domains == domain) for row in result.predictions]
    inside = [protocol.measures(row[r], mos[r])["srcc"] for row, r in zip(result.predictions, rows, strict=True)]
    found[domain] = float(np.median(inside))
    other = protocol.fit_heads(features, mos, across(splits, domains, domain), alphas)
    found[f"others to {domain}"] = float(np.median(other.srcc))
  return found


def run(loss, seed, steps, workdir):
  """Trains and judges once, unless that is done already; loss None judges the encoder as initialised."""
  path = workdir / f"{(loss or 'untrained').replace('+', '_')}_{seed}.json"
  if path.exists():
    return json.loads(path.read_text())
  config, mesh = config_of(loss or "in_batch", seed, steps), make_mesh()
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
    "loss": loss or "untrained", "seed": seed, "steps": steps if loss else 0, "seconds": round(seconds, 1),
    "cpu_seconds": round(time.process_time() - cpu, 1), "jax": jax.__version__, **judge(config, state, method, mesh),
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
  for label, state in (("untrained", fresh), ("trained", trained)):
    print({"network": label, **{k: round(v, 3) for k, v in judge(config, state, method, mesh).items()}}, flush=True)


def print_table(records):
  """Mean and range over the seeds, one row a loss."""
  columns = [key for key in records[0] if isinstance(records[0][key], float) and "seconds" not in key]
  print("| loss | seeds | " + " | ".join(columns) + " |")
  for loss in dict.fromkeys(record["loss"] for record in records):
    rows = np.array([[record[column] for column in columns] for record in records if record["loss"] == loss])
    ranges = zip(rows.mean(0), rows.min(0), rows.max(0), strict=True)
    cells = [f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in ranges]
    print(f"| {loss} | {len(rows)} | " + " | ".join(cells) + " |")


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/reiqa_losses"))
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--steps", type=int, default=280)
  parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after so long")
  parser.add_argument("--judge", type=pathlib.Path, help="no training: the same figures of this run of launch.py")
  options = parser.parse_args()
  if options.judge:
    return judge_run(options.judge)
  options.workdir.mkdir(parents=True, exist_ok=True)
  started, records = time.perf_counter(), []
  for seed in range(options.seeds):
    for loss in (None, "queue", "queue+chunk", "in_batch"):
      if time.perf_counter() - started > 60 * options.minutes:
        print_table(records)
        print("time is up; run the command again to go on")
        return
      records.append(run(loss, seed, options.steps, options.workdir))
      print({k: round(v, 3) if isinstance(v, float) else v for k, v in records[-1].items()}, flush=True)
  print_table(records)


if __name__ == "__main__":
  main()
