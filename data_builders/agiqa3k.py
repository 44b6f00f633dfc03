"""AGIQA-3K: 2,982 images by six text-to-image models."""

import pandas as pd

from data_builders import base, label_files, prepare
from data_builders.folders import find


class Builder(base.Builder):
  """AGIQA-3K. `reference_name` is the prompt, so that images of one prompt never stand on both sides of a split.
  The score is perceived quality; the agreement with the prompt (mos_align) is another column of the label file."""

  TITLE = "2,982 generated images of 300 prompts, six text-to-image models, lab scores of perceived quality"
  KIND = "generated"
  PAGE = "https://github.com/lcysyzxdxc/AGIQA-3k-Database"
  MANUAL = (
    "Unpack AGIQA-3K.zip and put data.csv (from the page) beside the images; --manual-dir holds data.csv and the "
    "2,982 JPEG files, directly or in one folder called AGIQA-3K."
  )
  LICENCE = "MIT."
  CITATION = "Li et al. AGIQA-3K: an open database for AI-generated image quality assessment. IEEE TCSVT, 2023."
  SCORE = "mean opinion score of perceived quality (mos_quality), 0..5, higher is better"
  RAW_RANGE = (0.0, 5.0)
  STD_MAX = 2.5
  IMAGES = 2_982
  REFERENCES = 300
  MEAN = 2.500
  LABEL_SHA256 = (("data.csv", "4b1945c2137e196d9378b9cf4a114de2267b97a4724f0743e260287eb2ddd6c0"),)
  TOP = ("AGIQA-3K",)
  MARKS = ("data.csv",)

  @staticmethod
  def domain(image_name):
    """Which text-to-image model made an image.

    Example:
      >>> Builder.domain("sd1.5_highcorr_000.jpg")
      'sd1.5'
    """
    return image_name.rpartition("/")[2].partition("_")[0]

  def labels(self, root):
    rows = label_files.read_csv(find(root, "data.csv"), ("name", "prompt", "mos_quality", "std_quality"))
    return pd.DataFrame(
      {
        "image_name": [row["name"] for row in rows],
        "reference_name": [row["prompt"] for row in rows],
        "raw_score": [row.number("mos_quality") for row in rows],
        "mos_std": [row.number("std_quality") for row in rows],
        "where": [row.where for row in rows],
      }
    )

  def image_folder(self, root):
    return find(root, "AGIQA-3K") or root


if __name__ == "__main__":
  prepare.main("agiqa3k")
