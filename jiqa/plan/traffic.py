"""Bytes that a compiled program reads from and writes to a device's memory, read from the program itself.

The compiler's own count (`cost_analysis()["bytes accessed"]`) also has what a TPU reads and writes on the chip, in
memory space 1, and has the body of a loop once.
"""

from jiqa.plan import hlo

_SLICES = ("dynamic-slice", "slice", "gather")
# What moves nothing, or is counted where it ends or in what it calls.
_FREE = (
  "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "opt-barrier", "partition-id",
  "add-dependency", "while", "conditional", "call",
)  # fmt: skip


def total(text):
  """Bytes of one run of a program: (to and from memory, in all), every loop as often as its counter says.

  Args:
    text: HLO with layouts, `compiled.as_text()`.

  Returns:
    (int, int). A loop whose end is not a constant counts once, of the branches of a conditional the dearest.
  """
  computations, entry = hlo.parse(text)
  return _of(computations, entry)


def _of(computations, name):
  moved = [_instruction(computations, computations[name], each) for each in computations[name].values()]
  return sum(far for far, _ in moved), sum(every for _, every in moved)


def _instruction(computations, body, each):
  """(bytes to and from memory, bytes in all) of an instruction in a computation."""
  if each.kind == "while":
    times = hlo.turns(computations, each)
    return tuple(times * part for part in _of(computations, each.called("body")[0]))
  if each.kind == "conditional":
    return max(_of(computations, name) for name in each.branches())
  if each.kind == "call":
    return _of(computations, each.called("to_apply")[0])
  if each.kind in _FREE or each.kind.endswith("-start"):
    return 0, 0
  arrays = list(each.arrays)
  if each.kind.endswith("-done"):  # from one memory to the other
    size = sum(size for size, _ in arrays)
    return size, 2 * size
  names = each.operands if each.kind == "fusion" else dict.fromkeys(each.operands)
  operands = [body[name].arrays for name in names if name in body]
  if each.kind == "fusion":
    operands, arrays = _fused(computations, computations[each.called("calls")[0]], operands, arrays)
  elif each.kind in _SLICES:
    operands = [arrays]
  elif each.kind == "dynamic-update-slice":
    operands, arrays = operands[1:2], operands[1]
  arrays = [*arrays, *(array for operand in operands for array in operand)]
  return sum(size for size, near in arrays if not near), sum(size for size, _ in arrays)


def _fused(computations, body, operands, results):
  """What a fusion reads and writes: pieces of arrays that it only cuts, changes of those that it changes in place.

  Returns:
    (arrays of every operand, arrays of the result) as in `hlo.Instruction`.
  """
  read = [_pieces(computations, body, number, arrays) for number, arrays in enumerate(operands)]
  last = _origin(body, next(each for each in body.values() if each.root))
  ends = [_origin(body, body[name]) for name in last.operands] if last.kind == "tuple" else [last]
  written = list(results)
  for i, end in enumerate(ends):
    if end.kind == "dynamic-update-slice" and len(ends) == len(results):
      written[i] = (body[end.operands[1]].arrays[0][0], results[i][1])
  return read, written


def _origin(body, each):
  while each.kind == "bitcast":
    each = body[each.operands[0]]
  return each


def _pieces(computations, body, number, arrays):
  """What a fusion, or one inside it, reads of its operand of this number, whose arrays are given."""
  names = {each.name for each in body.values() if each.kind == "parameter" and each.text.startswith(f"{number})")}
  pieces = []
  for use in (each for each in body.values() if names.intersection(each.operands)):
    places = [place for place, name in enumerate(use.operands) if name in names]
    if use.kind == "fusion":
      inner = computations[use.called("calls")[0]]
      pieces += [piece for place in places for piece in _pieces(computations, inner, place, arrays)]
    elif use.kind in _SLICES and places == [0]:
      pieces += [(size, arrays[0][1]) for size, _ in use.arrays]
    elif use.kind != "dynamic-update-slice" or places != [0]:
      return arrays
  return pieces if sum(size for size, _ in pieces) < sum(size for size, _ in arrays) else arrays
