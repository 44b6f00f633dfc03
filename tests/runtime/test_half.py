"""Rounding to float16 against NumPy's, and the updates that it loses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jiqa.runtime.half import half_rounding, half_set, round_half_set, round_to_half


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
  np.testing.assert_array_equal(jax.jit(round_to_half)(x), expected)


def params():
  rng = np.random.default_rng(1)
  normal = lambda *shape: jnp.float32(rng.normal(0, 0.03, shape))  # noqa: E731
  tree = {
    "visual": {
      "proj": normal(40, 40),
      "class_embedding": normal(40),
      "ln_pre": {"scale": normal(40), "bias": normal(40)},
    },
    "transformer": {"resblocks": {0: {"attn": {"in_proj": {"kernel": normal(40, 90), "bias": normal(90)}}}}},
    "token_embedding": {"weight": normal(50, 40)},
  }
  return round_half_set(tree)


def test_only_what_the_original_holds_in_float16_is_rounded():
  assert half_set(params()) == {
    "visual": {"proj": True, "class_embedding": False, "ln_pre": {"scale": False, "bias": False}},
    "transformer": {"resblocks": {0: {"attn": {"in_proj": {"kernel": True, "bias": True}}}}},
    "token_embedding": {"weight": False},
  }


@pytest.mark.parametrize(("size", "lost"), [(5e-6, 0.60), (2e-6, 0.79), (5e-7, 0.95)])
def test_small_updates_are_lost(size, lost):
  """The shares measured for weights of deviation 0.03."""
  tx, before = half_rounding(), params()
  updates = jax.tree.map(lambda p: jnp.full_like(p, size), before)
  found, _ = jax.jit(tx.update)(updates, tx.init(before), before)
  after = optax.apply_updates(before, found)
  kernel = ("transformer", "resblocks", 0, "attn", "in_proj", "kernel")
  old, new = before, after
  for key in kernel:
    old, new = old[key], new[key]
  expected = (np.asarray(old) + np.float32(size)).astype(np.float16).astype(np.float32)
  np.testing.assert_array_equal(new, expected)
  assert (np.asarray(old) == np.asarray(new)).mean() == pytest.approx(lost, abs=0.03)
  moved = after["token_embedding"]["weight"] - before["token_embedding"]["weight"]
  np.testing.assert_allclose(moved, size, rtol=0.1)
