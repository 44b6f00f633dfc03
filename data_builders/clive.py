"""LIVE In the Wild Image Quality Challenge (CLIVE): 1,162 photographs with authentic distortions."""

import pandas as pd

from data_builders import base, label_files, prepare
from data_builders.folders import find
from jiqa.errors import UserError

# The first entries of the label files are the images that trained the observers; they lie in a folder of their own.
TRAINING_IMAGES = tuple(f"t{i}.bmp" for i in range(1, 8))


class Builder(base.Builder):
  """LIVE Challenge. The first seven of 1,169 entries, t1.bmp..t7.bmp, trained the observers and are left out."""

  TITLE = "1,162 photographs of mobile cameras, authentic distortions, crowd scores"
  KIND = "authentic"
  PAGE = "https://live.ece.utexas.edu/research/ChallengeDB/index.html"
  MANUAL = (
    "Ask for the password on the download page and unpack ChallengeDB_release.zip; --manual-dir holds "
    "ChallengeDB_release/ with Images/ and Data/ (AllImages_release.mat, AllMOS_release.mat, AllStdDev_release.mat)."
  )
  LICENCE = "University of Texas at Austin: free use with notice and citation."
  CITATION = "Ghadiyaram, Bovik. Massive online crowdsourced study of image quality. IEEE TIP 25(1), 2016."
  SCORE = "mean opinion score, 0..100, higher is better"
  RAW_RANGE = (0.0, 100.0)
  STD_MAX = 40.0
  IMAGES = 1_162
  MEAN = 55.40
  TOP = ("ChallengeDB_release",)
  MARKS = ("Images", "Data/AllImages_release.mat", "Data/AllMOS_release.mat", "Data/AllStdDev_release.mat")

  def labels(self, root):
    (names,) = label_files.read_mat(find(root, "Data/AllImages_release.mat"), ("AllImages_release",))
    (scores,) = label_files.read_mat(find(root, "Data/AllMOS_release.mat"), ("AllMOS_release",))
    (deviations,) = label_files.read_mat(find(root, "Data/AllStdDev_release.mat"), ("AllStdDev_release",))
    if not len(names) == len(scores) == len(deviations):
      raise UserError(f"{root / 'Data'}: {len(names)} names, {len(scores)} scores and {len(deviations)} deviations.")
    first = tuple(names[: len(TRAINING_IMAGES)])
    if first != TRAINING_IMAGES:
      raise UserError(
        f"{root / 'Data/AllImages_release.mat'}: the first entries are {', '.join(first)}, not the training images "
        f"{TRAINING_IMAGES[0]}..{TRAINING_IMAGES[-1]}; is this the official file?"
      )
    records = []
    for i in range(len(TRAINING_IMAGES), len(names)):
      where = f"AllImages_release.mat entry {i + 1}"
      records.append(
        {
          "image_name": f"Images/{names[i]}",
          "raw_score": label_files.number(scores[i], where, "score"),
          "mos_std": label_files.number(deviations[i], where, "deviation"),
          "where": where,
        }
      )
    return pd.DataFrame(records)


if __name__ == "__main__":
  prepare.main("clive")
