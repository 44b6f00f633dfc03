"""Heads on frozen features: every expert and every regressor on the published splits, the best one kept as a file.

Run by `launch.py --config=configs/reiqa.py:regress`. Nothing is trained; what was computed lies in the workdir and is
not computed again.
"""

import itertools
import json

import numpy as np
from rich.console import Console
from rich.table import Table

import jiqa
from jiqa.data.decode import decode_rgb
from jiqa.data.source import open_database
from jiqa.data.splits import assign
from jiqa.data.splits import checksum as split_checksum
from jiqa.errors import UserError
from jiqa.evaluation import outputs, protocol
from jiqa.inference.features import Experts
from jiqa.runtime.workdir import Workdir, claim

BOTH = ("content", "quality")


def regress(config, workdir):
  """Fits and judges heads.

  Args:
    config: ConfigDict, see configs/reiqa.py, variant 'regress'.
    workdir: folder, or gs://BUCKET/FOLDER; gets features_*.npz, results.json and, for every database,
      head_NAME.safetensors: the head of the best regressor and experts, judged by the median validation SRCC, fitted to
      training and validation part of split 1.

  Returns:
    dict, the contents of results.json.

  Raises:
    UserError: there are no weights, a database is not prepared, or the workdir is another run's.
  """
  folders = [folder for folder in config.weights.values() if folder]
  if not folders:
    raise UserError(
      "config.weights.quality and config.weights.content are both empty; give a folder of converted weights or the "
      "workdir of a run: --config.weights.quality=DIR"
    )
  plain_config = json.loads(config.to_json_best_effort())
  with Workdir(workdir) as folder, claim(folder, plain_config):
    experts = Experts(folders)
    databases = {name: _of_database(config, name, experts, folder.local) for name in config.evaluation.databases}
    results = {
      "databases": databases,
      "experts": experts.card["experts"],
      "config": plain_config,
      "versions": {"jiqa": jiqa.__version__},
    }
    outputs.write_bytes(folder.local / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    _print(results, folder.remote)
  return results


def _of_database(config, name, experts, workdir):
  wanted = config.evaluation
  database = open_database(name, config.data_dir or None)
  table, stem = database.table, name.replace("/", "_")
  splits = assign(
    table, name, wanted.protocol, num_splits=wanted.splits, seed=config.seed, fractions=tuple(wanted.fractions)
  )
  features = _features(config, database, experts, workdir / f"features_{stem}.npz")
  mos, references = table.mos.to_numpy(), table.reference_name.to_numpy(str)
  domains = np.array(database.domains)
  card = {
    "model": experts.card["model"], "database": name, "range": list(database.metadata["range"]),
    "scores": database.metadata["score"], "labels_sha256": database.metadata["labels_sha256"],
    "split_sha256": split_checksum(table, splits), "protocol": wanted.protocol,
  }  # fmt: skip
  checksums = {each["expert"]: each["weights_sha256"] for each in experts.card["experts"]}
  candidates, best = {}, (-np.inf, None)
  for what, regressor in itertools.product(config.features, config.regressors):
    parts = _parts(what, features)
    if not parts:
      continue
    first, last, count = wanted.alphas if regressor == "ridge" else wanted.net_alphas
    result = protocol.fit_heads(
      np.concatenate([features[part] for part in parts], 1), mos, splits, np.geomspace(first, last, int(count)),
      regressor=regressor, l1_ratios=tuple(wanted.l1_ratios), groups=references,
    )  # fmt: skip
    candidates[f"{what} {regressor}"] = protocol.summarise(result, domains) | {"l1_ratio": result.l1_ratio.tolist()}
    validation = float(np.median(result.validation_srcc))
    if validation > best[0]:
      own = {"features": list(parts), "regressor": regressor, "l1_ratio": float(result.l1_ratio[0])}
      own["weights_sha256"] = {part: checksums[part] for part in parts}
      best = (validation, f"{what} {regressor}", protocol.head_of(result, 0, card | own))
  if best[1] is None:
    raise UserError(f"config.features is {tuple(config.features)}; none of them can be had from {list(features)}")
  path = workdir / f"head_{stem}.safetensors"
  best[2].save(path)
  return {
    **card,
    "candidates": candidates,
    "chosen": best[1],
    "head": path.name,
    "median": candidates[best[1]]["median"],
  }


def _parts(what, features):
  """The experts that a feature set is made of, () where one is missing."""
  if what not in ("quality", "content", "both"):
    raise UserError(f"config.features has {what!r}; expected quality, content or both")
  parts = BOTH if what == "both" else (what,)
  return parts if set(parts) <= set(features) else ()


def _features(config, database, experts, path):
  """Features of all images by expert; kept in a file with what they depend on."""
  key = json.dumps([database.metadata["labels_sha256"], [each["weights_sha256"] for each in experts.card["experts"]]])
  if path.exists():
    with np.load(path) as kept:
      if str(kept["key"]) == key:
        return {name: kept[name] for name in kept.files if name != "key"}

  def read(i):
    record = database[i]
    return decode_rgb(record["image"], record["image_name"])

  found = experts(read, len(database), f"{database.name}, features", config.evaluation.pixels_per_batch)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + ".part")
  with open(partial, "wb") as file:
    np.savez(file, key=np.array(key), **found)
  partial.replace(path)
  return found


def _print(results, workdir):
  table = Table(title="median over splits, test parts only", title_justify="left")
  for column in ("database", "features and regressor", "SRCC", "PLCC", "validation SRCC"):
    table.add_column(column)
  for name, found in results["databases"].items():
    for candidate, summary in found["candidates"].items():
      rows = {candidate: summary["median"]} | {f"  {part}": inside for part, inside in summary["domains"].items()}
      for shown, measured in rows.items():
        cells = [f"{measured[key]:.3f}" if measured[key] is not None else "undefined" for key in ("srcc", "plcc")]
        whole = shown == candidate
        kept = " (kept)" if whole and candidate == found["chosen"] else ""
        validation = f"{np.median(summary['validation_srcc']):.3f}" if whole else ""
        table.add_row(name if whole else "", shown + kept, *cells, validation)
  console = Console(width=110)
  console.print(table)
  for name, found in results["databases"].items():
    console.print(f"{name}: head {workdir / found['head']}", highlight=False)
