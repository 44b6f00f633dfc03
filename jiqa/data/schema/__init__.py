"""What those who write prepared sets (data_builders) and those who read them (jiqa.data) have agreed on.

A record is `image`, the bytes of an image file, and the labels that LABELS_FILE holds in the same order, in 64 bits.
"""

import collections
import os
import pathlib

# image_name: path below the release's top folder; reference_name: the pristine content; split: the official part.
TEXT_COLUMNS = ("image_name", "reference_name", "distortion", "split")
# raw_score: the label file's number; mos: higher is better, on the database's scale; mos_std: of the opinions.
NUMBER_COLUMNS = ("raw_score", "mos", "mos_std")
# level: 0..4, -1 if none. Text is '' and a number NaN where there is none.
COLUMNS = ("image_name", "reference_name", "raw_score", "mos", "mos_std", "distortion", "level", "split")
SPLITS = ("train", "validation", "test")
LABELS_FILE = "labels.csv"
# No image is larger: 8192 x 8192 pixels, or 32,768 x 2048. On two cores that takes a minute and three gigabytes.
MAX_PIXELS, MAX_SIDE = 2**26, 2**15
SIZE_LIMITS = f"at most {MAX_PIXELS:,} pixels are taken, and {MAX_SIDE:,} a side"
# Images that nothing here reads.
UNREAD = (".heic", ".heif", ".svg", ".jxl", ".psd", ".eps", ".exr", ".dng", ".cr2", ".nef", ".arw", "dangling link")
# What to do with a prepared set that is damaged.
AGAIN = "delete the folder of the set and prepare it again; `jiqa doctor DATA_DIR --decode` finds every damage"


def passed_over(paths):
  """What a search for images leaves out: "3 files that are not read: 2 .heic, 1 dangling link", or ''."""
  kinds = ["dangling link" if os.path.islink(p) and not os.path.exists(p) else pathlib.Path(p).suffix for p in paths]
  counts = collections.Counter(kind.lower() for kind in kinds if kind.lower() in UNREAD)
  named = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))
  return f"{counts.total():,} files that are not read: {named}" if named else ""


def fits(width, height):
  """Whether an image of this size is within the limits."""
  return width * height <= MAX_PIXELS and max(width, height) <= MAX_SIDE
