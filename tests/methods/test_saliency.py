"""Maps of class attention and their means inside boxes, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import lml as config_file
from jiqa.methods.lml.lml import LML, QualityNetwork, attention_map, box_means, most_salient
from jiqa.runtime.state import merge_module
from tests.helpers import mesh_of, randomised


def test_means_are_weighted_by_area():
  rng = np.random.default_rng(0)
  maps, boxes = rng.random((2, 5, 5)), np.sort(rng.random((2, 7, 2, 2)), 2).reshape(2, 7, 4)
  found = box_means(jnp.float32(maps), jnp.float32(boxes))
  fine = 500  # samples a side
  centres = (np.arange(fine) + 0.5) / fine
  for i in range(2):
    dense = maps[i].repeat(fine // 5, 0).repeat(fine // 5, 1)
    for k, (top, left, bottom, right) in enumerate(boxes[i]):
      rows, columns = (centres > top) & (centres < bottom), (centres > left) & (centres < right)
      assert float(found[i, k]) == pytest.approx(dense[rows][:, columns].mean(), abs=0.02)


def test_a_uniform_map_prefers_no_crop_and_a_hot_cell_the_crop_that_holds_it():
  boxes = jnp.array([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5], [0.3, 0.4, 0.8, 0.9]]])
  even = box_means(jnp.full((1, 14, 14), 1 / 196), boxes)
  np.testing.assert_allclose(even, 1 / 196, rtol=1e-5)
  for cell, winner in (((2, 3), 0), ((12, 1), 1), ((7, 9), 2)):
    hot = jnp.full((1, 14, 14), 1e-3).at[0, cell[0], cell[1]].set(0.5)
    assert int(box_means(hot, boxes)[0].argmax()) == winner


def test_the_map_is_the_mean_over_heads_and_sums_to_one():
  attention = np.random.default_rng(1).random((3, 4, 9)).astype(np.float32)
  maps = attention_map(jnp.asarray(attention))
  mean = attention.astype(np.float64).mean(1)
  np.testing.assert_allclose(maps, (mean / mean.sum(1, keepdims=True)).reshape(3, 3, 3), rtol=1e-5)


def test_the_largest_values_are_cut_off():
  attention = np.full((1, 2, 196), 0.5, np.float32)
  attention[0, :, :2] = [100.0, 60.0]
  attention[0, :, 2:8] = np.linspace(1, 2, 6)
  uncut = np.asarray(attention_map(jnp.asarray(attention)))
  cut = np.asarray(attention_map(jnp.asarray(attention), 99.0))
  limit = np.percentile(uncut, 99.0)
  np.testing.assert_allclose(cut, np.minimum(uncut, limit), rtol=1e-3)
  assert cut.max() < uncut.max() / 10 and (cut == cut.max()).sum() == 2


def test_a_map_that_is_no_square_is_refused():
  with pytest.raises(ValueError, match="10 patches are no square"):
    attention_map(jnp.ones((1, 2, 10)))


@pytest.mark.parametrize("rounding", [-1e-7, 0, 1e-7])
def test_of_crops_that_see_the_same_cell_the_first_is_salient(rounding):
  """Whatever the order of a sum makes of the last digit, which differs between numbers of devices."""
  saliency = jnp.float32([[0.1, 0.3, 0.3 * (1 + rounding)], [0.3 * (1 + rounding), 0.1, 0.3], [0.3, 0.30001, 0.2]])
  assert most_salient(saliency).tolist() == [1, 0, 1]


def test_saliency_is_what_the_cut_map_of_the_whole_has_inside_each_box():
  config = config_file.get_config("demo")
  config.update(crop=16, patch=4, width=8, depth=1, heads=2, attention_percentile=60.0)
  graphdef, params, _ = randomised(lambda: QualityNetwork(config, rngs=nnx.Rngs(0)))
  network = merge_module(graphdef, params, {})
  rng = np.random.default_rng(2)
  whole = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
  cells = np.array([[(0, 0, 2, 2), (1, 0, 3, 4)], [(2, 1, 4, 2), (0, 3, 4, 4)], [(0, 1, 1, 3), (1, 1, 4, 3)]])
  batch = {"whole": whole, "boxes": np.float32(cells / 4)}

  @jax.jit
  def look(batch):
    return network(batch["whole"])["attention"], LML(config, mesh_of(1)).saliency(network, batch)

  attention, (saliency, maps) = look(batch)
  mean = np.float64(attention).mean(1)
  mean /= mean.sum(1, keepdims=True)
  cut = np.minimum(mean, np.percentile(mean, 60, axis=1, keepdims=True)).reshape(3, 4, 4)
  np.testing.assert_allclose(maps, cut, rtol=1e-4)
  expected = [[m[t:b, l:r].mean() for t, l, b, r in boxes] for m, boxes in zip(cut, cells, strict=True)]
  np.testing.assert_allclose(saliency, expected, rtol=1e-4)
  assert (cut == cut.max((1, 2), keepdims=True)).sum() > 12  # the cut is seen
