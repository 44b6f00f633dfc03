"""LIVE release 2: 29 photographs, five distortions, 779 distorted images."""

import re

import numpy as np
import pandas as pd

from data_builders import base, label_files, prepare
from data_builders.folders import find
from jiqa.errors import UserError

# Folder -> distortion, and how many files it has in the release; the label files run through them in this order.
FOLDERS = {
  "jp2k": ("jpeg2000 compression", 227),
  "jpeg": ("jpeg compression", 233),
  "wn": ("white noise", 174),
  "gblur": ("gaussian blur", 174),
  "fastfading": ("fastfading", 174),
}


class Builder(base.Builder):
  """LIVE, realigned scores. Of the 982 files 203 are undistorted copies (`orgs` is 1, score and deviation 0) and are
  left out. Scores may be slightly negative; the older dmos.mat is on another scale and is not read."""

  TITLE = "779 distorted images of 29 photographs: JPEG 2000, JPEG, white noise, Gaussian blur, fast fading"
  KIND = "synthetic"
  PAGE = "https://live.ece.utexas.edu/research/quality/subjective.htm"
  MANUAL = (
    "Ask for the password on the download page and unpack databaserelease2.zip; --manual-dir holds databaserelease2/ "
    "with jp2k/, jpeg/, wn/, gblur/, fastfading/, dmos_realigned.mat and refnames_all.mat."
  )
  LICENCE = (
    "University of Texas at Austin: free use with notice and citation; nine photographs of the Austin and Vicinity CD "
    "may not be used outside the database."
  )
  CITATION = "Sheikh, Sabir, Bovik. A statistical evaluation of recent full reference IQA algorithms. IEEE TIP, 2006."
  SCORE = "realigned difference mean opinion score, lower is better"
  UNIT = "DMOS"
  DIRECTION = "lower"
  RAW_RANGE = (-3.0, 112.0)
  FLIP = 111.77469352631448  # the largest score, so that the worst image has mos 0
  STD_MAX = 6.0
  IMAGES = 779
  REFERENCES = 29
  MEAN = 63.19
  TOP = ("databaserelease2",)
  MARKS = (*FOLDERS, "dmos_realigned.mat", "refnames_all.mat")

  def labels(self, root):
    path = find(root, "dmos_realigned.mat")
    dmos, deviation, originals = label_files.read_mat(path, ("dmos_new", "dmos_std", "orgs"))
    (references,) = label_files.read_mat(find(root, "refnames_all.mat"), ("refnames_all",))
    files = _files(root, len(dmos), path)
    if len(deviation) != len(dmos):
      raise UserError(f"{path}: {len(dmos)} scores in dmos_new but {len(deviation)} in dmos_std.")
    original = (dmos == 0) & (deviation == 0)
    if len(originals) == len(dmos) and (original != (originals == 1)).any():
      i = int(np.flatnonzero(original != (originals == 1))[0])
      raise UserError(f"{path}: entry {i + 1} ({files[i][0]}) has orgs {originals[i]} but the score {dmos[i]}.")
    if len(references) == np.sum(~original):
      # Copies of the file are about that leave the originals out and go through each folder in alphabetical order.
      distorted = np.flatnonzero(~original)
      complete = np.full(len(dmos), "", dtype=object)
      complete[sorted(distorted, key=lambda i: (list(FOLDERS).index(files[i][0].partition("/")[0]), files[i][0]))] = (
        references
      )
      references = complete
    if len(references) != len(dmos):
      raise UserError(
        f"{root}: {len(references)} names in refnames_all.mat for {len(dmos)} scores in dmos_realigned.mat."
      )
    return pd.DataFrame(
      [
        {
          "image_name": name,
          "reference_name": references[i].rpartition(".")[0],
          "raw_score": label_files.number(dmos[i], f"{path.name} entry {i + 1}", "score dmos_new"),
          "mos_std": label_files.number(deviation[i], f"{path.name} entry {i + 1}", "deviation dmos_std"),
          "distortion": distortion,
          "where": f"{path.name} entry {i + 1}",
        }
        for i, (name, distortion) in enumerate(files)
        if not original[i]
      ]
    )


def _files(root, count, path):
  """[(image name, distortion)] of all files, originals included, in the order of the label files."""
  lengths = {folder: published for folder, (_, published) in FOLDERS.items()}
  if count != sum(lengths.values()):
    lengths = {
      folder: sum(re.fullmatch(r"img\d+\.bmp", file.name.lower()) is not None for file in find(root, folder).iterdir())
      for folder in FOLDERS
    }
  if count != sum(lengths.values()):
    raise UserError(f"{path}: {count} scores for {sum(lengths.values())} files img1.bmp, img2.bmp, ... in {lengths}.")
  return [
    (f"{folder}/img{i}.bmp", distortion)
    for folder, (distortion, _) in FOLDERS.items()
    for i in range(1, lengths[folder] + 1)
  ]


if __name__ == "__main__":
  prepare.main("live")
