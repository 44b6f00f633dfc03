"""Writes the results of an evaluation: a page to read, and the same numbers as Markdown, JSON and CSV."""

import base64
import hashlib
import html
import importlib.metadata
import importlib.resources
import json
import pathlib
import platform
import string

import numpy as np

import jiqa
from jiqa.evaluation import correlation, figures, logistic, outputs, protocol

NAMES = {
  "srcc": "SRCC", "krcc": "KRCC", "plcc": "PLCC", "plcc_logistic": "PLCC (logistic)",
  "rmse_logistic": "RMSE (logistic)", "rmse": "RMSE", "mae": "MAE",
}  # fmt: skip
BRIEF = ("srcc", "plcc")


def scatter(path, predictions, mos, *, title="", labels=None, unit="MOS"):
  """Draws predictions against human scores [n] into a PNG, see `figures.scatter`, with SRCC and PLCC in its title.

  Images without a prediction (nan) are left out.
  """
  shown = np.isfinite(predictions) & np.isfinite(mos)
  x, y = np.asarray(predictions, np.float64)[shown], np.asarray(mos, np.float64)[shown]
  measured = f"SRCC {correlation.srcc(x, y):.3f}, PLCC {correlation.plcc(x, y):.3f}, {len(y)} images"
  title = f"{title}\n{measured}" if title else measured
  labels = None if labels is None else np.asarray(labels)[shown]
  outputs.write_bytes(path, figures.scatter(x, y, logistic.fit(x, y), title=title, labels=labels, unit=unit))


def write(folder, result, *, title, command, unit="MOS", warnings=(), extra=None):
  """Writes `index.html` (self-contained; its path is returned), `report.md`, `report.json` and `report.csv`.

  Args:
    result: what a function of `study` returned.
    title, command: heading of the page, and the exact command that made it.
    unit: name of the scale of what is predicted, such as MOS or SSIM.
    warnings: texts that a reader has to see first.
    extra: dict of further facts for `report.json`, such as config and checksums.
  """
  folder = pathlib.Path(folder)
  versions = {"jiqa": jiqa.__version__, "python": platform.python_version()}
  versions |= {name: importlib.metadata.version(name) for name in ("jax", "numpy", "scipy")}
  facts = {"title": title, "command": command, "versions": versions, "warnings": list(warnings), **(extra or {})}
  data = {"cross_database": None} | {key: value for key, value in result.items() if key not in ("mos", "labels")}
  drawn = ("prediction", "curve")
  data["methods"] = {n: {k: v for k, v in m.items() if k not in drawn} for n, m in result["methods"].items()}
  sections = [cross_database(result["cross_database"])] if "cross_database" in result else list(_sections(result, unit))
  made = ", ".join(f"{name} {version}" for name, version in versions.items())
  markdown = [f"# {title}", "", *(f"> {text}\n" for text in warnings), *map(_markdown, sections)]
  markdown += ["## How this was made", "", "```", command, "```", "", made, ""]
  contents = "".join(f'<li><a href="#{_anchor(s)}">{html.escape(s["title"])}</a></li>' for s in sections)
  body = "\n".join([*(f'<p class="warn">{html.escape(text)}</p>' for text in warnings), *map(_html, sections)])
  template = importlib.resources.files(__package__).joinpath("templates/report.html").read_text("utf-8")
  texts = {"title": html.escape(title), "command": html.escape(command), "made": html.escape(made)}
  page = string.Template(template).substitute(texts, body=body, contents=contents)
  data = json.dumps(outputs.plain(facts | data), indent=1, allow_nan=False, default=str)
  outputs.write_csv(folder / "report.csv", _rows(result))
  for name, text in {"report.json": data, "report.md": "\n".join(markdown), "index.html": page}.items():
    outputs.write_bytes(folder / name, text.encode())
  return folder / "index.html"


def checksum(path):
  """SHA-256 of a file, to say which table the numbers come from."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _section(title, head, rows, note="", figures=(), folded=False):
  """A table of text, '|' between a value and its small print, and the figures below it (PNG, caption, class)."""
  return {"title": title, "note": note, "head": head, "rows": rows, "figures": figures, "folded": folded}


def _sections(result, unit):
  """What the report shows of a comparison, in its order."""
  methods, images = result["methods"], result["images"]
  yield _results(result, unit)
  if result["comparison"]:
    yield _comparison(result["comparison"], result["settings"]["level"])
  both = [f"{name} {NAMES[key]}" for name in methods for key in BRIEF]
  for kind in result["labels"]:
    inside, rows = [m["conditions"][kind] for m in methods.values()], []
    for label in sorted(inside[0], key=figures.natural):
      values = [_number(measured[label][key]) for measured in inside for key in BRIEF]
      why = "; ".join(dict.fromkeys(filter(None, (measured[label]["undefined"] for measured in inside))))
      rows.append([f"{label or 'none'}|{why.replace('target', unit)}", str(inside[0][label]["images"]), *values])
    yield _section(f"By {kind}", [kind, "images", *both], rows)
  if len(images) > 1:
    columns = [map(_number, m["splits"][key]) for m in methods.values() for key in BRIEF]
    rows = [*zip(map(str, range(1, len(images) + 1)), map(str, images), *columns, strict=True)]
    yield _section("Every split", ["split", "images", *both], rows, folded=True)
  note = f"The images that the logistic misses most, in the unit of {unit}."
  for name, m in methods.items():
    rows = [[o["image"], *(_number(o[key]) for key in ("prediction", "mos", "residual"))] for o in m["outliers"]]
    if rows:
      yield _section(f"Outliers of {name}", ["image", "prediction", unit, "residual"], rows, note)


def _results(result, unit):
  methods, settings, images = result["methods"], result["settings"], result["images"]
  note = f"{images[0]} images" if len(set(images)) == 1 else f"{min(images)} to {max(images)} images"
  resampled = f"BCa bootstrap, {settings['resamples']} resamples of {settings['resampled']}"
  if left_out := settings["jackknife_groups"]:
    resampled = f"jackknife that leaves out one of {left_out} groups of {settings['resampled']}"
  if len(images) > 1:
    note += f" a split, median of {len(images)} splits"
    resampled += f", split {result['shown_split'] + 1}"
  note += f". In brackets the {settings['level']:.0%} confidence interval ({resampled})."
  stuck = "; ".join(f"{n}: {m['logistic']['message']}" for n, m in methods.items() if not m["logistic"]["converged"])
  note += f" The logistic has not settled on a finite curve for {stuck.rstrip('.')}." if stuck else ""
  rows = []
  for name, m in methods.items():
    limits = {key: f"|[{_number(low)}, {_number(high)}]" for key, (low, high) in m["interval"].items()}
    rows.append([name, *(_number(m["value"][key]) + limits.get(key, "") for key in NAMES)])
  return _section("Results", ["method", *NAMES.values()], rows, note, _figures(result, unit))


def _comparison(comparison, level):
  names, splits = comparison["names"], comparison["over_splits"]

  def cell(i, j):
    verdict = {1: "win", -1: "loss", 0: "tie"}[int(comparison["table"][i, j])]
    verdict = verdict if np.isfinite(comparison["p"][i, j]) else "undefined"
    small = f"p {_number(comparison['p'][i, j])}" + ("" if splits is None else f", splits {_number(splits[i, j])}")
    return "" if i == j else f"{verdict}|{small}"

  rows = [[name, *(cell(i, j) for j in range(len(names)))] for i, name in enumerate(names)]
  note = "Does the row beat the column? Meng, Rosenthal and Rubin's test of the two SRCC on the same images at "
  note += f"{1 - level:.0%}, p-values corrected for the number of pairs (Holm)."
  if splits is not None:
    note += " 'splits': Wilcoxon's signed-rank test over the splits, which overlap: too generous, for orientation."
  return _section("Is the difference real?", ["", *names], rows, note)


def cross_database(inside):
  """The section of what `study.cross_database` returned."""
  databases = sorted({name for tested in inside.values() for name in tested}, key=figures.natural)
  cell = lambda measured: f"{_number(measured['srcc'])}|{measured['undefined']}"
  rows = [[name, *(cell(of[n]) if n in of else "" for n in databases)] for name, of in inside.items()]
  srcc = [[tested.get(name, {"srcc": np.nan})["srcc"] for name in databases] for tested in inside.values()]
  image = figures.heat_map(srcc, list(inside), databases, title="SRCC", row_title="method", column_title="tested on")
  note = "SRCC inside every database. Rows: the methods; columns: the database tested."
  shown = [(image, "SRCC of every method on every database.", "wide")]
  return _section("Cross-database", ["method", *databases], rows, note, shown)


def _figures(result, unit):
  shown, methods, labels = [], result["methods"], next(iter(result["labels"].values()), None)
  for name, method in methods.items():
    known, curve = np.isfinite(method["prediction"]) & np.isfinite(result["mos"]), method["curve"]
    x, y, colours = method["prediction"][known], result["mos"][known], None if labels is None else labels[known]
    image = figures.scatter(x, y, curve, title=name, labels=colours, unit=unit)
    shown.append((image, f"{name}: every image, and the 4-parameter logistic.", ""))
    if np.isfinite(curve.sse):
      image = figures.residuals(x, y, curve, title=name, unit=unit)
      shown.append((image, f"{name}: residuals; mean and spread in ten equal parts.", ""))
  for kind in result["labels"]:
    image = figures.bars({name: m["conditions"][kind] for name, m in methods.items()}, title=f"SRCC by {kind}")
    shown.append((image, f"SRCC inside every {kind}.", "wide"))
  return shown


def _html(section):
  def cell(text, tag="td"):
    value, _, small = text.partition("|")
    kind = f' class="{value}"' if value in ("win", "loss") else ""
    return f"<{tag}{kind}>{html.escape(value)}{f'<small>{html.escape(small)}</small>' if small else ''}</{tag}>"

  def figure(image, caption, kind):
    data, caption = base64.b64encode(image).decode(), html.escape(caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f'<figure class="{kind}">{image}<figcaption>{caption}</figcaption></figure>'

  head = "".join(cell(text, "th") for text in section["head"])
  rows = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in section["rows"])
  note = f'<p class="soft">{html.escape(section["note"])}</p>' if section["note"] else ""
  table = f'<div class="scroll" tabindex="0"><table><tr>{head}</tr>{rows}</table></div>'
  table += '<p class="hint">The table goes on to the right: scroll it sideways.</p>'
  shown = "".join(figure(*each) for each in section["figures"])
  shown = f'\n<div class="figures">{shown}</div>' if shown else ""
  title, tag = html.escape(section["title"]), "details" if section["folded"] else "section"
  title = f"<h2>{title}</h2>"
  title = f"<summary>{title}</summary>" if section["folded"] else title
  return f'<{tag} id="{_anchor(section)}">{title}{note}{table}{shown}</{tag}>'


def _anchor(section):
  return "".join(c if c.isalnum() else "-" for c in section["title"].lower())


def _markdown(section):
  line = lambda cells: "| " + " | ".join(cell.replace("|", " ").strip() or " " for cell in cells) + " |"
  rule = "|" + "---|" * len(section["head"])
  rows = map(line, section["rows"])
  return "\n".join([f"## {section['title']}", "", section["note"], "", line(section["head"]), rule, *rows, ""])


def _rows(result):
  """Long form: method, part ('all', 'split 3', 'distortion blur'), images, measure, value, low, high."""
  yield ["method", "part", "images", "measure", "value", "low", "high"]
  images = result.get("images", ())
  for name, method in result["methods"].items():
    for key, value in method["value"].items():
      interval = method["interval"].get(key, (np.nan, np.nan))
      yield [name, "all", images[result["shown_split"]], key, *map(_exact, (value, *interval))]
      for k, of_split in enumerate(method["splits"][key] if len(images) > 1 else ()):
        yield [name, f"split {k + 1}", images[k], key, _exact(of_split), "", ""]
    for kind, conditions in method["conditions"].items():
      for label, measured in conditions.items():
        for key in protocol.MEASURES:
          yield [name, f"{kind} {label}", measured["images"], key, _exact(measured[key]), "", ""]


def _exact(value):
  return repr(float(value)) if np.isfinite(value) else ""


def _number(value):
  if not np.isfinite(value):
    return "undefined"
  return f"{value:.4f}" if 1e-3 <= abs(value) < 10 or value == 0 else f"{value:.4g}"
