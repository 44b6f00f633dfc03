"""Optimisers and learning-rate schedules, built from a config."""

import math

import jax
import jax.numpy as jnp
import optax


def matrices(params):
  """True for parameters of two or more axes: what LARS scales and what LARS and AdamW decay, not biases and norms."""
  return jax.tree.map(lambda p: p.ndim > 1, params)


def warmup_cosine(peak, steps, warmup_steps):
  """Linear from peak / warmup_steps to `peak`, then one half cosine to 0 at the last step.

  Raises:
    ValueError: if the warm-up is as long as the run.

  Example:
    >>> schedule = warmup_cosine(1.0, steps=110, warmup_steps=10)
    >>> [round(float(schedule(s)), 3) for s in (0, 5, 10, 60, 110)]
    [0.1, 0.55, 1.0, 0.5, 0.0]
  """
  if warmup_steps >= steps:
    raise ValueError(f"config.optimizer.warmup_steps is {warmup_steps}; the run has only {steps} steps")
  return optax.warmup_cosine_decay_schedule(peak / max(warmup_steps, 1), peak, warmup_steps, steps)


def reiqa_schedule(peak, epochs, steps_per_epoch):
  """The published Re-IQA schedule: constant within an epoch, cosine over epochs, linear warm-up per step.

  Epoch e = 1..E has eta_min + (peak - eta_min) (1 + cos(pi e / E)) / 2 with eta_min = peak / 1000; the warm-up climbs
  over the first five epochs from 0.01 to the value of the fifth.

  Args:
    peak: learning rate before the cosine; 12 for a global batch of 630 images.
    epochs: E, more than 5.
    steps_per_epoch: int.

  Returns:
    function from step to learning rate.

  Raises:
    ValueError: if there is nothing but warm-up.

  Example:
    >>> schedule = reiqa_schedule(12.0, epochs=40, steps_per_epoch=10)
    >>> [round(float(schedule(10 * (e - 1))), 3) for e in (1, 6, 40)]
    [0.01, 11.347, 0.012]
  """
  if epochs <= 5:
    raise ValueError(f"schedule 'reiqa' warms up for 5 epochs; the run has {epochs}")
  floor = peak * 0.1**3

  def cosine(epoch):
    return floor + (peak - floor) * (1 + jnp.cos(math.pi * epoch / epochs)) / 2

  warm = 5 * steps_per_epoch

  def schedule(step):
    climbing = 0.01 + (cosine(5) - 0.01) * step / warm
    return jnp.where(step < warm, climbing, cosine(jnp.minimum(step // steps_per_epoch + 1, epochs)))

  return schedule


def lars(learning_rate, *, momentum=0.9, trust_coefficient=0.001, weight_decay=1e-4):
  """LARS (You et al. 2017) as the contrastive methods use it.

  Matrices: g' = g + weight_decay w, times trust_coefficient |w| / |g'| (1 where a norm is 0); others: g' = g. Then
  mu = momentum mu + g' and w -= learning_rate mu. `optax.lars` multiplies the rate in before the momentum, which
  differs whenever the rate changes.
  """
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask=matrices),
    optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust_coefficient), matrices),
    optax.trace(momentum),
    optax.scale_by_learning_rate(learning_rate),
  )


def build(config, steps, steps_per_epoch):
  """The gradient transformation and the learning-rate schedule of a config.

  Args:
    config: ConfigDict with name ('lars', 'sgd' or 'adamw'), schedule ('cosine' or 'reiqa'), learning_rate,
      weight_decay, warmup_steps (cosine only) and clip_norm (0: none).
    steps: length of the run.
    steps_per_epoch: int.

  Returns:
    (optax.GradientTransformation, function from step to learning rate).

  Raises:
    ValueError: on an unknown name.
  """
  if config.schedule == "cosine":
    schedule = warmup_cosine(config.learning_rate, steps, config.warmup_steps)
  elif config.schedule == "reiqa":
    schedule = reiqa_schedule(config.learning_rate, steps // steps_per_epoch, steps_per_epoch)
  else:
    raise ValueError(f"config.optimizer.schedule is {config.schedule!r}; expected cosine or reiqa")
  if config.name == "lars":
    tx = lars(schedule, weight_decay=config.weight_decay)
  elif config.name == "sgd":
    tx = optax.chain(optax.add_decayed_weights(config.weight_decay), optax.sgd(schedule, momentum=0.9))
  elif config.name == "adamw":
    tx = optax.adamw(schedule, weight_decay=config.weight_decay, mask=matrices)
  else:
    raise ValueError(f"config.optimizer.name is {config.name!r}; expected lars, sgd or adamw")
  if config.clip_norm:
    tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
  return tx, schedule
