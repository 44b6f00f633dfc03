"""Folders of weights: what is written is read back, and what is damaged or does not fit is refused by name."""

import json

import jax
import numpy as np
import pytest

from jiqa.errors import UserError
from jiqa.weights import store


def some_weights():
  rng = np.random.default_rng(0)
  params = {
    "encoder": {"layer1": {0: {"kernel": rng.normal(size=(2, 3)).astype(np.float32)}, 10: {"kernel": np.ones(2)}}},
    "head": {"layers": {"0": {"bias": np.zeros(4, np.float32)}}},
  }
  return params, {"encoder": {"bn": {"mean": rng.normal(size=3).astype(np.float32)}}}


def test_weights_come_back_as_they_were(tmp_path):
  params, stats = some_weights()
  card = store.save_weights(tmp_path / "w", params, stats, {"source": "nowhere"})
  assert card["tensors"] == 4 and card["parameters"] == 12 and card["weights_sha256"] == store.checksum(params, stats)
  loaded, loaded_stats, loaded_card = store.load_weights(tmp_path / "w")
  assert loaded_card == card
  assert set(loaded["encoder"]["layer1"]) == {0, 10} and set(loaded["head"]["layers"]) == {"0"}
  for ours, theirs in ((params, loaded), (stats, loaded_stats)):
    ours, theirs = store.flatten(ours), store.flatten(theirs)
    assert list(ours) == list(theirs)
    for path in ours:
      np.testing.assert_array_equal(ours[path], theirs[path])
      assert ours[path].dtype == theirs[path].dtype
  assert sorted(p.name for p in tmp_path.iterdir()) == ["w"]
  # Whoever may read the card may read the weights.
  assert len({p.stat().st_mode for p in (tmp_path / "w").iterdir()}) == 1


def test_the_checksum_depends_on_values_names_types_and_shapes():
  params, stats = some_weights()
  flat, known = store.flatten(params), store.checksum(params, stats)
  assert store.checksum(store.unflatten(flat), stats) == known
  path = "encoder/layer1[0]/kernel"
  kernel = flat[path]
  changed = kernel.copy()
  changed[1, 2] = np.nextafter(changed[1, 2], np.float32(9))
  others = [
    flat | {path: changed},
    flat | {path: kernel.reshape(3, 2)},
    flat | {path: kernel.view(np.int32)},  # the same bytes
    {name: leaf for name, leaf in flat.items() if name != path} | {"encoder/layer1[1]/kernel": kernel},
  ]
  sums = {known, store.checksum(params, {}), store.checksum({}, params)}
  sums |= {store.checksum(store.unflatten(other), stats) for other in others}
  assert len(sums) == 7 and {len(each) for each in sums} == {16}


def test_earlier_weights_are_replaced_and_other_folders_left_alone(tmp_path):
  params, stats = some_weights()
  store.save_weights(tmp_path / "w", params, stats, {})
  store.save_weights(tmp_path / "w", {"a": np.ones(1)}, {}, {})
  assert list(store.load_weights(tmp_path / "w")[0]) == ["a"]
  (tmp_path / "w").rename(tmp_path / "w.old")  # as an interruption between two renamings leaves it

  def interrupted(*_):
    raise OSError("the disk is full")

  with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="disk is full"):
    patch.setattr(store.safetensors.numpy, "save", interrupted)
    store.save_weights(tmp_path / "w", params, stats, {})
  assert list(store.load_weights(tmp_path / "w")[0]) == ["a"]
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.txt").write_text("irreplaceable")
  with pytest.raises(UserError, match="no folder of weights"):
    store.save_weights(tmp_path / "mine", params, stats, {})
  assert (tmp_path / "mine" / "thesis.txt").read_text() == "irreplaceable"


def test_weights_are_not_written_over_a_file(tmp_path):
  path = tmp_path / "lite0.pth"
  path.write_bytes(b"what was to be converted")
  with pytest.raises(UserError, match=r"lite0\.pth: exists and .*choose another"):
    store.save_weights(path, *some_weights(), {})
  assert path.read_bytes() == b"what was to be converted" and list(tmp_path.iterdir()) == [path]


def test_damage_is_noticed(tmp_path):
  with pytest.raises(UserError, match="not there"):
    store.load_weights(tmp_path / "w")
  store.save_weights(tmp_path / "w", *some_weights(), {})
  file = tmp_path / "w" / store.WEIGHTS
  data = bytearray(file.read_bytes())
  data[-1] ^= 1
  file.write_bytes(data)
  with pytest.raises(UserError, match="checksum"):
    store.load_weights(tmp_path / "w")
  file.write_bytes(data[:20])
  with pytest.raises(UserError, match="cannot be read"):
    store.load_weights(tmp_path / "w")
  store.save_weights(tmp_path / "w", *some_weights(), {})
  card = json.loads((tmp_path / "w" / store.CARD).read_text())
  del card["weights_sha256"]
  (tmp_path / "w" / store.CARD).write_text(json.dumps(card))
  with pytest.raises(UserError, match="cannot be read"):
    store.load_weights(tmp_path / "w")


def test_adopted_weights_keep_what_is_outside_and_refuse_misfits():
  own, _ = some_weights()
  other = store.unflatten({path: leaf + 1 for path, leaf in store.flatten(own).items()})
  del other["head"]
  with pytest.raises(UserError, match=r"1 missing: head/layers/0/bias"):
    store.adopt(own, other)
  taken = store.adopt(own, other, optional=("head",))
  assert (taken["encoder"]["layer1"][0]["kernel"] == own["encoder"]["layer1"][0]["kernel"] + 1).all()
  assert (taken["head"]["layers"]["0"]["bias"] == 0).all()
  half = jax.tree.map(np.float16, other)
  for mine, adopted in zip(
    jax.tree.leaves(own), jax.tree.leaves(store.adopt(own, half, optional=("head",))), strict=True
  ):
    assert adopted.dtype == mine.dtype
  other["encoder"]["layer1"][0]["kernel"] = np.zeros((3, 3))
  other["encoder"]["extra"] = np.zeros(1)
  del other["encoder"]["layer1"][10]
  with pytest.raises(UserError) as error:
    store.adopt(own, other, optional=("head",))
  for words in (
    "1 missing: encoder/layer1[10]/kernel", "1 surplus: encoder/extra",
    "encoder/layer1[0]/kernel (3, 3) instead of (2, 3)",
  ):  # fmt: skip
    assert words in str(error.value)
  del other["encoder"]["extra"]
  other["encoder"]["layer1"][0]["kernel"] = np.zeros((2, 3))
  assert store.adopt(own, other, optional=("head", "encoder/layer1[10]"))["encoder"]["layer1"][10][
    "kernel"
  ].tolist() == [1, 1]


def test_a_card_that_is_nested_without_end_is_a_message(tmp_path):
  store.save_weights(tmp_path / "w", {"a": np.zeros(2, np.float32)}, {}, {"method": "x"})
  (tmp_path / "w" / "card.json").write_text('{"a":' + "[" * 100_000)
  with pytest.raises(UserError, match="cannot be read as weights"):
    store.load_weights(tmp_path / "w")
