"""What a protocol shows a method of an image: the whole of it, perhaps resized, or five crops."""

import copy
import functools

import numpy as np
from PIL import Image

CROP = 224  # pixels


def views(network, evaluation, database):
  """A network as a run's evaluation uses it on a database: [Network], or one for each of five crops.

  `evaluation` is config.evaluation (dict or ConfigDict). Both of its keys are as in ARNIQA's code (Agnolucci et al.
  2024): resize, pixels of the shorter side, bicubic (0: as it is; -1: the database's own, as of SPAQ), and five_crops,
  of `CROP` pixels, of all that the method prepares, such as two scales.
  """
  side, crops = evaluation.get("resize", 0), evaluation.get("five_crops", False)
  side = database.shorter_side if side < 0 else side

  def preprocess(number, image):
    inputs = network.method.preprocess_eval(_resized(image, side) if side else image)
    return {name: _crop(view, number) for name, view in inputs.items()} if crops else inputs

  networks = [copy.copy(network) for _ in range(5 if crops else 1)]
  for number, shown in enumerate(networks):
    shown.preprocess = functools.partial(preprocess, number)
  return networks


def _resized(image, side):
  height, width = image.shape[:2]
  ratio = width / height
  size = (side, int(side / ratio)) if width < height else (int(side * ratio), side)
  return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _crop(view, number):
  """Centre, top left, bottom left, top right or bottom right; black beyond the image."""
  height, width = view.shape[:2]
  top = (height // 2 - CROP // 2, 0, height - CROP, 0, height - CROP)[number] + CROP
  left = (width // 2 - CROP // 2, 0, 0, width - CROP, width - CROP)[number] + CROP
  return np.pad(view, ((CROP, CROP), (CROP, CROP), (0, 0)))[top : top + CROP, left : left + CROP]
