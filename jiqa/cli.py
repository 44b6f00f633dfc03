"""The `jiqa` command. Each subcommand imports what it needs when it runs, so that `jiqa --help` is instant."""

import sys
from typing import Annotated

import typer

from jiqa.errors import UserError

app = typer.Typer(
  help=__doc__.split("\n")[0], no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


@app.callback()
def root():
  """No-reference image quality assessment in JAX."""


@app.command()
def prepare(
  names: Annotated[list[str], typer.Argument(help="e.g. koniq10k csiq koniq10k/512x384 image_folder/crops")],
  manual_dir: str = typer.Option(None, "--manual_dir", help="the unpacked release, or the folder the releases lie in"),
  data_dir: str = typer.Option(None, "--data_dir", help="default $TFDS_DATA_DIR or ~/tensorflow_datasets"),
  workers: int = typer.Option(None, "--workers", help="threads; default one a core"),
  strict: bool = typer.Option(False, "--strict", help="refuse damaged files that would be left out"),
  beam: str = typer.Option(None, "--beam", help="write with Apache Beam and these pipeline options"),
):
  """Prepares databases from their unpacked releases: jiqa prepare koniq10k csiq --manual_dir=/data/iqa"""
  from data_builders.prepare import prepare_several

  prepare_several(names, manual_dir, data_dir, strict=strict, workers=workers, beam=beam)


@app.command()
def doctor(
  folder: Annotated[str, typer.Argument(help="an unpacked release")],
  database: str = typer.Argument(None, help="which one it is meant to be; recognised if not given"),
  data_dir: str = typer.Option(None, "--data_dir", help="for the command that is printed at the end"),
  decode: bool = typer.Option(False, "--decode", help="decode every image; slower, finds every damage"),
):
  """Says what an unpacked release is, what is wrong with it and what to do next: jiqa doctor Downloads/koniq10k"""
  from jiqa.data.doctor import as_text, examine

  report = examine(folder, database, data_dir=data_dir, decode=decode)
  print(as_text(report))
  if report.problems:
    raise typer.Exit(1)


@app.command()
def databases(data_dir: str = typer.Option(None, "--data_dir", help="default $TFDS_DATA_DIR or ~/tensorflow_datasets")):
  """Lists all databases, their scales, splits and terms, and which are prepared: jiqa databases"""
  from jiqa.data.catalogue import print_catalogue

  print_catalogue(data_dir)


def main():
  """Runs the command; a `UserError` is printed without a traceback and exits with status 2."""
  try:
    app()
  except UserError as error:
    print(f"jiqa: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
  main()
