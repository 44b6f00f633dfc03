"""What devices exchange in a compiled program, read from the program itself."""

import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8}
_LINE = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"(pred|bf16|[a-z]\d+)\[([\d,]*)\]")
_CHANNEL = re.compile(r"channel_id=(\d+)")


def find(text):
  """The collectives of a program, one for every channel: compilers for TPUs print an asynchronous one many times.

  Args:
    text: HLO, such as `compiled.as_text()`.

  Returns:
    list of (kind, list of (type, shape)): what every collective gives each device.

  Example:
    >>> find("%s = (f32[2,3]{1,0}, f32[]) all-reduce(%a, %b), channel_id=1")
    [('all-reduce', [('f32', (2, 3)), ('f32', ())])]
  """
  collectives, channels = [], set()
  for line in text.splitlines():
    match = _LINE.search(line)
    channel = match and _CHANNEL.search(line)
    if not match or (channel and (match[2], channel[1]) in channels):
      continue
    if channel:
      channels.add((match[2], channel[1]))
    shapes = [(kind, tuple(map(int, filter(None, dims.split(","))))) for kind, dims in _SHAPE.findall(match[1])]
    collectives.append((match[2], shapes[len(shapes) // 2 :] if match[3] and match[2] != "all-reduce" else shapes))
  return collectives


def size(arrays):
  """Bytes of a list of (type, shape).

  Example:
    >>> size([("f32", (2, 3)), ("u8", (5,))])
    29
  """
  return sum(_BYTES.get(kind, 4) * math.prod(shape) for kind, shape in arrays)


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
    each[1] += size(arrays)
    for array in arrays:
      each[2][array[0]] = each[2].get(array[0], 0) + size([array])
  return result
