"""SPAQ: 11,125 smartphone photographs."""

import pandas as pd

from data_builders import base, label_files, prepare
from data_builders.folders import find

LABEL_FILE = "Annotations/MOS and Image attribute scores.xlsx"


class Builder(base.Builder):
  """SPAQ, the full-size photographs; the published protocol scales the shorter side to 512 before scoring."""

  TITLE = "11,125 photographs of 66 smartphones, authentic distortions, lab scores"
  KIND = "authentic"
  PAGE = "https://github.com/h4nwei/SPAQ"
  MANUAL = (
    "Download the database from the links on the page; --manual-dir holds TestImage/ (11,125 files) and Annotations/ "
    "('MOS and Image attribute scores.xlsx'); TestImage/ may lie in Dataset/."
  )
  LICENCE = "For research only."
  CITATION = "Fang, Zhu, Zeng, Ma, Wang. Perceptual quality assessment of smartphone photography. CVPR, 2020."
  SCORE = "mean opinion score, 0..100, higher is better"
  RAW_RANGE = (0.0, 100.0)
  IMAGES = 11_125
  MEAN = 50.32
  SHORTER_SIDE = 512
  TOP = ("SPAQ",)
  MARKS = (("TestImage", "Dataset/TestImage"), LABEL_FILE)

  def labels(self, root):
    rows = label_files.read_sheet(find(root, LABEL_FILE), None, ("Image name", "MOS"))
    return pd.DataFrame(
      {
        "image_name": [f"TestImage/{str(row['Image name']).strip()}" for row in rows],
        "raw_score": [row.number("MOS") for row in rows],
        "where": [row.where for row in rows],
      }
    )

  def image_folder(self, root):
    return root if find(root, "TestImage") is not None else find(root, "Dataset")


if __name__ == "__main__":
  prepare.main("spaq")
