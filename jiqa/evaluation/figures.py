"""The figures of a report; every function returns the bytes of a PNG."""

import io

import numpy as np
from matplotlib.figure import Figure

SIZE = (4.6, 4.0)
COLOURS = ("#1f5fa8", "#d9822b", "#2a8c5a", "#b23a48", "#7353a6", "#7a6652", "#c86fa8", "#5f6b76", "#a3a11f", "#2b9db0")
MAX_BARS = 30


def scatter(prediction, mos, curve, *, title="", labels=None, unit="MOS"):
  """Predictions [n] against human scores [n] with the `logistic.Curve`.

  labels [n] str are shown as colours where there are 2 to 10 of them; `unit` names the human axis.
  """
  figure, axes = _axes(SIZE, title, "prediction", unit)
  kinds = [] if labels is None else list(np.unique(labels))
  if 2 <= len(kinds) <= len(COLOURS):
    for kind, colour in zip(kinds, COLOURS, strict=False):
      part = np.asarray(labels) == kind
      _dots(axes, prediction[part], mos[part], len(mos), alpha=0.7, color=colour, label=str(kind) or "none")
    axes.legend(fontsize=8, framealpha=0.8)
  else:
    _dots(axes, prediction, mos, len(mos), alpha=0.6)
  if curve is not None and np.isfinite(curve.sse):
    x = np.linspace(prediction.min(), prediction.max(), 200)
    axes.plot(x, curve(x), color="black", linewidth=1.5)
  return _png(figure)


def residuals(prediction, mos, curve, *, title="", unit="MOS"):
  """What the logistic leaves of human scores [n], over the mapped prediction, with its spread in ten equal parts."""
  figure, axes = _axes(SIZE, title, f"mapped prediction ({unit})", f"{unit} - mapped prediction")
  mapped = curve(prediction)
  left = mos - mapped
  axes.axhline(0, color="black", linewidth=0.8)
  _dots(axes, mapped, left, len(mos), alpha=0.5)
  parts = [part for part in np.array_split(np.argsort(mapped), 10) if len(part) >= 3]
  if parts:
    middle, bias = [mapped[part].mean() for part in parts], [left[part].mean() for part in parts]
    axes.errorbar(middle, bias, [left[part].std() for part in parts], color=COLOURS[1], marker="o", ms=4, lw=1.5)
  return _png(figure)


def bars(conditions, *, title=""):
  """SRCC inside the first 30 conditions by name, a bar a method: dict from method to what `protocol.breakdown` says."""
  names = sorted({name for by_label in conditions.values() for name in by_label}, key=natural)[:MAX_BARS]
  size = (5.8, max(1.6, 0.5 + len(names) * (0.14 + 0.13 * len(conditions))))
  figure, axes = _axes(size, title, "SRCC")
  height = 0.8 / len(conditions)
  for k, (method, by_label) in enumerate(conditions.items()):
    values = [by_label.get(name, {}).get("srcc", np.nan) for name in names]
    middle = np.arange(len(names)) + (k - (len(conditions) - 1) / 2) * height
    axes.barh(middle, values, height, color=COLOURS[k % 10], label=method)
  axes.set_yticks(range(len(names)), [name or "none" for name in names], fontsize=9)
  axes.invert_yaxis()
  axes.axvline(0, color="black", linewidth=0.8)
  axes.grid(axis="x", alpha=0.3)
  if len(conditions) > 1:
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
  return _png(figure)


def heat_map(matrix, rows, columns, *, title="", high=1.0, row_title="", column_title=""):
  """A matrix [rows, columns] as colours from 0, the lightest, to `high`, with the numbers; nan is left empty."""
  matrix = np.asarray(matrix, np.float64)
  figure, axes = _axes((2.2 + 0.75 * len(columns), 1.5 + 0.5 * len(rows)), title, column_title, row_title)
  axes.imshow(matrix, vmin=0, vmax=high, cmap="Blues", aspect="auto")
  for i, j in np.argwhere(np.isfinite(matrix)):
    colour = "white" if matrix[i, j] > 0.6 * high else "black"
    axes.text(j, i, f"{matrix[i, j]:.{2 if high > 10 else 3}g}", ha="center", va="center", color=colour)
  axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", fontsize=9)
  axes.set_yticks(range(len(rows)), rows, fontsize=9)
  return _png(figure)


def natural(name):
  """Numbers by their value, then words."""
  try:
    return (0, float(name), "")
  except ValueError:
    return (1, 0.0, name)


def _axes(size, title, x, y=""):
  figure = Figure(size, layout="constrained")  # not of pyplot, whose windows and settings are the user's
  axes = figure.add_subplot(xlabel=x, ylabel=y)
  axes.set_title(title, fontsize=10)
  return figure, axes


def _dots(axes, x, y, count, color=COLOURS[0], **options):
  axes.scatter(x, y, s=float(np.clip(5000 / max(count, 1), 3, 18)), linewidths=0, color=color, **options)


def _png(figure):
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", dpi=130)
  return buffer.getvalue()
