"""Numbers with which no run can be made."""

import importlib
import pathlib

import pytest

from jiqa.errors import UserError
from jiqa.runtime.bounds import BOUNDS, check_bounds

VARIANTS = {"reiqa": ("quality", "content", "small", "demo", "regress"), "lml": ("demo",), "liqe": ("demo",)}


@pytest.mark.parametrize("key", sorted(BOUNDS))
def test_what_is_out_of_bounds_is_named_wherever_it_stands(key):
  least, most = BOUNDS[key]
  for value in (least, most):
    check_bounds({"a": {key: value}})
  for value in (least - 1, most + 1, float("nan"), float("-inf")):
    with pytest.raises(UserError, match=rf"config\.a\[1\]\.{key} is {value}; expected at least"):
      check_bounds({"a": [{"name": "x"}, {key: value}]})


def test_text_flags_and_missing_values_have_no_bounds():
  check_bounds({"crops": "official", "seed": 3, "width": None, "depth": True, "other": -5})
  with pytest.raises(UserError, match=r"config\.other is nan"):
    check_bounds({"other": float("nan")})


def test_the_projects_configs_are_within_bounds():
  for path in (pathlib.Path(__file__).parents[2] / "configs").glob("[a-z]*.py"):
    for variant in VARIANTS.get(path.stem, ()):
      check_bounds(importlib.import_module(f"configs.{path.stem}").get_config(variant))
