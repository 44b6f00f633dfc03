"""Optimisers and learning-rate schedules, built from a config."""

import math

import jax
import jax.numpy as jnp
import optax

from jiqa.runtime.half import half_rounding

# Never decayed, whatever their shape: biases, norms, LayerScale, and a transformer's class token and positions.
SPARED = ("bias", "scale", "gamma_1", "gamma_2", "cls_token", "pos_embed")


def matrices(params):
  """True for parameters of two or more axes: what LARS scales and decays, not biases and norms."""
  return jax.tree.map(lambda p: p.ndim > 1, params)


def decayed(params):
  """True for the parameters that AdamW decays: those of two or more axes, except where their name is in SPARED.

  Example:
    >>> decayed({"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2, 2)), "pos_embed": jnp.ones((1, 4, 2))})
    {'bias': False, 'kernel': True, 'pos_embed': False}
  """
  return jax.tree_util.tree_map_with_path(lambda path, p: p.ndim > 1 and path[-1].key not in SPARED, params)


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


def reiqa_schedule(peak, epochs, steps_per_epoch, warmup_epochs=5):
  """The published Re-IQA schedule: constant within an epoch, cosine over epochs, linear warm-up per step.

  Epoch e = 1..E has eta_min + (peak - eta_min) (1 + cos(pi e / E)) / 2 with eta_min = peak / 1000; the warm-up climbs
  over the first epochs from 0.01 to the value of the last of them. The quality expert warms up for five epochs, the
  content expert (MoCo-v2 as published with Re-IQA) for none.

  Args:
    peak: learning rate before the cosine; 12 for a global batch of 630 images.
    epochs: E, more than those of the warm-up.
    steps_per_epoch, warmup_epochs: int.

  Returns:
    function from step to learning rate.

  Raises:
    ValueError: if there is nothing but warm-up.

  Example:
    >>> schedule = reiqa_schedule(12.0, epochs=40, steps_per_epoch=10)
    >>> [round(float(schedule(10 * (e - 1))), 3) for e in (1, 6, 40)]
    [0.01, 11.347, 0.012]
  """
  if epochs <= warmup_epochs:
    raise ValueError(f"the schedule warms up for {warmup_epochs} epochs; the run has {epochs}")
  floor = peak * 0.1**3

  def cosine(epoch):
    return floor + (peak - floor) * (1 + jnp.cos(math.pi * epoch / epochs)) / 2

  warm = warmup_epochs * steps_per_epoch

  def schedule(step):
    climbing = 0.01 + (cosine(warmup_epochs) - 0.01) * step / max(warm, 1)
    return jnp.where(step < warm, climbing, cosine(jnp.minimum(step // steps_per_epoch + 1, epochs)))

  return schedule


def step_decay(peak, steps_per_epoch, *, warmup_epochs, decay_epochs, after_warmup):
  """Linear from peak / 1000 to `peak` during the warm-up, then divided by 10 every `decay_epochs` epochs.

  Implementations differ in where they count from. From the start of the run (timm up to 0.6): a warm-up as long as
  decay_epochs ends in peak / 10 at once. From the end of the warm-up (timm since 0.9): it ends in `peak`.

  Args:
    peak: learning rate.
    steps_per_epoch, warmup_epochs, decay_epochs: int; decay_epochs is positive.
    after_warmup: count from the end of the warm-up.

  Returns:
    function from step to learning rate.

  Raises:
    ValueError: if decay_epochs is not positive.

  Example:
    >>> early, late = (
    ...   step_decay(2e-4, 10, warmup_epochs=3, decay_epochs=3, after_warmup=after) for after in (False, True)
    ... )
    >>> [[f"{float(schedule(s)):.1e}" for s in (0, 15, 30, 60)] for schedule in (early, late)]
    [['2.0e-07', '1.0e-04', '2.0e-05', '2.0e-06'], ['2.0e-07', '1.0e-04', '2.0e-04', '2.0e-05']]
  """
  if decay_epochs <= 0:
    raise ValueError(f"config.optimizer.decay_epochs is {decay_epochs}; it must be positive")
  warm = warmup_epochs * steps_per_epoch

  def schedule(step):
    climbing = peak * (0.001 + 0.999 * step / max(warm, 1))
    counted = step - warm if after_warmup else step
    falling = peak * 0.1 ** (counted // (decay_epochs * steps_per_epoch))
    return jnp.where(step < warm, climbing, falling)

  return schedule


def liqe_schedule(peak, epoch_steps):
  """The published LIQE schedule: constant within an epoch, a cosine of five epochs down to 0 and up again for ever.

  Its authors step torch's CosineAnnealingLR(T_max=5) once an epoch, and once more where the rate would be 0: after the
  first five epochs it repeats every nine.

  Args:
    peak: learning rate of the first epoch.
    epoch_steps: steps of an epoch; 200 as published.

  Returns:
    function from step to learning rate.

  Example:
    >>> schedule = liqe_schedule(1.0, epoch_steps=200)
    >>> [round(float(schedule(200 * e)), 3) for e in range(10)]
    [1.0, 0.905, 0.655, 0.345, 0.095, 0.095, 0.345, 0.655, 0.905, 1.0]
  """

  def schedule(step):
    epoch = step // epoch_steps
    fifths = jnp.where(epoch < 5, epoch, jnp.abs(4 - (epoch - 5) % 9))
    return peak * (1 + jnp.cos(jnp.pi * fifths / 5)) / 2

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
    config: ConfigDict with name ('lars', 'sgd', 'adamw', or 'adamw_all', which decays all parameters, as torch's
      does), schedule ('cosine', 'reiqa', 'moco', 'liqe', 'step' or 'step_after_warmup'), learning_rate, weight_decay,
      clip_norm (0: none), warmup_steps (cosine only), warmup_epochs and decay_epochs (step schedules only), epoch_steps
      ('liqe' only), and perhaps param_rounding ('fp16': see runtime/half.py; '': none).
    steps: length of the run.
    steps_per_epoch: int.

  Returns:
    (optax.GradientTransformation, function from step to learning rate).

  Raises:
    ValueError: on an unknown name.
  """
  if config.schedule == "cosine":
    schedule = warmup_cosine(config.learning_rate, steps, config.warmup_steps)
  elif config.schedule in ("reiqa", "moco"):
    warmup_epochs = 5 if config.schedule == "reiqa" else 0
    schedule = reiqa_schedule(config.learning_rate, steps // steps_per_epoch, steps_per_epoch, warmup_epochs)
  elif config.schedule == "liqe":
    schedule = liqe_schedule(config.learning_rate, config.epoch_steps)
  elif config.schedule in ("step", "step_after_warmup"):
    schedule = step_decay(
      config.learning_rate,
      steps_per_epoch,
      warmup_epochs=config.warmup_epochs,
      decay_epochs=config.decay_epochs,
      after_warmup=config.schedule == "step_after_warmup",
    )
  else:
    raise ValueError(
      f"config.optimizer.schedule is {config.schedule!r}; expected cosine, reiqa, moco, liqe, step or step_after_warmup"
    )
  if config.name == "lars":
    tx = lars(schedule, weight_decay=config.weight_decay)
  elif config.name == "sgd":
    tx = optax.chain(optax.add_decayed_weights(config.weight_decay), optax.sgd(schedule, momentum=0.9))
  elif config.name == "adamw":
    tx = optax.adamw(schedule, weight_decay=config.weight_decay, mask=decayed)
  elif config.name == "adamw_all":
    tx = optax.adamw(schedule, weight_decay=config.weight_decay)
  else:
    raise ValueError(f"config.optimizer.name is {config.name!r}; expected lars, sgd, adamw or adamw_all")
  if config.clip_norm:
    tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
  rounding = config.get("param_rounding", "")
  if rounding not in ("", "fp16"):
    raise ValueError(f"config.optimizer.param_rounding is {rounding!r}; expected fp16, or '' for none")
  if rounding:
    tx = optax.chain(tx, half_rounding())
  return tx, schedule
