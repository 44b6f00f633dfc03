"""From an unpacked release to a prepared set: one function, and the command line of every builder file."""

import argparse
import contextlib
import logging as python_logging
import os
import pathlib
import re
import shlex
import shutil
import sys

import tensorflow_datasets as tfds
from absl import logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

import data_builders
from data_builders.base import LABELS_FILE
from data_builders.folders import given_folder
from jiqa.errors import UserError


def default_data_dir():
  """Where prepared sets lie unless told otherwise: $TFDS_DATA_DIR, else TFDS's ~/tensorflow_datasets."""
  return pathlib.Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def make_builder(name, data_dir=None):
  """The TFDS builder of a database or of one of its variants.

  Args:
    name: "koniq10k", "koniq10k/512x384"; for a set of the user's own "image_folder/NAME".
    data_dir: where prepared sets lie; None takes `default_data_dir`.

  Returns:
    A `data_builders.base.Builder`; nothing is read or written yet.

  Raises:
    UserError: no such database or variant.
  """
  cls = data_builders.builder_class(name)
  database, _, variant = name.partition("/")
  known = {config.name: config for config in cls.BUILDER_CONFIGS}
  if variant and cls.OWN_NAME:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", variant):
      raise UserError(f"{name}: a set's name may hold letters, digits, dot, dash and underscore, not {variant!r}.")
    config = tfds.core.BuilderConfig(name=variant)
  elif variant and variant not in known:
    raise UserError(f"{name}: {database} has " + (f"the variants {', '.join(known)}." if known else "no variants."))
  elif cls.OWN_NAME:
    raise UserError(f"{database}: give the set a name of its own, --name=NAME; it is then called {database}/NAME.")
  else:
    config = known.get(variant)
  with _quiet():
    return cls(data_dir=os.fspath(data_dir or default_data_dir()), config=config)


def prepare(name, manual_dir=None, data_dir=None, *, strict=False, workers=None, beam=None, console=None):
  """Prepares a database from its unpacked release; does nothing where that has been done.

  Args:
    name: as `make_builder`.
    manual_dir: folder of the unpacked release; None only for sets that need none.
    data_dir: as `make_builder`.
    strict: refuse a set with damaged files even where its builder would leave them out.
    workers: threads; None takes one a core.
    beam: list of Apache Beam pipeline options; the shards are then written by Beam, with DirectRunner unless the
      options name another runner. None writes them in this process.
    console: rich Console for the progress bar and the summary; None prints nothing.

  Returns:
    pathlib.Path of the prepared set.

  Raises:
    UserError: anything wrong with the release, or `data_dir` cannot be written; nothing half-written stays behind.
  """
  builder = make_builder(name, data_dir)
  path = pathlib.Path(builder.data_dir)
  console = console or Console(quiet=True)
  if (path / LABELS_FILE).exists():
    console.print(f"{name} is prepared already: {path} (delete that folder to prepare it again)", soft_wrap=True)
    return path
  if builder.MANUAL:
    given_folder(manual_dir, builder)
  builder.SKIPS_DAMAGED = builder.SKIPS_DAMAGED and not strict and beam is None
  builder.workers = workers
  config = tfds.download.DownloadConfig(manual_dir=None if manual_dir is None else os.fspath(manual_dir))
  if beam is not None:
    config = config.replace(**_beam_options(beam))
  with _clean_failure(builder, path), _progress(builder, name, console), _quiet():
    builder.download_and_prepare(download_config=config)
  _report(builder, path, console)
  return path


def prepare_several(names, manual_dir=None, data_dir=None, *, strict=False, workers=None, beam=None):
  """Prepares several databases, one after the other, with progress on the terminal: what `jiqa prepare` does.

  Args:
    names: database names as `make_builder`.
    manual_dir: the release, or for several the folder that their releases lie in.
    data_dir, strict, workers: as `prepare`.
    beam: Apache Beam pipeline options as one text; None does without Beam, '' takes Beam's DirectRunner.

  Raises:
    UserError: a database could not be prepared; the others are, before it is raised.
  """
  console = Console(stderr=True)
  failures = []
  for name in names:
    options = None if beam is None else shlex.split(beam)
    try:
      prepare(name, manual_dir, data_dir, strict=strict, workers=workers, beam=options, console=console)
    except UserError as error:
      failures.append(f"{name}: {error}")
    except KeyboardInterrupt:
      raise UserError(f"{name}: interrupted; the same command goes on where it stopped.") from None
  if failures:
    raise UserError("\n\n".join(failures))


def main(name, arguments=None):
  """The command line of a builder file: `python -m data_builders.NAME --manual_dir=... --data_dir=...`."""
  cls = data_builders.builder_class(name)
  parser = argparse.ArgumentParser(prog=f"python -m data_builders.{name}", description=f"{cls.TITLE}. {cls.MANUAL}")
  parser.add_argument("--manual_dir", help="folder of the unpacked release")
  parser.add_argument("--data_dir", help="where prepared sets lie; default $TFDS_DATA_DIR or ~/tensorflow_datasets")
  parser.add_argument("--workers", type=int, help="threads; default one a core")
  if cls.OWN_NAME:
    parser.add_argument("--name", required=True, help=f"what to call the set: {name}/NAME")
  if cls.BUILDER_CONFIGS:
    parser.add_argument("--variant", choices=[c.name for c in cls.BUILDER_CONFIGS], default=cls.BUILDER_CONFIGS[0].name)
  if cls.SKIPS_DAMAGED:
    parser.add_argument("--strict", action="store_true", help="refuse damaged files instead of leaving them out")
  flags = parser.parse_args(arguments)
  variant = getattr(flags, "name", None) or getattr(flags, "variant", None)
  console = Console(stderr=True)
  try:
    prepare(
      f"{name}/{variant}" if variant else name,
      flags.manual_dir,
      flags.data_dir,
      strict=getattr(flags, "strict", False),
      workers=flags.workers,
      console=console,
    )
  except UserError as error:
    print(f"{name}: {error}", file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    print(f"{name}: interrupted; the same command goes on where it stopped.", file=sys.stderr)
    sys.exit(130)


@contextlib.contextmanager
def _clean_failure(builder, path):
  """Turns what the disk says into a UserError and removes folders left empty."""
  root = builder.data_dir_root
  try:
    yield
  except OSError as error:
    raise UserError(
      f"{root}: cannot write the prepared {builder.name} ({error.strerror or error}). Free space or give another "
      "--data_dir, then run the same command again; nothing was left behind."
    ) from error
  finally:
    _remove_empty(path, pathlib.Path(root))


def _remove_empty(path, root):
  """Removes the folders of a set of which nothing was prepared; TFDS notes the variants' default in `.config`."""
  for folder in path.parents[: len(path.relative_to(root).parts) - 1]:
    if folder.is_dir() and [entry.name for entry in folder.iterdir()] == [".config"]:
      shutil.rmtree(folder / ".config")
    with contextlib.suppress(OSError):
      folder.rmdir()  # only where it is empty


@contextlib.contextmanager
def _progress(builder, name, console):
  columns = (
    SpinnerColumn(),
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
  )
  with Progress(*columns, console=console, transient=True) as bar:
    task = bar.add_task(f"preparing {name}", total=None)
    builder.started = lambda total: bar.update(task, total=total)
    builder.advance = lambda count: bar.advance(task, count)
    yield


@contextlib.contextmanager
def _quiet():
  """TFDS narrates at warning level what is normal here (variants of the user's own, its own progress bars)."""
  level = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  tfds.disable_progress_bar()
  try:
    yield
  finally:
    logging.set_verbosity(level)


def _beam_options(options):
  try:
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
  except ImportError as error:
    raise UserError("Apache Beam is not installed: pip install 'apache-beam>=2.77'.") from error
  # A failing image is reported once, by us, and not with Beam's tracebacks.
  python_logging.getLogger("apache_beam").setLevel(python_logging.CRITICAL)
  parsed = PipelineOptions(options)
  return {"beam_options": parsed, "beam_runner": parsed.view_as(StandardOptions).runner or "DirectRunner"}


def _report(builder, path, console):
  facts = builder.info.metadata
  size = sum(file.stat().st_size for file in path.iterdir()) / 1e6
  console.print(f"{facts['images']:,} images, {size:,.1f} MB: {path}", soft_wrap=True)
  if not facts["complete"]:
    console.print(f"note: the complete {builder.name} has {builder.IMAGES:,} images.", soft_wrap=True)
  if facts["skipped"]:
    console.print(f"left out {len(facts['skipped'])} files that are no complete image:", soft_wrap=True)
    for reason in facts["skipped"]:
      console.print(f"  {reason}", soft_wrap=True, markup=False, highlight=False)
