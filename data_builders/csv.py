"""Your own images and scores: a folder and a table."""

import pandas as pd

from data_builders import base, checks, label_files, prepare
from jiqa.errors import UserError

OPTIONAL = ("mos_std", "reference_name", "distortion", "level", "split")


class Builder(base.Builder):
  """Images of your own with scores in a CSV file.

  The header says what the columns are: `image_name` (path below the folder), then `mos` where higher is better or
  `dmos` where lower is better, and of `mos_std`, `reference_name`, `distortion`, `level` (0..4) and `split` ("train",
  "validation", "test") what there is, blank where there is none; other columns are ignored. Give `reference_name` where
  several images show the same content, or the same content will train and test.
  """

  TITLE = "images and scores of your own"
  KIND = "your own"
  MANUAL = (
    "--manual-dir is a folder with your images and one .csv file in it, whose header names the columns image_name and "
    f"mos (higher is better) or dmos (lower is better), and of {', '.join(OPTIONAL)} what there is."
  )
  LICENCE = "As the images'."
  SCORE = "as given"
  UNIT = "score as given"
  USER_NAMED = True

  def labels(self, root):
    files = sorted(path for path in root.iterdir() if path.suffix.lower() == ".csv" and path.name[:2] != "._")
    if len(files) != 1:
      names = ", ".join(path.name for path in files) or "none"
      raise UserError(f"{root}: expected one .csv file beside the images, found {names}. {self.MANUAL}")
    rows = label_files.read_csv(files[0], ("image_name",))
    scores = [column for column in ("mos", "dmos") if rows and column in rows[0]]
    if len(scores) != 1:
      raise UserError(f"{files[0]}: the header must name one of mos and dmos, it has {list(rows[0]) if rows else []}.")
    table = pd.DataFrame(rows).assign(where=[row.where for row in rows])
    table["raw_score"] = [row.number(scores[0]) for row in rows]
    self.DIRECTION = "higher" if scores[0] == "mos" else "lower"
    self.RAW_RANGE = (float(table.raw_score.min()), float(table.raw_score.max()))
    self.FLIP = sum(self.RAW_RANGE)  # so that dmos and mos have the same range
    for column in ("mos_std", "level"):
      if column in table:
        # A cell may be blank, or nan as pandas writes it: there is none.
        none = checks.DEFAULTS[column]
        table[column] = [none if row[column].lower() in ("", "nan") else row.number(column) for row in rows]
    return table[["image_name", "raw_score", "where", *(column for column in OPTIONAL if column in table)]]


if __name__ == "__main__":
  prepare.main("csv")
