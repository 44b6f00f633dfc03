"""Trains a small denoiser by the mean absolute error alone, and with a metric as a second loss.

python -m docs.examples.denoiser --out=denoiser.jpg
"""

import argparse
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import skimage.data
from flax import nnx

import jiqa
from docs.examples import drawing

NOISE, SIDE = 0.1, 96


class Denoiser(nnx.Module):
  """Three convolutions that predict the noise."""

  def __init__(self, width, *, rngs):
    sizes = (3, width, width, 3)
    self.layers = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in itertools.pairwise(sizes)])

  def __call__(self, x):
    y = x
    for i, layer in enumerate(self.layers):
      y = layer(y if i == 0 else jax.nn.relu(y))
    return jnp.clip(x - y, 0, 1)


def train(metric, weight, photos, *, updates=100, batch=8, width=16, learning_rate=2e-3, seed=0):
  """A denoiser as a function; its loss is the mean absolute error + weight * metric.loss.

  photos: list of [h, w, 3] float32 in [0, 1].
  """
  graph, params = nnx.split(Denoiser(width, rngs=nnx.Rngs(seed)))
  optimizer = optax.adam(learning_rate)

  def loss(params, clean, noisy):
    restored = nnx.merge(graph, params)(noisy)
    error = jnp.abs(restored - clean).mean()
    return error + weight * metric.loss(restored).mean() if weight else error

  @jax.jit
  def update(params, state, clean, key):
    noisy = jnp.clip(clean + NOISE * jax.random.normal(key, clean.shape), 0, 1)
    value, gradient = jax.value_and_grad(loss)(params, clean, noisy)
    change, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, change), state, value

  rng, state = np.random.default_rng(seed), optimizer.init(params)
  for step in range(updates):
    params, state, _ = update(params, state, crops(photos, batch, rng), jax.random.fold_in(jax.random.key(seed), step))
  return jax.jit(lambda x: nnx.merge(graph, params)(x))


def crops(photos, count, rng):
  """[count, SIDE, SIDE, 3] at random places of random photographs."""
  chosen = [photos[i] for i in rng.integers(len(photos), size=count)]
  places = [(rng.integers(len(p) - SIDE + 1), rng.integers(p.shape[1] - SIDE + 1)) for p in chosen]
  return np.stack([p[y : y + SIDE, x : x + SIDE] for p, (y, x) in zip(chosen, places, strict=True)])


def psnr(first, second):
  """Peak signal-to-noise ratio in dB."""
  return float(-10 * np.log10(np.mean(np.square(np.asarray(first) - np.asarray(second)))))


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", default="denoiser.jpg")
  parser.add_argument("--weight", type=float, default=0.05)
  parser.add_argument("--updates", type=int, default=100)
  options = parser.parse_args()
  metric = jiqa.load()
  photos = [x.astype(np.float32) / 255 for x in (skimage.data.chelsea(), skimage.data.coffee())]
  clean = skimage.data.astronaut()[:160, 110:302].astype(np.float32) / 255
  noisy = np.clip(clean + NOISE * np.random.default_rng(1).normal(size=clean.shape).astype(np.float32), 0, 1)
  images = {"noisy": noisy}
  for name, weight in (("absolute error", 0.0), ("and the metric", options.weight)):
    images[name] = np.asarray(train(metric, weight, photos, updates=options.updates)(noisy[None])[0])
  images["clean"] = clean
  labels = {
    f"{name}: {float(metric.apply(x)):.1f}" + ("" if x is clean else f", {psnr(x, clean):.1f} dB"): x
    for name, x in images.items()
  }
  drawing.sheet(options.out, labels)


if __name__ == "__main__":
  main()
