"""The compiled step on eight devices: what they tell each other, what they hold, what the host may not do."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jiqa import methods
from jiqa import train as loop
from jiqa.errors import UserError
from jiqa.plan import collectives, hlo
from jiqa.runtime import sharding
from jiqa.runtime.accumulate import split
from jiqa.runtime.sharding import fsdp_sharding, make_mesh, put_batch, state_sharding
from jiqa.runtime.state import new_state
from jiqa.runtime.workdir import Lock
from tests import brightness_method
from tests.helpers import mesh_of
from tests.tiny_runs import config_of

# Collectives of a step beside the sum of the gradients: (most all-reduces, their bytes), (most others, their bytes).
# Re-IQA: sums and covariances for batch normalisation; the zeros that the stem's kernel is padded with; keys for the
# queue. LML: features and numbers of images, of which every device contrasts its own.
# LIQE: prompts' features and the gradient towards them, losses of pairs; of the token table's gradient only the rows
# in use.
EXPECTED = {
  "reiqa": ((28, 5_400), (2, 5_184)),
  "reiqa_in_batch": ((24, 6_800), (7, 6_200)),
  "reiqa_content": ((28, 5_400), (2, 576)),
  "lml": ((1, 40), (2, 4_160)),
  "liqe": ((5, 73_600), (4, 200)),
}


def example(method, config, rows):
  """A batch cut from random images, NumPy arrays."""
  rng, examples = np.random.default_rng(0), []
  for i in range(rows):
    record = {
      "image_name": ("grass/1.png", "coffee/2.png")[i % 2], "database": "demo", "entry": 0, "range": (0.0, 1.0),
      "mos": (i % 3) / 2, "mos_std": np.nan, "distortion": ("pristine", "gaussian blur")[i % 2],
    }  # fmt: skip
    examples.append(
      method.preprocess_train(rng.integers(0, 256, (90, 100, 3), dtype=np.uint8), record, np.random.default_rng(i))
    )
  return {name: np.stack([row[name] for row in examples]) for name in examples[0]}


def compiled(config, devices=None):
  """(program, state, batch) of a config's step on `devices`."""
  mesh = make_mesh(devices)
  method, (tx, schedule, _) = loop.build(config, mesh), loop.build_optimizer(config, 64)
  state = loop.init_state(config, method, tx, mesh)
  step = loop.step_of(config, method, tx, schedule, state)
  batch = put_batch(example(method, config, config.batch_size), mesh)
  return loop.compile_step(step, state, batch)[0], state, batch


# The default loss and scales, with lens blur, a Fourier transform on CPUs, for which XLA would gather all images.
IN_BATCH = {"loss": "in_batch", "every_scale": False, "batch_size": 32, "kinds": (1, 7, 13)}


def named(tree):
  """list of (path, leaf)."""
  return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


# The content expert's loss is one that the quality expert is tested with.
@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.slow] * (x == "reiqa_content")) for x in EXPECTED])
def test_devices_share_gradients_and_little_else(name):
  changes = IN_BATCH if name == "reiqa_in_batch" else {}
  config = config_of("reiqa" if changes else name, "", steps=4, **changes)
  program, state, batch = compiled(config)
  parameters = jax.tree.leaves(state.params)
  gradient = sum(4 * x.size for path, x in named(state.params) if "token_embedding" not in path)
  exchanged = collectives.find(program.as_text())
  sums = [arrays for kind, arrays in exchanged if kind == "all-reduce"]
  others = [arrays for kind, arrays in exchanged if kind != "all-reduce"]
  (most_sums, sum_bytes), (most_others, other_bytes) = EXPECTED[name]
  assert 1 <= len(sums) <= most_sums and len(others) <= most_others
  assert 0 <= sum(map(hlo.size, sums)) - gradient <= sum_bytes * 1.05
  assert sum(map(hlo.size, others)) <= other_bytes * 1.05
  # No images: nothing that has an axis of colours travels but gradients of kernels; no parameters.
  kernels = {x.shape for x in parameters if x.ndim > 1}
  travelling = {shape for arrays in sums for _, shape in arrays if len(shape) > 2 and 3 in shape}
  assert travelling <= kernels
  assert not {shape for arrays in others for _, shape in arrays if shape in kernels}
  assert not {shape for arrays in others for _, shape in arrays if len(shape) > 2 and np.prod(shape) > 64}
  assert all(x.dtype == np.uint8 for x in batch.values() if x.ndim > 3), "pixels travel as bytes"


@pytest.mark.slow
def test_fsdp_gives_the_same_numbers_from_an_eighth_of_the_memory(monkeypatch):
  monkeypatch.setattr(sharding, "SMALL", 256)
  results = {}
  for how in ("replicated", "fsdp"):
    program, state, batch = compiled(config_of("lml", "", steps=4, sharding=how))
    held = sum(x.addressable_data(0).nbytes for x in jax.tree.leaves(state))
    whole = {x.shape for x in jax.tree.leaves(state.params)}
    exchanged = collectives.find(program.as_text())
    gathered = [shape for kind, arrays in exchanged if kind == "all-gather" for _, shape in arrays if shape in whole]
    big = sum(x.size >= 256 for x in jax.tree.leaves(state.params))
    after, metrics = program(state, batch)
    results[how] = held, len(gathered), jax.device_get((after, metrics))
    for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
      assert before.sharding == now.sharding
  assert results["fsdp"][0] < results["replicated"][0] / 6
  # Each split array of network and teacher is gathered once, and nothing is where all is replicated.
  assert results["replicated"][1] == 0 and 0 < results["fsdp"][1] <= 2 * big
  for a, b in zip(*(jax.tree.leaves(results[how][2]) for how in results), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_fsdp_sums_a_gradient_before_it_is_split():
  """What XLA then does on TPUs is seen in tests/plan/test_tpu.py, where its compiler is installed."""
  mesh, tx = make_mesh(), optax.sgd(0.1)
  method = types.SimpleNamespace(
    loss=lambda params, state, batch, key: (jnp.square(batch @ params["w"]).mean(), ({}, {}, {})),
    post_update=lambda state, aux: state,
  )
  state = new_state({"w": jnp.ones((512, 64))}, {})
  state = state.replace(opt_state=tx.init(state.params))
  shardings = state_sharding(state, mesh, "fsdp")
  assert not shardings.params["w"].is_fully_replicated
  step = loop.make_step(method, tx, lambda step: 0.1, 0, shardings=shardings)
  traced = step.trace(jax.device_put(state, shardings), put_batch(np.ones((8, 512), np.float32), mesh))
  asked = [e for e in traced.jaxpr.eqns if e.primitive.name == "sharding_constraint" and e.outvars[0].aval.ndim == 2]
  assert [e.params["sharding"].is_fully_replicated for e in asked] == [
    True,
    True,
    False,
  ]  # the parameters; the gradient
  assert asked[2].invars[0] is asked[1].outvars[0] and asked[1].invars[0] is not asked[0].outvars[0]


@pytest.mark.slow
def test_remat_keeps_what_blocks_hand_on_and_gives_the_same_numbers():
  config = config_of("lml", "", steps=4, depth=6, contrast=0.0, batch_size=24)
  kept, outcomes = [], []
  for remat in (False, True):
    config.remat = remat
    program, state, batch = compiled(config, jax.devices()[:1])
    method, rest = methods.build_method(config, mesh_of(1)), (state, batch, jax.random.key(0))
    loss = loop.rematerialised(method.loss) if remat else method.loss
    # What the gradient keeps of the activations, which all have the rows of the crops in front. XLA on CPUs computes
    # nothing twice, whatever it is told, so the memory it takes here does not show it.
    gradient = jax.eval_shape(lambda p, loss=loss, rest=rest: jax.vjp(lambda p: loss(p, *rest)[0], p)[1], state.params)
    rows = config.batch_size * config.crops
    activations = [x.size for x in jax.tree.leaves(gradient) if x.dtype == jnp.float32 and x.shape[:1] == (rows,)]
    kept.append(sum(activations))
    outcomes.append(jax.device_get(program(state, batch)))
  blocks = config.depth * rows * (1 + (config.crop // config.patch) ** 2) * config.width
  assert blocks <= kept[1] < 1.5 * blocks < 10 * blocks < kept[0]
  for a, b in zip(*map(jax.tree.leaves, outcomes), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_rule_of_fsdp():
  mesh = make_mesh()
  for shape, expected in {
    (256, 64): PartitionSpec("data"),
    (64, 256): PartitionSpec(None, "data"),
    (3, 3, 250, 512): PartitionSpec(None, None, None, "data"),
    (255, 65): PartitionSpec(),
    (8,): PartitionSpec(),
  }.items():
    assert fsdp_sharding(shape, mesh) == NamedSharding(mesh, expected), shape


def test_micro_batches_keep_rows_on_their_devices_and_add_up():
  mesh = make_mesh()
  batch = put_batch({"x": np.arange(48.0, dtype=np.float32).reshape(48, 1)}, mesh)
  program = jax.jit(lambda batch: split(batch, 3, mesh)).lower(batch).compile()
  assert not collectives.find(program.as_text())
  parts = program(batch)["x"]
  assert parts.shape == (3, 16, 1) and sorted(np.ravel(parts)) == list(range(48))
  assert parts.sharding == NamedSharding(mesh, PartitionSpec(None, "data"))

  outcomes = []
  for accumulate in (1, 3):
    config = config_of("lml", "", steps=4, batch_size=48, accumulate=accumulate)
    config.unlock()
    config.method = brightness_method.NAME
    method, (tx, schedule, _) = loop.build(config, mesh), loop.build_optimizer(config, 64)
    state = loop.init_state(config, method, tx, mesh)
    step = loop.step_of(config, method, tx, schedule, state)
    rng = np.random.default_rng(0)
    batch = put_batch({name: rng.random(48, np.float32) for name in ("brightness", "target")}, mesh)
    outcomes.append(jax.device_get(step(state, batch)))
  for a, b in zip(*map(jax.tree.leaves, outcomes), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("reduce_dtype", ["float32", "bfloat16"])
def test_the_loss_sees_matrices_in_the_type_in_which_gradients_are_summed(reduce_dtype):
  """What is added to a bias or a scale stays float32, and so do the parameters."""
  config, mesh = config_of("lml", "", steps=4, dtype="bfloat16", reduce_dtype=reduce_dtype), mesh_of(1)
  method, seen = loop.build(config, mesh), []
  loss, tx = method.loss, optax.GradientTransformation(lambda params: params, lambda gradient, *_: (gradient, gradient))
  method.loss = lambda params, *rest: seen.append(params) or loss(params, *rest)
  state = loop.init_state(config, method, tx, mesh)
  traced = loop.step_of(config, method, tx, lambda step: 1.0, state).trace(state, example(method, config, 2))
  after = jax.tree.unflatten(traced.out_tree, traced.jaxpr.out_avals)[0]
  for params, dtype in ((seen[0], reduce_dtype), (after.params, "float32"), (after.opt_state, "float32")):
    assert {str(x.dtype) for x in jax.tree.leaves(params) if x.ndim > 1} == {dtype}
    assert {str(x.dtype) for x in jax.tree.leaves(params) if x.ndim < 2} == {"float32"}


def test_micro_batches_of_a_queue_hand_on_all_keys():
  config = config_of("reiqa", "", steps=4)
  method = methods.build_method(config, mesh_of(8))
  stacked = {"keys": jnp.arange(24.0).reshape(3, 4, 2), "key_stats": {"mean": jnp.array([[1.0], [2.0], [6.0]])}}
  joined = method.merge_aux(stacked)
  np.testing.assert_array_equal(joined["keys"], np.arange(24.0).reshape(12, 2))
  np.testing.assert_allclose(joined["key_stats"]["mean"], [3.0])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"accumulate": 2, "batch_size": 8}, "not a multiple of 8 devices times config.accumulate 2"),
    ({"accumulate": 2, "batch_size": 16, "data[0].count": 16}, "fixes by count"),
    ({"sharding": "zero"}, "expected replicated or fsdp"),
    ({"reduce_dtype": "float16"}, "expected float32 or bfloat16"),
  ],
)
def test_what_devices_cannot_share_is_refused(changes, message):
  with pytest.raises(UserError, match=message):
    loop.build(config_of("lml", "", steps=4, **changes), make_mesh())


def test_a_step_that_waits_for_the_host_is_refused(brightness_run, monkeypatch):
  config, workdir = brightness_run

  def leaking(step, state, batch):
    add = jax.jit(lambda x, y: x + y)
    metrics = {name: jnp.float32(0) for name in ("loss", "gradient_norm", "learning_rate")}
    return (lambda state, batch: (state.replace(step=add(state.step, np.int32(1))), metrics)), 0.0

  monkeypatch.setattr(loop, "compile_step", leaking)
  with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
    loop.train(config, workdir, jax.devices()[:1])


def test_two_runs_on_one_workdir_refuse_each_other(brightness_run):
  config, workdir = brightness_run
  with Lock(workdir), pytest.raises(UserError, match="works in this --workdir"):
    loop.train(config, workdir, jax.devices()[:1])
  assert not (workdir / "metrics.jsonl").exists()
  assert loop.train(config, workdir, jax.devices()[:1])


def test_a_reader_that_dies_ends_the_run_which_then_goes_on(brightness_run, monkeypatch, tmp_path):
  config, workdir = brightness_run
  assert loop.train(config, tmp_path / "whole", jax.devices()[:1])
  read = loop.Subset.__getitem__
  seen = []

  def failing(self, i):
    seen.append(i)
    if len(seen) == 50:
      raise OSError("the network file system is gone")
    return read(self, i)

  with monkeypatch.context() as patch:
    patch.setattr(loop.Subset, "__getitem__", failing)
    with pytest.raises(OSError, match="the network file system is gone"):
      loop.train(config, workdir, jax.devices()[:1])
  assert 0 < len((workdir / "metrics.jsonl").read_text().splitlines()) < config.steps
  assert not (workdir / "lock.json").exists()
  assert loop.train(config, workdir, jax.devices()[:1])
  losses = [[line.split('"loss": ')[1].split(",")[0] for line in (run / "metrics.jsonl").read_text().splitlines()]
            for run in (workdir, tmp_path / "whole")]  # fmt: skip
  assert losses[0] == losses[1] and len(losses[0]) == config.steps


def test_a_trace_is_recorded_when_asked_for(brightness_run):
  config, workdir = brightness_run
  assert loop.train(config, workdir, jax.devices()[:1], profile=True)
  assert list((workdir / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("remat", [False, True])
def test_a_step_recomputes_if_its_config_says_so(remat, tmp_path):
  config = config_of("lml", tmp_path, remat=remat)
  mesh = mesh_of(1)
  method, (tx, schedule, _) = loop.build(config, mesh), loop.build_optimizer(config, 64)
  state = loop.init_state(config, method, tx, mesh)
  batch = put_batch(example(method, config, config.batch_size), mesh)
  program = str(loop.step_of(config, method, tx, schedule, state).trace(state, batch).jaxpr)
  assert ("remat" in program or "checkpoint[" in program) == remat
