"""Geometry, swap, labels, losses and queue of the Re-IQA quality expert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import reiqa as config_file
from jiqa.distortions import resample
from jiqa.methods import build_method
from jiqa.methods.reiqa import _pairs as reiqa_pairs
from jiqa.methods.reiqa import reiqa
from jiqa.train import rematerialised
from tests.distortions import reference_bank
from tests.helpers import mesh_of


def tiny_config(**changes):
  config = config_file.get_config("demo")
  config.update(depth=10, width=4, embedding=8, window=80, crop=32, scales=(1, 2), versions=4, batch_size=8)
  with config.unlocked():
    config.compat = "fixed"
    config.update(**changes)
  return config


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (8, 80, 80, 3), dtype=np.uint8)
  return {"image": image, "size": np.tile(np.int32([80, 80]), (8, 1))}


def offsets(crop, frame, n=4000):
  keys = jax.random.split(jax.random.key(0), n)
  return np.asarray(jax.vmap(lambda k: reiqa_pairs.pair_offsets(k, crop, jnp.array(frame)))(keys))


def test_pairs_overlap_as_published():
  drawn = np.abs(offsets(160, (400, 400)))
  far, near = drawn.max(1), drawn.min(1)
  assert far.min() == 112 and far.max() == 143
  overlap = (160 - far) * (160 - near) / 160**2
  assert overlap.min() >= 0.1 and overlap.max() <= 0.3
  assert overlap.mean() == pytest.approx(0.152, abs=0.004)
  assert near.max() <= 105 and near[far == 143].max() <= 9


def test_pairs_are_displaced_in_all_directions():
  drawn = offsets(160, (400, 400))
  vertical = np.abs(drawn[:, 0]) > np.abs(drawn[:, 1])
  assert abs(vertical.mean() - 0.5) < 0.03
  assert abs((drawn[vertical, 0] > 0).mean() - 0.5) < 0.04


def test_small_frames_shorten_the_displacement():
  drawn = np.abs(offsets(96, (128, 256)))
  assert drawn[:, 0].max() == 32 and drawn[:, 1].max() > 80
  assert not offsets(96, (96, 96), 50).any()


def test_crops_of_a_pair_lie_in_the_frame_and_are_the_same_for_all_versions():
  side, crop, frame = 64, 24, jnp.array([50, 60])
  y, x = np.mgrid[:side, :side]
  versions = jnp.stack([jnp.stack([y, x, jnp.full((side, side), v)], -1) for v in range(3)]).astype(jnp.float32)
  keys = jax.random.split(jax.random.key(1), 500)
  pairs = np.asarray(jax.jit(jax.vmap(lambda k: reiqa_pairs.crop_pair(k, versions, frame, crop)))(keys))
  assert pairs.shape == (500, 2, 3, crop, crop, 3)
  assert (pairs[:, :, :, :, :, :2] == pairs[:, :, :1, :, :, :2]).all()
  assert (pairs[..., 2] == np.arange(3)[:, None, None]).all()
  corners = pairs[:, :, 0, 0, 0, :2]
  assert corners.min() == 0 and (corners.max((0, 1)) + crop <= [50, 60]).all()
  assert corners[..., 0].max() + crop == 50
  rows = pairs[:, :, 0, :, 0, 0]
  assert (np.diff(rows, axis=-1) == 1).all()


def test_half_swap_exchanges_whole_crops():
  pairs = jnp.arange(2 * 4 * 3).reshape(2, 4, 3)
  swapped = reiqa_pairs.half_swap(pairs, jnp.array([True, True, False, False]))
  np.testing.assert_array_equal(swapped[0, :2], pairs[1, :2])
  np.testing.assert_array_equal(swapped[1, :2], pairs[0, :2])
  np.testing.assert_array_equal(swapped[:, 2:], pairs[:, 2:])


def test_of_a_small_image_as_much_is_real_as_the_largest_scale_needs():
  image = np.random.default_rng(0).integers(0, 256, (50, 100, 3), dtype=np.uint8)
  for compat, expected in (("fixed", [64, 80]), ("official", [50, 80])):  # as published it is padded with black
    method = reiqa.ReIQA(tiny_config(compat=compat), mesh_of(1))
    assert method.preprocess_train(image, {}, np.random.default_rng(0))["size"].tolist() == expected


def test_half_scale_is_pillows(batch):
  ours = np.asarray(resample.reduce(batch["image"][:1, None].astype(np.float32) / 255, 2))[0, 0] * 255
  pillow = np.asarray(Image.fromarray(batch["image"][0]).resize((40, 40), Image.Resampling.BICUBIC))
  error = np.abs(ours - pillow)  # Pillow rounds and clips between its two passes
  assert error.max() <= 2.0 and error.mean() < 0.4


def test_views_are_full_and_half_scale():
  image = np.random.default_rng(0).integers(0, 256, (31, 50, 3), dtype=np.uint8)
  views = reiqa.ReIQA(tiny_config(), mesh_of(1)).preprocess_eval(image)
  assert views["full"] is image and views["half"].shape == (15, 25, 3)
  assert reiqa.ReIQA(tiny_config(), mesh_of(1)).preprocess_eval(image[:1, :1])["half"].shape == (1, 1, 3)


def test_versions_of_one_image_that_look_alike_are_never_negatives(batch, monkeypatch):
  """Blur leaves a flat image as it is, noise and darkening do not; a label is one of all pairs of a version."""
  method = reiqa.ReIQA(tiny_config(loss="queue+chunk", queue=64, swap=False, kinds=(0, 7, 13)), mesh_of(1))
  monkeypatch.setattr(method, "contrast", lambda params, state, crops, key, labels: (crops, labels))
  image = batch["image"].copy()
  image[:4] = 128
  crops, labels = jax.jit(method.loss)(None, None, batch | {"image": image}, jax.random.key(3))
  assert crops.shape == (2, 64, 32, 32, 3) and crops.min() >= 0 and crops.max() <= 1
  crops, labels = np.asarray(crops).reshape(2, 8, 2, 4, -1), np.asarray(labels).reshape(8, 2, 4)
  difference = np.abs(crops - crops[:, :, :, :1]).max((0, -1))  # of every version from the first
  np.testing.assert_array_equal(labels[:, 0] == 0, difference[:, 0] <= 2.5 / 255)
  assert ((labels[:4, 0] == 0).sum(1) == 2).all() and (labels[4:, 0] > 0).sum() >= 8
  np.testing.assert_array_equal(labels[:, 1], labels[:, 0])
  assert ((labels == 0) | (labels == np.arange(4))).all()


def test_versions_have_every_level_equally_often():
  method = reiqa.ReIQA(tiny_config(kinds=(13,), versions=2), mesh_of(1))
  image = np.full((150, 16, 16, 3), 150, np.uint8)
  versions, _ = jax.jit(method.render)({"image": image}, jax.random.key(0))
  assert versions.dtype == np.uint8
  versions = np.asarray(versions, np.float32)
  np.testing.assert_array_equal(versions[:, 0], image)
  darkened = [reference_bank.darken(image[0], level, None)[0, 0, 0] for level in range(5)]
  near = np.abs(versions[:, 1] - np.reshape(darkened, (5, 1, 1, 1, 1))).max((2, 3, 4)) < 1.5  # [level, image]
  assert (near.sum(0) == 1).all()
  assert near.sum(1).min() >= 20 and near.sum(1).max() <= 40


def test_half_of_the_versions_show_query_and_key_exchanged_unless_swap_is_off(batch, monkeypatch):
  """Pixels say where they are; of five versions two are exchanged at full scale, the other three at half."""
  y, x = np.mgrid[:80, :80] / 80
  place = jnp.broadcast_to(jnp.float32(np.stack([y, x, x], -1)), (8, 5, 80, 80, 3))

  def corners(swap):
    """[2, b, s, v, 2]"""
    method = reiqa.ReIQA(tiny_config(swap=swap, versions=5), mesh_of(1))
    monkeypatch.setattr(method, "render", lambda batch, key: (place, jnp.zeros((8, 5), int)))
    return np.asarray(jax.jit(method.crop_pairs)(batch, jax.random.key(0))[0])[..., 0, 0, :2]

  plain, exchanged = corners(False), corners(True)
  assert (plain == plain[..., :1, :]).all()
  for scale, versions in enumerate(([0, 1], [2, 3, 4])):
    for version in range(5):
      expected = plain[::-1] if version in versions else plain
      np.testing.assert_array_equal(exchanged[:, :, scale, version], expected[:, :, scale, version])
  # 70 to 90 % of a crop of 32 pixels; the frame of half scale holds no more than 8.
  far = np.abs(plain[0] - plain[1]).max(-1) * 80
  assert far[:, 0].min() > 22.9 and far[:, 0].max() < 28.1 and np.abs(far[:, 1] / 2 - 8).max() < 1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"loss": "que"}, "'que'; expected one of"),
    ({"loss": "queue", "queue": 63}, "must hold the 64 keys"),
    ({"window": 63}, "largest scale needs 64"),
    ({"versions": 1}, "at least 2"),
    ({"kinds": (0, 26)}, "in 0..25"),
    ({"kinds": (3, 3, 4)}, "different numbers"),
    ({"kinds": (0, 1)}, "at most 3 different versions"),
    ({"bn_groups": 2}, "must be 1"),
    ({"loss": "queue", "queue": 64, "bn_groups": 3}, "does not divide the 64"),
    ({"loss": "queue", "queue": 64, "bn_groups": 64, "accumulate": 2}, "64 does not divide the 32 pairs of a micro"),
    ({"temperature": 0.0}, "config.temperature is 0.0"),
    ({"temperature": -0.2}, "config.temperature is -0.2"),
    ({"key_momentum": 1.5}, "config.key_momentum is 1.5"),
    ({"split": 0}, "config.split is 0; features .* must be -1"),
  ],
)
def test_config_mistakes_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    reiqa.ReIQA(tiny_config(**changes), mesh_of(2)).check_training()


def test_a_distortion_that_changes_nothing_is_recognised_by_its_pixels():
  photograph = np.random.default_rng(0).integers(50, 200, (1, 16, 16, 3), dtype=np.uint8)
  versions = np.stack([photograph, photograph + 2, photograph - 2, photograph + 3, photograph - 3, photograph], 1)
  versions[0, 5, 5, 5, 1] += 25  # one pixel is enough
  assert np.asarray(reiqa_pairs.looks_pristine(versions)).tolist() == [[True, True, True, False, False, False]]


@pytest.mark.parametrize("variant", ["quality", "small", "demo"])
def test_pairs_of_the_shipped_variants_share_as_much_as_their_config_says(variant):
  config = config_file.get_config(variant)
  for scale in config.scales:
    drawn = np.abs(offsets(config.crop, (config.window // scale,) * 2, 500))
    overlap = (config.crop - drawn).prod(1) / config.crop**2
    least, most = (0.44, 0.67) if (variant, scale) == ("small", 2) else (0.1, 0.31)
    assert least <= overlap.min() and overlap.max() <= most


@pytest.mark.parametrize(
  ("crop", "frame", "least", "most", "mean"), [(160, (192, 256), 0.32, 0.8, 0.48), (96, (128, 128), 0.44, 0.67, 0.54)]
)
def test_of_halves_too_small_for_the_pairs_the_docs_say_how_much_they_share(crop, frame, least, most, mean):
  drawn = np.abs(offsets(crop, frame, 4000))
  overlap = (crop - drawn).prod(1) / crop**2
  assert [overlap.min(), overlap.max(), overlap.mean()] == pytest.approx([least, most, mean], abs=0.01)


@pytest.mark.parametrize("variant", [name for name in config_file.VARIANTS if name not in ("regress", "arniqa")])
def test_every_variant_builds_its_method(variant):
  config = config_file.get_config(variant)
  method = build_method(config, mesh_of(1))
  scales = len(config.get("scales", (1,))) if config.get("every_scale", True) else 1
  assert method.pairs() == config.batch_size * config.get("versions", 1) * scales


def test_images_that_take_turns_at_the_scales_show_what_they_show_at_every_scale(batch):
  key = jax.random.key(3)
  few = {"kinds": (6, 7, 13)}  # quick to compile
  every = build_method(tiny_config(**few), mesh_of(1))
  turns = build_method(tiny_config(every_scale=False, **few), mesh_of(1))
  assert turns.pairs() == every.pairs() // 2 == 8 * 4
  expected, alike = jax.jit(every.crop_pairs)(batch, key)
  crops, labels = jax.jit(turns.crop_pairs)(batch, key)
  assert crops.shape == (2, 8, 1, 4, 32, 32, 3)
  np.testing.assert_array_equal(labels, alike)
  chosen = []
  for image in range(8):
    same = [np.allclose(crops[:, image, 0], expected[:, image, scale], atol=1e-6) for scale in range(2)]
    assert sum(same) == 1
    chosen.append(same.index(True))
  pairs = {tuple(chosen[i : i + 2]) for i in range(0, 8, 2)}
  assert pairs == {(0, 1), (1, 0)}  # whichever of two comes first, so that no source is bound to a scale
  with pytest.raises(ValueError, match="batch_size 8 is not a multiple of 3, that is of 3 scales"):
    build_method(tiny_config(every_scale=False, scales=(1, 2, 3), window=96), mesh_of(1)).check_training()
  with pytest.raises(ValueError, match="'official' does not know"):
    build_method(tiny_config(every_scale=False, compat="official"), mesh_of(1)).check_training()


def test_ablations_change_what_they_name():
  config = config_file.get_config("small,loss=queue+chunk,swap=False,versions=5,scales=1+2")
  assert (config.loss, config.swap, config.versions, tuple(config.scales)) == ("queue+chunk", False, 5, (1, 2))
  assert config.window == config_file.get_config("small").window
  assert config_file.get_config("scales=1").depth == config_file.get_config().depth == 50
  for variant, message in (
    ("smal", "no variant 'smal'"),
    ("content,swap=true", "expected loss, as key=value"),
    ("versions=x", "'x' is no value of versions, which is now 12"),
    ("swap=maybe", "'maybe' is no value of swap"),
    ("demo,steps=1", "expected loss, swap, versions, scales"),
    ("regress,loss=queue", "expected none"),
  ):
    with pytest.raises(ValueError, match=message):
      config_file.get_config(variant)


def test_what_is_rendered_is_not_rendered_again_for_the_gradient(batch):
  method = reiqa.ReIQA(tiny_config(), mesh_of(1))
  state = jax.eval_shape(method.init, jax.random.key(0))

  def drawn(loss):
    gradient = jax.grad(lambda params, state, batch, key: loss(params, state, batch, key)[0])
    return str(jax.make_jaxpr(gradient)(state.params, state, batch, jax.random.key(1))).count("random_bits[")

  assert drawn(rematerialised(method.loss)) == drawn(method.loss) > 0
