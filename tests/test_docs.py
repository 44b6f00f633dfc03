"""The commands and programs of README.md and docs/: each is parsed, and each page is run from its top to its end.

A block below the line `<!-- not run: WHY -->` is parsed only.
"""

import ast
import csv
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import typer
from absl.testing import flagsaver
from PIL import Image, ImageFilter
from skimage import data

import jiqa
import launch
from jiqa import cli
from tests.inference import made

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
FENCE = re.compile(r"(?:<!-- (?P<mark>[^>]*) -->\s*)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.S | re.M)


def blocks(page):
  """(kind, text, why it is not run or '') of every block of a page; .ci/run runs what is marked newcomer."""
  found = FENCE.finditer((ROOT / page).read_text())
  return [(match["kind"], match["text"], re.sub("^not run: ", "", match["mark"] or "")) for match in found]


def commands(page):
  """The commands of the shell blocks of a page, without comments and with the values of loops and variables."""
  text = "".join(text for kind, text, _ in blocks(page) if kind == "bash").replace("\\\n", " ").replace("$split", "9")
  for line in re.split(r"\n|; ", text):
    words = shlex.split(line, comments=True)
    if "jiqa" in words[:1] or "launch.py" in words[:3]:
      yield words[words.index("python") + 2 :] if "launch.py" in words else words


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_there_is(page, monkeypatch):
  monkeypatch.chdir(ROOT)
  known = typer.main.get_command(cli.app).commands
  for program, *arguments in commands(page):
    if program == "jiqa":
      known[arguments[0]].make_context(arguments[0], arguments[1:])
    else:
      monkeypatch.setattr(sys, "argv", ["launch.py", program, *arguments])  # where the flags of a config come from
      with flagsaver.flagsaver():
        launch.parse_flags(sys.argv)


@pytest.mark.parametrize("page", PAGES)
def test_every_program_is_python(page):
  for kind, text, _ in blocks(page):
    if kind == "python":
      ast.parse(text)
  assert not [kind for kind, _, _ in blocks(page) if kind not in ("bash", "python", "json", "text")]


@pytest.fixture
def world(tmp_path, monkeypatch):
  """A folder with what the pages speak of: photographs, ratings, scores, weights, runs."""
  monkeypatch.chdir(tmp_path)
  rng = np.random.default_rng(0)
  names = [f"{i:02d}.jpg" for i in range(30)]
  photograph = Image.fromarray(data.astronaut()).crop((100, 0, 292, 160))
  for folder in ("photos", "more", "new_photos", "pool"):
    pathlib.Path(folder).mkdir()
    for i, name in enumerate(names):
      photograph.filter(ImageFilter.GaussianBlur(i / 10)).save(f"{folder}/{name}")
  for name in ("photo.jpg", "a.jpg", "b.png"):
    Image.open("photos/00.jpg").save(name)
  columns = {
    "image_name": names, "mos": range(100, 10, -3), "scene": [f"s{i // 3}" for i in range(30)],
    "reference_name": names, "database": ["x", "y"] * 15, "part": ["test", "train", "train"] * 10,
  }  # fmt: skip
  score = {"image_name": names, "score": rng.uniform(0, 100, 30), "distortion": ["blur", "noise"] * 15}
  tables = {"labels": columns, "mos": columns, "references": columns, "first": score}
  tables["second"] = score | {"score": rng.uniform(0, 100, 30)}
  tables |= {name: {"pair": range(6), "subject": [name] * 6, "preference": [50] * 6} for name in ("ann", "bob")}
  for name, table in tables.items():
    with open(f"{name}.csv", "w", newline="") as file:
      csv.writer(file).writerows([table, *zip(*table.values(), strict=True)])
  for folder in ("weights/mine", "runs/reiqa_demo"):
    made.weights(folder)
  for i in range(3):
    numbers = {
      "srcc": [0.5 + i / 10],
      "plcc": [0.6],
      "plcc_logistic": [0.7],
      "protocol": "liqe",
      "split_sha256": str(i),
    }
    pathlib.Path(f"runs/liqe_{i}").mkdir()
    pathlib.Path(f"runs/liqe_{i}/results.json").write_text(json.dumps({"databases": {"bid": numbers}}))
  return tmp_path


LINKING = [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "colabs/README.md", "cloud/tpu.md", "data_builders/README.md"]


@pytest.mark.parametrize("page", LINKING)
def test_links_lead_somewhere(page):
  for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
    if "://" in target:
      continue
    file, _, anchor = target.partition("#")
    path = (ROOT / page).parent / file if file else ROOT / page
    assert path.exists(), f"{page}: {target}"
    if anchor:
      headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
      known = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
      assert anchor in known, f"{page}: {target}"


def test_the_version_is_the_same_everywhere():
  assert f"\nversion: {jiqa.__version__}\n" in (ROOT / "CITATION.cff").read_text()
  assert f"## {jiqa.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_page_and_every_public_name_is_in_the_site():
  site = (ROOT / "mkdocs.yml").read_text()
  assert {path.name for path in (ROOT / "docs").glob("*.md")} == set(re.findall(r": ([\w.]+\.md)$", site, re.M))
  reference = (ROOT / "docs/api.md").read_text()
  for name in jiqa.__all__:
    assert f"::: {getattr(jiqa, name).__module__}.{name}\n" in reference, name


def test_the_site_is_built_without_a_warning(tmp_path):
  pytest.importorskip("mkdocs", reason="needs the extra docs")
  command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
  environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
  told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
  assert told.returncode == 0, told.stderr
  page = (tmp_path / "api.html").read_text()
  assert all(f'id="{getattr(jiqa, name).__module__}.{name}"' in page for name in jiqa.__all__)


RUN = [page for page in PAGES if any(kind in ("bash", "python") and not why for kind, _, why in blocks(page))]


def test_the_pages_for_newcomers_are_run():
  assert {"README.md", "docs/scoring.md", "docs/evaluation.md", "docs/distortions.md"} <= set(RUN)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_a_page_runs_from_its_top_to_its_end(page, world):
  """Shell blocks in a shell, all programs of a page in one interpreter; nothing is installed."""
  shell = f'set -euo pipefail\npip() {{ :; }}\njiqa() {{ "{sys.executable}" -m jiqa.cli "$@"; }}\n'
  environment = os.environ | {
    "PYTHONPATH": str(ROOT), "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}", "XLA_FLAGS": "",
  }  # fmt: skip
  programs = ""
  for kind, text, why in blocks(page):
    if kind == "python" and not why:
      programs += text
    elif kind == "bash" and not why:
      told = subprocess.run(["bash", "-c", shell + text], env=environment, capture_output=True, text=True, timeout=600)
      assert told.returncode == 0, f"{text}\n{told.stdout}\n{told.stderr}"
  told = subprocess.run([sys.executable, "-c", programs], env=environment, capture_output=True, text=True, timeout=600)
  assert told.returncode == 0, f"{programs}\n{told.stdout}\n{told.stderr}"
