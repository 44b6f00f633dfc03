"""Model FLOPs, against the formulas and against XLA's own count; rates."""

import contextlib
import itertools
import pathlib
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jiqa.models.resnet import ResNet
from jiqa.runtime import throughput
from jiqa.runtime.prefetch import Prefetch
from jiqa.runtime.sharding import make_mesh
from jiqa.runtime.state import BLOCK, merge_module, split_module
from jiqa.runtime.throughput import Throughput, Trace, count_flops, peak_flops
from tests.helpers import mesh_of


def test_strided_convolution_forward_and_backward():
  x, kernel = jnp.ones((2, 32, 32, 8)), jnp.ones((3, 3, 8, 16))

  def total(x, kernel):
    y = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return (y**2).sum()

  forward = 2 * 2 * 16 * 16 * 16 * 9 * 8
  assert count_flops(jax.make_jaxpr(total)(x, kernel)) == forward
  assert count_flops(jax.make_jaxpr(jax.value_and_grad(total, (0, 1)))(x, kernel)) == 3 * forward


def test_loops_branches_and_what_does_not_count():
  x = jnp.ones((10, 10))

  def f(x):
    x, _ = jax.lax.scan(lambda x, _: (x @ x, None), x, length=3)
    x = jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)
    with jax.named_scope("augment"):
      return jax.vmap(lambda row: row @ x)(x)

  assert count_flops(jax.make_jaxpr(jax.jit(f))(x)) == 5 * 2000


@pytest.fixture(scope="module")
def encoder():
  graphdef, params, stats = split_module(nnx.eval_shape(lambda: ResNet(18, 32, rngs=nnx.Rngs(0))))

  def loss(params, stats, x):
    with jax.named_scope("encoder"):
      return merge_module(graphdef, params, stats)(x, train=True).sum()

  return loss, params, stats, jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)


def test_a_resnet_agrees_with_xla(encoder):
  loss, *arguments = encoder
  lowered = jax.jit(jax.value_and_grad(loss)).lower(*arguments)
  theirs = lowered.cost_analysis()["flops"]
  ours = count_flops(jax.make_jaxpr(jax.value_and_grad(loss))(*arguments))
  # XLA also counts what is not a product, and skips the padding that we count.
  assert ours == pytest.approx(theirs, rel=0.1)


def test_what_remat_computes_again_does_not_count(encoder):
  loss, *arguments = encoder
  remat = jax.checkpoint(loss, policy=jax.checkpoint_policies.save_only_these_names(BLOCK))
  once, twice = (jax.jit(jax.value_and_grad(f)).trace(*arguments) for f in (loss, remat))
  assert count_flops(twice.jaxpr) == count_flops(once.jaxpr)
  assert twice.lower().cost_analysis()["flops"] > 1.2 * once.lower().cost_analysis()["flops"]


def test_peaks():
  assert peak_flops("TPU v5 lite") == 197e12 and peak_flops("TPU v5") == 459e12
  assert peak_flops("NVIDIA H100 PCIe") == 756e12 and peak_flops("Radeon") is None


def test_the_share_of_the_peak_is_that_of_all_devices(monkeypatch):
  clock = iter([0.0, 2.0, 2.0])
  monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))
  monkeypatch.setitem(throughput.PEAK_FLOPS, jax.devices()[0].device_kind, 4e9)
  measured = Throughput(8, 3e9, mesh_of(2), types.SimpleNamespace(waited=0.0))
  measured.step()
  assert measured.read()["mfu"] == pytest.approx(3e9 / 2 / (2 * 4e9), abs=1e-4)


def test_the_sixth_to_eighth_step_of_a_process_are_traced(monkeypatch):
  traced, step = [], None

  @contextlib.contextmanager
  def trace(folder):
    traced.append((folder, step))
    yield
    traced.append((folder, step))

  monkeypatch.setattr(jax.profiler, "trace", trace)
  for folder in (None, pathlib.Path("profile")):
    with Trace(folder, 100) as recording:
      for step in range(100, 112):
        recording.before(step, jnp.ones(2))
  assert traced == [("profile", 105), ("profile", 108)]


def slow_batches(seconds):
  for _ in itertools.count():
    time.sleep(seconds)
    yield {"x": np.zeros((8, 2), np.uint8)}


def test_the_wait_for_input_is_measured():
  mesh = make_mesh()
  shares = []
  for read, compute in ((0.05, 0.0), (0.0, 0.05)):
    with Prefetch(slow_batches(read), mesh) as prefetch:
      next(prefetch)
      rates = Throughput(8, 1e9, mesh, prefetch)
      for _ in range(6):
        next(prefetch)
        time.sleep(compute)
        rates.step()
      values = rates.read()
      shares.append(values["input_wait"])
      assert values["images_per_second"] == pytest.approx(8 * 6 / 0.3, rel=0.5)
      assert values["tflops_per_second"] == pytest.approx(values["images_per_second"] / 8 * 1e-3, rel=0.01)
      assert "mfu" not in values or jax.default_backend() != "cpu"
  assert shares[0] > 0.8 and shares[1] < 0.2


def test_rates_are_of_the_time_since_the_last_record(monkeypatch):
  clock = iter([10.0, 11.5, 11.5, 20.0, 22.0, 22.0])
  monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(clock))
  prefetch = types.SimpleNamespace(waited=5.0)
  measured = Throughput(8, 3e9, mesh_of(2), prefetch)
  for _ in range(3):
    measured.step()
  prefetch.waited += 0.75
  assert measured.read() == {"images_per_second": 16.0, "input_wait": 0.5, "tflops_per_second": 0.006}
  measured.step()
  prefetch.waited += 100
  measured.skip()  # a validation, say
  for _ in range(2):
    measured.step()
  prefetch.waited += 0.5
  assert measured.read() == {"images_per_second": 8.0, "input_wait": 0.25, "tflops_per_second": 0.003}
