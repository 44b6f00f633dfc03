"""`jiqa plan` on CPU devices in place of a topology's: what it counts, what it says, what it tries."""

import json
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jiqa.errors import UserError
from jiqa.plan import collectives, command, machines, measure, programs
from jiqa.plan.measure import GIB, exchange_seconds
from jiqa.runtime.sharding import batch_sharding, make_mesh, replicated
from tests import tiny_runs

FULL = (
  "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (33.54G) exceeds "
  "available HBM (15.75G).\n  Largest: f32[60000,60000]"
)


@pytest.fixture
def on_cpus(monkeypatch, tmp_path):
  """Topologies are made of CPU devices, and what was compiled before is not known."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(machines, "compiler", lambda: "a compiler for CPUs")
  monkeypatch.setattr(machines, "devices", lambda topology: jax.devices()[: machines.chips(topology)])


@pytest.fixture
def tiny(monkeypatch):
  """`command.config_of` gives a tiny run."""
  config = tiny_runs.config_of("lml", "", steps=40, batch_size=32)
  monkeypatch.setattr(command, "config_of", lambda path, overrides: config)
  return config


def test_without_the_compiler_one_line_says_what_to_install(monkeypatch):
  monkeypatch.setattr(machines.importlib.util, "find_spec", lambda name: None if name == "libtpu" else 1)
  with pytest.raises(UserError, match=r"^[^\n]*pip install 'jax\[tpu\]'$"):
    machines.prepare()


@pytest.mark.parametrize("topology", ["v5e", "v5e:", "v5e:4x", "h200:8", "v5e:0x4", "v5e:4x8 "])
def test_topologies_that_there_are_not(topology):
  with pytest.raises(UserError, match=r"--topology.*v5e:4x8.*gpu80"):
    machines.parse(topology)


def test_topologies_and_larger_ones():
  assert machines.parse("v5p:2x2x4") == ("v5p", (2, 2, 4)) and machines.chips("v5p:2x2x4") == 16
  assert machines.larger("v5e:3x5")[:2] == ["v5e:4x4", "v5e:4x8"] and machines.chips("gpu80:8") == 8
  assert machines.larger("v5p:4x4x8") == []


def test_a_collective_is_counted_once_for_every_channel():
  text = """
  %a = f32[4]{0} all-reduce(%x), channel_id=1, to_apply=%sum
  %b = (f32[2]{0:T(128)}, f32[8]{0:T(128)}) all-gather-start(%y), channel_id=2
  %c = (f32[2]{0:T(128)}, f32[8]{0:T(128)}) all-gather-start(%z), channel_id=2
  %d = bf16[6]{0} all-reduce(%x), channel_id=2
  %e = s32[] collective-permute(%x)
  %f = s32[] collective-permute(%x)
  %g = (f32[5]{0}, f32[5]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), channel_id=3
  """
  assert collectives.totals(text) == {
    "all-reduce": [2, 28, {"f32": 16, "bf16": 12}],
    "all-gather": [1, 32, {"f32": 32}],
    "collective-permute": [3, 28, {"s32": 8, "f32": 20}],
  }


def test_a_sum_of_which_every_device_keeps_its_part():
  computation = """%all-reduce-scatter.{0} (a: f32[16,4], b: f32[8]) -> (f32[2,4], f32[1]) {{
  %a = f32[16,4]{{1,0}} parameter(0)
  %b = f32[8]{{0}} parameter(1)
  %sum = (f32[16,4]{{1,0}}, f32[8]{{0}}) all-reduce(%a, %b), channel_id=1, to_apply=%add
  ROOT %part = (f32[2,4]{{1,0}}, f32[1]{{0}}) fusion(%sum), kind=kLoop, calls=%cut
}}
"""
  assert collectives.totals(computation.format(1) + computation.format(2)) == {"reduce-scatter": [2, 72, {"f32": 72}]}


def test_a_collective_in_a_loop_is_counted_once_for_every_turn():
  text = """
%body (i: s32[]) -> s32[] {
  %i = s32[] parameter(0)
  ROOT %sum = s32[] all-reduce(%i), channel_id=1, to_apply=%add
}
%condition (i: s32[]) -> pred[] {
  %i = s32[] parameter(0)
  %end = s32[] constant(6)
  ROOT %less = pred[] compare(%i, %end), direction=LT
}
ENTRY %main (x: s32[]) -> s32[] {
  %x = s32[] parameter(0)
  ROOT %loop = s32[] while(%x), condition=%condition, body=%body
}
"""
  assert collectives.totals(text) == {"all-reduce": [6, 24, {"s32": 24}]}


def test_time_of_an_exchange_is_that_of_a_ring():
  sizes = {"all-reduce": [3, 8e9], "all-gather": [1, 4e9], "reduce-scatter": [1, 1e9], "all-to-all": [1, 2e9]}
  assert exchange_seconds(sizes, 4, 10e9) == pytest.approx((12 + 3 + 3 + 2) / 10)
  assert exchange_seconds({}, 1, 10e9) == 0


def test_arithmetic_memory_and_exchange_of_a_product(on_cpus):
  mesh = make_mesh()
  x = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=batch_sharding(mesh))
  kernel = jax.ShapeDtypeStruct((32, 16), jnp.float32, sharding=replicated(mesh))
  unread = jax.ShapeDtypeStruct((512,), jnp.float32, sharding=replicated(mesh))
  product = jax.jit(lambda x, kernel, unread: (x @ kernel).sum(0), out_shardings=replicated(mesh))
  lowered = product.lower(x, kernel, unread)
  found = measure.plan(programs.Program(lowered, 64 * 32 * 16 * 2.0, 64, 4096, 1024), "train", "v5e:2x4")
  assert found.fits and found.chips == 8 and found.images == 64 and (found.state, found.batch) == (2048, 1024)
  assert found.limit == 15.75 * GIB and 2048 + 1024 + 64 <= found.needed < 2**14
  assert 2 * 8 * 32 * 16 <= found.flops < 2.2 * 8 * 32 * 16
  assert found.exchanged == {"all-reduce": [1, 64, {"f32": 64}]}
  assert found.exchange_seconds == pytest.approx(2 * 7 / 8 * 64 / 90e9)
  assert found.memory_seconds == pytest.approx(found.traffic / 819e9) and found.traffic >= 4 * (8 * 32 + 32 * 16 + 16)
  assert found.compute_seconds == pytest.approx(found.flops / 197e12)
  assert found.binds == "memory" and found.seconds == found.memory_seconds
  assert found.mfu == pytest.approx(64 * 32 * 16 * 2 / 8 / 197e12 / found.seconds)


def test_a_program_is_compiled_once_for_every_topology_and_compiler(on_cpus, monkeypatch):
  compiled = []
  monkeypatch.setattr(measure, "_compile", lambda lowered: compiled.append(1) or {"fits": True, "needed": 1.0})
  made = [programs.Program(jax.jit(lambda x, n=n: x * n).lower(np.float32(1)), 0.0, 1, 4, 0) for n in (2, 2, 3)]
  notes = []
  for program, topology, count in ((0, "v5e:2x4", 1), (1, "v5e:2x4", 1), (2, "v5e:2x4", 2), (0, "v5e:2x2", 3)):
    measure.plan(made[program], "train", topology, notes.append)
    assert len(compiled) == len(notes) == count
  monkeypatch.setattr(machines, "compiler", lambda: "another")
  measure.plan(made[0], "train", "v5e:2x4")
  assert len(compiled) == 4


# The second as other versions say it; and one that names no sizes.
USED = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 1.50T of 512.00M hbm. Exceeded by 1.50T."
MUTE = "RESOURCE_EXHAUSTED: Ran out of memory."


@pytest.mark.parametrize(
  ("message", "needed", "limit", "said"),
  [
    (FULL, 33.54 * GIB, 15.75 * GIB, "does NOT fit: 33.54 of 15.75 GiB a chip: state 2.00, batch 1.00"),
    (USED, 1536 * GIB, GIB / 2, "does NOT fit: 1536.00 of 0.50 GiB a chip: state 2.00"),
    (MUTE, 0, 0, "does NOT fit: more than 15.75 GiB a chip: state 2.00"),
  ],
)
def test_what_does_not_fit_is_said_with_the_compilers_words(message, needed, limit, said):
  def compile():
    raise jax.errors.JaxRuntimeError(message)

  facts = measure._compile(types.SimpleNamespace(compile=compile))
  assert (facts["fits"], facts["needed"], facts["limit"]) == (False, needed, limit)
  assert facts["largest"] == message.splitlines()
  each = measure._plan(programs.Program(None, 1.0, 640, 2 * GIB, GIB), "train", "v5e:4x8", facts)
  assert said in command.describe(each)[0]


@pytest.mark.parametrize("gigabytes", [16, 40, 80])
def test_a_larger_chip_compiles_in_place_of_a_gpu(gigabytes):
  program, topology = programs.Program(None, 1.0, 8, 1, 1), f"gpu{gigabytes}:8"
  assert measure._plan(program, "train", topology, {"fits": True, "needed": 0.99e9 * gigabytes}).fits
  each = measure._plan(program, "train", topology, {"fits": True, "needed": 1.01e9 * gigabytes})
  assert not each.fits and "as a TPU would take it" in command.describe(each)[0]


def test_all_programs_of_a_config_are_planned_and_written(on_cpus, tiny, tmp_path, capsys):
  assert command.run("configs/lml.py:demo", "v5e:2x4", out=tmp_path / "plan.json")
  said, facts = capsys.readouterr().out, json.loads((tmp_path / "plan.json").read_text())
  assert [each["program"] for each in facts["plans"]] == list(programs.NAMES) and facts["compiler"] in said
  train, evaluate, predict = facts["plans"]
  assert (
    train["images"] == 32 and train["chips"] == evaluate["chips"] == 8 and predict["chips"] == predict["images"] == 1
  )
  assert evaluate["images"] % 8 == 0 and not predict["exchanged"]
  gradient = sum(4 * size for size in jax.tree.leaves(jax.tree.map(np.size, _params(tiny))))
  assert gradient <= train["exchanged"]["all-reduce"][1] < 1.1 * gradient
  assert "train: 32 images on 8 chips: fits" in said and "bound by" in said
  assert f"the recipe: 40 steps, at least {40 * train['seconds'] / 3600:.3g} hours" in said


def _params(config):
  method = programs.on_made_up_images(config, make_mesh(jax.devices()[:1]))
  return jax.eval_shape(lambda key: method.init(key).params, jax.random.key(0))


def test_what_would_make_it_fit_is_tried(on_cpus, tiny, monkeypatch, capsys, tmp_path):
  """Here a step fits that computes a quarter of the images at a time, or that has as many chips to itself."""
  tried, compile = [], measure._compile
  trace = programs.trace

  def traced(config, devices, name):
    tried.append((config.remat, config.accumulate, config.sharding, len(devices)))
    return trace(config, devices, name)

  def compiled(lowered):
    fits = tried[-1][1] == 4 or tried[-1][3] == 4
    return compile(lowered) if fits else {"fits": False, "needed": 20 * GIB, "limit": 16 * GIB, "largest": []}

  monkeypatch.setattr(programs, "trace", traced)
  monkeypatch.setattr(measure, "_compile", compiled)
  monkeypatch.setattr(machines, "LADDER", {"v5e": ("1x1", "2x2", "2x4")})
  assert not command.run("configs/lml.py:demo", "v5e:1x1", names=["train"], out=tmp_path / "plan.json")
  said = capsys.readouterr().out
  assert "--config.remat=True: does NOT fit: 20.00 of 16.00" in said and "accumulate=2: does NOT fit" in said
  assert "--config.accumulate=4: fits" in said and "accumulate=8" not in said
  assert "--config.sharding=fsdp: does NOT fit" in said and "--topology=v5e:2x2: fits" in said and "2x4" not in said
  assert tried[0] == (False, 1, "replicated", 1) and len(tried) == 6
  assert len(json.loads((tmp_path / "plan.json").read_text())["remedies"]) == 5


def test_configs_are_read_as_by_launch():
  config = command.config_of("configs/lml.py:demo", ["--config.batch_size=16", "--config.optimizer.learning_rate=0.5"])
  assert config.batch_size == 16 and config.optimizer.learning_rate == 0.5
  for path, overrides in (
    ("configs/none.py", ()),
    ("configs/lml.py", ["--config.bach=1"]),
    ("configs/lml.py", ["now"]),
  ):
    with pytest.raises(UserError, match=f"--config={path}"):
      command.config_of(path, overrides)


@pytest.mark.parametrize(
  ("path", "images", "expected"),
  [
    ("configs/reiqa.py", None, "8,720 steps of 140,000 images, at least 1.21 hours, 38.8 chip-hours"),
    ("configs/lml.py", None, "1,044 steps of 929 images, at least 0.145 hours"),
    ("configs/supervised.py", None, " of 16,544 images, at least"),
    ("configs/lml.py:demo", 1, "1,000 steps, at least 0.139 hours"),
  ],
)
def test_steps_of_a_recipe(path, images, expected):
  each, config = types.SimpleNamespace(seconds=0.5, chips=32), command.config_of(path)
  programs.on_made_up_images(config, make_mesh(jax.devices()[:1]))  # leaves the databases
  assert expected in command.whole_recipe(config, each, images)


@pytest.mark.parametrize(("split", "count"), [(0, 7), (3, 10), (-1, 4), (-1, 10)])
def test_training_images_are_those_of_the_published_splits(split, count):
  from jiqa.data.schema import tables

  config = command.config_of("configs/liqe.py")
  config.split, config.evaluation.splits = split, count
  csiq, liqe = tables.read("liqe", "csiq").splits, types.SimpleNamespace(name="csiq", protocol="liqe")
  expected = [parts[split] == "0" if split >= 0 else not parts[:count].count("2") for parts in csiq]
  assert command._training_images(config, liqe) == sum(expected) < len(csiq)


def test_images_of_official_parts_are_said_to_hold_the_test_images():
  config = command.config_of("configs/lml.py", ["--config.data[0].name=koniq10k", "--config.data[0].protocol=official"])
  said = command.whole_recipe(config, types.SimpleNamespace(seconds=0.5, chips=1))
  assert " of 10,073 images (with the test images of koniq10k, whose number is not known here; --images=N" in said
  assert "test images" not in command.whole_recipe(config, types.SimpleNamespace(seconds=0.5, chips=1), 7058)


def test_the_command_says_what_is_missing_before_it_imports_jax():
  code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "libtpu" else find(name, *rest)
from jiqa.cli import main
sys.argv[1:] = ["plan", "--config=configs/lml.py", "--topology=v5e:2x4", "--config.batch_size=8"]
try:
  main()
finally:
  assert "jax" not in sys.modules
"""
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert result.returncode == 2
  assert result.stderr.count("\n") == 1 and "pip install 'jax[tpu]'" in result.stderr, result.stderr
