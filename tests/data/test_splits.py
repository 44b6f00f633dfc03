"""Splits without real data: complete, content-disjoint, by name, seeded; the shipped tables are whole."""

import numpy as np
import pandas as pd
import pytest

from jiqa.data import splits
from jiqa.data.splits import liqe_labels, tables
from jiqa.errors import UserError

# Database -> images, and splits in its tables.
SHIPPED = {
  ("liqe", "live"): (779, 10),
  ("liqe", "csiq"): (866, 10),
  ("liqe", "bid"): (586, 10),
  ("liqe", "clive"): (1162, 10),
  ("liqe", "koniq10k"): (10073, 10),
  ("liqe", "kadid10k"): (10125, 10),
  ("arniqa", "live"): (779, 10),
  ("arniqa", "csiq"): (866, 10),
  ("arniqa", "tid2013"): (3000, 10),
  ("arniqa", "kadid10k"): (10125, 10),
  ("arniqa", "spaq"): (11125, 10),
  ("arniqa", "flive"): (39810, 1),
}


def _table(contents=30, versions=4, split=""):
  names = [f"i{c:02d}_{v}.png" for c in range(contents) for v in range(versions)]
  references = [f"i{c:02d}" for c in range(contents) for _ in range(versions)]
  return pd.DataFrame({"image_name": names, "reference_name": references, "split": split})


def test_folds_are_disjoint_by_content_and_have_the_asked_sizes():
  table = _table()
  parts = splits.assign(table, "anything", "folds", num_splits=6)
  assert parts.shape == (6, 120)
  assert parts.dtype == np.int8
  for split in parts:
    assert np.bincount(split).tolist() == [84, 12, 24]
    assert pd.Series(split).groupby(table.reference_name).nunique().max() == 1
  assert len({tuple(split) for split in parts}) == 6


def test_folds_depend_on_names_and_seed_only():
  table = _table()
  parts = splits.assign(table, "anything", "folds")
  order = np.random.default_rng(0).permutation(len(table))
  shuffled = table.iloc[order].reset_index(drop=True)
  assert (splits.assign(shuffled, "anything", "folds") == parts[:, order]).all()
  assert (splits.assign(table, "anything", "folds", seed=1) != parts).any()
  assert (splits.assign(table, "anything", "folds", num_splits=3) == parts[:3]).all()


def test_folds_of_few_contents_leave_no_part_empty():
  for contents in (3, 4, 5):
    for split in splits.assign(_table(contents, 2), "anything", "folds"):
      assert set(split) == {splits.TRAIN, splits.VALIDATION, splits.TEST}
  with pytest.raises(UserError, match="cannot be divided"):
    splits.assign(_table(2, 9), "anything", "folds")


def test_a_share_of_nothing_gives_nothing():
  table = _table(contents=10)
  counts = {(0.8, 0.0, 0.2): [8, 0, 2], (0.0, 0.0, 1.0): [0, 0, 10], (1.0, 0.0, 0.0): [10, 0, 0]}
  for fractions, expected in counts.items():
    parts = splits.assign(table, "anything", "folds", num_splits=1, fractions=fractions)[0]
    images = np.bincount(parts, minlength=3)
    assert (images * 10 // len(table)).tolist() == expected
  # Training on less leaves the test part as it was.
  less, more = (
    splits.assign(table, "anything", "folds", fractions=fractions) for fractions in ((0.2, 0.6, 0.2), (0.8, 0.0, 0.2))
  )
  assert ((less == splits.TEST) == (more == splits.TEST)).all() and (
    (less == splits.TRAIN) <= (more == splits.TRAIN)
  ).all()


def test_images_without_reference_are_groups_of_their_own():
  table = _table().assign(reference_name="")
  assert np.bincount(splits.assign(table, "anything", "folds")[0]).tolist() == [84, 12, 24]


def test_another_column_can_say_what_belongs_together():
  table = _table().assign(camera=[f"camera {i % 10}" for i in range(120)])
  split = splits.assign(table, "anything", "folds", group="camera")[0]
  assert pd.Series(split).groupby(table.camera).nunique().max() == 1


def test_official_carves_validation_out_of_training_by_content():
  table = _table(32, 4, split="train")
  table.loc[:31, "split"] = "test"
  parts = splits.assign(table, "anything", "official", num_splits=5)
  for split in parts:
    assert (split[:32] == splits.TEST).all()
    assert np.bincount(split[32:]).tolist() == [84, 12]
    assert pd.Series(split).groupby(table.reference_name).nunique().max() == 1
  assert len({tuple(split) for split in parts}) == 5
  assert (splits.assign(table, "anything", "official", num_splits=5, seed=1) != parts).any(1).all()


@pytest.mark.parametrize("part", ["train", "validation"])
def test_official_parts_that_tear_a_content_apart_are_refused(part):
  table = _table(6, 4).assign(split="train")
  of = lambda reference: table.index[table.reference_name == reference]
  names = sorted(set(table.reference_name))
  table.loc[of(names[2]), "split"] = "test"
  table.loc[of(names[2])[3], "split"] = part
  message = (
    rf"mine: 1 content\(s\) stand both in the test part .* {names[2]!r} \({table.image_name[of(names[2])[0]]} is"
  )
  with pytest.raises(UserError, match=message):
    splits.assign(table, "mine", "official")
  assert splits.assign(table.assign(reference_name=""), "mine", "official").shape  # images of their own may
  table.loc[of(names[2])[3], "split"] = ""
  assert (splits.assign(table, "mine", "official")[:, of(names[2])[3]] == splits.UNUSED).all()


def test_of_a_single_content_nothing_can_be_set_aside():
  table = _table(3, 4, split="test")
  assert (splits.assign(table, "mine", "official") == splits.TEST).all()
  table.loc[table.reference_name == table.reference_name[0], "split"] = "train"
  with pytest.raises(UserError, match="mine: its training part shows one content alone"):
    splits.assign(table, "mine", "official")


def test_official_validation_is_kept_and_unassigned_stay_out():
  table = _table(2, 2).assign(split=["train", "validation", "test", ""])
  assert splits.assign(table, "anything", "official").tolist() == [[0, 1, 2, -1]]


def test_images_that_the_published_parts_leave_out_are_in_no_part():
  published = tables.read("arniqa", "flive")
  left_out = published.index[published.splits == "-"]
  table = pd.DataFrame({"image_name": left_out, "reference_name": "", "split": ""})
  assert splits.assign(table, "flive/images", "arniqa").tolist() == [[splits.UNUSED] * 3]


def test_what_a_database_does_not_have_is_refused():
  with pytest.raises(UserError, match="has no official splits; it has: folds"):
    splits.assign(_table(), "anything", "official")
  with pytest.raises(UserError, match="known: official, liqe, arniqa, folds"):
    splits.assign(_table(), "anything", "random")
  with pytest.raises(UserError, match="do not know the image"):
    splits.assign(_table(), "live", "liqe")


@pytest.mark.parametrize(("protocol", "database"), SHIPPED)
def test_shipped_tables_are_whole(protocol, database):
  images, count = SHIPPED[protocol, database]
  table = tables.read(protocol, database)
  assert len(table) == images
  assert table.index.is_unique
  assert table.splits.str.fullmatch(rf"[012]{{{count}}}|-{{{count}}}").all()
  assert (table.splits.str.startswith("-")).sum() == (3 if database == "flive" else 0)
  assert not {"score", "score_std", "mos"} & set(table.columns)
  if database in ("csiq", "tid2013", "kadid10k"):  # the content stands in the name
    content = table.index.str.extract({"csiq": r".*/(.+?)\.[^/]*$"}.get(database, r"(i\d\d)_"))[0].to_numpy()
    assert table.splits.groupby(content).nunique().max() == 1


def test_names_match_whatever_their_case_and_resolution():
  koniq = tables.read("liqe", "koniq10k").index[:3]
  table = pd.DataFrame({"image_name": [f"512x384/{name.upper()}" for name in koniq], "reference_name": "", "split": ""})
  same = table.assign(image_name=[f"1024x768/{name}" for name in koniq])
  half, full = (splits.assign(t, f"koniq10k/{v}", "liqe") for t, v in ((table, "512x384"), (same, "1024x768")))
  assert half.shape == (10, 3)
  assert (half == full).all()


def test_checksum_names_the_assignment_not_the_order():
  table = _table()
  parts = splits.assign(table, "anything", "folds")
  order = np.random.default_rng(1).permutation(len(table))
  assert splits.checksum(table, parts) == splits.checksum(table.iloc[order], parts[:, order])
  other = parts.copy()
  other[0, 0] = 2 if other[0, 0] != 2 else 0
  assert splits.checksum(table, parts) != splits.checksum(table, other)


# Counts of the eleven distortion classes and of images with one, two and three scenes, as published.
LIQE = {
  "live": ([169, 175, 290, 145, 0, 0, 0, 0, 0, 0, 0], [347, 432, 0]),
  "csiq": ([150, 150, 300, 150, 0, 116, 0, 0, 0, 0, 0], [576, 232, 58]),
  "bid": ([0, 0, 21, 272, 0, 13, 8, 58, 0, 0, 214], [377, 163, 46]),
  "clive": ([0, 0, 62, 499, 0, 30, 29, 105, 0, 0, 437], [629, 450, 83]),
  "koniq10k": ([0, 0, 1015, 3578, 0, 179, 345, 435, 0, 0, 4521], [8224, 1629, 220]),
  "kadid10k": ([405, 405, 2025, 1620, 1215, 810, 405, 405, 1620, 810, 405], [7625, 2375, 125]),
}


@pytest.mark.parametrize("database", LIQE)
def test_liqe_labels_as_published(database):
  scenes, distortions = zip(*liqe_labels.image_labels(database).values(), strict=True)
  classes, cardinality = LIQE[database]
  assert np.bincount(distortions, minlength=11).tolist() == classes
  assert np.bincount(np.sum(scenes, axis=1), minlength=4).tolist() == [0, *cardinality]


@pytest.mark.parametrize(("database", "image", "published", "fixed"), [
  ("live", "fastfading/img1.bmp", "noise", "jpeg2000 compression"),
  ("live", "wn/img1.bmp", "noise", "noise"),
  ("kadid10k", "images/i01_01_01.png", "blur", "blur"),
  ("kadid10k", "images/i01_05_01.png", "blur", "color"),
  ("kadid10k", "images/i01_07_01.png", "color", "color"),
])  # fmt: skip
def test_fixed_liqe_labels(database, image, published, fixed):
  as_published, corrected = (liqe_labels.image_labels(database, labels)[image] for labels in ("published", "fixed"))
  assert [liqe_labels.DISTORTIONS[label] for _, label in (as_published, corrected)] == [published, fixed]
  assert (as_published[0] == corrected[0]).all()


def test_liqe_labels_that_there_are_not():
  with pytest.raises(UserError, match="'published' or 'fixed'"):
    liqe_labels.image_labels("kadid10k", "better")
  with pytest.raises(UserError, match="no scene and distortion labels"):
    liqe_labels.image_labels("tid2013")


def test_impossible_splits_are_refused_before_data_are_opened():
  splits.check_protocol("koniq10k/512x384", "liqe")
  splits.check_protocol("anything", "official", ())
  with pytest.raises(UserError, match="known: official, liqe, arniqa, folds"):
    splits.check_protocol("koniq10k", "random")
  for name in ("tid2013", "flive/patches"):
    with pytest.raises(UserError, match=f"{name} has no liqe splits; it has: "):
      splits.check_protocol(name, "liqe")
  for fractions in ((0.5, 0.5), (0.9, 0.2, -0.1), (0, 0, 0), (float("nan"), 1, 1), (float("inf"), 1, 1)):
    with pytest.raises(UserError, match="the fractions are"):
      splits.check_protocol("koniq10k", "folds", fractions)
