"""The scene and distortion labels that were published with LIQE (Zhang et al., CVPR 2023), for its six databases."""

import numpy as np

from jiqa.data.schema import tables
from jiqa.errors import UserError

SCENES = ("animal", "cityscape", "human", "indoor", "landscape", "night", "plant", "still_life", "others")
DISTORTIONS = (
  "jpeg2000 compression", "jpeg compression", "noise", "blur", "color", "contrast", "overexposure", "underexposure",
  "spatial", "quantization", "other",
)  # fmt: skip
# The distortion names of the label files, by the class that stands for them in the prompts.
FINE = {
  "jpeg2000 compression": ("jpeg2000 compression", "fastfading"),
  "jpeg compression": ("jpeg compression",),
  "noise": (
    "white noise", "fnoise", "white with color", "impulse", "multiplicative", "white noise with denoise",
    "realistic noise",
  ),
  "blur": ("gaussian blur", "lens", "motion", "shifting", "realistic blur"),
  "color": ("diffusion", "oversaturation", "desaturation", "color shift"),
  "contrast": ("contrast", "sharpness", "realistic contrast change"),
  "overexposure": ("brighten", "overexposure"),
  "underexposure": ("darken", "underexposure"),
  "spatial": ("jitter", "noneccentricity patch", "pixelate", "color blocking"),
  "quantization": ("color quantization", "quantization"),
  "other": ("shifting the mean", "other realistic"),
}  # fmt: skip
COARSE = {fine: coarse for coarse, names in FINE.items() for fine in names}
# Defects of the published labels: (database, start of the file name) -> published name -> the distortion that is there.
#  - all of LIVE's fastfading folder is called white noise;
#  - KADID-10k type 05 is a shift of the colour channels, but its name stands for a blur;
#  - KADID-10k types 07 and 08 have each other's name: 08 at its first level leaves the saturation as it is.
FIXES = {
  ("live", "fastfading/"): {"white noise": "fastfading"},
  ("kadid10k", "images/"): {
    "shifting": "color shift", "oversaturation": "desaturation", "desaturation": "oversaturation",
  },
}  # fmt: skip


def liqe_labels(table, name, labels="published"):
  """Scene and distortion labels of a database's images; table and name as for `assign`.

  Args:
    labels: "published", or "fixed" to correct the defects listed above.

  Returns:
    (scenes, distortions, fine): [n, 9] bool over SCENES, one to three true in a row; [n] int index into DISTORTIONS;
    [n] list of the names in the label files.

  Raises:
    UserError: no labels were published for this database, or not for one of the images.
  """
  database = name.partition("/")[0]
  if not tables.path("liqe", database).exists():
    raise UserError(f"LIQE published no scene and distortion labels for {name}.")
  if labels not in ("published", "fixed"):
    raise UserError(f"labels must be 'published' or 'fixed', not {labels!r}.")
  rows = tables.rows("liqe", database, table.image_name.tolist())
  fine = rows.distortion.tolist()
  if labels == "fixed":
    fine = [_fixed(database, image, label) for image, label in zip(table.image_name, fine, strict=True)]
  scenes = np.zeros((len(rows), len(SCENES)), bool)
  for column in ("scene_1", "scene_2", "scene_3"):
    named = (rows[column] != "").to_numpy()
    scenes[np.flatnonzero(named), [SCENES.index(scene) for scene in rows[column][named]]] = True
  return scenes, np.array([DISTORTIONS.index(COARSE[label]) for label in fine]), fine


def _fixed(database, image_name, label):
  for (known, start), names in FIXES.items():
    if database == known and tables.key(image_name).startswith(start):
      return names.get(label, label)
  return label
