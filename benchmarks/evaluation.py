"""Ridge search and bootstrap, ours beside scikit-learn's and SciPy's: `python -m benchmarks.evaluation`.

Both sides do the same work in one run, taking turns, and the ratio of their times is printed. The ridge of
scikit-learn would need a quarter of an hour: every alpha costs it the same, so `--sklearn_fits` of its fits are timed
and multiplied; `--sklearn_fits=200` runs them all. Nothing is compiled inside a timed call.
"""

import argparse
import time
import warnings

import jax
import numpy as np
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from jiqa.evaluation import bootstrap, ridge


def seconds(work):
  start = time.perf_counter()
  result = work()
  return time.perf_counter() - start, result


def ridge_rows(n, d, splits, alphas, sklearn_fits, repeats):
  """One search: 70 % of the rows fitted, 10 % predicted, for every split and alpha."""
  rng = np.random.default_rng(0)
  # Features as a network gives them: positive, correlated, a few strong directions.
  basis = rng.normal(size=(64, d)).astype(np.float32)
  features = np.maximum(rng.normal(size=(n, 64)).astype(np.float32) @ basis / 8, 0) + 0.3 * rng.random(
    (n, d), np.float32
  )
  target = features[:, :200] @ rng.normal(size=200).astype(np.float32) / 10 + rng.normal(size=n)
  parts = np.argsort(rng.random((splits, n)), axis=1)
  fitted, validated = parts < 0.7 * n, (parts >= 0.7 * n) & (parts < 0.8 * n)
  alphas = np.geomspace(1e-3, 1e6, alphas)

  def ours():
    heads = ridge.fit(features, target, fitted, alphas)
    return ridge.predict(features, heads), heads

  def theirs(job):
    k, a = job
    scaler = scaled.setdefault(k, StandardScaler().fit(features[fitted[k]]))
    head = Ridge(alpha=alphas[a]).fit(scaler.transform(features[fitted[k]]), target[fitted[k]])
    return head.predict(scaler.transform(features[validated[k]]))

  scaled = {}
  jobs = [(i % splits, i * 7 % len(alphas)) for i in range(sklearn_fits)]
  first, (scores, _) = seconds(ours)
  print(f"ridge   first call, with compilation: {first:.1f} s")
  times = {"ours": [], "theirs": []}
  for share in np.array_split(np.array(jobs), repeats):
    spent = 0.0
    for k, a in share:
      took, reference = seconds(lambda: theirs((k, a)))  # noqa: B023
      spent += took
      gap = np.abs(scores[k, a, validated[k]] - reference).max() / reference.std()
      print(f"ridge   split {k}, alpha {alphas[a]:9.3g}: scikit-learn {took:6.2f} s, largest difference {gap:.1e} sd")
    times["theirs"].append(spent / len(share) * splits * len(alphas))
    took, (_, heads) = seconds(ours)
    times["ours"].append(took)
  ours_s, theirs_s = np.median(times["ours"]), np.median(times["theirs"])
  print(
    f"ridge   n {n}, d {d}, {splits} splits x {len(alphas)} alphas: ours {ours_s:.1f} s ({heads.steps.max()} float64"
  )
  print(f"        steps at most), scikit-learn {theirs_s:.1f} s (from {len(jobs)} fits): ratio {theirs_s / ours_s:.1f}")


def bootstrap_rows(n, resamples, repeats):
  """SRCC and PLCC of resampled pairs with ties."""
  rng = np.random.default_rng(0)
  x = np.round(rng.normal(size=n), 3)
  y = np.round(x + rng.normal(size=n), 2)
  units, share = np.arange(n), max(1, resamples // 10)

  def theirs():
    found = []
    for _ in range(share):
      drawn = rng.integers(0, n, n)
      found.append((stats.spearmanr(x[drawn], y[drawn])[0], stats.pearsonr(x[drawn], y[drawn])[0]))
    return np.array(found)

  ours = lambda: bootstrap.resample((x,), y, units, ("srcc", "plcc"), resamples, 0)  # noqa: E731
  ours()
  times = [(seconds(ours)[0], seconds(theirs)[0] * resamples / share) for _ in range(repeats)]
  ours_s, theirs_s = np.median(np.array(times), axis=0)
  print(f"bootstrap  n {n}, {resamples} resamples of SRCC and PLCC: ours {ours_s:.2f} s, SciPy {theirs_s:.2f} s (from")
  print(f"        {share} resamples a round): ratio {theirs_s / ours_s:.1f}")


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--n", type=int, default=10_000)
  parser.add_argument("--d", type=int, default=8_192)
  parser.add_argument("--splits", type=int, default=10)
  parser.add_argument("--alphas", type=int, default=20)
  parser.add_argument("--sklearn_fits", type=int, default=8)
  parser.add_argument("--repeats", type=int, default=1, help="rounds in which the two sides of the ridge take turns")
  flags = parser.parse_args()
  warnings.filterwarnings("ignore", message="Ill-conditioned")
  print(f"jax {jax.__version__} on {jax.devices()[0].device_kind} ({jax.default_backend()}), numpy {np.__version__}")
  bootstrap_rows(flags.n, 1000, 5)
  ridge_rows(flags.n, flags.d, flags.splits, flags.alphas, flags.sklearn_fits, flags.repeats)


if __name__ == "__main__":
  main()
