"""CSIQ: 30 photographs, six distortions, 866 distorted images."""

import pandas as pd

from data_builders import base, label_files, prepare
from data_builders.folders import find
from jiqa.errors import UserError

# dst_idx -> folder, part of the file name, distortion. The label file's own dst_type is spelled in several ways.
TYPES = {
  1: ("awgn", "AWGN", "white noise"),
  2: ("jpeg", "JPEG", "jpeg compression"),
  3: ("jpeg2000", "jpeg2000", "jpeg2000 compression"),
  4: ("fnoise", "fnoise", "pink noise"),
  5: ("blur", "BLUR", "gaussian blur"),
  6: ("contrast", "contrast", "contrast"),
}
COLUMNS = ("image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos")


class Builder(base.Builder):
  """CSIQ. The deviation stands before the score; image 1600 is a number to Excel; folders and file names differ in
  case; contrast has no fifth level and only 26 images at the fourth."""

  TITLE = "866 distorted images of 30 photographs: noise, JPEG, JPEG 2000, pink noise, blur, contrast"
  KIND = "synthetic"
  PAGE = "https://s2.smu.edu/~eclarson/csiq.html"
  MANUAL = (
    "Unpack dst_imgs.zip (and src_imgs.zip) and put csiq.DMOS.xlsx beside them; --manual-dir holds dst_imgs/ with "
    "awgn/, jpeg/, jpeg2000/, fnoise/, blur/, contrast/, and csiq.DMOS.xlsx."
  )
  LICENCE = "Not stated; used in research."
  CITATION = "Larson, Chandler. Most apparent distortion. J. Electronic Imaging 19(1), 2010."
  SCORE = "difference mean opinion score, 0..1, lower is better"
  UNIT = "DMOS"
  DIRECTION = "lower"
  RAW_RANGE = (0.0, 1.0)
  FLIP = 1.0
  STD_MAX = 0.4
  IMAGES = 866
  REFERENCES = 30
  MEAN = 0.6493
  LABEL_SHA256 = (("csiq.beta.xlsx", "5a6da338767d79a6887c93fc8dc1a174c530e51db655a5a1f8400afe68d60c50"),)
  TOP = ("CSIQ",)
  MARKS = ("dst_imgs", ("csiq.DMOS.xlsx", "csiq.beta.xlsx"))

  def labels(self, root):
    path = find(root, "csiq.DMOS.xlsx") or find(root, "csiq.beta.xlsx")
    records = []
    for row in label_files.read_sheet(path, "all_by_image", COLUMNS):
      kind, level = int(row.number("dst_idx")), int(row.number("dst_lev"))
      if kind not in TYPES or level not in range(1, 6):
        raise UserError(f"{row.where}: dst_idx {kind} and dst_lev {level}, expected 1..6 and 1..5.")
      folder, infix, distortion = TYPES[kind]
      image = row["image"]
      image = str(int(image)) if isinstance(image, int | float) else str(image).strip()
      records.append(
        {
          "image_name": f"dst_imgs/{folder}/{image}.{infix}.{level}.png",
          "reference_name": image,
          "raw_score": row.number("dmos"),
          "mos_std": row.number("dmos_std"),
          "distortion": distortion,
          "level": level - 1,
          "where": row.where,
        }
      )
    return pd.DataFrame(records)


if __name__ == "__main__":
  prepare.main("csiq")
