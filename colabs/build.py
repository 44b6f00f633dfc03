"""Writes the notebooks of this folder from their sources, executed: `python colabs/build.py`.

A source is Python in the percent format of jupytext: cells begin with `# %%`, text cells with `# %% [markdown]`. With
`--repository=OWNER/NAME` the address goes into the sources' first cells and the Colab badges into README.md.
"""

import argparse
import os
import pathlib
import re

import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).resolve().parent
NAMES = ("score_your_images", "evaluate_a_database", "train_tiny")
TIMEOUT = 280  # seconds a cell may take
MARKER, TEXT = "# %%", " [markdown]"
BADGES = ("<!-- badges -->\n", "<!-- /badges -->")
COLAB = "https://colab.research.google.com"


def read_source(path):
  """The notebook of a source, not executed.

  Args:
    path: pathlib.Path of a .py file in the percent format.

  Returns:
    nbformat.NotebookNode.
  """
  cells = []
  for number, block in enumerate(re.split(rf"^{MARKER}", path.read_text("utf-8"), flags=re.MULTILINE)[1:]):
    kind, _, body = block.partition("\n")
    if kind == TEXT:
      lines = [line.removeprefix("#").removeprefix(" ") for line in body.strip("\n").split("\n")]
      cell = nbformat.v4.new_markdown_cell("\n".join(lines))
    elif kind == "":
      cell = nbformat.v4.new_code_cell(body.strip("\n"))
    else:
      raise ValueError(f"{path}: cell {number} begins with {MARKER + kind!r}; expected {MARKER!r} or {MARKER + TEXT!r}")
    cell.id = f"cell-{number}"  # the same whenever it is built
    cells.append(cell)
  return nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}, "kernelspec": KERNEL})


KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(notebook, environment=None):
  """Runs a notebook in a new kernel, in this folder, and keeps what it shows.

  Args:
    notebook: NotebookNode, gets the outputs.
    environment: dict of further environment variables.

  Returns:
    The notebook; progress and warnings on standard error, times and memory addresses are left out.
  """
  client = NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": FOLDER}})
  client.execute(env={**os.environ, **(environment or {})})
  for cell in notebook.cells:
    cell.metadata = {}
    if cell.cell_type == "code":
      cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
  return notebook


def set_repository(repository):
  """Puts the repository's address where it is needed: the sources' first cells and the badges of README.md.

  Args:
    repository: OWNER/NAME.

  Raises:
    ValueError: it is no such thing.
  """
  if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
    raise ValueError(f"--repository={repository}: expected OWNER/NAME")
  for name in NAMES:
    path = FOLDER / f"{name}.py"
    path.write_text(re.sub(r'^REPOSITORY = ".*?"', f'REPOSITORY = "{repository}"', path.read_text(), flags=re.M))
  badges = "".join(
    f"[![{name}]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/{repository}/blob/main/colabs/{name}.ipynb) {name}\n\n"
    for name in NAMES
  )
  readme = FOLDER / "README.md"
  before, _, rest = readme.read_text().partition(BADGES[0])
  readme.write_text(before + BADGES[0] + badges + BADGES[1] + rest.partition(BADGES[1])[2])


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("names", nargs="*", default=NAMES, help="notebooks to build; default all")
  parser.add_argument("--repository", help="OWNER/NAME on GitHub, for the Colab badges")
  arguments = parser.parse_args()
  if arguments.repository:
    set_repository(arguments.repository)
  for name in arguments.names:
    notebook = execute(read_source(FOLDER / f"{name}.py"))
    nbformat.write(notebook, FOLDER / f"{name}.ipynb")
    print(FOLDER / f"{name}.ipynb")


if __name__ == "__main__":
  main()
