"""Figures and pages that show what an evaluation found."""

import os
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from jiqa.evaluation import correlation


def scatter(path, predictions, mos, *, title="", labels=None, unit="MOS"):
  """Draws predictions against human scores into a PNG.

  Args:
    path: file to write.
    predictions: [n] float, scores of one model; images without one (nan) are left out.
    mos: [n] float, human scores in the same order.
    title: what was evaluated; SRCC and PLCC are written after it.
    labels: [n] str, a subset or distortion for every image, shown as colour.
    unit: what the human axis measures.
  """
  predictions, mos = np.asarray(predictions, np.float64), np.asarray(mos, np.float64)
  labels = np.full(len(mos), "") if labels is None else np.asarray(labels)
  shown = np.isfinite(predictions) & np.isfinite(mos)
  predictions, mos, labels = predictions[shown], mos[shown], labels[shown]
  figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
  for label in np.unique(labels):
    part = labels == label
    axes.scatter(predictions[part], mos[part], s=14, alpha=0.7, linewidths=0, label=str(label) or None)
  measured = f"SRCC {correlation.srcc(predictions, mos):.3f}, PLCC {correlation.plcc(predictions, mos):.3f}"
  axes.set_title(f"{title}\n{measured}, {len(mos)} images" if title else measured)
  axes.set_xlabel("prediction")
  axes.set_ylabel(unit)
  if len(np.unique(labels)) > 1:
    axes.legend()
  _save(figure, path)


def _save(figure, path):
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(path.name + ".part")
  figure.savefig(partial, format="png", dpi=130)
  plt.close(figure)
  os.replace(partial, path)
