"""Photographs and figures of the examples."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import skimage.data
from PIL import Image


def photo(path=None, side=192):
  """A photograph [h, w, 3] float32 in [0, 1], its longer side at most `side`; None: scikit-image's cup of coffee."""
  image = Image.open(path).convert("RGB") if path else Image.fromarray(skimage.data.coffee())
  image.thumbnail((side, side))
  return np.asarray(image, np.float32) / 255


def sheet(out, images, curves=()):
  """Writes a row of images, and of curves {label: (x, y)}, to a file and says so."""
  columns = len(images) + len(curves)
  figure, axes = plt.subplots(1, columns, figsize=(3.4 * columns, 2.9), squeeze=False, layout="constrained")
  for axis, (label, image) in zip(axes[0], images.items(), strict=False):
    axis.imshow(np.clip(image, 0, 1))
    axis.set(title=label, xticks=(), yticks=())
  for axis, label in zip(axes[0][len(images) :], curves, strict=True):
    axis.plot(*curves[label], marker=".")
    axis.set(title=label)
  figure.savefig(out, dpi=90)
  plt.close(figure)
  print(out)
