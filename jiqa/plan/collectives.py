"""What devices exchange in a compiled program, read from the program itself."""

import re

from jiqa.plan import hlo

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_LINE = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start)?\(")
# A sum of which every device keeps its part, as TPUs have it: an all-reduce that is never whole. They share a channel.
_SCATTER = "all-reduce-scatter"
_CHANNEL = re.compile(r"channel_id=(\d+)")


def find(text):
  """The collectives of one run of a program: compilers for TPUs print an asynchronous one many times.

  Args:
    text: HLO, such as `compiled.as_text()`.

  Returns:
    list of (kind, list of (type, shape)): what every collective gives each device, in a loop once for every turn.

  Example:
    >>> find("%s = (f32[2,3]{1,0}, f32[]) all-reduce(%a, %b), channel_id=1")
    [('all-reduce', [('f32', (2, 3)), ('f32', ())])]
  """
  collectives, channels, runs, current = [], set(), hlo.runs(text), None
  for line in text.splitlines():
    if computation := hlo.COMPUTATION.match(line):
      current = computation[2]
      if current.startswith(_SCATTER):
        collectives += [("reduce-scatter", hlo.shapes(line.rpartition("->")[2]))] * runs.get(current, 1)
    match = None if current and current.startswith(_SCATTER) else _LINE.search(line)
    channel = match and _CHANNEL.search(line)
    if not match or (channel and (match[2], channel[1]) in channels):
      continue
    if channel:
      channels.add((match[2], channel[1]))
    arrays = hlo.shapes(match[1])
    if match[3] and match[2] != "all-reduce":  # what goes in, what comes out, and counters of its progress
      arrays = [array for array in arrays if array not in (("u32", ()), ("s32", ()))]
      arrays = arrays[len(arrays) // 2 :]
    collectives += [(match[2], arrays)] * runs.get(current, 1)
  return collectives


def totals(text):
  """The collectives of a program by kind: dict from kind to [number, bytes, dict from type of number to bytes].

  Example:
    >>> totals("%s = (f32[2,3]{1,0}, s32[]) all-reduce(%a, %b), channel_id=1")
    {'all-reduce': [1, 28, {'f32': 24, 's32': 4}]}
  """
  result = {}
  for kind, arrays in sorted(find(text)):
    each = result.setdefault(kind, [0, 0, {}])
    each[0] += 1
    each[1] += hlo.size(arrays)
    for array in arrays:
      each[2][array[0]] = each[2].get(array[0], 0) + hlo.size([array])
  return result
