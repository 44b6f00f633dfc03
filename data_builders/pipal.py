"""PIPAL: 200 references, 116 distortions each, among them the outputs of restoration networks."""

import re

import pandas as pd

from data_builders import base, label_files, prepare
from data_builders.folders import find
from jiqa.errors import UserError

# Each distribution of the training images keeps them in folders of another name.
IMAGE_FOLDERS = re.compile(r"train_dist.*|distortion_\d|dist_imgs", re.IGNORECASE)


class Builder(base.Builder):
  """PIPAL's training part, the one with public scores. Scores are Elo ratings: only their order and differences mean
  something. `distortion` is the two-digit group in the file name."""

  TITLE = "23,200 distorted and restored images of 200 references, Elo scores"
  KIND = "restored"
  PAGE = "https://github.com/HaomingCai/PIPAL-dataset"
  MANUAL = (
    "Unpack the NTIRE training archives; --manual-dir holds Train_Label/ (A0001.txt and on) and the images in "
    "Train_Dist*/, Distortion_1/..Distortion_4/ or Dist_Imgs/."
  )
  LICENCE = "For research."
  CITATION = (
    "Gu et al. PIPAL: a large-scale image quality assessment dataset for perceptual image restoration. ECCV, 2020."
  )
  SCORE = "Elo rating, about 900..1850, higher is better"
  UNIT = "Elo rating"
  RAW_RANGE = (900.0, 1850.0)
  IMAGES = 23_200
  REFERENCES = 200
  MEAN = 1449.0
  TOP = ("PIPAL",)
  MARKS = ("Train_Label",)

  def labels(self, root):
    folders = _image_folders(root)
    if not folders:
      raise UserError(f"{root}: no .bmp image in a folder Train_Dist*, Distortion_1.. or Dist_Imgs. {self.MANUAL}")
    records = []
    # Beside every file macOS may have left another, ._A0001.txt, that is no text.
    for path in sorted(find(root, "Train_Label").glob("[!.]*.txt")):
      for line, where in label_files.read_lines(path):
        image, _, score = line.strip().partition(",")
        name = re.fullmatch(r"(a\d{4})_(\d\d)_\d\d\.bmp", image.lower())
        if name is None:
          raise UserError(f"{where}: {line!r}, expected a name such as A0001_00_00.bmp, a comma and a score.")
        records.append(
          {
            "image_name": f"{folders.get(image.lower(), next(iter(folders.values())))}/{image}",
            "reference_name": name[1].upper(),
            "raw_score": label_files.number(score, where, "score"),
            "distortion": name[2],
            "where": where,
          }
        )
    return pd.DataFrame(records)


def _image_folders(root):
  """Lower-case file name -> the folder below `root` that has it."""
  folders = sorted(path for path in root.iterdir() if path.is_dir() and IMAGE_FOLDERS.fullmatch(path.name))
  return {
    file.name.lower(): file.parent.relative_to(root).as_posix()
    for folder in folders
    for file in folder.rglob("*.[bB]*")
  }


if __name__ == "__main__":
  prepare.main("pipal")
