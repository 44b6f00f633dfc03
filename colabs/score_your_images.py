# %% [markdown]
# # Score your own images
#
# A score says how good an image looks, without a reference image. The weights that come with the package are small;
# their card, printed below, says what they were trained on and how accurate they are.

# %%
REPOSITORY = ""  # OWNER/NAME on GitHub; needed on Colab only, where the package is installed from it

import importlib.util
import subprocess
import sys

try:
  import google.colab  # noqa: F401
except ImportError:
  if importlib.util.find_spec("jiqa") is None:
    sys.path.insert(0, "..")  # a checkout that is not installed
else:
  if REPOSITORY:
    package = f"jiqa[train] @ git+https://github.com/{REPOSITORY}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)
  else:
    print("Set REPOSITORY at the top of this cell to the OWNER/NAME that this notebook came from, and run it again.")

# %% [markdown]
# Put your own files, folders or URLs here. By default photographs that scikit-image bundles are scored, and one of
# them also blurred, noisy and strongly compressed.

# %%
IMAGES = []  # such as ["holiday/", "photo.jpg", "https://example.org/a.png"]
WEIGHTS = None  # a folder of weights or the workdir of a run; None: the weights that come with the package

# %%
import io
import pathlib

import numpy as np
import skimage
from PIL import Image, ImageFilter

from jiqa.inference.inputs import expand


def examples():
  """Name -> path or image."""
  folder = pathlib.Path(skimage.__file__).parent / "data"
  images = {name: folder / name for name in ("astronaut.png", "chelsea.png", "rocket.jpg", "coffee.png")}
  coffee = Image.open(images["coffee.png"]).convert("RGB")
  noise = np.random.default_rng(0).normal(0, 30, (coffee.height, coffee.width, 3))
  compressed = io.BytesIO()
  coffee.save(compressed, format="JPEG", quality=4)
  return images | {
    "coffee, blurred": coffee.filter(ImageFilter.GaussianBlur(4)),
    "coffee, noisy": Image.fromarray(np.clip(coffee + noise, 0, 255).astype(np.uint8)),
    "coffee, compressed": Image.open(compressed),
  }


images = {path: path for path in expand(IMAGES)} if IMAGES else examples()

# %%
import jiqa

metric = jiqa.load(weights=WEIGHTS)
network = metric.card["weights"][0]
{key: network[key] for key in ("trained_on", "input", "licence")} | metric.card["score"]

# %%
import pandas as pd

result = metric(list(images.values()))
table = pd.DataFrame({"image": list(images), "score": result.score.round(3)})
table = table.sort_values("score", ascending=False, ignore_index=True)
table

# %%
import matplotlib.pyplot as plt
from IPython import display

shown = table.head(8)
figure, axes = plt.subplots(2, 4, figsize=(7, 3.6), layout="constrained")
for axis in axes.flat:
  axis.axis("off")
for axis, (_, row) in zip(axes.flat, shown.iterrows(), strict=False):
  image = images[row.image]
  image = image if isinstance(image, Image.Image) else Image.open(image)
  image = image.convert("RGB")
  image.thumbnail((160, 160))
  axis.imshow(image)
  axis.set_title(f"{row.score:.3g}", fontsize=9)
figure.savefig(preview := io.BytesIO(), format="jpeg", dpi=70)
plt.close(figure)
display.Image(preview.getvalue())

# %% [markdown]
# Keep the card in mind: on test images of the database that the weights learnt from their SRCC is about 0.85, and two
# images that are 10 points apart are ordered as people order them in three pairs of four.

# %%
import tempfile

table.to_csv(pathlib.Path(tempfile.gettempdir()) / "scores.csv", index=False)

# %% [markdown]
# The command line does the same for any number of files, resumes after an interruption, and reports every file that
# cannot be read in a row of its own: `jiqa score holiday --out=scores.csv`. In the browser: `jiqa serve`.
