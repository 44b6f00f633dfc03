"""BID: 586 photographs with realistic blur."""

import numpy as np
import pandas as pd

from data_builders import base, label_files, prepare
from data_builders.folders import find
from jiqa.errors import UserError

AVERAGE = "Average Subjective Grade"
GRADE_COLUMNS = tuple(f"Grade #{i}" for i in range(1, 21))
# The published averages differ from the mean of the published grades by up to 0.33.
AVERAGES_AGREE = 0.5


class Builder(base.Builder):
  """BID. Image numbers are not contiguous; the deviation is the sample deviation of the grades given, blanks left out.
  The label file comes as .xls and as .xlsx."""

  TITLE = "586 photographs, realistic blur, lab scores"
  KIND = "authentic"
  PAGE = "https://www02.smt.ufrj.br/~eduardo/ImageDatabase.htm"
  MANUAL = (
    "Unpack ImageDatabase.tgz; --manual-dir holds ImageDatabase/ (DatabaseImage0001.JPG and on) and DatabaseGrades.xls "
    "or DatabaseGrades.xlsx, beside or in that folder."
  )
  LICENCE = "Not stated; used in research."
  CITATION = "Ciancio et al. No-reference blur assessment of digital images. IEEE TIP 20(1), 2011."
  SCORE = "mean opinion score, 0..5, higher is better"
  RAW_RANGE = (0.0, 5.0)
  STD_MAX = 3.6
  IMAGES = 586
  MEAN = 2.953
  LABEL_SHA256 = (("DatabaseGrades.xls", "0b051f192356b81ec941e0c658fff14b71d4ba90221b501c01290c098a54206e"),)
  TOP = ("BID",)
  MARKS = (
    "ImageDatabase",
    tuple(f"{folder}DatabaseGrades.{kind}" for folder in ("", "ImageDatabase/") for kind in ("xls", "xlsx")),
  )

  def labels(self, root):
    path = next(found for name in self.MARKS[1] if (found := find(root, name)) is not None)
    records = []
    columns = ("Image Number", AVERAGE, "Number of Grades")
    for row in label_files.read_sheet(path, "Plan1", columns):
      grades = [row.get(column) for column in GRADE_COLUMNS]
      grades = [label_files.number(grade, row.where, "grade") for grade in grades if grade not in (None, "")]
      average = row.number(AVERAGE)
      if grades and abs(np.mean(grades) - average) > AVERAGES_AGREE:
        raise UserError(
          f"{row.where}: {AVERAGE} is {average} but the grades' mean is {np.mean(grades):.3f}; columns swapped?"
        )
      records.append(
        {
          "image_name": f"ImageDatabase/DatabaseImage{int(row.number('Image Number')):04d}.JPG",
          "raw_score": average,
          "mos_std": float(np.std(grades, ddof=1)) if len(grades) > 1 else np.nan,
          "where": row.where,
        }
      )
    return pd.DataFrame(records)


if __name__ == "__main__":
  prepare.main("bid")
