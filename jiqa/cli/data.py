"""Databases and distortions."""

from typing import Annotated

import typer
from typer import Argument, Option

from jiqa.cli.app import DataDir, Device, app
from jiqa.inference import startup


@app.command()
def prepare(
  names: Annotated[list[str], Argument(help="e.g. koniq10k csiq koniq10k/512x384 image_folder/crops")],
  manual_dir: str = Option(None, "--manual-dir", help="the unpacked release, or the folder the releases lie in"),
  data_dir: DataDir = None,
  workers: int = Option(None, "--workers", help="threads; default one a core"),
  strict: bool = Option(False, "--strict", help="refuse damaged files that would be left out"),
  beam: str = Option(None, "--beam", help="write with Apache Beam and these pipeline options"),
):
  """Prepares databases from their unpacked releases: jiqa prepare koniq10k csiq --manual-dir=/data/iqa"""
  from data_builders.prepare import prepare_several

  prepare_several(names, manual_dir, data_dir, strict=strict, workers=workers, beam=beam)


@app.command()
def doctor(
  folder: Annotated[str, Argument(help="an unpacked release, a prepared set, or the data_dir of prepared sets")],
  database: str = Argument(None, help="which one it is meant to be; recognised if not given"),
  data_dir: DataDir = None,
  decode: bool = Option(False, "--decode", help="decode every image; slower, finds every damage"),
):
  """Says what an unpacked release is, what is wrong with it and what to do next: jiqa doctor Downloads/koniq10k"""
  from data_builders.doctor import as_text, examine
  from data_builders.prepared import examine_prepared, prepared_sets

  if sets := [] if database else prepared_sets(folder):
    damage = {path: examine_prepared(path, decode) for path in sets}
    for path, problems in damage.items():
      print(f"{path}: {'damaged' if problems else 'complete'}", *problems, sep="\n  !! ")
    raise typer.Exit(int(any(damage.values())))
  report = examine(folder, database, data_dir=data_dir, decode=decode)
  print(as_text(report))
  if report.problems:
    raise typer.Exit(1)


@app.command()
def databases(data_dir: DataDir = None):
  """Lists all databases, their scales, splits and terms, and which are prepared: jiqa databases"""
  from data_builders.catalogue import print_catalogue

  print_catalogue(data_dir)


@app.command()
def distort(
  image: Annotated[str, Argument(help="an image")],
  kind: Annotated[list[str], Option("--kind", help="name or number; repeat for a sheet of several; default all")] = (),
  level: int = Option(None, "--level", help="0 (weakest) to 4; without it a contact sheet of all levels is drawn"),
  out: str = Option(..., "--out", help="image to write"),
  bank: str = Option(None, "--bank", help="kadid25: the 25 kinds of KADID-10k; default 26 others"),
  compat: str = Option("fixed", "--compat", help="official: with the errors of the published code"),
  seed: int = Option(0, "--seed", help="of noise and places"),
  side: int = Option(160, "--side", min=8, help="of a tile of the contact sheet, pixels"),
  device: Device = None,
):
  """Distorts an image, or draws a contact sheet: jiqa distort photo.jpg --kind=jpeg --level=3 --out=distorted.png"""
  startup.prepare()
  from jiqa.distortions import contact_sheet
  from jiqa.inference.inputs import Item, load

  contact_sheet.distort_file(load(Item(image, image)), out, kind, level, bank=bank, compat=compat, seed=seed, side=side)
  print(out)
