"""Optimisers and learning-rate schedules, built from a config."""

import jax
import jax.numpy as jnp
import optax

# Never decayed, whatever their shape: biases, norms, LayerScale, and a transformer's class token and positions.
SPARED = ("bias", "scale", "gamma_1", "gamma_2", "cls_token", "pos_embed")
# What CLIP's training in float16 keeps in float32 beside its layer norms.
FULL_PRECISION = ("token_embedding", "positional_embedding", "class_embedding", "logit_scale")


def reiqa_schedule(peak, epochs, steps_per_epoch, warmup_epochs):
  """The published Re-IQA schedule: constant within an epoch, a cosine over epochs, linear warm-up per step.

  Epoch e = 1..E has eta_min + (peak - eta_min) (1 + cos(pi e / E)) / 2 with eta_min = peak / 1000; the warm-up climbs
  from 0.01 to the value of its last epoch. The content expert (MoCo-v2 as published with Re-IQA) has none.
  """
  if epochs <= warmup_epochs:
    raise ValueError(f"the schedule warms up for {warmup_epochs} epochs; the run has {epochs}")
  floor = peak * 0.1**3

  def cosine(epoch):
    return floor + (peak - floor) * (1 + jnp.cos(jnp.pi * epoch / epochs)) / 2

  warmup_steps = warmup_epochs * steps_per_epoch

  def schedule(step):
    climbing = 0.01 + (cosine(warmup_epochs) - 0.01) * step / max(warmup_steps, 1)
    return jnp.where(step < warmup_steps, climbing, cosine(jnp.minimum(step // steps_per_epoch + 1, epochs)))

  return schedule


def step_decay(peak, steps_per_epoch, warmup_epochs, decay_epochs, after_warmup):
  """Linear from peak / 1000 to `peak` during the warm-up, then divided by 10 every `decay_epochs` epochs.

  Epochs count from the end of the warm-up if `after_warmup` (timm since 0.9), else from the start of the run (timm up
  to 0.6): a warm-up as long as decay_epochs then ends in peak / 10 at once.
  """
  if decay_epochs <= 0:
    raise ValueError(f"config.optimizer.decay_epochs is {decay_epochs}; it must be positive")
  warmup_steps = warmup_epochs * steps_per_epoch

  def schedule(step):
    climbing = peak * (0.001 + 0.999 * step / max(warmup_steps, 1))
    counted = step - warmup_steps if after_warmup else step
    return jnp.where(step < warmup_steps, climbing, peak * 0.1 ** (counted // (decay_epochs * steps_per_epoch)))

  return schedule


def liqe_schedule(peak, epoch_steps):
  """The published LIQE schedule: constant within an epoch, a cosine of five epochs down to 0 and up again for ever.

  Its authors step torch's CosineAnnealingLR(T_max=5) once an epoch, and once more where the rate would be 0: after the
  first five epochs it repeats every nine.
  """

  def schedule(step):
    epoch = step // epoch_steps
    fifths = jnp.where(epoch < 5, epoch, jnp.abs(4 - (epoch - 5) % 9))
    return peak * (1 + jnp.cos(jnp.pi * fifths / 5)) / 2

  return schedule


def decayed(params):
  """Mask of the parameters that AdamW decays: those of two or more axes, except where their name is in SPARED."""
  return jax.tree_util.tree_map_with_path(lambda path, p: p.ndim > 1 and path[-1].key not in SPARED, params)


def lars(learning_rate, weight_decay):
  """LARS (You et al. 2017) as the contrastive methods use it.

  Matrices: g' = g + weight_decay w, times 0.001 |w| / |g'| (1 where a norm is 0); others: g' = g. Then
  mu = 0.9 mu + g' and w -= learning_rate mu. `optax.lars` multiplies the rate in before the momentum, which differs
  whenever the rate changes.
  """
  matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask=matrices),
    optax.masked(optax.scale_by_trust_ratio(trust_coefficient=0.001), matrices),
    optax.trace(0.9),
    optax.scale_by_learning_rate(learning_rate),
  )


def round_to_half(x):
  """The nearest numbers that float16 has, halfway cases to even, as float32; infinite beyond 65,504.

  >>> round_to_half(jnp.float32(0.1)).item(), round_to_half(jnp.float32(1e-7)).item()
  (0.0999755859375, 1.1920928955078125e-07)
  """
  # XLA may leave out a cast there and back.
  normal = jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)
  subnormal = jnp.round(x / 2.0**-24) * 2.0**-24
  return jnp.where(jnp.abs(x) < 2.0**-14, subnormal, normal)


def half_mask(params):
  """Mask of what CLIP's published training keeps in float16: products' kernels and biases, and both projections."""

  def visit(node, name):
    if not isinstance(node, dict):
      return name not in FULL_PRECISION
    if "scale" in node or name in FULL_PRECISION:  # a layer norm, or an embedding
      return jax.tree.map(lambda _: False, node)
    return {key: visit(child, key) for key, child in node.items()}

  return visit(params, "")


def round_params(params):
  """Parameters with those of `half_mask` rounded to float16."""
  return jax.tree.map(lambda p, half: round_to_half(p) if half else p, params, half_mask(params))


def half_rounding():
  """The last gradient transformation of a chain: its updates lead to parameters rounded by `round_params`.

  The published training of LIQE casts float16 weights up for the optimiser's step and back after it: an update of less
  than half the distance to the next float16 number is lost, most of them at its learning rate.
  """

  def update(updates, params):
    rounded = round_params(optax.apply_updates(params, updates))
    # The difference of two float16 numbers, and its sum with the first, are exact in float32 but for the very largest.
    return jax.tree.map(lambda u, r, p, half: r - p if half else u, updates, rounded, params, half_mask(params))

  return optax.stateless(update)


def build(config, steps, steps_per_epoch):
  """The gradient transformation, and the function from step to learning rate, of a run of so many steps.

  A ValueError for a value that cannot be run, or that the schedule ignores.

  Args:
    config: config.optimizer: name, schedule, learning_rate, weight_decay, clip_norm (0: none), warmup_steps ('cosine'),
      warmup_epochs and decay_epochs (step schedules), epoch_steps ('liqe') and perhaps param_rounding ('fp16': see
      `half_rounding`). 'adamw_all' decays all parameters, as torch's AdamW does.
  """
  name, peak, decay, warmup = config.schedule, config.learning_rate, config.weight_decay, config.get("warmup_steps", 0)
  if name == "cosine":  # linear from peak / warmup to the peak, then half a cosine to 0 at the last step
    if warmup >= steps:
      raise ValueError(f"config.optimizer.warmup_steps is {warmup}; the run has only {steps} steps")
    schedule = optax.warmup_cosine_decay_schedule(peak / max(warmup, 1), peak, warmup, steps)
  elif name in ("reiqa", "moco"):
    schedule = reiqa_schedule(peak, steps // steps_per_epoch, steps_per_epoch, 5 if name == "reiqa" else 0)
  elif name == "liqe":
    schedule = liqe_schedule(peak, config.epoch_steps)
  elif name in ("step", "step_after_warmup"):
    schedule = step_decay(peak, steps_per_epoch, config.warmup_epochs, config.decay_epochs, name == "step_after_warmup")
  else:
    expected = "cosine, reiqa, moco, liqe, step or step_after_warmup"
    raise ValueError(f"config.optimizer.schedule is {name!r}; expected {expected}")
  if name != "cosine" and warmup:
    raise ValueError(f"config.optimizer.warmup_steps is {warmup}, but schedule {name!r} ignores it; set it to 0")
  if config.name == "lars":
    tx = lars(schedule, decay)
  elif config.name == "sgd":
    tx = optax.chain(optax.add_decayed_weights(decay), optax.sgd(schedule, momentum=0.9))
  elif config.name in ("adamw", "adamw_all"):
    tx = optax.adamw(schedule, weight_decay=decay, mask=decayed if config.name == "adamw" else None)
  else:
    raise ValueError(f"config.optimizer.name is {config.name!r}; expected lars, sgd, adamw or adamw_all")
  if config.clip_norm:
    tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
  rounding = config.get("param_rounding", "")
  if rounding not in ("", "fp16"):
    raise ValueError(f"config.optimizer.param_rounding is {rounding!r}; expected fp16, or '' for none")
  return optax.chain(tx, half_rounding()) if rounding else tx, schedule
