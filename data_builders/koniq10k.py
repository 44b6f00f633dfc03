"""KonIQ-10k: 10,073 photographs of the wild, at 1024x768 and at 512x384."""

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds

from data_builders import base, label_files, prepare
from data_builders.folders import find
from jiqa.errors import UserError

SETS_FILE = "koniq10k_distributions_sets.csv"
GRADES = ("c1", "c2", "c3", "c4", "c5")
PARTS = {"training": "train", "validation": "validation", "test": "test"}
# Every official score is this near to 25 (mos - 1); further away, something is swapped.
SCALES_AGREE = 15


class Builder(base.Builder):
  """KonIQ-10k with its official parts. Its label file mixes two scales: `MOS` is a z-score rescaled to 0..100 and is
  kept as raw_score; `SD` belongs to the opinion scale 1..5, and so does mos, the mean of the grade distribution c1..c5,
  which is also what LIQE trains on."""

  TITLE = "10,073 photographs, authentic distortions, crowd scores"
  KIND = "authentic"
  PAGE = "https://database.mmsp-kn.de/koniq-10k-database.html"
  MANUAL = (
    "Unpack koniq10k_1024x768.zip or koniq10k_512x384.zip and put koniq10k_distributions_sets.csv (from the folder "
    "metadata of https://github.com/subpic/koniq) beside it; --manual-dir holds 1024x768/ or 512x384/ and that file."
  )
  LICENCE = "CC BY, photographs of YFCC100M."
  CITATION = "Hosu, Lin, Sziranyi, Saupe. KonIQ-10k. IEEE TIP 29, 2020."
  SCORE = "raw_score: z-scored mean opinion, 0..100; mos and mos_std: mean and deviation of the grades 1..5"
  RAW_RANGE = (0.0, 100.0)
  MOS_RANGE = (1.0, 5.0)
  STD_MAX = 2.0
  IMAGES = 10_073
  MEAN = 3.162
  BUILDER_CONFIGS = (
    tfds.core.BuilderConfig(name="1024x768", description="as scored"),
    tfds.core.BuilderConfig(name="512x384", description="half the size"),
  )
  OFFICIAL_SPLIT = True
  LABEL_SHA256 = ((SETS_FILE, "d0bd1ad54a60bc36fe172049e46ac76c83554e50ab84acebfd47b82b3e698a0a"),)
  TOP = ("koniq10k", "koniq-10k", "KonIQ-10k")

  @property
  def MARKS(self):
    return (self.builder_config.name, SETS_FILE)

  def labels(self, root):
    records = []
    columns = ("image_name", *GRADES, "MOS", "SD", "set")
    for row in label_files.read_csv(find(root, SETS_FILE), columns):
      grades = np.array([row.number(grade) for grade in GRADES])
      if row["set"] not in PARTS or grades.min() < 0 or grades.sum() <= 0:
        raise UserError(f"{row.where}: set {row['set']!r}, shares {grades.tolist()}; expected {', '.join(PARTS)}.")
      score, mos = row.number("MOS"), float(grades @ np.arange(1, 6) / grades.sum())
      if abs(score - 25 * (mos - 1)) > SCALES_AGREE:
        raise UserError(f"{row.where}: the score MOS is {score} but the mean grade {mos:.3f}; are columns swapped?")
      records.append(
        {
          "image_name": f"{self.builder_config.name}/{row['image_name']}",
          "raw_score": score,
          "mos": mos,
          "mos_std": row.number("SD"),
          "split": PARTS[row["set"]],
          "where": row.where,
        }
      )
    return pd.DataFrame(records)


if __name__ == "__main__":
  prepare.main("koniq10k")
