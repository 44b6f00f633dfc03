# %% [markdown]
# # Train and evaluate a tiny Re-IQA encoder
#
# All steps in a minute on a CPU: an encoder learns without labels from photographs that scikit-image and
# scikit-learn bundle, a ridge head is fitted to its frozen features, and both are tested on photographs that the head
# has not seen, next to the same network untrained.
#
# The labels of this set are SSIM to the pristine image, a proxy, not a human score. Thirty steps of a very
# small network teach it little: the numbers show that everything works, not how good the method is.

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
# A config is a plain Python object. We take the demo's and make it smaller; `python launch.py
# --config=configs/reiqa.py:demo --workdir=runs/demo` runs it in full, in a few minutes.

# %%
import pathlib
import tempfile

from configs.reiqa import get_config

config = get_config("demo")
config.steps = 30
config.depth, config.width = 10, 8  # layers of the ResNet, channels of its first block
config.window, config.crop = 96, 48  # pixels of the training windows and crops
config.kinds = (0, 6, 7)  # Gaussian blur, JPEG, white noise; see jiqa/distortions/bank.py
config.versions = 4  # distorted renderings of every window
config.log_every = 1
config.checkpoint_every = config.steps
config.optimizer.warmup_steps = 3
config.evaluation.splits = 3
workdir = pathlib.Path(tempfile.mkdtemp(prefix="jiqa_tiny_"))
print(config.data)

# %% [markdown]
# Training. The demo set is prepared when it is first used. The same call resumes an interrupted run from the
# checkpoints in the workdir.

# %%
from jiqa.train import train

finished = train(config, workdir)
print("finished:", finished)

# %%
import matplotlib.pyplot as plt
import pandas as pd

metrics = pd.read_json(workdir / "metrics.jsonl", lines=True)
figure, axes = plt.subplots(figsize=(5, 2.5), layout="constrained")
axes.plot(metrics.step, metrics.loss, marker="o")
axes.set_xlabel("step")
axes.set_ylabel("contrastive loss")
plt.show()

# %% [markdown]
# Evaluation: features of all images, a ridge head for every split, its strength chosen on the validation part,
# and one test on the test part. Images of one photograph are never on both sides of a split.

# %%
from jiqa.evaluate import evaluate

results = evaluate(config, workdir)

# %%
rows = {"trained": results["median"], "untrained": results["untrained"]["median"]}
pd.DataFrame(rows).T[["srcc", "plcc"]].round(3)

# %% [markdown]
# The run is a metric like any other: `jiqa score photo.jpg --weights=WORKDIR` on the command line, or
#
# ```python
# import jiqa
#
# metric = jiqa.load(weights=workdir, head=workdir / "heads_demo.npz")
# metric("photo.jpg").score
# ```
#
# For larger runs see `docs/results.md`.
