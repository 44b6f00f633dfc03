"""The mean of the parameters of networks that were fine-tuned from one another (Wortsman et al. 2022, WiSE-FT).

    python -m benchmarks.mean_weights weights/supervised weights/order --out=weights/mean
    jiqa export-weights weights/mean supervised_lite0        # calibrates and measures it

It keeps most of what each has learnt: a network trained for agreement with people, and one that went on to learn the
order of distortions. The card is that of the first, without its figures.
"""

import argparse
import json
import pathlib

import jax
import numpy as np

from jiqa.weights.store import load_weights, save_weights


def mean(trees):
  """Leaf by leaf, summed in float64, in the type of the first."""
  return jax.tree.map(lambda *leaves: np.mean(np.float64(leaves), axis=0).astype(leaves[0].dtype), *trees)


def main(argv=None):
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("weights", nargs="+", type=pathlib.Path, help="folders of weights of one shape")
  parser.add_argument("--out", required=True, type=pathlib.Path)
  flags = parser.parse_args(argv)
  params, stats, cards = zip(*map(load_weights, flags.weights), strict=True)
  card = {key: value for key, value in cards[0].items() if key != "test"}
  print(json.dumps(save_weights(flags.out, mean(params), mean(stats), card), indent=2))


if __name__ == "__main__":
  main()
