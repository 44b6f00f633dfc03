"""A metric as a reward, without gradients: the cross-entropy method chooses how a photograph is developed.

The pipeline rounds to 8 bits and has whole numbers among its settings, so that nothing can be differentiated.

python -m docs.examples.reward --image=photo.jpg --out=reward.jpg
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import jiqa
from docs.examples import drawing

SETTINGS = ("exposure", "contrast", "saturation", "sharpness", "colours")
# A search finds whatever a metric does not mind: with 4 levels allowed, `reiqa_small` chose 4.
LOW, HIGH = jnp.array([-1.0, 0.8, 0.7, 0.0, 64]), jnp.array([1.5, 1.4, 1.4, 0.6, 255])


def develop(settings, image):
  """An image [h, w, 3] in [0, 1], developed: stops, factors, strength, and levels of every colour."""
  stops, contrast, saturation, sharpness, levels = jnp.clip(settings, LOW, HIGH)
  x = image * 2**stops
  x = 0.5 + contrast * (x - 0.5)
  gray = x.mean(-1, keepdims=True)
  x = gray + saturation * (x - gray)
  blurred = (x + sum(jnp.roll(x, s, a) for s in (1, -1) for a in (0, 1))) / 5
  levels = jnp.round(levels)
  return jnp.round(jnp.clip(x + sharpness * (x - blurred), 0, 1) * levels) / levels


def search(metric, image, rounds=10, population=24, seed=0):
  """(best settings [5], mean reward of the best quarter of every round) for an image [h, w, 3] float in [0, 1]."""
  params, score = jiqa.functional(metric)
  reward = jax.jit(jax.vmap(lambda params, s, image: score(params, develop(s, image)), (None, 0, None)))
  rng, mean, spread, history = np.random.default_rng(seed), (LOW + HIGH) / 2, (HIGH - LOW) / 4, []
  for _ in range(rounds):
    settings = np.asarray(mean + spread * rng.normal(size=(population, len(SETTINGS))), np.float32)
    rewards = np.asarray(reward(params, settings, image))
    best = settings[np.argsort(-rewards)[: population // 4]]
    mean, spread = best.mean(0), best.std(0) + 0.02 * (HIGH - LOW)
    history.append(float(np.sort(rewards)[-population // 4 :].mean()))
  return jnp.clip(mean, LOW, HIGH), history


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--image", help="default a photograph of scikit-image, too dark and pale")
  parser.add_argument("--out", default="reward.jpg")
  options = parser.parse_args()
  metric, image = jiqa.load(), drawing.photo(options.image)
  if not options.image:
    image = 0.4 * image + 0.05
  settings, history = search(metric, image)
  found = np.asarray(develop(settings, image))
  text = ", ".join(f"{name} {value:.2f}" for name, value in zip(SETTINGS, settings, strict=True))
  print(text)
  drawing.sheet(
    options.out,
    {f"before: {float(metric.apply(image)):.1f}": image, f"after: {float(metric.apply(found)):.1f}": found},
    {"reward by round": (np.arange(len(history)), history)},
  )


if __name__ == "__main__":
  main()
