"""From an unpacked release to a prepared set: one function, and the command line of every builder file."""

import argparse
import logging
import os
import pathlib
import shlex
import sys

import tensorflow_datasets as tfds
from rich.console import Console

from data_builders import builder_class, make_builder
from data_builders.folders import given_folder
from jiqa.errors import UserError

INTERRUPTED = "interrupted; the same command goes on where it stopped."


def prepare(name, manual_dir=None, data_dir=None, *, strict=False, workers=None, beam=None, console=None):
  """Prepares a database from its unpacked release; does nothing where that has been done.

  Args:
    name, data_dir: as `make_builder`.
    manual_dir: folder of the unpacked release; None only for sets that need none.
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
  if builder.is_prepared:
    console.print(f"{name} is prepared already: {path} (delete that folder to prepare it again)", soft_wrap=True)
    return path
  if builder.MANUAL:
    given_folder(manual_dir, builder)
  config = tfds.download.DownloadConfig(
    manual_dir=None if manual_dir is None else os.fspath(manual_dir), **({} if beam is None else _beam_options(beam))
  )
  builder.download_and_prepare(download_config=config, strict=strict, workers=workers, console=console)
  _report(builder, path, console)
  return path


def prepare_several(names, manual_dir=None, data_dir=None, *, beam=None, **options):
  """Prepares several databases, one after the other, with progress on the terminal: what `jiqa prepare` does.

  Args:
    names: database names as `make_builder`.
    manual_dir: the release, or for several the folder that their releases lie in.
    data_dir: as `make_builder`.
    beam: Apache Beam pipeline options as one text; None does without Beam, '' takes Beam's DirectRunner.
    options: `strict` and `workers` as `prepare`.

  Raises:
    UserError: a database could not be prepared; the others are, before it is raised.
  """
  beam, console, failures = None if beam is None else shlex.split(beam), Console(stderr=True), []
  for name in names:
    try:
      prepare(name, manual_dir, data_dir, beam=beam, console=console, **options)
    except UserError as error:
      failures.append(f"{name}: {error}")
    except KeyboardInterrupt:
      raise UserError(f"{name}: {INTERRUPTED}") from None
  if failures:
    raise UserError("\n\n".join(failures))


def main(name, arguments=None):
  """The command line of a builder file: `python -m data_builders.NAME --manual_dir=... --data_dir=...`."""
  cls = builder_class(name)
  parser = argparse.ArgumentParser(prog=f"python -m data_builders.{name}", description=f"{cls.TITLE}. {cls.MANUAL}")
  parser.add_argument("--manual-dir", "--manual_dir", help="folder of the unpacked release")
  parser.add_argument("--data-dir", "--data_dir", help="default $TFDS_DATA_DIR or ~/tensorflow_datasets")
  parser.add_argument("--workers", type=int, help="threads; default one a core")
  if cls.USER_NAMED:
    parser.add_argument("--name", dest="variant", required=True, help=f"what to call the set: {name}/NAME")
  if cls.BUILDER_CONFIGS:
    parser.add_argument("--variant", choices=[c.name for c in cls.BUILDER_CONFIGS], default=cls.BUILDER_CONFIGS[0].name)
  if cls.SKIPS_DAMAGED:
    parser.add_argument("--strict", action="store_true", help="refuse damaged files instead of leaving them out")
  flags = vars(parser.parse_args(arguments))
  variant = flags.pop("variant", None)
  try:
    prepare(f"{name}/{variant}" if variant else name, console=Console(stderr=True), **flags)
  except UserError as error:
    print(f"{name}: {error}", file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    print(f"{name}: {INTERRUPTED}", file=sys.stderr)
    sys.exit(130)


def _beam_options(options):
  try:
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
  except ImportError as error:
    raise UserError("Apache Beam is not installed: pip install 'apache-beam>=2.77'.") from error
  # A failing image is reported once, by us, and not with Beam's tracebacks.
  logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
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
