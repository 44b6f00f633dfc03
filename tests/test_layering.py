"""Imports point one way: parsed from the sources, so that a shortcut is noticed when it is written."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

from jiqa import methods

ROOT = pathlib.Path(__file__).resolve().parents[1]

# What each room may import of the project, by prefix. A room may always import itself, jiqa.errors and jiqa.durable.
ALLOWED = {
  "launch": ("jiqa.train", "jiqa.evaluate", "jiqa.inference", "jiqa.runtime"),
  "configs": (),
  "data_builders": ("jiqa.data.schema",),
  "jiqa.cli": (
    "jiqa.beam", "jiqa.serve", "jiqa.plan", "jiqa.inference", "jiqa.evaluation", "jiqa.distortions", "jiqa.weights",
    "jiqa.data", "jiqa.verify", "data_builders",
  ),
  "jiqa.beam": ("jiqa.inference",),
  "jiqa.train": ("jiqa.inference", "jiqa.methods", "jiqa.weights", "jiqa.data", "jiqa.runtime"),
  "jiqa.evaluate": (
    "jiqa.train", "jiqa.inference", "jiqa.methods", "jiqa.weights", "jiqa.evaluation", "jiqa.data", "jiqa.runtime"
  ),
  "jiqa.verify": ("jiqa.train", "jiqa.inference", "jiqa.weights", "jiqa.data", "jiqa.runtime"),
  "jiqa.serve": ("jiqa.inference", "jiqa.data"),
  "jiqa.plan": ("jiqa.train", "jiqa.inference", "jiqa.data", "jiqa.methods", "jiqa.runtime"),
  "jiqa.inference": ("configs", "jiqa.methods", "jiqa.weights", "jiqa.evaluation", "jiqa.data", "jiqa.runtime"),
  "jiqa.methods": ("jiqa.models", "jiqa.losses", "jiqa.distortions", "jiqa.weights", "jiqa.data", "jiqa.runtime"),
  "jiqa.weights": ("jiqa.models", "jiqa.runtime"),
  "jiqa.models": (),
  "jiqa.losses": (),
  "jiqa.distortions": (),
  "jiqa.evaluation": (),
  "jiqa.runtime": (),
  "jiqa.data": (),
  "jiqa.errors": (),
  "jiqa.durable": (),
}  # fmt: skip
# `import jiqa` says the version, `import data_builders` registers the builders with TFDS and finds one by its name.
PACKAGES = ("jiqa", "data_builders")
WITHOUT_JAX = ("configs", "data_builders", "jiqa.data", "jiqa.errors")
# What works with every method alike: its code names none. Docstrings and comments may cite a paper.
METHOD_BLIND = (
  "jiqa.cli", "jiqa.beam", "jiqa.plan", "jiqa.train", "jiqa.evaluate", "jiqa.losses", "jiqa.inference", "jiqa.serve",
  "jiqa.evaluation", "jiqa.verify",
)  # fmt: skip
NEVER = ("tensorflow", "torch")
READS_TORCH_FILES = "jiqa.weights.rename"  # in the one function that needs it, and says so where torch is missing


def sources():
  paths = [
    ROOT / "launch.py",
    *(p for room in ("jiqa", "configs", "data_builders") for p in (ROOT / room).rglob("*.py")),
  ]
  return [(".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), p) for p in sorted(paths)]


def imports(path):
  for node in ast.walk(ast.parse(path.read_text(), str(path))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name, prefixes):
  return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


@pytest.mark.parametrize(("module", "path"), sources(), ids=lambda x: x if isinstance(x, str) else "")
def test_imports_point_downward(module, path):
  room = max((r for r in ALLOWED if within(module, [r])), key=len, default=None)
  for name in imports(path):
    if (module, name) == (READS_TORCH_FILES, "torch"):
      continue
    assert not within(name, NEVER), f"{path}: imports {name}; none of the runtime needs it"
    if within(module, WITHOUT_JAX):
      assert not within(name, ("jax", "flax", "optax")), f"{path}: imports {name} where data workers would pay for it"
    ours = within(name, ("jiqa", "configs", "data_builders", "launch"))
    if room and ours and name not in PACKAGES:
      assert within(name, (*ALLOWED[room], room, "jiqa.errors", "jiqa.durable")), (
        f"{path}: {room} may not import {name}"
      )


def words(tree):
  """(line, text) of every name and string of a module but for its docstrings."""
  docstrings = {
    id(node.body[0].value)
    for node in ast.walk(tree)
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
    and node.body
    and isinstance(node.body[0], ast.Expr)
  }
  for node in ast.walk(tree):
    if id(node) not in docstrings:
      for field in ("value", "name", "id", "attr", "arg", "module", "asname"):
        if isinstance(text := getattr(node, field, None), str):
          yield getattr(node, "lineno", 0), text


@pytest.mark.parametrize(("module", "path"), [(m, p) for m, p in sources() if within(m, METHOD_BLIND)])
def test_no_method_is_named_where_all_are_alike(module, path):
  name = re.compile(rf"(?<![a-z])({'|'.join(methods.names())})(?![a-z])")
  named = [f"{path}:{line}: {text}" for line, text in words(ast.parse(path.read_text())) if name.search(text)]
  assert not named, "\n".join(named)


def test_importing_the_package_is_light():
  code = "import sys, jiqa; sys.exit(sum(name in sys.modules for name in ('jax', 'numpy', 'tensorflow', 'torch')))"
  assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_scoring_needs_what_the_package_depends_on_and_no_extra():
  code = (
    "import sys, jiqa.inference.command, jiqa.inference.card; from jiqa.methods import method_class, names\n"
    "[method_class(name) for name in names()]; print(*{name.partition('.')[0] for name in sys.modules})"
  )
  told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
  extras = {"pandas", "matplotlib", "threadpoolctl", "tensorflow_datasets", "grain", "skimage", "sklearn", "orbax"}
  assert not extras & set(told.stdout.split())


def test_requirements_are_what_the_package_and_its_extras_name():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  named = {
    *project["dependencies"],
    *(x for name in ("evaluate", "train") for x in project["optional-dependencies"][name]),
  }
  lines = (ROOT / "requirements.txt").read_text().splitlines()
  assert {line for line in lines if line[0] != "#"} == named - {"jiqa[evaluate]"}
