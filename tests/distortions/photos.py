"""Photographs for the tests of the distortions: those bundled with scikit-image, and Kodak's where they are at hand."""

import numpy as np
import skimage.data
from PIL import Image


def bundled(h, w):
  """Two crops of 8-bit RGB photographs, [2, h, w, 3]."""
  astronaut, chelsea = skimage.data.astronaut(), skimage.data.chelsea()
  return np.stack([astronaut[:h, 100 : 100 + w], chelsea[:h, 60 : 60 + w]])


def kodak(real_data, h, w):
  """Two crops of Kodak photographs, one busy and one smooth, [2, h, w, 3]."""
  crops = []
  for number in (5, 23):
    with Image.open(real_data / "kodak24" / f"kodim{number:02d}.png") as image:
      crops.append(np.asarray(image.convert("RGB"))[100 : 100 + h, 60 : 60 + w])
  return np.stack(crops)


def psnr(first, second):
  """Peak signal-to-noise ratio of 8-bit images in dB."""
  error = np.mean((np.asarray(first, float) - np.asarray(second, float)) ** 2)
  return 10 * np.log10(255**2 / max(error, 1e-4))
