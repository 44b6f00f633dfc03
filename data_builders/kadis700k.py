"""KADIS-700k: 140,000 pristine photographs, for pretraining."""

import pandas as pd

from data_builders import base, prepare
from data_builders.folders import find


class Builder(base.Builder):
  """KADIS-700k's pristine photographs. The release has no distorted images, only the code that makes them; here they
  are made on the accelerator while training."""

  TITLE = "140,000 pristine photographs of 512x384, without scores"
  KIND = "unlabelled"
  PAGE = "https://database.mmsp-kn.de/kadid-10k-database.html"
  MANUAL = "Unpack kadis700k.zip; --manual-dir holds kadis700k/ with ref_imgs/ (140,000 files)."
  LICENCE = "Photographs of Pixabay; free for research, with citation."
  CITATION = "Lin, Hosu, Saupe. DeepFL-IQA: weak supervision for deep IQA feature learning. arXiv:2001.08113, 2020."
  IMAGES = 140_000
  TOP = ("kadis700k",)
  MARKS = ("ref_imgs",)

  def labels(self, root):
    folder = find(root, "ref_imgs")
    names = sorted(f"{folder.name}/{file.name}" for file in folder.iterdir() if file.suffix.lower() == ".png")
    return pd.DataFrame({"image_name": names, "where": names})


if __name__ == "__main__":
  prepare.main("kadis700k")
