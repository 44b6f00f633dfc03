"""The demo set: photographs that scikit-image and scikit-learn bundle, distorted, labelled with a proxy.

The labels are SSIM (Wang et al. 2004) to the pristine window, computed, **not** human opinion. They show that the
pipeline works, nothing about perceived quality.
"""

import contextlib
import io
import pathlib
import tempfile
import zlib

import numpy as np
import pandas as pd
import skimage
import sklearn
from PIL import Image
from scipy import ndimage
from skimage.metrics import structural_similarity

from data_builders import base, prepare

SKIMAGE = pathlib.Path(skimage.__file__).parent / "data"
SKLEARN = pathlib.Path(sklearn.__file__).parent / "datasets" / "images"
# Photograph -> file, size (w, h) of its windows, and where they are (left, top): none overlaps another.
PHOTOGRAPHS = {
  "astronaut": (SKIMAGE / "astronaut.png", (256, 256), ((96, 0), (0, 256), (256, 256))),
  "brick": (SKIMAGE / "brick.png", (256, 256), ((128, 128),)),
  "camera": (SKIMAGE / "camera.png", (256, 256), ((120, 0), (256, 256))),
  "chelsea": (SKIMAGE / "chelsea.png", (352, 256), ((50, 20),)),
  "coffee": (SKIMAGE / "coffee.png", (256, 256), ((20, 70), (320, 100))),
  "coins": (SKIMAGE / "coins.png", (352, 256), ((16, 24),)),
  "china": (SKLEARN / "china.jpg", (256, 256), ((40, 60), (360, 100))),
  "flower": (SKLEARN / "flower.jpg", (352, 256), ((200, 80),)),
  "grass": (SKIMAGE / "grass.png", (256, 256), ((128, 128),)),
  "gravel": (SKIMAGE / "gravel.png", (256, 256), ((128, 128),)),
  "hubble": (SKIMAGE / "hubble_deep_field.jpg", (256, 256), ((100, 100),)),
  "immunohistochemistry": (SKIMAGE / "ihc.png", (256, 256), ((128, 128),)),
  "motorcycle": (SKIMAGE / "motorcycle_left.png", (256, 256), ((60, 180), (400, 180))),
  "retina": (SKIMAGE / "retina.jpg", (256, 256), ((400, 500),)),
  "rocket": (SKIMAGE / "rocket.jpg", (256, 256), ((192, 120),)),
}


def blur(image, sigma, rng):
  """Gaussian blur of standard deviation `sigma` pixels."""
  return ndimage.gaussian_filter(image, (sigma, sigma, 0))


def noise(image, sigma, rng):
  """White Gaussian noise of standard deviation `sigma` gray levels."""
  return np.clip(image + rng.normal(0, sigma, image.shape), 0, 255).astype(np.uint8)


def jpeg(image, quality, rng):
  """JPEG at the given quality of PIL's scale."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, format="JPEG", quality=quality)
  return np.asarray(Image.open(file))


# Distortion -> function and its five levels, weak to strong. Only damage that the proxy measures: SSIM hardly sees a
# change of colour or contrast, however ugly.
DISTORTIONS = {
  "gaussian blur": (blur, (0.6, 1.0, 1.7, 2.8, 4.5)),
  "white noise": (noise, (4, 9, 16, 28, 48)),
  "jpeg compression": (jpeg, (60, 30, 15, 8, 4)),
}


class Builder(base.Builder):
  """21 windows of 15 photographs, 3 distortions x 5 levels and the pristine window: 336 images, lossless PNG."""

  TITLE = "bundled photographs with synthetic distortions, labelled with SSIM: a proxy, not a human score"
  KIND = "synthetic"
  PAGE = "https://scikit-image.org"
  LICENCE = (
    "The photographs' own, see scikit-image's skimage/data/README.txt and scikit-learn's datasets/images/README.txt."
  )
  CITATION = (
    "Photographs: scikit-image and scikit-learn. Proxy: Wang et al. Image quality assessment. IEEE TIP 13(4), 2004."
  )
  SCORE = "SSIM to the pristine window, a proxy and not a human score; 1 is pristine"
  UNIT = "SSIM, a proxy and not a human score"
  RAW_RANGE = (-1.0, 1.0)
  IMAGES = 336
  REFERENCES = 15

  @contextlib.contextmanager
  def root(self, manual_dir):
    """Renders the set into a temporary folder; `manual_dir` is not used."""
    del manual_dir
    with tempfile.TemporaryDirectory(prefix="jiqa_demo_") as folder:
      yield pathlib.Path(folder)

  def labels(self, root):
    return pd.DataFrame([row for name in PHOTOGRAPHS for row in _render(root, name)])


def _render(root, photograph):
  """Writes all images of a photograph below `root`; yields their label rows."""
  file, (width, height), corners = PHOTOGRAPHS[photograph]
  (root / photograph).mkdir()
  with Image.open(file) as image:
    pixels = np.asarray(image.convert("RGB"))
  for window, (left, top) in enumerate(corners):
    pristine = pixels[top : top + height, left : left + width]
    yield _write(root, photograph, f"{window}_pristine", pristine, pristine, "pristine", -1)
    for distortion, (render, strengths) in DISTORTIONS.items():
      for level, strength in enumerate(strengths):
        stem = f"{window}_{distortion.replace(' ', '_')}_{level}"
        rng = np.random.default_rng(zlib.crc32(f"{photograph}/{stem}".encode()))
        yield _write(root, photograph, stem, render(pristine, strength, rng), pristine, distortion, level)


def _write(root, photograph, stem, image, pristine, distortion, level):
  name = f"{photograph}/{stem}.png"
  Image.fromarray(image).save(root / name, compress_level=1)
  return {
    "image_name": name,
    "reference_name": photograph,
    "raw_score": float(structural_similarity(pristine, image, channel_axis=2)),
    "distortion": distortion,
    "level": level,
    "where": name,
  }


if __name__ == "__main__":
  prepare.main("demo")
