"""Plans of runs, what they leave, and the evaluation of scores."""

from typing import Annotated

import typer
from typer import Argument, Option

from jiqa.cli.app import DataDir, Name, app
from jiqa.inference import startup


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def plan(
  context: typer.Context,
  config: str = Option(..., "--config", help="FILE[:VARIANT]; also --config.KEY=VALUE, as for launch.py"),
  topology: str = Option(..., "--topology", help="v5e:4x8, v5p:2x2x4, v4:2x2x2, v6e:2x4; gpu16:1, gpu40:8, gpu80:8"),
  program: Annotated[list[str], Option("--program", help="train, evaluate or predict; repeat; default all")] = (),
  images: int = Option(None, "--images", min=1, help="that it trains on; default those of the databases' releases"),
  out: str = Option(None, "--json", help="file for all figures"),
  remedies: bool = Option(True, help="where training does not fit, compile what would make it fit"),
):
  """Compiles a config for TPUs that are not here and says what it takes: jiqa plan --config=... --topology=v5e:4x8

  Needs the TPU compiler, which runs on any Linux machine, and minutes a program. Exit code 1 where one does not fit.
  """
  from jiqa.plan import machines

  machines.prepare()
  from jiqa.plan import command

  if not command.run(config, topology, context.args, names=program, images=images, out=out, remedies=remedies):
    raise typer.Exit(1)


@app.command()
def verify(run: Annotated[str, Argument(help="the --workdir of a run")], data_dir: DataDir = None):
  """Checks what a run has left: config, data, checkpoints, log, heads, results: jiqa verify runs/reiqa"""
  startup.prepare()
  from jiqa.verify import verify as check

  wrong = 0
  for what, problem in check(run, data_dir):
    print(f"{what}: {problem or 'ok'}", flush=True)
    wrong += bool(problem)
  if wrong:
    raise typer.Exit(1)


@app.command()
def evaluate(
  scores: Annotated[list[str], Argument(help="tables of scores, CSV, JSON or Parquet; or workdirs")],
  mos: str = Option(None, "--mos", help="column of human scores, or a file with image_name and mos"),
  group: str = Option(None, "--group", help="column of references, or a file with image_name, reference_name"),
  score: Annotated[
    list[str], Option("--score", help="column of a method; repeat; default all columns of numbers")
  ] = (),
  by: Annotated[list[str], Option("--by", help="column to break down by, such as distortion or level; repeat")] = (),
  split: str = Option(None, "--split", help="beginning of the columns that say 'test', one column a split"),
  cross: str = Option(None, "--cross", help="column of databases: a matrix of methods and databases instead"),
  name: Name = None,
  out: str = Option("report", "--out", help="folder for index.html, report.md, report.json, report.csv"),
  title: str = Option(None, "--title", help="heading of the report"),
  unit: str = Option(None, "--unit", help="name of the human scale; default that of its column"),
  resamples: int = Option(1000, "--resamples", min=100, help="of the bootstrap"),
  seed: int = Option(0, "--seed", help="of the bootstrap"),
):
  """Evaluates scores: jiqa evaluate a.csv b.csv --mos=labels.csv; or aggregates runs: jiqa evaluate RUN..."""
  from jiqa.evaluation import console

  if mos is None:
    return console.aggregate(scores, out)
  console.evaluate(
    scores, mos, methods=score, group=group, by=by, split=split, cross=cross, name=name, out=out, title=title,
    unit=unit, resamples=resamples, seed=seed,
  )  # fmt: skip


@app.command()
def gmad(
  scores: Annotated[list[str], Argument(help="tables of scores")],
  out: str = Option("gmad", "--out", help="folder for the pairs, the page and the outcome"),
  images: str = Option(None, "--images", help="folder the image names start from; makes sheets and the page"),
  anchors: str = Option(None, "--anchors", help="table of labelled images (the methods' columns and mos)"),
  content: str = Option(None, "--content", help="column or file that says what an image shows"),
  answers: Annotated[list[str], Option("--answers", help="CSV file saved by the page; repeat")] = (),
  proxy: str = Option(None, "--proxy", help="column or FILE:COLUMN that answers in place of people, such as SSIM"),
  levels: int = Option(6, "--levels", min=1, help="levels of every defender"),
  top: int = Option(1, "--top", min=1, help="pairs of every level"),
  name: Name = None,
):
  """Lets methods attack each other (gMAD): jiqa gmad a.csv b.csv --images=pool --out=gmad, then --answers=A.csv"""
  from jiqa.evaluation import console

  console.gmad(
    scores, out, images=images, anchors=anchors, content=content, answers=answers, proxy=proxy, levels=levels, top=top,
    name=name,
  )  # fmt: skip


@app.command()
def realign(
  scores: Annotated[str, Argument(help="a table of scores")],
  score: str = Option("score", "--score", help="column of the model's scores"),
  mos: str = Option("mos", "--mos", help="column of the raw human scores, or a file as for evaluate"),
  database: str = Option("database", "--database", help="column of the database names, or a file"),
  fitted: str = Option(None, "--split", help="column that says 'test' where an image must not shape the curve"),
  name: Name = None,
  out: str = Option("realigned.csv", "--out", help="CSV file to write"),
):
  """Brings the scales of several databases together: jiqa realign scores.csv --split=split --out=realigned.csv"""
  from jiqa.evaluation import console

  console.realign(scores, score=score, mos=mos, database=database, fitted=fitted, name=name, out=out)
