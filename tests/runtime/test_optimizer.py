"""Schedules and LARS against their formulas in NumPy, rounding to float16 against NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from jiqa.runtime import optimizer


def config(**changes):
  base = dict(name="adamw", schedule="cosine", learning_rate=1.0, weight_decay=0.1, warmup_steps=0, clip_norm=0.0)
  return ConfigDict(base | changes)


def test_published_learning_rates():
  schedule = optimizer.reiqa_schedule(12.0, epochs=40, steps_per_epoch=100, warmup_epochs=5)
  assert float(schedule(0)) == pytest.approx(0.01)
  assert float(schedule(250)) == pytest.approx((0.01 + 11.544) / 2, abs=1e-3)
  assert float(schedule(499)) == pytest.approx(11.544, abs=0.03)
  assert float(schedule(500)) == float(schedule(599)) == pytest.approx(11.347, abs=5e-4)
  assert float(schedule(3999)) == float(schedule(4500)) == pytest.approx(0.012, abs=5e-4)
  assert float(optimizer.reiqa_schedule(12.0, 25, 1000, 5)(4999)) == pytest.approx(10.855, abs=5e-3)


def test_the_content_experts_learning_rate_falls_from_the_first_epoch_on():
  _, schedule = optimizer.build(config(name="sgd", schedule="moco", learning_rate=0.03), 2000, 10)
  for epoch in (1, 2, 100, 200):
    expected = 3e-5 + (0.03 - 3e-5) * (1 + np.cos(np.pi * epoch / 200)) / 2
    first, last = 10 * (epoch - 1), 10 * epoch - 1
    assert float(schedule(first)) == float(schedule(last)) == pytest.approx(expected, rel=1e-4)


def test_the_cosine_climbs_in_a_line_and_falls_to_zero():
  _, schedule = optimizer.build(config(learning_rate=2.0, warmup_steps=4), 20, 5)
  for step in range(21):
    climbing, falling = 0.5 + 1.5 * step / 4, 1 + np.cos(np.pi * (step - 4) / 16)
    assert float(schedule(step)) == pytest.approx(climbing if step < 4 else falling, rel=1e-5, abs=1e-7)


def test_sgd_decays_everything_and_remembers():
  params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
  tx, _ = optimizer.build(config(name="sgd", learning_rate=0.5), steps=1000, steps_per_epoch=5)
  gradient = {"kernel": jnp.ones((2, 2)), "scale": jnp.zeros(2)}
  updates, state = tx.update(gradient, tx.init(params), params)
  np.testing.assert_allclose(updates["kernel"], -0.5 * 1.1, rtol=1e-5)
  np.testing.assert_allclose(updates["scale"], -0.5 * 0.1, rtol=1e-5)
  updates, _ = tx.update(gradient, state, params)
  np.testing.assert_allclose(updates["kernel"], -0.5 * 1.1 * 1.9, rtol=1e-4)


def test_lars_is_its_formula_over_several_steps():
  rng = np.random.default_rng(0)
  kernel, bias, zero = rng.normal(size=(3, 4)), rng.normal(size=4), np.zeros((2, 2))
  rates = [0.5, 2.0, 1.0]
  tx = optimizer.lars(lambda step: jnp.asarray(rates)[step], weight_decay=0.01)
  params = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias), "zero": jnp.float32(zero)}
  state = tx.init(params)
  momentum = {name: 0.0 for name in params}
  for rate in rates:
    gradients = {name: rng.normal(size=p.shape) for name, p in params.items()}
    updates, state = tx.update({k: jnp.float32(g) for k, g in gradients.items()}, state, params)
    for name, w in params.items():
      w, g = np.float64(w), gradients[name]
      if w.ndim > 1:
        g = g + 0.01 * w
        norm = np.linalg.norm(w)
        g = g * (0.001 * norm / np.linalg.norm(g) if norm else 1.0)
      momentum[name] = 0.9 * momentum[name] + g
      np.testing.assert_allclose(updates[name], -rate * momentum[name], rtol=1e-5, atol=1e-7)
    params = {name: params[name] + updates[name] for name in params}


def test_weight_decay_spares_biases_and_norms():
  params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
  zeros = {"kernel": jnp.zeros((2, 2)), "scale": jnp.zeros(2)}
  tx, schedule = optimizer.build(config(warmup_steps=2), steps=10, steps_per_epoch=5)
  state = tx.init(params)
  updates, _ = tx.update(zeros, state, params)
  assert float(schedule(0)) == 0.5
  np.testing.assert_allclose(updates["kernel"], -0.5 * 0.1, rtol=1e-6)
  assert not updates["scale"].any()
  all_of_it, _ = optimizer.build(config(name="adamw_all", learning_rate=0.5), steps=10, steps_per_epoch=5)
  updates, _ = all_of_it.update(zeros, all_of_it.init(params), params)
  np.testing.assert_allclose(updates["scale"], -0.5 * 0.1, rtol=1e-6)


def test_weight_decay_goes_by_name():
  params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2, 2)), "block": {"pos_embed": jnp.ones((1, 4, 2))}}
  tx, _ = optimizer.build(config(), steps=10, steps_per_epoch=5)
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  assert updates["kernel"].any() and not updates["bias"].any() and not updates["block"]["pos_embed"].any()


# Epochs 0..9 of a warm-up of 3 and a decay every 3, as timm 0.6.13 and timm 1.0.15 compute them.
@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("step", [2e-7, 6.68e-5, 1.334e-4, 2e-5, 2e-5, 2e-5, 2e-6, 2e-6, 2e-6, 2e-7]),
    ("step_after_warmup", [2e-7, 6.68e-5, 1.334e-4, 2e-4, 2e-4, 2e-4, 2e-5, 2e-5, 2e-5, 2e-6]),
  ],
)
def test_step_schedules_in_both_readings(name, expected):
  lml = config(schedule=name, learning_rate=2e-4, warmup_epochs=3, decay_epochs=3)
  _, schedule = optimizer.build(lml, steps=9 * 116, steps_per_epoch=116)
  np.testing.assert_allclose([float(schedule(116 * epoch)) for epoch in range(10)], expected, rtol=1e-5)
  last_of_warmup = 2e-7 + (2e-4 - 2e-7) * 347 / 348
  assert float(schedule(347)) == pytest.approx(last_of_warmup, rel=1e-5)
  assert float(schedule(348 + 347)) == pytest.approx(expected[5], rel=1e-5)


def test_the_gradient_is_clipped_before_the_weights_decay():
  params = {"w": jnp.full(4, 2.0)}
  tx, _ = optimizer.build(config(name="sgd", learning_rate=0.5, clip_norm=3.0), 10, 5)
  for gradient, clipped in ((100.0, 1.5), (-1.0, -1.0)):  # of norms 200 and 2
    updates, _ = tx.update({"w": jnp.full(4, gradient)}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.5 * (clipped + 0.1 * 2.0), rtol=1e-5)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"name": "adam"}, "name is 'adam'; expected"),
    ({"schedule": "linear", "warmup_steps": 3}, "schedule is 'linear'; expected"),
    ({"param_rounding": "bf16"}, "param_rounding is 'bf16'; expected"),
    ({"schedule": "step", "warmup_epochs": 3, "decay_epochs": 0}, "decay_epochs is 0"),
    ({"warmup_steps": 12}, "warmup_steps is 12; the run has only 12 steps"),
    *(({"schedule": name, "warmup_steps": 3}, f"warmup_steps is 3, but schedule '{name}' ignores it")
      for name in ("reiqa", "moco", "liqe", "step", "step_after_warmup")),
  ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    optimizer.build(config(epoch_steps=5, **{"warmup_epochs": 1, "decay_epochs": 1} | changes), 12, 2)


def test_a_run_of_nothing_but_warm_up_is_refused():
  with pytest.raises(ValueError, match="warms up for 5 epochs; the run has 5"):
    optimizer.build(config(schedule="reiqa"), 10, 2)


def test_rounding_is_numpys():
  rng = np.random.default_rng(0)
  x = np.concatenate(
    [
      rng.normal(0, scale, 4000).astype(np.float32) for scale in (1e-9, 1e-7, 1e-5, 6e-5, 1e-3, 0.03, 1, 300, 4e4)
    ] + [np.float32([0, 2**-24, 2**-25, 3 * 2**-25, 2**-14, 65504, 65519, 1 + 2**-11, 1 + 3 * 2**-11])]
  )  # fmt: skip
  x = np.concatenate([x, -x])
  with np.errstate(over="ignore"):
    expected = x.astype(np.float16).astype(np.float32)
  np.testing.assert_array_equal(jax.jit(optimizer.round_to_half)(x), expected)


def params():
  rng = np.random.default_rng(1)
  normal = lambda *shape: jnp.float32(rng.normal(0, 0.03, shape))
  tree = {
    "visual": {
      "proj": normal(40, 40),
      "class_embedding": normal(40),
      "ln_pre": {"scale": normal(40), "bias": normal(40)},
    },
    "transformer": {"resblocks": {0: {"attn": {"in_proj": {"kernel": normal(40, 90), "bias": normal(90)}}}}},
    "token_embedding": {"weight": normal(50, 40)},
  }
  return optimizer.round_params(tree)


def test_only_what_the_original_holds_in_float16_is_rounded():
  assert optimizer.half_mask(params()) == {
    "visual": {"proj": True, "class_embedding": False, "ln_pre": {"scale": False, "bias": False}},
    "transformer": {"resblocks": {0: {"attn": {"in_proj": {"kernel": True, "bias": True}}}}},
    "token_embedding": {"weight": False},
  }


@pytest.mark.parametrize(("size", "lost"), [(5e-6, 0.60), (2e-6, 0.79), (5e-7, 0.95)])
def test_small_updates_are_lost(size, lost):
  """The shares measured for weights of deviation 0.03."""
  tx, before = optimizer.half_rounding(), params()
  updates = jax.tree.map(lambda p: jnp.full_like(p, size), before)
  updates, _ = jax.jit(tx.update)(updates, tx.init(before), before)
  after = optax.apply_updates(before, updates)
  kernel = ("transformer", "resblocks", 0, "attn", "in_proj", "kernel")
  old, new = before, after
  for key in kernel:
    old, new = old[key], new[key]
  expected = (np.asarray(old) + np.float32(size)).astype(np.float16).astype(np.float32)
  np.testing.assert_array_equal(new, expected)
  assert (np.asarray(old) == np.asarray(new)).mean() == pytest.approx(lost, abs=0.03)
  moved = after["token_embedding"]["weight"] - before["token_embedding"]["weight"]
  np.testing.assert_allclose(moved, size, rtol=0.1)
