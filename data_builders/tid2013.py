"""TID2013: 25 references, 24 distortions, 5 levels, 3,000 distorted images."""

import re

import pandas as pd

from data_builders import base, label_files, prepare
from data_builders.folders import find
from jiqa.errors import UserError

DISTORTIONS = (
  "additive gaussian noise", "noise in color components", "spatially correlated noise", "masked noise",
  "high frequency noise", "impulse noise", "quantization noise", "gaussian blur", "denoising", "jpeg compression",
  "jpeg2000 compression", "jpeg transmission errors", "jpeg2000 transmission errors", "non eccentricity pattern",
  "local block-wise distortions", "mean shift", "contrast", "saturation", "multiplicative gaussian noise",
  "comfort noise", "lossy compression of noisy images", "color quantization with dither", "chromatic aberrations",
  "sparse sampling",
)  # fmt: skip


class Builder(base.Builder):
  """TID2013. The label file spells file names in another case than the disk (I01_01_1.bmp, I01_11_1.BMP). The level is
  no severity for non-eccentricity patterns, block-wise distortions (where it is reversed) and contrast (signed)."""

  TITLE = "3,000 distorted images of 25 references, 24 distortions at 5 levels"
  KIND = "synthetic"
  PAGE = "https://www.ponomarenko.info/tid2013.htm"
  MANUAL = "Unpack tid2013.rar; --manual-dir holds distorted_images/ (3,000 files), mos_with_names.txt and mos_std.txt."
  LICENCE = "Free for research, with citation."
  CITATION = "Ponomarenko et al. Image database TID2013. Signal Processing: Image Communication 30, 2015."
  SCORE = "mean opinion score, 0..9, higher is better"
  RAW_RANGE = (0.0, 9.0)
  STD_MAX = 0.35
  IMAGES = 3_000
  REFERENCES = 25
  MEAN = 4.475
  TOP = ("tid2013", "TID2013")
  MARKS = ("distorted_images", "mos_with_names.txt", "mos_std.txt")

  def labels(self, root):
    path = find(root, "mos_with_names.txt")
    lines = label_files.read_lines(path)
    deviations = label_files.read_lines(find(root, "mos_std.txt"))
    if len(lines) != len(deviations):
      raise UserError(f"{root}: {len(lines)} scores in mos_with_names.txt but {len(deviations)} in mos_std.txt.")
    records = []
    for (line, where), (deviation, deviation_where) in zip(lines, deviations, strict=True):
      cells = line.split()
      name = re.fullmatch(r"i(\d\d)_(\d\d)_([1-5])\.bmp", cells[-1].lower())
      if len(cells) != 2 or name is None or not 1 <= int(name[2]) <= len(DISTORTIONS):
        raise UserError(f"{where}: {' '.join(cells)!r}, expected a score and a name such as i01_24_5.bmp.")
      records.append(
        {
          "image_name": f"distorted_images/{cells[1]}",
          "reference_name": f"I{name[1]}",
          "raw_score": label_files.number(cells[0], where, "score"),
          "mos_std": label_files.number(deviation.split()[0], deviation_where, "deviation"),
          "distortion": DISTORTIONS[int(name[2]) - 1],
          "level": int(name[3]) - 1,
          "where": where,
        }
      )
    return pd.DataFrame(records)


if __name__ == "__main__":
  prepare.main("tid2013")
