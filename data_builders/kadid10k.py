"""KADID-10k: 81 photographs, 25 distortions, 5 levels, 10,125 distorted images."""

import re

import numpy as np
import pandas as pd

from data_builders import base, label_files, prepare
from data_builders.folders import find
from jiqa.errors import UserError

DISTORTIONS = (
  "gaussian blur", "lens blur", "motion blur", "color diffusion", "color shift", "color quantization",
  "color saturation 1", "color saturation 2", "jpeg2000 compression", "jpeg compression", "white noise",
  "white noise in color component", "impulse noise", "multiplicative noise", "denoise", "brighten", "darken",
  "mean shift", "jitter", "non-eccentricity patch", "pixelate", "quantization", "color block", "high sharpen",
  "contrast change",
)  # fmt: skip


class Builder(base.Builder):
  """KADID-10k. The column `dmos` is a mean opinion score, higher is better, and `var` a variance. The level is no
  severity for mean shift and contrast change, which are signed around the middle level."""

  TITLE = "10,125 distorted images of 81 photographs, 25 distortions at 5 levels, crowd scores"
  KIND = "synthetic"
  PAGE = "https://database.mmsp-kn.de/kadid-10k-database.html"
  MANUAL = "Unpack kadid10k.zip; --manual-dir holds kadid10k/ with images/ (10,206 files) and dmos.csv."
  LICENCE = "Photographs of Pixabay; free for research, with citation."
  CITATION = "Lin, Hosu, Saupe. KADID-10k: a large-scale artificially distorted IQA database. QoMEX, 2019."
  SCORE = "mean opinion score, 1..5, higher is better although the column is called dmos"
  RAW_RANGE = (1.0, 5.0)
  STD_MAX = 2.0
  IMAGES = 10_125
  REFERENCES = 81
  MEAN = 3.033
  TOP = ("kadid10k",)
  MARKS = ("images", "dmos.csv")

  def labels(self, root):
    records = []
    columns = ("dist_img", "ref_img", "dmos", "var")
    for row in label_files.read_csv(find(root, "dmos.csv"), columns):
      name = re.fullmatch(r"i\d\d_(\d\d)_0([1-5])\.png", row["dist_img"].lower())
      if name is None or not 1 <= int(name[1]) <= len(DISTORTIONS):
        raise UserError(f"{row.where}: dist_img is {row['dist_img']!r}, expected a name such as I01_25_05.png.")
      variance = row.number("var")
      if variance < 0:
        raise UserError(f"{row.where}: the variance var is {variance}.")
      records.append(
        {
          "image_name": f"images/{row['dist_img']}",
          "reference_name": row["ref_img"].rpartition(".")[0],
          "raw_score": row.number("dmos"),
          "mos_std": float(np.sqrt(variance)),
          "distortion": DISTORTIONS[int(name[1]) - 1],
          "level": int(name[2]) - 1,
          "where": row.where,
        }
      )
    return pd.DataFrame(records)


if __name__ == "__main__":
  prepare.main("kadid10k")
