"""What those who write prepared sets (data_builders) and those who read them (jiqa.data) have agreed on.

A record is `image`, the bytes of an image file, and the labels that LABELS_FILE holds in the same order, in 64 bits.
"""

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


def fits(width, height):
  """Whether an image of this size is within the limits."""
  return width * height <= MAX_PIXELS and max(width, height) <= MAX_SIDE
