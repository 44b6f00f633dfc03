"""Compiled programs as text (HLO): their computations, and how often each runs."""

import math
import re
from typing import NamedTuple

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)(?= [\w\-]+\()|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"(pred|bf16|[a-z]\d+)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}
_ON_CHIP = "S(1)"


class Instruction(NamedTuple):
  """A line of a computation."""

  root: bool
  name: str
  arrays: list  # of (bytes, whether on the chip), those of the result
  kind: str
  operands: list  # names
  text: str  # operands and what follows

  def called(self, key):
    """Names of the computations that it calls as `key`."""
    match = re.search(rf"{key}=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", self.text)
    return [] if not match else [match[2]] if match[2] else _NAME.findall(match[1])

  def branches(self):
    """Names of the computations that a conditional chooses from."""
    return [name for key in ("branch", "true", "false") for name in self.called(f"{key}_computations?")]


def shapes(text):
  """The arrays named in a text: list of (type, shape)."""
  return [(kind, tuple(map(int, filter(None, dims.split(","))))) for kind, dims, _ in _ARRAY.findall(text)]


def size(arrays):
  """Bytes of a list of (type, shape).

  Example:
    >>> size([("f32", (2, 3)), ("u8", (5,))])
    29
  """
  return sum(_BYTES.get(kind, 4) * math.prod(shape) for kind, shape in arrays)


def parse(text):
  """(computations, name of the first to run): every computation a dict from name to Instruction.

  Args:
    text: HLO with layouts, `compiled.as_text()`.
  """
  computations, entry, current = {}, None, None
  for line in text.splitlines():
    if match := COMPUTATION.match(line):
      current = computations.setdefault(match[2], {})
      entry = match[2] if match[1] else entry
    elif current is not None and (match := _INSTRUCTION.match(line)):
      arrays = [(size(shapes(array[0])), _ON_CHIP in array[0]) for array in _ARRAY.finditer(match[3])]
      operands = _NAME.findall(match[5].split("), ")[0])
      current[match[2]] = Instruction(bool(match[1]), match[2], arrays, match[4], operands, match[5])
  return computations, entry


def turns(computations, loop):
  """How often a while loop runs that counts from 0 to a constant; 1 where that is not known."""
  known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.text)  # compilers for CPUs say it
  if known:
    return int(known[1])
  condition = computations[loop.called("condition")[0]]
  last = next(each for each in condition.values() if each.root)
  for name in last.operands:
    constant = condition.get(name)
    if last.kind == "compare" and "direction=LT" in last.text and constant and constant.kind == "constant":
      return int(constant.text.split(")")[0])
  return 1


def runs(text):
  """How often every computation runs, of branches each as if it were taken: dict from name to number."""
  computations, entry = parse(text)
  counts = {}

  def enter(name, times):
    counts[name] = counts.get(name, 0) + times
    for each in computations.get(name, {}).values():
      if each.kind == "while":
        enter(each.called("body")[0], times * turns(computations, each))
      else:
        for inner in (*each.called("calls"), *each.called("to_apply"), *each.branches()):
          enter(inner, times)

  if entry:
    enter(entry, 1)
  return counts
