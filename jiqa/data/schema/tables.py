"""Tables of text: the labels of a prepared set, and the published splits, of which jiqa/data/splits/README.md tells."""

import functools
import hashlib
import io
import pathlib

import numpy as np

from jiqa.data.schema import AGAIN, LABELS_FILE
from jiqa.errors import UserError

FOLDER = pathlib.Path(__file__).parents[1] / "splits"
# One KonIQ-10k photograph is one image whatever the resolution of its folder.
RESOLUTION_FOLDERS = ("1024x768/", "512x384/")


def key(image_name):
  """The spelling under which an image is looked up; releases differ in case, and KonIQ-10k in resolution."""
  name = image_name.casefold()
  for folder in RESOLUTION_FOLDERS:
    name = name.removeprefix(folder)
  return name


def path(protocol, database):
  """The table of a protocol for a database; it need not exist."""
  return FOLDER / f"{protocol}_{database}.csv.gz"


def published_protocols(name):
  """Those of "liqe" and "arniqa" that published splits of a database (of FLIVE's photographs, not of its patches)."""
  database, _, variant = name.partition("/")
  known = () if variant == "patches" else ("liqe", "arniqa")
  return tuple(protocol for protocol in known if path(protocol, database).exists())


@functools.cache
def read(protocol, database):
  """A published table as a DataFrame indexed by `key` of the image.

  Columns: `splits`, one character a split (0 train, 1 validation, 2 test, - unused), and for "liqe" also `distortion`
  and `scene_1`..`scene_3` ('' if none).
  """
  import pandas as pd  # scoring does without

  table = pd.read_csv(path(protocol, database), dtype=str, keep_default_na=False)
  return table.set_index(table.image.map(key)).drop(columns="image")


def prepared(path, sha256):
  """The label table of the prepared set in `path`, as text; a UserError where it is not the one of that checksum."""
  import pandas as pd

  data = (path / LABELS_FILE).read_bytes()
  if hashlib.sha256(data).hexdigest() != sha256:
    raise UserError(f"{path / LABELS_FILE}: damaged or changed since the set was prepared; {AGAIN}")
  # What the columns mean must not depend on what pandas takes for a missing value.
  return pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, na_filter=False)


def rows(protocol, database, image_names):
  """The rows of a published table for n images, in their order; a UserError for an image that it does not know."""
  table = read(protocol, database)
  position = table.index.get_indexer([key(name) for name in image_names])
  unknown = np.flatnonzero(position < 0)
  if len(unknown):
    raise UserError(
      f"{database}: the published {protocol} splits do not know the image {image_names[unknown[0]]} and "
      f"{len(unknown) - 1} more of {len(position)}; use the protocol 'folds', or prepare the official release."
    )
  return table.iloc[position].reset_index(drop=True)
