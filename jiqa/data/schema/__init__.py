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
# No image is larger. Twice PIL's own warning level, where PIL refuses too: 13,377 x 13,377, half a gigabyte of RGB.
MAX_PIXELS = 178_956_970
