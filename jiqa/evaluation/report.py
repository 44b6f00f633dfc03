"""Writes what an evaluation found: a page to read, and the same numbers as Markdown, JSON and CSV."""

import base64
import csv
import hashlib
import html
import importlib.metadata
import importlib.resources
import io
import json
import pathlib
import platform
import string

import numpy as np

from jiqa.evaluation import correlation, figures, logistic, outputs, study

NAMES = {
  "srcc": "SRCC", "krcc": "KRCC", "plcc": "PLCC", "plcc_logistic": "PLCC (logistic)",
  "rmse_logistic": "RMSE (logistic)", "rmse": "RMSE", "mae": "MAE",
}  # fmt: skip
PACKAGES = ("jax", "numpy", "scipy")


def scatter(path, predictions, mos, *, title="", labels=None, unit="MOS"):
  """Draws predictions against human scores into a PNG.

  Args:
    path: file to write.
    predictions: [n] float, scores of one model; images without one (nan) are left out.
    mos: [n] float, human scores in the same order.
    title: what was evaluated; SRCC and PLCC are written below it.
    labels: [n] str, a subset or distortion for every image, shown as colour.
    unit: what the human axis measures.
  """
  predictions, mos = np.asarray(predictions, np.float64), np.asarray(mos, np.float64)
  shown = np.isfinite(predictions) & np.isfinite(mos)
  x, y = predictions[shown], mos[shown]
  measured = f"SRCC {correlation.srcc(x, y):.3f}, PLCC {correlation.plcc(x, y):.3f}, {len(y)} images"
  labels = None if labels is None else np.asarray(labels)[shown]
  title = f"{title}\n{measured}" if title else measured
  outputs.write_bytes(
    pathlib.Path(path), figures.scatter(x, y, logistic.fit(x, y), title=title, labels=labels, unit=unit)
  )


def write(folder, found, *, title, command, unit="MOS", cross=None, warnings=(), extra=None):
  """Writes `index.html` (self-contained), `report.md`, `report.json` and `report.csv`.

  Args:
    folder: made where it is missing; files of an earlier report are replaced, each when its successor is complete.
    found: what `study.judge` or `study.from_table` returned.
    title: heading of the page.
    command: the exact command that made it.
    unit: name of the human scale.
    cross: what `transfer.cross_database` returned, for the heat map; or None.
    warnings: texts that a reader has to see first.
    extra: dict of further facts for `report.json`, such as config and checksums.

  Returns:
    pathlib.Path of `index.html`.
  """
  folder = pathlib.Path(folder)
  facts = {"title": title, "command": command, "versions": versions(), "warnings": list(warnings), **(extra or {})}
  data = plain({**facts, **{k: v for k, v in found.items() if k not in ("mos", "labels")}, "cross_database": cross})
  for method in data["methods"].values():
    del method["prediction"], method["curve"]
  sections = _sections(found, cross)
  markdown = "\n".join(
    [f"# {title}", "", *(f"> {text}\n" for text in warnings), *map(_markdown, sections), *_colophon(facts)]
  )
  page = [f'<p class="warn">{html.escape(text)}</p>' for text in warnings]
  for section in sections:
    page.append(_html(section))
    if section["title"] == "Results":
      page.append(_figures(found, unit))
    if section["title"].startswith("Cross-database"):
      image = figures.heat_map(
        cross["srcc"], cross["names"], cross["names"], title="SRCC", row_title="fitted", column_title="tested"
      )
      page.append(f'<div class="figures">{_image(image, "SRCC of every pair of databases", "wide")}</div>')
  page.append(f"<h2>How this was made</h2><pre>{html.escape(command)}</pre>")
  page.append(f'<p class="soft">{html.escape(", ".join(f"{k} {v}" for k, v in facts["versions"].items()))}</p>')
  template = string.Template(
    importlib.resources.files(__package__).joinpath("templates/report.html").read_text("utf-8")
  )
  outputs.write_bytes(folder / "report.json", json.dumps(data, indent=1, allow_nan=False).encode())
  outputs.write_bytes(folder / "report.csv", _rows(found).encode())
  outputs.write_bytes(folder / "report.md", markdown.encode())
  outputs.write_bytes(
    folder / "index.html", template.substitute(title=html.escape(title), body="\n".join(page)).encode()
  )
  return folder / "index.html"


def plain(value):
  """Anything that an evaluation returns as JSON can hold it: lists, dicts, numbers, None for nan.

  Example:
    >>> plain({"a": np.array([1.0, np.nan]), 2: np.int8(3)})
    {'a': [1.0, None], '2': 3}
  """
  if isinstance(value, dict):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple, np.ndarray)):
    return [plain(item) for item in value]
  if isinstance(value, (float, np.floating)):
    return float(value) if np.isfinite(value) else None
  if isinstance(value, np.generic):
    return value.item()
  return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def checksum(path):
  """SHA-256 of a file, to say which table the numbers come from."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def versions():
  """Versions of jiqa, Python and the packages that the numbers depend on."""
  import jiqa

  packages = {name: importlib.metadata.version(name) for name in PACKAGES}
  return {"jiqa": jiqa.__version__, "python": platform.python_version(), **packages}


def _sections(found, cross):
  """The tables of the report: dicts of title, note, head and rows of text, '|' between a value and its small print."""
  methods, settings = found["methods"], found["settings"]
  splits = len(found["images"])
  images = (
    f"{found['images'][0]} images"
    if len(set(found["images"])) == 1
    else f"{min(found['images'])} to {max(found['images'])} images"
  )
  note = f"{images}" + (f" a split, median of {splits} splits" if splits > 1 else "")
  note += (
    f". In brackets the {settings['level']:.0%} confidence interval (BCa bootstrap, {settings['resamples']} resamples"
    f" of {settings['resampled']}" + (f", split {found['shown_split'] + 1})." if splits > 1 else ").")
  )
  rows = [
    [name, *(_number(m["value"][key]) + _bracket(m["interval"].get(key)) for key in study.MEASURES)]
    for name, m in methods.items()
  ]
  sections = [{"title": "Results", "note": note, "head": ["method", *NAMES.values()], "rows": rows}]
  stuck = [f"{name}: {m['logistic']['message']}" for name, m in methods.items() if not m["logistic"]["converged"]]
  if stuck:
    sections[0]["note"] += " The logistic has not settled on a finite curve for " + "; ".join(stuck) + "."
  if found["comparison"]:
    sections.append(_comparison(found["comparison"], settings["level"]))
  for kind in found["labels"]:
    sections.append(_conditions(kind, methods))
  if splits > 1:
    head = ["split", "images", *(f"{name} {NAMES[key]}" for name in methods for key in ("srcc", "plcc"))]
    rows = [
      [
        str(k + 1),
        str(found["images"][k]),
        *(_number(m["splits"][key][k]) for m in methods.values() for key in ("srcc", "plcc")),
      ]
      for k in range(splits)
    ]
    sections.append({"title": "Every split", "note": "", "head": head, "rows": rows})
  if cross is not None:
    rows = [
      [n, f"{a:.3g}", *map(_number, row)]
      for n, a, row in zip(cross["names"], cross["alpha"], cross["srcc"], strict=True)
    ]
    note = "SRCC. Rows: the database to which the head was fitted, with its alpha; columns: the database tested."
    sections.append(
      {"title": "Cross-database", "note": note, "head": ["fitted", "alpha", *cross["names"]], "rows": rows}
    )
  for name, m in methods.items():
    rows = [[o["image"], *(_number(o[key]) for key in ("prediction", "mos", "residual"))] for o in m["outliers"]]
    note = "The images that the logistic misses most, in the unit of the human scores."
    sections.append(
      {"title": f"Outliers of {name}", "note": note, "head": ["image", "prediction", "MOS", "residual"], "rows": rows}
    )
  return sections


def _comparison(found, level):
  rows = []
  for i, name in enumerate(found["names"]):
    row = [name]
    for j in range(len(found["names"])):
      verdict = {1: "win", -1: "loss", 0: "tie"}[int(found["table"][i, j])]
      small = f"p {_number(found['p'][i, j])}"
      if found["over_splits"] is not None:
        small += f", splits {_number(found['over_splits'][i, j])}"
      row.append("" if i == j else f"{verdict}|{small}")
    rows.append(row)
  note = (
    f"Does the row beat the column? Meng, Rosenthal and Rubin's test of the two SRCC on the same images at"
    f" {1 - level:.0%}, p-values corrected for the number of pairs (Holm)."
  )
  if found["over_splits"] is not None:
    note += " 'splits': Wilcoxon's signed-rank test over the splits, which overlap: too generous, for orientation."
  return {"title": "Is the difference real?", "note": note, "head": ["", *found["names"]], "rows": rows}


def _conditions(kind, methods):
  first = next(iter(methods.values()))["conditions"][kind]
  rows = []
  for label in sorted(first, key=figures.natural):
    values = [_number(m["conditions"][kind][label][key]) for m in methods.values() for key in ("srcc", "plcc")]
    rows.append([label or "none", str(first[label]["images"]), *values])
  head = [kind, "images", *(f"{name} {NAMES[key]}" for name in methods for key in ("srcc", "plcc"))]
  return {"title": f"By {kind}", "note": "", "head": head, "rows": rows}


def _figures(found, unit):
  parts, mos = [], found["mos"]
  labels = next(iter(found["labels"].values()), None)
  for name, method in found["methods"].items():
    shown = np.isfinite(method["prediction"]) & np.isfinite(mos)
    x, y = method["prediction"][shown], mos[shown]
    colours = None if labels is None else labels[shown]
    image = figures.scatter(x, y, method["curve"], title=name, labels=colours, unit=unit)
    parts.append(_image(image, f"{name}: every image, and the 4-parameter logistic."))
    if np.isfinite(method["curve"].sse):
      image = figures.residuals(x, y, method["curve"], title=name, unit=unit)
      parts.append(_image(image, f"{name}: residuals; mean and spread in ten equal parts."))
  for kind in found["labels"]:
    image = figures.bars({name: m["conditions"][kind] for name, m in found["methods"].items()}, title=f"SRCC by {kind}")
    parts.append(_image(image, f"SRCC inside every {kind}.", "wide"))
  return f'<div class="figures">{"".join(parts)}</div>'


def _image(image, caption, kind=""):
  data = base64.b64encode(image).decode()
  caption = html.escape(caption)
  image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
  return f'<figure class="{kind}">{image}<figcaption>{caption}</figcaption></figure>'


def _html(section):
  def cell(text, tag="td"):
    value, _, small = text.partition("|")
    kind = f' class="{value}"' if value in ("win", "loss") else ""
    return f"<{tag}{kind}>{html.escape(value)}{f'<small>{html.escape(small)}</small>' if small else ''}</{tag}>"

  head = "".join(cell(text, "th") for text in section["head"])
  rows = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in section["rows"])
  note = f'<p class="soft">{html.escape(section["note"])}</p>' if section["note"] else ""
  table = f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
  return f"<h2>{html.escape(section['title'])}</h2>{note}{table}"


def _markdown(section):
  line = lambda cells: "| " + " | ".join(cell.replace("|", " ") or " " for cell in cells) + " |"  # noqa: E731
  rule = "|" + "---|" * len(section["head"])
  return "\n".join(
    [f"## {section['title']}", "", section["note"], "", line(section["head"]), rule, *map(line, section["rows"]), ""]
  )


def _colophon(facts):
  made = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
  return ["## How this was made", "", "```", facts["command"], "```", "", made, ""]


def _rows(found):
  """Long form: method, part ('all', 'split 3', 'distortion blur'), images, measure, value, low, high."""
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator="\n")
  writer.writerow(["method", "part", "images", "measure", "value", "low", "high"])
  number = lambda value: "" if value is None or not np.isfinite(value) else repr(float(value))  # noqa: E731
  for name, method in found["methods"].items():
    for key, value in method["value"].items():
      interval = method["interval"].get(key, (None, None))
      writer.writerow([name, "all", found["images"][found["shown_split"]], key, number(value), *map(number, interval)])
      for k, of_split in enumerate(method["splits"][key] if len(found["images"]) > 1 else ()):
        writer.writerow([name, f"split {k + 1}", found["images"][k], key, number(of_split), "", ""])
    for kind, conditions in method["conditions"].items():
      for label, measured in conditions.items():
        for key in ("srcc", "krcc", "plcc", "rmse", "mae"):
          writer.writerow([name, f"{kind} {label}", measured["images"], key, number(measured[key]), "", ""])
  return buffer.getvalue()


def _number(value):
  if value is None or not np.isfinite(value):
    return "undefined"
  return f"{value:.4f}" if 1e-3 <= abs(value) < 10 or value == 0 else f"{value:.4g}"


def _bracket(interval):
  return f"|[{_number(interval[0])}, {_number(interval[1])}]" if interval else ""
