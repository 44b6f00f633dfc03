"""The mean of two folders of weights, against NumPy."""

import json

import numpy as np

from benchmarks import mean_weights
from jiqa.weights.store import load_weights, save_weights


def test_the_mean_of_weights_is_that_of_their_numbers(tmp_path):
  rng = np.random.default_rng(0)
  kernels = [rng.normal(size=(3, 4)).astype(np.float16) for _ in range(2)]
  for name, kernel in zip("ab", kernels, strict=True):
    card = {"method": name, "test": {"srcc": 0.9}}
    save_weights(tmp_path / name, {"kernel": kernel}, {"factor": np.float16(len(name))}, card)
  mean_weights.main([str(tmp_path / "a"), str(tmp_path / "b"), f"--out={tmp_path / 'mean'}"])
  params, stats, card = load_weights(tmp_path / "mean")
  expected = (np.float64(kernels[0]) + np.float64(kernels[1])) / 2
  np.testing.assert_array_equal(params["kernel"], expected.astype(np.float16))
  assert params["kernel"].dtype == np.float16 and stats["factor"] == 1
  assert card["method"] == "a" and "test" not in json.dumps(card)
