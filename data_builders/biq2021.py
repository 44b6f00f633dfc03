"""BIQ2021: 12,000 photographs with authentic and re-introduced distortions, scored in the lab by 30 observers."""

import pandas as pd

from data_builders import base, label_files, prepare
from data_builders.folders import find

LABEL_FILES = {"train": "Train (Images and MOS).csv", "test": "Test (Images and MOS).csv"}


class Builder(base.Builder):
  """BIQ2021; the official train and test parts; quirks: label and file may differ in case (.jpg, .JPG), the label
  files have empty trailing columns, a few files are MPO or not 512x512. There are no usable standard deviations."""

  TITLE = "12,000 photographs, authentic distortions, lab scores of 30 observers each"
  KIND = "authentic"
  PAGE = "https://github.com/nisarahmedrana/BIQ2021"
  MANUAL = (
    "Clone or unpack the repository, so that --manual-dir holds Images/ (12,000 files), "
    "'Train (Images and MOS).csv' and 'Test (Images and MOS).csv'."
  )
  LICENCE = "No licence file; the authors offer it for research use and benchmarking."
  CITATION = (
    "Ahmed, Asif. BIQ2021: a large-scale blind image quality assessment database. J. Electronic Imaging 31(5), 2022."
  )
  SCORE = "mean opinion score, 0..1, higher is better"
  RAW_RANGE = (0.0, 1.0)
  IMAGES = 12_000
  MEAN = 0.6435
  OFFICIAL_SPLIT = True
  TOP = ("BIQ2021", "BIQ2021-main", "BIQ2021-master")
  MARKS = ("Images", *LABEL_FILES.values())

  @staticmethod
  def domain(image_name):
    """Which of the three collections a photograph is from: "ss01", "ss02" or "ss03".

    Example:
      >>> Builder.domain("Images/ss02 (17).jpg")
      'ss02'
    """
    return image_name.rpartition("/")[2].partition(" ")[0].lower()

  def labels(self, root):
    records = []
    for split, file in LABEL_FILES.items():
      for row in label_files.read_csv(find(root, file), ("Image Name", "MOS")):
        records.append(
          {
            "image_name": f"Images/{row['Image Name']}",
            "raw_score": row.number("MOS"),
            "split": split,
            "where": row.where,
          }
        )
    return pd.DataFrame(records)


if __name__ == "__main__":
  prepare.main("biq2021")
