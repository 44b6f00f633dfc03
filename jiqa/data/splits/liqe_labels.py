"""The scene and distortion labels that were published with LIQE (Zhang et al., CVPR 2023), for its six databases."""

import functools

from jiqa.data.schema import tables
from jiqa.errors import UserError

SCENES = ("animal", "cityscape", "human", "indoor", "landscape", "night", "plant", "still_life", "others")
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
DISTORTIONS = tuple(FINE)
COARSE = {fine: coarse for coarse, names in FINE.items() for fine in names}
# Defects of the published labels: database -> (start of image names, published name -> the distortion that is there).
#  - all of LIVE's fastfading folder is called white noise;
#  - KADID-10k type 05 is a shift of the colour channels, but its name stands for a blur.
# KADID-10k types 07 and 08 have each other's name, too: 08 at its first level leaves the saturation as it is. Both are
# of one class.
FIXES = {"live": ("fastfading/", {"white noise": "fastfading"}), "kadid10k": ("images/", {"shifting": "color shift"})}


@functools.cache
def image_labels(database, labels="published"):
  """Labels of all images of a database: dict from `tables.key` to ([9] bool over SCENES, index into DISTORTIONS).

  One to three scenes are true. labels "fixed" correct the defects listed above. A UserError where LIQE published none.
  """
  if not tables.path("liqe", database).exists():
    raise UserError(f"LIQE published no scene and distortion labels for {database}.")
  if labels not in ("published", "fixed"):
    raise UserError(f"labels must be 'published' or 'fixed', not {labels!r}.")
  start, fixes = FIXES.get(database, ("", {})) if labels == "fixed" else ("", {})
  rows = tables.read("liqe", database)
  scenes = (rows[["scene_1", "scene_2", "scene_3"]].to_numpy(str)[:, :, None] == SCENES).any(1)
  names = [fixes.get(name, name) if image.startswith(start) else name for image, name in rows.distortion.items()]
  classes = [DISTORTIONS.index(COARSE[name]) for name in names]
  return dict(zip(rows.index, zip(scenes, classes, strict=True), strict=True))
