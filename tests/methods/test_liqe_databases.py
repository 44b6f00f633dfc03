"""Joint training over six databases, each with an image of every official name: splits, composition, resuming."""

import shutil
import warnings

import jax
import numpy as np
import pytest

from configs import liqe as config_file
from data_builders.prepare import prepare
from jiqa import train as loop
from jiqa.data.mixture import training_batches
from jiqa.data.source import open_database
from jiqa.data.splits import TEST, TRAIN, VALIDATION, assign
from jiqa.methods.liqe._labels import task_labels
from jiqa.methods.liqe.liqe import LIQE
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.sharding import make_mesh
from tests.data_builders import test_official_labels as official
from tests.helpers import mesh_of

TREES = {"live": official.live, "csiq": official.csiq, "bid": official.bid, "clive": official.clive,
         "koniq10k": official.koniq10k, "kadid10k": official.kadid10k}  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(real_data, tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("data")
  for name, tree in TREES.items():
    root = tmp_path_factory.mktemp(name)
    tree(root, real_data)
    prepare(name, root, data_dir)
    shutil.rmtree(root)
  return data_dir


def tiny_config(data_dir):
  config = config_file.get_config("joint")
  with config.unlocked():
    config.update(crop=16, patch=8, width=8, depth=1, heads=2, embedding=8, dtype="float32", threads=2)
    config.text.update(width=8, depth=1, heads=2)
    config.update(data_dir=str(data_dir), steps=6, epoch_steps=1, checkpoint_every=3, checkpoints_kept=9, log_every=1)
    config.validate_every, config.evaluation.checkpoint = 0, "newest"
    config.optimizer.param_rounding = "fp16"
  return config


def test_all_training_names_of_the_first_split_and_none_else(data_dir):
  config = tiny_config(data_dir)
  sources, _, _ = loop.open_sources(config)
  assert [len(source) for source in sources] == [538, 607, 410, 813, 7051, 7125]
  assert sum(len(source) for source in sources) == 16_544
  sizes = np.zeros(3, int)
  for name in TREES:
    table = open_database(name, data_dir).table
    splits = assign(table, name, "liqe")
    assert len(splits) == 10
    sizes += [(splits[0] == part).sum() for part in (TRAIN, VALIDATION, TEST)]
    labels = [task_labels({"database": name, "image_name": image}) for image in table.image_name]
    assert {int(scenes.sum()) for scenes, _ in labels} <= {1, 2, 3} and len({label for _, label in labels}) >= 4
  assert sizes.tolist() == [16_544, 2_350, 4_697]


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
  config, workdir = tiny_config(data_dir), tmp_path_factory.mktemp("run")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # every image is tiny
    assert loop.train(config, workdir, jax.devices()[:1])
  return config, workdir


def final_state(config, workdir):
  mesh = make_mesh(jax.devices()[:1])
  method, (tx, _, _) = loop.build(config, mesh), loop.build_optimizer(config, 16_544)
  return Checkpoints(workdir / "checkpoints").restore(loop.init_state(config, method, tx, mesh))


def test_every_step_has_its_share_of_every_database(data_dir):
  config = tiny_config(data_dir)
  sources, weights, _ = loop.open_sources(config)
  method, counts = LIQE(config, mesh_of(1)), [entry.count for entry in config.data]
  batches = training_batches(
    sources, weights, method.preprocess_train, batch_size=48, seed=0, start=0, threads=2, buffered=48, counts=counts
  )
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    batch = next(batches)
  np.testing.assert_array_equal(batch["group"], np.repeat(np.arange(6), [4, 4, 4, 4, 16, 16]))
  assert batch["crops"].shape == (48, 3, 16, 16, 3) and batch["scene"].sum(1).min() >= 1
  assert (batch["mos"][:4] > 5).any() and batch["mos"][4:8].max() <= 1  # scales are left as they are


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(run, tmp_path):
  config, workdir = run
  whole = final_state(config, workdir)
  assert int(whole.step) == 6 and not np.allclose(whole.extra["task_weights"], 1)
  shutil.copytree(workdir, tmp_path / "resumed")
  shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "6")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    assert loop.train(config, tmp_path / "resumed", jax.devices()[:1])
  again = final_state(config, tmp_path / "resumed")
  jax.tree.map(np.testing.assert_array_equal, whole, again)
