"""Finding what a label file names on a disk whose spelling of it differs."""

import pathlib
import shlex
import unicodedata

from jiqa.errors import UserError


def find_root(manual_dir, builder):
  """The top folder of a release: `manual_dir` itself, or a folder in it with one of the names in `builder.TOP`.

  Args:
    manual_dir: what the user gave, or None.
    builder: a `data_builders.base.Builder`.

  Returns:
    pathlib.Path.

  Raises:
    UserError: no such folder, or not this database; names what is missing.
  """
  given = given_folder(manual_dir, builder)
  missing = {folder: missing_marks(folder, builder.MARKS) for folder in candidates(given, builder)}
  root = min(missing, key=lambda folder: len(missing[folder]))
  if not missing[root]:
    return root
  raise UserError(
    f"{given}: not the {builder.name} release: no {', no '.join(missing[root])}. {builder.MANUAL}\n"
    f"Download page: {builder.PAGE}\nTo see what the folder holds: jiqa doctor {shlex.quote(str(given))}"
  )


def given_folder(manual_dir, builder):
  """`manual_dir` as a path; refused where it is missing, no folder, or a file still to be unpacked."""
  given = None if manual_dir is None else pathlib.Path(manual_dir).expanduser()
  if given is not None and given.is_dir():
    return given
  if given is None:
    problem = f"{builder.name}: --manual-dir is missing."
  else:
    problem = f"{given}: is a file; unpack it first." if given.is_file() else f"{given}: no such folder."
  raise UserError(f"{problem} {builder.MANUAL}\nDownload page: {builder.PAGE or 'none'}")


def candidates(given, builder):
  """Folders that may be the release's top folder: `given`, then those in it that are called so."""
  inner = [find(given, name) for name in (*builder.TOP, builder.name)]
  return [given, *(folder for folder in inner if folder is not None and folder.is_dir())]


def missing_marks(folder, marks):
  """The marks that `folder` lacks, as text."""
  names = [mark if isinstance(mark, tuple) else (mark,) for mark in marks]
  return [" or ".join(any_of) for any_of in names if not any(find(folder, name) for name in any_of)]


def find(folder, relative):
  """The path of `relative` below `folder` whatever its case and Unicode form, or None; the exact spelling wins."""
  path = pathlib.Path(folder)
  for part in pathlib.PurePosixPath(relative).parts:
    if (path / part).exists():
      path = path / part
      continue
    if not path.is_dir():
      return None
    path = next((entry for entry in sorted(path.iterdir()) if _folded(entry.name) == _folded(part)), None)
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
  resolved = spellings(root, names)
  missing = [i for i, spelling in enumerate(resolved) if spelling is None]
  if missing:
    more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
    name, row = list(names)[missing[0]], list(where)[missing[0]]
    raise UserError(f"{row}: the image {name} is not in {root}{more}; unpack the release completely.")
  return resolved


def spellings(root, names):
  """As `resolve`, with None for an image that is not there."""
  listings = {}
  resolved = []
  for name in names:
    folder, _, file = name.rpartition("/")
    if folder not in listings:
      listings[folder] = _list(root, folder)
    actual, exact, folded = listings[folder]
    spelling = file if file in exact else folded.get(_folded(file))
    resolved.append(None if spelling is None else f"{actual}/{spelling}" if actual else spelling)
  return resolved


def _folded(name):
  """A spelling that forgets case, and whether accents are letters' or of their own, as archives of macOS have them."""
  return unicodedata.normalize("NFC", name).casefold()


def _list(root, folder):
  path = find(root, folder) if folder else root
  path = path if path is not None and path.is_relative_to(root) else None  # a label file may have absolute paths
  files = sorted(entry.name for entry in path.iterdir()) if path is not None and path.is_dir() else []
  actual = path.relative_to(root).as_posix() if folder and path is not None else folder
  return actual, set(files), {_folded(file): file for file in reversed(files)}
