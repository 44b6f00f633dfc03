"""Looks at an unpacked release and says which database it is, what is wrong with it, and what to do next."""

import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
import shlex

from data_builders import builder_class, folders, make_builder, names
from data_builders.image_files import check_image
from jiqa.data.schema import passed_over
from jiqa.errors import UserError

# What any folder would be.
ANY_FOLDER = ("image_folder", "csv", "demo")
ARCHIVES = (".zip", ".rar", ".tgz", ".tar", ".gz", ".7z")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# So many examples of one kind of problem are named; the rest is counted.
NAMED = 5


@dataclasses.dataclass
class Report:
  """What a folder holds.

  Attributes:
    folder: the folder looked at.
    database: name with variant, or '' where none was recognised.
    facts: what is as it should be, one line each.
    problems: what keeps the set from being prepared, one line each.
    remarks: what is unusual but does no harm.
    next: what to do now.
  """

  folder: pathlib.Path
  database: str = ""
  facts: list = dataclasses.field(default_factory=list)
  problems: list = dataclasses.field(default_factory=list)
  remarks: list = dataclasses.field(default_factory=list)
  next: str = ""

  def add_problems(self, problems, kind):
    """Adds the first few of `problems` and the number of the others."""
    self.problems += problems[:NAMED]
    if len(problems) > NAMED:
      self.problems.append(f"... and {len(problems) - NAMED:,} more {kind} images")


def examine(folder, database=None, *, data_dir=None, decode=False):
  """Examines a folder.

  Args:
    folder: an unpacked release, or the folder it lies in.
    database: which one it is meant to be; None recognises it.
    data_dir: for the command that the report ends with.
    decode: decode every image instead of checking that it is complete; slower, finds every damage.

  Returns:
    Report.

  Raises:
    UserError: no such folder, or no such database.
  """
  folder = pathlib.Path(folder).expanduser()
  if not folder.is_dir():
    raise UserError(f"{folder}: no such folder.")
  report = Report(folder)
  likely = _by_marks(folder, variants(database)) if database else recognise(folder)
  if not likely:
    _unknown(report, folder, data_dir, decode)
    return report
  report.database = likely[0]
  builder = make_builder(report.database, data_dir)
  try:
    with builder.root(folder) as root:
      _check(report, builder, pathlib.Path(root), decode)
  except UserError as error:
    report.problems.append(str(error))
  report.next = builder.prepare_command(folder)
  if report.problems:
    report.next = f"put right what is listed above, then run: jiqa doctor {shlex.quote(str(folder))} {report.database}"
  return report


def as_text(report):
  """The report as lines for a terminal."""
  lines = [f"{report.folder}: {report.database or 'not recognised'}"]
  for sign, texts in (("ok ", report.facts), ("?  ", report.remarks), ("!! ", report.problems)):
    lines += [f"  {sign} {text}" for text in texts]
  return "\n".join([*lines, f"next: {report.next}"])


def variants(database):
  """All names under which a database can be prepared: ["koniq10k/1024x768", ...]; a name with a variant as it is."""
  cls = builder_class(database)
  if "/" in database:
    return [database]
  if cls.USER_NAMED:
    return [f"{database}/mine"]
  return [f"{database}/{config.name}" for config in cls.BUILDER_CONFIGS] or [database]


def recognise(folder):
  """Names of the databases that `folder` may be, the likeliest first.

  A folder that has everything that marks a database is that one; otherwise those of which half is there.
  """
  known = [name for database in names() if database not in ANY_FOLDER for name in variants(database)]
  likely = []
  for name in known:
    share, marks = _marks_present(folder, name)
    if share == 1 or (share >= 0.5 and marks > 1):
      likely.append(name)
  return _by_marks(folder, likely)


def _by_marks(folder, candidates):
  """`candidates`, those of which most is in `folder` first."""
  return sorted(candidates, key=lambda name: _marks_present(folder, name), reverse=True)


def _marks_present(folder, name):
  """(share of a database's marks that are in `folder`, how many there are): two of two say more than one of one."""
  builder = make_builder(name)
  if not builder.MARKS:
    return 1.0, 0
  missing = min(len(folders.missing_marks(top, builder.MARKS)) for top in folders.candidates(folder, builder))
  return 1 - missing / len(builder.MARKS), len(builder.MARKS)


def _unknown(report, folder, data_dir, decode):
  files = [entry for entry in sorted(folder.iterdir()) if entry.is_file()]
  packed = [file.name for file in files if file.suffix.lower() in ARCHIVES]
  inside = sorted(folder.rglob("*"))
  images = [file for file in inside if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir()]
  if unread := passed_over(inside):
    report.remarks.append(unread)
  if packed:
    report.problems.append(f"not unpacked: {', '.join(packed[:NAMED])}")
    report.next = "unpack the archives, then run jiqa doctor again; `jiqa databases` lists what is known."
  elif images:
    table = any(file.suffix.lower() == ".csv" for file in files)
    report.facts.append(f"no known database, but {len(images):,} images" + (" and a table" if table else ""))
    _check_images(report, folder, [file.relative_to(folder).as_posix() for file in images], decode)
    report.next = make_builder("csv/NAME" if table else "image_folder/NAME", data_dir).prepare_command(folder)
  else:
    report.problems.append("no known database and no images")
    report.next = "`jiqa databases` lists what is known; give the folder into which the release was unpacked."


def _check(report, builder, root, decode):
  """Everything about a release whose marks are all there."""
  report.facts.append(f"top folder {root}")
  _check_label_files(report, builder, root)
  labels = builder.labels(root)
  image_root = builder.image_folder(root)
  on_disk = folders.spellings(image_root, labels.image_name)
  missing, present, renamed = [], [], 0
  for name, spelling, where in zip(labels.image_name, on_disk, labels["where"], strict=True):
    if spelling is None:
      missing.append(f"{where}: missing image {name}{_similar(image_root, name) if len(missing) < NAMED else ''}")
    else:
      present.append(spelling)
      renamed += spelling != name
  report.add_problems(missing, "missing")
  if renamed:
    report.remarks.append(f"{renamed:,} names differ from the label file in case or accents only; they are matched")
  _check_images(report, image_root, present, decode)
  if builder.IMAGES is not None:
    line = f"{len(labels):,} images listed, {builder.IMAGES:,} published"
    (report.facts if len(labels) == builder.IMAGES else report.remarks).append(line)
  if not missing:
    _check_table(report, builder, builder.table(root))  # the table's errors are the report's


def _check_table(report, builder, table):
  if builder.SCORE:
    low, high = builder.mos_range()
    report.facts.append(
      f"mos {table.mos.min():.4g}..{table.mos.max():.4g} (scale {low:.4g}..{high:.4g}), mean {table.mos.mean():.4g}"
      + (f", known {builder.MEAN:.4g}" if builder.MEAN is not None and len(table) == builder.IMAGES else "")
    )
  if references := table.reference_name[table.reference_name != ""].nunique():
    published = f", {builder.REFERENCES:,} published" if builder.REFERENCES else ""
    report.facts.append(f"{references:,} references{published}")


def _check_label_files(report, builder, root):
  for name, known in builder.LABEL_SHA256:
    path = next(root.rglob(name), None)
    if path is None:
      continue
    if hashlib.sha256(path.read_bytes()).hexdigest() == known:
      report.facts.append(f"{name}: checksum as known")
    else:
      report.remarks.append(f"{name}: not the copy whose checksum is known; its content is checked below")


def _check_images(report, root, image_names, decode):
  def damage(name):
    path = root / name
    try:
      check_image(path.read_bytes(), str(path), decode)
    except OSError as error:
      return f"{path}: cannot be read ({error.strerror})"
    except UserError as error:
      return str(error)
    return None

  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    damaged = list(filter(None, pool.map(damage, image_names)))
  report.add_problems(damaged, "damaged")
  if not damaged:
    report.facts.append(f"{len(image_names):,} image files, each {'decoded' if decode else 'complete'}")


def _similar(root, name):
  """A file of the same stem, which may be the missing one under another name."""
  folder = folders.find(root, name.rpartition("/")[0]) if "/" in name else root
  stem = pathlib.PurePosixPath(name).stem.casefold()
  if folder is None or not folder.is_dir():
    return ""
  same = next((entry.name for entry in folder.iterdir() if entry.stem.casefold() == stem), None)
  return f", but there is {same}: rename it" if same else ""
