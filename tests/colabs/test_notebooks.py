"""The notebooks: as their sources say, small, and running from a checkout without network."""

import pathlib
import shutil
import subprocess
import sys
import types

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

from jiqa.data.source import open_database  # noqa: E402

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "colabs"
sys.path.insert(0, str(FOLDER))
import build  # noqa: E402

# No proxy answers at this address: whatever asks for the network fails at once.
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
NOTEBOOKS = ["score_your_images", "evaluate_a_database", "train_tiny"]
# What has to be seen when a notebook has run.
EXPECTED = {
  "score_your_images": ("trained_on", "coffee, blurred", "image/jpeg"),
  "evaluate_a_database": ("srcc", "median of splits", "image/png"),
  "train_tiny": ("finished: True", "untrained", "image/png"),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """Folder with the demo set."""
  folder = tmp_path_factory.mktemp("prepared")
  open_database("demo", str(folder))
  return folder


def outputs(notebook):
  """Everything that a notebook shows, as one text."""
  return "\n".join(str(out) for cell in notebook.cells for out in cell.get("outputs", ()))


def test_every_source_is_built_and_tested():
  sources = {path.stem for path in FOLDER.glob("*.py")} - {"build"}
  assert sources == set(build.NAMES) == set(EXPECTED)
  assert {path.stem for path in FOLDER.glob("*.ipynb")} <= sources


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_and_source_agree(name):
  source, notebook = build.read_source(FOLDER / f"{name}.py"), nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
  nbformat.validate(notebook)
  kinds = [[(cell.cell_type, cell.source) for cell in each.cells] for each in (source, notebook)]
  assert kinds[0] == kinds[1], f"colabs/{name}.ipynb is not what {name}.py gives: python colabs/build.py {name}"
  assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.parametrize("repository", ["", "someone/jiqa"])
def test_the_first_cell_installs_on_colab_or_says_what_it_needs(name, repository, monkeypatch, capsys):
  cell = next(cell for cell in build.read_source(FOLDER / f"{name}.py").cells if cell.cell_type == "code").source
  for module in ("google", "google.colab"):
    monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
  installed = []
  monkeypatch.setattr(subprocess, "run", lambda command, check: installed.append(command[-1]))
  exec(cell.replace('REPOSITORY = ""', f'REPOSITORY = "{repository}"'), {})
  assert installed == [f"jiqa[train] @ git+https://github.com/{repository}"] * bool(repository)
  assert ("Set REPOSITORY at the top of this cell" in capsys.readouterr().out) == (not repository)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_small_and_show_what_they_should(name):
  notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
  assert (FOLDER / f"{name}.ipynb").stat().st_size < 100_000
  shown = outputs(notebook)
  assert shown.count("'image/png'") + shown.count("'image/jpeg'") <= 1
  for text in EXPECTED[name]:
    assert text in shown
  assert "/home" not in shown and "/root" not in shown


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_run(name, prepared, tmp_path):
  # One device: the tests' eight would compile everything for eight.
  environment = {**OFFLINE, "TFDS_DATA_DIR": str(prepared), "XLA_FLAGS": "", "TMPDIR": str(tmp_path)}
  notebook = build.execute(build.read_source(FOLDER / f"{name}.py"), environment)
  for text in EXPECTED[name]:
    assert text in outputs(notebook)


def test_a_source_with_a_cell_of_another_kind_is_refused(tmp_path):
  (tmp_path / "a.py").write_text("# %% [raw]\n# text\n")
  with pytest.raises(ValueError, match="cell 0 begins with"):
    build.read_source(tmp_path / "a.py")


def test_the_address_goes_into_the_sources_and_the_badges(tmp_path, monkeypatch):
  for path in [*FOLDER.glob("*.py"), FOLDER / "README.md"]:
    shutil.copy(path, tmp_path)
  monkeypatch.setattr(build, "FOLDER", tmp_path)
  for repository in ("someone/first", "someone/jiqa"):
    build.set_repository(repository)
  readme = (tmp_path / "README.md").read_text()
  for name in build.NAMES:
    assert (tmp_path / f"{name}.py").read_text().count('REPOSITORY = "someone/jiqa"') == 1
    assert readme.count(f"/github/someone/jiqa/blob/main/colabs/{name}.ipynb") == 1
  assert "someone/first" not in readme
  with pytest.raises(ValueError, match="OWNER/NAME"):
    build.set_repository("https://github.com/someone/jiqa")
