"""The mutants fit the code as it is: their text stands in it once, and the tests that they name are there."""

import pathlib
import re

from tests.mutants.table import MUTANTS

ROOT = pathlib.Path(__file__).parents[2]


def misfit(file, old, new, arguments):
  """What keeps a mutant from being tried, '' where nothing does."""
  if (ROOT / file).read_text().count(old) != 1 or new == old:
    return f"{file} does not hold {old!r} once, or nothing is changed"
  names, _, expression = arguments.partition(" -k ")
  files = [path for name in names.split() for path in [ROOT / name, *(ROOT / name).glob("*.py")] if path.is_file()]
  tests = "\n".join(path.read_text() for path in files)
  words = re.findall(r"[a-z_]\w*", re.sub(r"\[.*?\]|\b(and|or|not)\b", "", expression))
  return ", ".join(f"{names} has no {word!r}" for word in ("def test_", *words) if word not in tests)


def test_every_mutant_can_be_tried():
  assert {name: wrong for name, *mutant in MUTANTS if (wrong := misfit(*mutant))} == {}
  assert len({name for name, *_ in MUTANTS}) == len(MUTANTS)
