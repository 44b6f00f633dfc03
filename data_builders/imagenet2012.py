"""ImageNet 2012 without its classes: photographs for pretraining."""

import pandas as pd

from data_builders import base, prepare
from data_builders.folders import find


class Builder(base.Builder):
  """ImageNet, ILSVRC 2012: images only, in the official parts. A few files are PNG or CMYK whatever their name
  says; the decoder takes them as they are."""

  TITLE = "1,331,167 photographs, without scores"
  KIND = "unlabelled"
  PAGE = "https://image-net.org/download-images"
  MANUAL = (
    "Unpack ILSVRC2012_img_train.tar and the 1,000 archives in it, and ILSVRC2012_img_val.tar; --manual-dir holds "
    "train/ with a folder a class, and, if wanted, val/."
  )
  LICENCE = "ImageNet terms of access: research and education, not commercial."
  CITATION = "Russakovsky et al. ImageNet large scale visual recognition challenge. IJCV 115(3), 2015."
  OFFICIAL_SPLIT = True
  TOP = ("ILSVRC2012", "imagenet2012", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
  MARKS = ("train",)

  def labels(self, root):
    names, splits = [], []
    for part, split in (("train", "train"), ("val", "validation")):
      folder = find(root, part)
      files = sorted(folder.rglob("*.[jJ][pP]*[gG]")) if folder is not None else ()
      names += [file.relative_to(root).as_posix() for file in files]
      splits += [split] * len(files)
    return pd.DataFrame({"image_name": names, "split": splits, "where": names})


if __name__ == "__main__":
  prepare.main("imagenet2012")
