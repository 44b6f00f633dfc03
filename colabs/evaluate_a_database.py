# %% [markdown]
# # Evaluate on a database, or on your own ratings
#
# A ridge head is fitted to frozen features and tested on held-out images: images of one content are never on both
# sides of a split, the strength of the ridge is chosen on a validation part, and every test part is used once.

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
# Your own ratings: a folder of images and a CSV file with the columns `image_name` (from the folder on), `mos`
# (higher is better) and, where several images show the same scene, `content`. By default a part of the demo set is
# used. Its labels are SSIM to the pristine image: a proxy that shows how the evaluation works, not a human score.

# %%
FOLDER = None  # of images
SCORES = None  # CSV file
WEIGHTS = None  # a folder of weights or the workdir of a run; None: the weights that come with the package

# %%
import pathlib
import tempfile

import pandas as pd

from jiqa.data.source import open_database

work = pathlib.Path(tempfile.mkdtemp(prefix="jiqa_evaluate_"))


def write_demo(folder):
  """Writes one window of every photograph of the demo set, pristine and at three levels of each distortion."""
  demo = open_database("demo")
  first = demo.table.image_name.str.contains("/0_")
  for i in demo.table.index[first & demo.table.level.isin((-1, 0, 2, 4))]:
    path = folder / demo.table.image_name[i]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(demo[i]["image"])
    yield {"image_name": demo.table.image_name[i], "mos": demo.table.mos[i], "content": demo.table.reference_name[i]}


if FOLDER is None:
  FOLDER, SCORES = work / "images", work / "ratings.csv"
  pd.DataFrame(write_demo(FOLDER)).to_csv(SCORES, index=False)
ratings = pd.read_csv(SCORES)
ratings.describe().round(3)

# %%
import jiqa
from jiqa.inference.fit import fit

metric = jiqa.load(weights=WEIGHTS)
group = "content" if "content" in ratings else None
head = work / "head.safetensors"
results = fit(
  metric, FOLDER, SCORES, group=group, out=head, report_folder=work / "report", command="evaluate_a_database.ipynb"
)
name, result = next(iter(results.items()))

# %% [markdown]
# The full report is `report/index.html`; here are the medians over splits, and for the middle split the 95 %
# interval (from resampling contents) and the scatter plot.

# %%
import json

report = json.loads((work / "report" / "report.json").read_text())
method = report["methods"][name]
shown = report["shown_split"]
rows = {
  measure: {
    "median of splits": method["value"][measure],
    "middle split": method["splits"][measure][shown],
    "low": low,
    "high": high,
  }
  for measure, (low, high) in method["interval"].items()
}
pd.DataFrame(rows).T.round(3)

# %%
import numpy as np
from IPython.display import Image

from jiqa.evaluation import figures, logistic

prediction, mos = result.predictions[shown], ratings.mos.to_numpy()
tested = np.isfinite(prediction)
curve = logistic.fit(prediction[tested], mos[tested])
Image(figures.scatter(prediction[tested], mos[tested], curve, title=f"{name}, test part of one split", unit="label"))

# %% [markdown]
# The head is a file; it scores images on the scale of the ratings.

# %%
scorer = jiqa.load(weights=WEIGHTS, head=head)
scorer([pathlib.Path(FOLDER) / image for image in ratings.image_name.head(3)]).score.round(3)

# %% [markdown]
# On the command line: `jiqa fit --images=FOLDER --scores=SCORES --group=content --out=head.safetensors`, then
# `jiqa score FOLDER --head=head.safetensors`.
