"""Any folder of images, unlabelled: for pretraining and for scoring. Each prepared folder has a name of its own."""

import os
import pathlib

import pandas as pd

from data_builders import base, prepare

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


class Builder(base.Builder):
  """All images below `--manual-dir`, by extension whatever its case; files that are no image are left out, listed."""

  TITLE = "a folder of images, without scores"
  KIND = "unlabelled"
  MANUAL = f"--manual-dir is any folder; every file below it that ends in {', '.join(sorted(EXTENSIONS))} is taken."
  LICENCE = "As the images'."
  USER_NAMED = True
  SKIPS_DAMAGED = True

  def labels(self, root):
    names = []
    for folder, _, files in os.walk(root):
      below = "" if folder == str(root) else pathlib.Path(folder).relative_to(root).as_posix() + "/"
      names += [below + file for file in files if os.path.splitext(file)[1].lower() in EXTENSIONS]
    return pd.DataFrame({"image_name": names, "where": names})


if __name__ == "__main__":
  prepare.main("image_folder")
