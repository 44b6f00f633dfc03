"""What LIQE learns besides quality: which scenes an image shows, and which distortion dominates it."""

import numpy as np

from jiqa.data.splits import tables
from jiqa.data.splits.liqe_labels import COARSE, DISTORTIONS, SCENES, image_labels
from jiqa.errors import UserError

# What the photographs of the demo set show, in the words of the prompts; close-ups of textures and images of science
# are, or are also, "others".
DEMO_SCENES = {
  "astronaut": ("human",), "brick": ("others",), "camera": ("human",), "chelsea": ("animal",),
  "china": ("cityscape",), "coffee": ("still_life",), "coins": ("still_life",), "flower": ("plant",),
  "grass": ("plant", "others"), "gravel": ("others",), "hubble": ("night", "others"),
  "immunohistochemistry": ("others",),
  "motorcycle": ("still_life", "indoor"), "retina": ("others",), "rocket": ("landscape",),
}  # fmt: skip


def has_labels(database):
  """Whether a database has labels of scene and distortion: LIQE's six, and the demo set."""
  return database == "demo" or tables.path("liqe", database.partition("/")[0]).exists()


def task_labels(record, labels="published"):
  """The labels of one image: ([9] bool over SCENES, index into DISTORTIONS).

  Of the record its database, image_name and distortion count; labels "fixed" correct the published defects, see
  `liqe_labels.FIXES`. A UserError where the database, or the image, has no labels.
  """
  database, image = record["database"], record["image_name"]
  if database == "demo":
    scenes = np.isin(SCENES, DEMO_SCENES[image.partition("/")[0]])
    return scenes, DISTORTIONS.index(COARSE.get(record["distortion"], "other"))
  if not has_labels(database):
    raise UserError(
      f"{database}: has no labels of scene and distortion; train on quality alone with a config.prompt without "
      "{scene} and {distortion}, such as configs/liqe.py:single"
    )
  of_images = image_labels(database.partition("/")[0], labels)
  if tables.key(image) not in of_images:
    raise UserError(f"{database}: LIQE published no labels of scene and distortion for the image {image}")
  return of_images[tables.key(image)]
