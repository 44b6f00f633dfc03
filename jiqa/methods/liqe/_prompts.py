"""The texts that LIQE compares an image with, as token ids: no tokenizer is needed for the published wording.

CLIP's tokenizer looks at every word on its own, so a prompt is the tokens of its words, one after the other.
"""

import itertools
import string

import numpy as np

from jiqa.data.splits.liqe_labels import DISTORTIONS, SCENES
from jiqa.errors import UserError

QUALITIES = ("bad", "poor", "fair", "good", "perfect")
# What a template may ask for, in the order in which the answers are enumerated: the first is outermost.
TASKS = {"quality": QUALITIES, "scene": SCENES, "distortion": DISTORTIONS}

START, END = 49406, 49407
CONTEXT = 77
# CLIP's tokens of every word of the published templates, see configs/liqe.py.
WORDS = {
  "a": (320,), "photo": (1125,), "of": (539,), "with": (593,), "artifacts": (30249,), ",": (267,), "which": (1448,),
  "is": (533,), "quality": (3027,),
  "bad": (2103,), "poor": (3665,), "fair": (2849,), "good": (886,), "perfect": (1878,),
  "animal": (4668,), "cityscape": (40808,), "human": (2751,), "indoor": (9546,), "landscape": (5727,),
  "night": (930,), "plant": (3912,), "still_life": (1170, 318, 970), "others": (3326,),
  "jpeg2000": (73, 11207, 273, 271, 271, 271), "jpeg": (73, 11207), "compression": (25638,), "noise": (9307,),
  "blur": (27976,), "color": (3140,), "contrast": (18501,), "overexposure": (8649, 13002, 35539),
  "underexposure": (21675, 87, 35539), "spatial": (22022,), "quantization": (31540, 3683), "other": (1010,),
}  # fmt: skip


def tasks(template):
  """The tasks that a template asks for, in the order of TASKS.

  A UserError where it has a placeholder that is no task, or none for the quality.
  """
  placeholders = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
  if not {"quality"} <= placeholders <= set(TASKS):
    raise UserError(
      f"config.prompt is {template!r}; it must hold {{quality}} and may hold {{scene}} and {{distortion}}, "
      "nothing else in braces"
    )
  return tuple(task for task in TASKS if task in placeholders)


def shape(template):
  """How many answers every task has, the axes of a table of prompts: (5, 9, 11) for all three."""
  return tuple(len(TASKS[task]) for task in tasks(template))


def texts(template):
  """All prompts of a template, the quality outermost, the distortion innermost."""
  names = tasks(template)
  answers = itertools.product(*(TASKS[name] for name in names))
  return [template.format(**dict(zip(names, answer, strict=True))) for answer in answers]


def encode(template, tokenizer=None):
  """The prompts of a template as tokens, [p, t] int32: start, text, end, then 0 up to the longest prompt's length.

  The tokenizer (see `_tokenizer`, None for the published words only) is a function from text to a list of ids. A
  UserError for a word without tokens, or a prompt longer than CLIP's context.
  """
  rows = [[START, *(tokenizer or _known)(text), END] for text in texts(template)]
  longest = max(map(len, rows))
  if longest > CONTEXT:
    raise UserError(f"config.prompt {template!r} has up to {longest} tokens; CLIP reads at most {CONTEXT}")
  table = np.zeros((len(rows), longest), np.int32)
  for row, ids in zip(table, rows, strict=True):
    row[: len(ids)] = ids
  return table


def _known(text):
  words = text.replace(",", " , ").split()
  unknown = sorted({word for word in words if word not in WORDS})
  if unknown:
    raise UserError(
      f"config.prompt has words without a committed token: {', '.join(unknown)}. Other words need CLIP's vocabulary: "
      "set config.vocabulary to bpe_simple_vocab_16e6.txt.gz, or pip install open_clip_torch and set it to 'installed'"
    )
  return [token for word in words for token in WORDS[word]]
