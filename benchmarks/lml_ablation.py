"""Does the contrast of LML-IQA help? Trains a variant of configs/lml.py once for every ablation and seed.

  python -m benchmarks.lml_ablation [--variant=small] [--out=runs/lml_ablation] [--seeds=3] [--only=full,no_intra]
                                    [--minutes=0] [--KEY=VALUE]

--KEY=VALUE changes the config of all runs: --init_from=weights/deit3, --steps=400. One line a run is added to
OUT/results.jsonl; runs that stand there are not repeated, and one that was interrupted goes on where it stopped. Runs
of one seed share their split, the order of their images and their first weights: differences are within a seed.

The claims that the paper makes are tested at the end: the SRCC of two ablations on the same test images, paired over
the seeds (t-test, Holm-corrected over the claims), and an interval over images: 2,000 resamples of the test images, of
each the mean difference over the seeds.
"""

import argparse
import json
import pathlib
import sys
import time

import numpy as np
from scipy import stats

from configs.lml import ABLATIONS, get_config
from jiqa.data.source import open_database
from jiqa.errors import UserError
from jiqa.evaluate import evaluate
from jiqa.evaluation import bootstrap
from jiqa.evaluation.significance import holm
from jiqa.train import train

# What the abstract claims: the first is better than the second.
CLAIMS = (("full", "no_intra"), ("no_intra", "no_contrast"), ("full", "no_contrast"), ("full", "random_crop"))


def run_config(variant, ablation, seed, changes):
  """The config of one run."""
  config = get_config(variant)
  config.update(ABLATIONS[ablation] | {"seed": seed} | changes)
  config.evaluation.untrained = ablation == "full"
  return config


def run(config, workdir):
  """Trains and evaluates; returns what is kept of the results, or None where SIGTERM stopped the training."""
  started = time.perf_counter()
  if not train(config, workdir):
    return None
  results = evaluate(config, workdir)
  kept = {"srcc": results["srcc"][0], "plcc": results["plcc"][0], **results["further"]}
  if "untrained" in results:
    kept["untrained_srcc"] = results["untrained"]["srcc"][0]
  return kept | {"seconds": round(time.perf_counter() - started), "steps": results["step"]}


def parse_changes(unknown):
  """["--steps=400"] to {"steps": 400}; a value that is no JSON is text."""
  changes = {}
  for argument in unknown:
    name, equals, value = argument.removeprefix("--").partition("=")
    if not argument.startswith("--") or not equals:
      raise UserError(f"unexpected argument {argument!r}; changes of the config are given as --KEY=VALUE")
    try:
      changes[name] = json.loads(value)
    except ValueError:
      changes[name] = value
  return changes


def summarise(lines):
  """Prints mean and standard deviation over the seeds, and the differences to the full method within a seed."""
  full = {line["seed"]: line["srcc"] for line in lines if line["ablation"] == "full"}
  print(f"{'':16s}{'seeds':>6s}{'SRCC':>8s}{'sd':>7s}{'PLCC':>8s}{'teacher':>9s}   SRCC less that of full, by seed")
  for ablation in ABLATIONS:
    mine = [line for line in lines if line["ablation"] == ablation]
    if not mine:
      continue
    srcc, plcc, teacher = (np.array([line[key] for line in mine]) for key in ("srcc", "plcc", "teacher_srcc"))
    less = ", ".join(f"{line['srcc'] - full[line['seed']]:+.3f}" for line in mine if line["seed"] in full)
    spread = f"{srcc.std(ddof=1):7.3f}" if len(mine) > 1 else f"{'-':>7s}"
    print(f"{ablation:16s}{len(mine):6d}{srcc.mean():8.3f}{spread}{plcc.mean():8.3f}{teacher.mean():9.3f}   {less}")
  untrained = [line["untrained_srcc"] for line in lines if "untrained_srcc" in line]
  if untrained:
    print(f"untrained SRCC {np.mean(untrained):.3f}")


def compare_claims(lines, out, config):
  """Prints for every claim of which both sides were trained how far it holds."""
  seeds = {name: {line["seed"]: line["srcc"] for line in lines if line["ablation"] == name} for name in ABLATIONS}
  both = {pair: sorted(seeds[pair[0]].keys() & seeds[pair[1]].keys()) for pair in CLAIMS}
  tested = [pair for pair, shared in both.items() if len(shared) > 1]
  if not tested:
    return
  p = [stats.ttest_rel(*([seeds[name][seed] for seed in both[pair]] for name in pair)).pvalue for pair in tested]
  (database,) = config.evaluation.databases
  mos = open_database(database, config.data_dir or None).table.mos.to_numpy()
  for pair, value, corrected in zip(tested, p, holm(p), strict=True):
    drawn = []
    for name in pair:
      files = (out / f"{name}_{seed}" / f"scores_{database.replace('/', '_')}.npz" for seed in both[pair])
      scores = [np.load(file)["predictions"][0] for file in files]
      images = np.isfinite(scores[0])
      # One seed of the draws for all: the same images are drawn.
      of_seeds = [
        bootstrap.resample(x[images], mos[images], np.arange(images.sum()), ("srcc",), 2000, 0)[0] for x in scores
      ]
      drawn.append(np.mean(of_seeds, 0))
    low, high = np.quantile(drawn[0] - drawn[1], (0.025, 0.975))
    gains = [seeds[pair[0]][seed] - seeds[pair[1]][seed] for seed in both[pair]]
    higher = f"higher with {sum(gain > 0 for gain in gains)} of {len(gains)} seeds"
    print(f"{' over '.join(pair):28s} {np.mean(gains):+.3f}, {higher}, p {value:.3f} (Holm {corrected:.3f}), 95 % over "
          f"images [{low:+.3f}, {high:+.3f}]")  # fmt: skip


def main():
  """Runs what is missing, then prints the summary."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--variant", default="small")
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/lml_ablation"))
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--only", default=",".join(ABLATIONS), help="ablations, separated by commas")
  parser.add_argument("--minutes", type=float, default=0, help="start no run after this time; 0: no limit")
  arguments, unknown = parser.parse_known_args()
  changes, path = parse_changes(unknown), arguments.out / "results.jsonl"
  arguments.out.mkdir(parents=True, exist_ok=True)
  lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
  done, started = {(line["ablation"], line["seed"]) for line in lines}, time.perf_counter()
  for seed in range(arguments.seeds):
    for ablation in arguments.only.split(","):
      late = arguments.minutes and time.perf_counter() - started > 60 * arguments.minutes
      if (ablation, seed) in done or late:
        continue
      config = run_config(arguments.variant, ablation, seed, changes)
      kept = run(config, arguments.out / f"{ablation}_{seed}")
      if kept is None:
        print("stopped by SIGTERM; run the same command to go on", file=sys.stderr)
        sys.exit(143)
      lines.append({"ablation": ablation, "seed": seed, **kept})
      with open(path, "a") as file:
        file.write(json.dumps(lines[-1]) + "\n")
  summarise(lines)
  compare_claims(lines, arguments.out, run_config(arguments.variant, "full", 0, changes))


if __name__ == "__main__":
  try:
    main()
  except UserError as error:
    print(f"lml_ablation: {error}", file=sys.stderr)
    sys.exit(2)
