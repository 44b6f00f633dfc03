"""Finding what a label file names on a disk whose spelling of it differs."""

import pathlib

from jiqa.errors import UserError


def find_root(manual_dir, folders, marks, builder):
  """The top folder of a release: `manual_dir` itself, or one of `folders` in it.

  Args:
    manual_dir: what the user gave, or None.
    folders: names that the top folder may have.
    marks: names of what must be in it; case does not matter, and each may be a tuple of alternatives.
    builder: asked for its name, page and instructions when nothing fits.

  Returns:
    pathlib.Path.

  Raises:
    UserError: no such folder, or not this database; names what is missing.
  """
  if manual_dir is None:
    raise UserError(f"{builder.name}: --manual_dir is missing. {builder.MANUAL}\nDownload page: {builder.PAGE}")
  given = pathlib.Path(manual_dir).expanduser()
  if not given.is_dir():
    raise UserError(f"{given}: no such folder. {builder.MANUAL}\nDownload page: {builder.PAGE}")
  candidates = [given]
  for folder in folders:
    found = find(given, folder)
    if found is not None and found.is_dir():
      candidates.append(found)
  for candidate in candidates:
    if not missing_marks(candidate, marks):
      return candidate
  fewest = min((missing_marks(candidate, marks) for candidate in candidates), key=len)
  raise UserError(
    f"{given}: not the {builder.name} release: no {', no '.join(fewest)}. {builder.MANUAL}\n"
    f"Download page: {builder.PAGE}\nTo see what the folder holds: jiqa doctor '{given}'"
  )


def missing_marks(folder, marks):
  """The marks that `folder` lacks, as text."""
  names = [mark if isinstance(mark, tuple) else (mark,) for mark in marks]
  return [" or ".join(any_of) for any_of in names if not any(find(folder, name) for name in any_of)]


def find(folder, relative):
  """The path of `relative` below `folder` whatever its case, or None; the exact spelling wins."""
  path = pathlib.Path(folder)
  for part in pathlib.PurePosixPath(relative).parts:
    if (path / part).exists():
      path = path / part
      continue
    if not path.is_dir():
      return None
    path = next((entry for entry in sorted(path.iterdir()) if entry.name.casefold() == part.casefold()), None)
    if path is None:
      return None
  return path


def resolve(root, names, where):
  """The on-disk spelling of image names.

  Args:
    root: pathlib.Path.
    names: sequence of n paths below `root`, as the label file spells them, separated by "/".
    where: sequence of n file-and-line texts.

  Returns:
    List of n paths below `root`, as the disk spells them.

  Raises:
    UserError: an image that is not there; names its row.
  """
  listings = {}
  resolved = []
  for name, row in zip(names, where, strict=True):
    folder, _, file = name.rpartition("/")
    if folder not in listings:
      listings[folder] = _list(root, folder)
    actual, exact, folded = listings[folder]
    spelling = file if file in exact else folded.get(file.casefold())
    if spelling is None:
      raise UserError(f"{row}: the image {name} is not in {root / folder}; unpack the release completely.")
    resolved.append(f"{actual}/{spelling}" if actual else spelling)
  return resolved


def _list(root, folder):
  path = find(root, folder) if folder else root
  files = sorted(entry.name for entry in path.iterdir()) if path is not None and path.is_dir() else []
  actual = path.relative_to(root).as_posix() if folder and path is not None else folder
  return actual, set(files), {file.casefold(): file for file in reversed(files)}
