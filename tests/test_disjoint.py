"""No image of a test part is read in training, whatever the database, the protocol and the split."""

import csv
import functools
import gzip
import io
import pathlib
from unittest import mock

import hypothesis
import numpy as np
import pandas as pd
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import Image

from jiqa import train as loop
from jiqa.data import splits
from jiqa.errors import UserError

PUBLISHED = pathlib.Path(splits.__file__).parent
TABLES = (("liqe", "csiq"), ("liqe", "live"), ("arniqa", "live"), ("arniqa", "csiq"), ("arniqa", "tid2013"))
PHASES = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # a failure is reported as it is, not made smaller
BATCH = 4


def png():
  file = io.BytesIO()
  Image.new("RGB", (4, 4)).save(file, "PNG")
  return file.getvalue()


class Noting:
  """A database that notes which records are read."""

  metadata = {"range": (0.0, 1.0), "labels_sha256": "of no file"}
  image = png()

  def __init__(self, table):
    self.table, self.read = table, []

  def __len__(self):
    return len(self.table)

  def __getitem__(self, i):
    self.read.append(self.table.image_name[i])
    return {"image": self.image, "image_name": self.table.image_name[i]}


class Method:
  """What the stream asks of a method."""

  @staticmethod
  def preprocess_train(image, record, rng):
    return {"pixel": image[0, 0, 0]}


@functools.cache
def published(protocol, database):
  """dict from image to its parts, a character a split, 2 the test part, as the shipped file has them."""
  with gzip.open(PUBLISHED / f"{protocol}_{database}.csv.gz", "rt", newline="") as file:
    return {row["image"]: row["splits"] for row in csv.DictReader(file)}


@st.composite
def databases(draw):
  """(protocol, name of a database, its label table)."""
  protocol = draw(st.sampled_from(["official", "folds", "published"]))
  if protocol == "published":
    protocol, name = draw(st.sampled_from(TABLES))
    images = draw(st.lists(st.sampled_from(sorted(published(protocol, name))), min_size=6, max_size=30, unique=True))
    return protocol, name, pd.DataFrame({"image_name": images, "reference_name": "", "split": ""})
  rows = []
  for content in range(draw(st.integers(4, 8))):
    part, named = draw(st.sampled_from(["train", "test", "validation", ""])), draw(st.booleans())
    for version in range(draw(st.integers(1, 4))):
      rows.append((f"{content}_{version}.png", f"content {content}" if named else "", part))
  order = draw(st.permutations(range(len(rows))))
  return protocol, "csv/any", pd.DataFrame([rows[i] for i in order], columns=["image_name", "reference_name", "split"])


def parts_of(protocol, name, table, config):
  """[k, n] str: the part of every image in each of the splits that a run of this config tests."""
  number = max(config.evaluation.splits, config.split + 1)
  if protocol == "official":
    parts = np.array([table.split.to_list()] * (1 if "validation" in set(table.split) else number))
  elif protocol == "folds":
    fractions = config.evaluation.fractions
    assigned = splits.assign(table, name, "folds", num_splits=number, seed=config.seed, fractions=fractions)
    parts = np.array(["train", "validation", "test"])[assigned]
  else:
    known = {"0": "train", "1": "validation", "2": "test", "-": ""}
    parts = np.array([[known[c] for c in published(protocol, name)[image]] for image in table.image_name]).T[:number]
  return parts if config.split < 0 else parts[config.split : config.split + 1]


def sets_aside(protocol, split):
  """Whether some of the training part may become the validation part."""
  return protocol == "official" and split >= 0


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None, phases=PHASES)
@hypothesis.given(
  database=databases(), split=st.sampled_from([-1, -1, 0, 2]), count=st.integers(1, 4), seed=st.integers(0, 3),
  fractions=st.sampled_from([(0.7, 0.1, 0.2), (0.4, 0.2, 0.4), (0.5, 0.0, 0.5)]),
  distortion=st.sampled_from(["", "", "blur"]),
)  # fmt: skip
def test_no_image_of_a_test_part_is_read_in_training(database, split, count, seed, fractions, distortion):
  protocol, name, table = database
  table = table.assign(distortion=["blur" if i % 3 else "noise" for i in range(len(table))])
  entry = {"name": name, "weight": 0.0, "count": 0, "protocol": protocol, "distortion": distortion}
  config = ConfigDict(
    {
      "data": [ConfigDict(entry)], "data_dir": "", "split": split, "seed": seed, "batch_size": BATCH, "threads": 1,
      "evaluation": {"splits": count, "fractions": fractions},
    }
  )  # fmt: skip
  parts = parts_of(protocol, name, table, config)
  wanted = (table.distortion == (distortion or table.distortion)).to_numpy()
  kept = (parts != "test").all(0) if split < 0 else (parts == "train").all(0) & (len(parts) > 0)
  expected, noting = set(table.image_name[wanted & kept]), Noting(table)
  with mock.patch.object(loop, "open_database", lambda *_: noting):
    try:
      sources, weights, _ = loop.open_sources(config)
    except UserError as error:
      if protocol == "official" and not (table.split != "").any():
        assert "has no official splits" in str(error)
      elif not len(parts):
        assert f"config.split is {split}" in str(error)
      else:
        assert "no image is left" in str(error) and (not expected or sets_aside(protocol, split))
      return
  batches = loop.batches_from(config, sources, weights, Method, 0)
  for _ in range(-(-len(sources[0]) // BATCH)):  # an epoch
    next(batches)
  tested, read = (parts == "test").any(0), set(noting.read)
  assert not read & set(table.image_name[tested])
  content = table.reference_name.where(table.reference_name != "", table.image_name)
  assert not set(content[table.image_name.isin(read)]) & set(content[tested])
  assert read <= expected if sets_aside(protocol, split) else read == expected
  assert weights == [len(sources[0])]
