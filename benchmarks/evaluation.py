"""Ridge search and bootstrap, ours beside scikit-learn's and SciPy's: `python -m benchmarks.evaluation`.

Both sides do the same work in one run, taking turns, and the ratio of their times is printed. All of scikit-learn's 200
fits would need a quarter of an hour or more. Every alpha costs it the same, so `--sklearn_fits` of them are timed, half
of them on one BLAS thread and half on all, and the faster kind is multiplied. Our time includes the compilation.
"""

import argparse
import time
import warnings

import jax
import numpy as np
import threadpoolctl
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from jiqa.evaluation import bootstrap, linear


def seconds(work):
  """Wall and CPU seconds of a call, and its result; on a shared machine the CPU seconds are the fairer ones."""
  wall, cpu = time.perf_counter(), time.process_time()
  result = work()
  return np.array([time.perf_counter() - wall, time.process_time() - cpu]), result


def show(times):
  return f"{times[0]:.2f} s (CPU {times[1]:.2f} s)"


def ratio(theirs, ours):
  return f"{theirs[0] / ours[0]:.1f} (CPU {theirs[1] / ours[1]:.1f})"


def ridge_rows(n, d, splits, alphas, sklearn_fits):
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
    heads = linear.ridge(features, target, fitted, alphas)
    return linear.predict(features, heads), heads

  def theirs(job):
    k, a = job
    scaler = scaled.setdefault(k, StandardScaler().fit(features[fitted[k]]))
    head = Ridge(alpha=alphas[a]).fit(scaler.transform(features[fitted[k]]), target[fitted[k]])
    return head.predict(scaler.transform(features[validated[k]]))

  scaled, predicted = {}, []
  jobs = [(i % splits, i * 7 % len(alphas)) for i in range(sklearn_fits)]
  times = {"one BLAS thread": [], "all BLAS threads": []}
  for i, (k, a) in enumerate(jobs):
    if i == len(jobs) // 2:
      ours_s, (scores, heads) = seconds(ours)
      print(f"ridge   ours: {show(ours_s)} with compilation, error at most {heads.error.max():.1e}", flush=True)
    kind = list(times)[i % 2]
    with threadpoolctl.threadpool_limits(1 if i % 2 == 0 else None):
      took, prediction = seconds(lambda: theirs((k, a)))  # noqa: B023
    times[kind].append(took)
    predicted.append(prediction)
    print(f"ridge   scikit-learn, {kind}, split {k}, alpha {alphas[a]:.3g}: {show(took)}", flush=True)
  gaps = [np.abs(scores[k, a, validated[k]] - p).max() / p.std() for (k, a), p in zip(jobs, predicted, strict=True)]
  print(f"ridge   largest difference to scikit-learn's float32: {max(gaps):.1e} of the prediction's standard deviation")
  for a in (0, len(alphas) // 2):  # the smallest alpha is the hardest
    scaler = StandardScaler().fit(features[fitted[0]].astype(np.float64))
    head = Ridge(alpha=alphas[a]).fit(scaler.transform(features[fitted[0]].astype(np.float64)), target[fitted[0]])
    exact = head.predict(scaler.transform(features[validated[0]].astype(np.float64)))
    gap = np.abs(scores[0, a, validated[0]] - exact).max() / exact.std()
    print(f"ridge   largest difference to scikit-learn's float64 at alpha {alphas[a]:.3g}: {gap:.1e} of the same")
  each = np.min([np.median(took, axis=0) for took in times.values()], axis=0)  # the better kind, wall and CPU apart
  theirs_s = each * splits * len(alphas)
  print(f"ridge   n {n}, d {d}, {splits} splits x {len(alphas)} alphas: ours {show(ours_s)}, scikit-learn")
  print(f"        {show(theirs_s)} ({show(each)} a fit): ratio {ratio(theirs_s, ours_s)}")
  return {"work": "ridge", "seconds": ours_s[0], "other_seconds": theirs_s[0], "ratio": theirs_s[0] / ours_s[0]}


def bootstrap_rows(n, resamples, repeats):
  """SRCC and PLCC of resampled pairs with ties."""
  rng = np.random.default_rng(0)
  x = np.round(rng.normal(size=n), 3)
  y = np.round(x + rng.normal(size=n), 2)
  units, share = np.arange(n), max(1, resamples // 10)

  def theirs():
    values = []
    for _ in range(share):
      drawn = rng.integers(0, n, n)
      values.append((stats.spearmanr(x[drawn], y[drawn])[0], stats.pearsonr(x[drawn], y[drawn])[0]))
    return np.array(values)

  ours = lambda: bootstrap.resample(x, y, units, ("srcc", "plcc"), resamples, 0)
  ours()
  times = [(seconds(ours)[0], seconds(theirs)[0] * resamples / share) for _ in range(repeats)]
  ours_s, theirs_s = np.median(np.array(times), axis=0)
  print(f"bootstrap  n {n}, {resamples} resamples of SRCC and PLCC: ours {show(ours_s)}, SciPy {show(theirs_s)} (from")
  print(f"        {share} resamples a round): ratio {ratio(theirs_s, ours_s)}")
  return {"work": "bootstrap", "seconds": ours_s[0], "other_seconds": theirs_s[0], "ratio": theirs_s[0] / ours_s[0]}


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--n", type=int, default=10_000)
  parser.add_argument("--d", type=int, default=8_192)
  parser.add_argument("--splits", type=int, default=10)
  parser.add_argument("--alphas", type=int, default=20)
  parser.add_argument("--sklearn_fits", type=int, default=8, help="at least 4")
  flags = parser.parse_args()
  warnings.filterwarnings("ignore", message="Ill-conditioned")
  print(f"jax {jax.__version__} on {jax.devices()[0].device_kind} ({jax.default_backend()}), numpy {np.__version__}")
  bootstrap_rows(flags.n, 1000, 5)
  ridge_rows(flags.n, flags.d, flags.splits, flags.alphas, flags.sklearn_fits)


if __name__ == "__main__":
  main()
