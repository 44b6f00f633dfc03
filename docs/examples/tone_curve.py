"""Finds the tone curve under which a metric likes a photograph most, by its gradient.

python -m docs.examples.tone_curve --image=photo.jpg --out=tone_curve.jpg
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jiqa
from docs.examples import drawing

KNOTS = 9
# Slopes differ by a factor of 4 at most. Without a limit the curve turns into a step, which the network likes and
# people do not: what is optimised must not be able to leave the images that a metric knows.
LIMIT = 0.7


def curve(steps):
  """Values of a rising curve from 0 to 1 at KNOTS brightnesses, from any KNOTS - 1 numbers."""
  return jnp.concatenate([jnp.zeros(1), jnp.cumsum(jax.nn.softmax(LIMIT * jnp.tanh(steps)))])


def apply_curve(steps, image):
  return jnp.interp(image, jnp.linspace(0, 1, KNOTS), curve(steps))


def optimise(metric, image, updates=40, learning_rate=0.1):
  """(steps of the curve, scores after every update) for an image [h, w, 3] float in [0, 1]."""
  optimizer = optax.adam(learning_rate)
  params, score = jiqa.functional(metric)

  @jax.jit
  def update(params, image, steps, state):
    lower_is_better = lambda steps: -score(params, apply_curve(steps, image))
    loss, gradient = jax.value_and_grad(lower_is_better)(steps)
    change, state = optimizer.update(gradient, state)
    return optax.apply_updates(steps, change), state, -loss

  steps, scores = jnp.zeros(KNOTS - 1), []
  state = optimizer.init(steps)
  for _ in range(updates):
    steps, state, value = update(params, image, steps, state)
    scores.append(float(value))
  return steps, scores


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--image", help="default a photograph of scikit-image, made too dark")
  parser.add_argument("--out", default="tone_curve.jpg")
  options = parser.parse_args()
  image = drawing.photo(options.image)
  if not options.image:
    image = image**2.2
  steps, scores = optimise(jiqa.load(), image)
  better = np.asarray(apply_curve(steps, image))
  drawing.sheet(
    options.out,
    {f"before: {scores[0]:.1f}": image, f"after: {scores[-1]:.1f}": better},
    {
      "tone curve": (np.linspace(0, 1, KNOTS), np.asarray(curve(steps))),
      "score by update": (np.arange(len(scores)), scores),
    },
  )


if __name__ == "__main__":
  main()
