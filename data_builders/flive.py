"""FLIVE (PaQ-2-PiQ): 39,810 photographs and 119,430 patches of them."""

import re

import pandas as pd
import tensorflow_datasets as tfds

from data_builders import base, label_files, prepare
from data_builders.folders import find
from jiqa.data.schema import tables

LABEL_FILES = {"images": "labels_image.csv", "patches": "labels_patch.csv"}
TEST_FILE = "labels640.csv"
VALIDATION_FILE = "labels=640_padded.csv"


class Builder(base.Builder):
  """FLIVE with its official parts: test is labels640.csv, validation the valid rows of labels=640_padded.csv, training
  the rest. Where the second file is missing, the published table of the same parts is used. A patch is in the part of
  its image, and has that image as its reference."""

  TITLE = "39,810 photographs and 119,430 patches, authentic distortions, crowd scores"
  KIND = "authentic"
  PAGE = "https://github.com/niu-haoran/FLIVE_Database"
  MANUAL = (
    "Assemble the database with the authors' script; --manual-dir holds database/ (voc_emotic_ava/, blur_dataset/, "
    "EE371R/, patches/), labels_image.csv, labels_patch.csv, labels640.csv and, if at hand, labels=640_padded.csv."
  )
  LICENCE = "CC BY-NC-SA 4.0; the photographs' own terms (VOC, EMOTIC, AVA) apply."
  CITATION = (
    "Ying et al. From patches to images (PaQ-2-PiQ): mapping the perceptual space of image quality. CVPR, 2020."
  )
  SCORE = "mean opinion score, 0..100, higher is better"
  RAW_RANGE = (0.0, 100.0)
  BUILDER_CONFIGS = (
    tfds.core.BuilderConfig(name="images", description="whole photographs"),
    tfds.core.BuilderConfig(name="patches", description="three patches of each photograph"),
  )
  OFFICIAL_SPLIT = True
  LABEL_SHA256 = (
    (LABEL_FILES["images"], "667a9de3ba2633bf57c7c10f9649fd0363b6dc9b9aa34255100f1ac60b57adec"),
    (TEST_FILE, "63633696cbc425d1da4f81621797ba4410bdeb3ea02d84c83c76a4a46efcd0fb"),
  )
  TOP = ("FLIVE", "FLIVE_Database", "PaQ-2-PiQ")

  @property
  def MARKS(self):
    return ("database", _beside(LABEL_FILES[self.builder_config.name]), _beside(TEST_FILE))

  @property
  def IMAGES(self):
    return {"images": 39_810, "patches": 119_430}[self.builder_config.name]

  @property
  def MEAN(self):
    return {"images": 72.13, "patches": None}[self.builder_config.name]

  def labels(self, root):
    rows = label_files.read_csv(_label_file(root, LABEL_FILES[self.builder_config.name]), ("name", "mos"))
    patches = self.builder_config.name == "patches"
    parents = [_parent(row["name"]) if patches else _stem(row["name"]) for row in rows]
    parts = _parts(root)
    return pd.DataFrame(
      {
        "image_name": [f"database/{_patch_path(row['name']) if patches else row['name']}" for row in rows],
        "reference_name": parents if patches else "",
        "raw_score": [row.number("mos") for row in rows],
        "split": [parts.get(parent, "train") for parent in parents],
        "where": [row.where for row in rows],
      }
    )


def _beside(name):
  """A label file lies beside database/ or in it."""
  return (name, f"database/{name}")


def _label_file(root, name):
  return next((path for place in _beside(name) if (path := find(root, place)) is not None), None)


def _stem(name):
  return name.rpartition("/")[2].rpartition(".")[0].casefold()


def _parent(patch_name):
  """The stem of the photograph that a patch was cut from."""
  return re.sub(r"_patch_\d$", "", _stem(patch_name))


def _patch_path(name):
  return name if "/" in name else f"patches/{name}"


def _parts(root):
  """Stem of a photograph -> "test", "validation", or "" where the published parts leave it out; the rest trains."""
  test_rows = label_files.read_csv(_label_file(root, TEST_FILE), ("name_image",))
  path, published = _label_file(root, VALIDATION_FILE), tables.read("arniqa", "flive")
  stems = {part: [_stem(name) for name in published.index[published.splits == part]] for part in "1-"}
  if path is not None:
    column = "name_image" if "name_image" in label_files.read_text(path).partition("\n")[0] else "name"
    rows = label_files.read_csv(path, (column, "is_valid"))
    parts = {_stem(row[column]): "validation" for row in rows if row["is_valid"].lower() in ("1", "1.0", "true")}
  else:
    parts = dict.fromkeys(stems["1"], "validation")
  return dict.fromkeys(stems["-"], "") | parts | {_stem(row["name_image"]): "test" for row in test_rows}


if __name__ == "__main__":
  prepare.main("flive")
