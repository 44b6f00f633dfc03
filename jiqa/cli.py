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
  from data_builders.doctor import as_text, examine

  report = examine(folder, database, data_dir=data_dir, decode=decode)
  print(as_text(report))
  if report.problems:
    raise typer.Exit(1)


@app.command()
def databases(data_dir: str = typer.Option(None, "--data_dir", help="default $TFDS_DATA_DIR or ~/tensorflow_datasets")):
  """Lists all databases, their scales, splits and terms, and which are prepared: jiqa databases"""
  from data_builders.catalogue import print_catalogue

  print_catalogue(data_dir)


@app.command()
def convert(
  source: Annotated[str, typer.Argument(help="reiqa-quality, reiqa-content, resnet50, ...; `list` shows all")],
  file: str = typer.Argument(None, help="the published checkpoint: .safetensors, or a file of torch"),
  out: str = typer.Argument(None, help="folder of weights to write"),
  back: bool = typer.Option(False, "--back", help="FILE is a folder of weights or a run, OUT as published"),
):
  """Converts published weights, strict about every tensor: jiqa convert reiqa-quality quality_aware_r50.pth weights"""
  from jiqa.weights import convert as weights

  if source == "list":
    for name in weights.SOURCES:
      print(f"{name}: {weights.source_of(name).what}")
  elif file is None or out is None:
    raise UserError("expected three arguments: SOURCE FILE OUT; see jiqa convert --help")
  elif back:
    from jiqa.inference.loading import find

    def read(folder):
      found = find(folder)
      # What a run does not train may lie beside its parameters.
      return {**found.params, **(found.extra or {}).get("frozen", {})}, found.stats, found.card

    print(f"{out}: {weights.convert_back(source, file, out, read)} tensors")
  else:
    print(f"{weights.describe(weights.convert(source, file, out))}\nweights: {out}")


@app.command()
def features(
  paths: Annotated[list[str], typer.Argument(help="images, folders, patterns, addresses")],
  weights: list[str] = typer.Option([], "--weights", help="folder of weights or workdir of a run; several are joined"),  # noqa: B008
  model: str = typer.Option(None, "--model", help="reiqa, liqe or lml; default what the weights are of"),
  out: str = typer.Option("features.npz", "--out", help="image_name, features and card"),
):
  """Writes an encoder's features: jiqa features photos --model=reiqa --weights=weights/quality --out=features.npz

  Exit code 3 where an image could not be read: it has no row.
  """
  from jiqa.inference import startup

  startup.prepare()
  from jiqa.inference.command import UNREADABLE
  from jiqa.inference.features import write_features
  from jiqa.inference.load import load

  written, refused = write_features(load(model, weights or None), paths, out)
  print(f"{out}: features of {written} images")
  for message in refused:
    print(f"left out: {message}", file=sys.stderr)
  if refused:
    raise typer.Exit(UNREADABLE)


@app.command()
def score(
  paths: Annotated[list[str], typer.Argument(help="images, videos, folders, patterns, addresses, @LIST, - (stdin)")],
  model: str = typer.Option(None, "--model", help="reiqa, liqe or lml; default what the weights are of"),
  weights: list[str] = typer.Option([], "--weights", help="folder of weights or workdir of a run; several are joined"),  # noqa: B008
  head: str = typer.Option(None, "--head", help="head of `jiqa fit`; default the one beside the weights"),
  out: str = typer.Option(None, "--out", help=".csv, .json or .parquet; run again to go on after an interruption"),
  shard: str = typer.Option(None, "--shard", help="i/n: this process takes every n-th image"),
  fps: float = typer.Option(1.0, "--fps", min=0.001, help="frames a second of videos"),
):
  """Scores images: jiqa score photos --model=liqe --weights=weights/liqe --out=scores.csv

  Exit code 3 where an image could not be read: its row has an error and no score.
  """
  from jiqa.inference import startup

  startup.prepare()
  from jiqa.inference.load import score_files

  code = score_files(paths, model, weights or None, head, out=out, shard=shard, frames_per_second=fps)
  if code:
    raise typer.Exit(code)


@app.command()
def fit(
  images: str = typer.Option(..., "--images", help="folder that the image names start from"),
  scores: str = typer.Option(..., "--scores", help="CSV or Parquet with image_name and ratings, perhaps split"),
  weights: list[str] = typer.Option([], "--weights", help="folder of weights or workdir; several are compared"),  # noqa: B008
  features: str = typer.Option(None, "--features", help="reiqa, liqe, lml or concat; default all of the weights"),
  mos: str = typer.Option("mos", "--mos", help="column of the ratings, higher is better"),
  group: str = typer.Option(None, "--group", help="column that says what an image shows"),
  out: str = typer.Option("head.safetensors", "--out", help="head for jiqa score --head"),
  report: str = typer.Option("fit_report", "--report", help="folder for the evaluation report"),
):
  """Fits a head to your own ratings: jiqa fit --images=photos --scores=mos.csv --group=scene --out=head.safetensors"""
  import shlex

  from jiqa.inference import startup

  startup.prepare()
  from jiqa.inference.load import fit_head

  shell = shlex.join(["jiqa", *sys.argv[1:]])
  fit_head(
    images, scores, weights or None, features=features, mos=mos, group=group, out=out, report_folder=report, shell=shell
  )


@app.command("export-weights")
def export_weights(
  run: Annotated[str, typer.Argument(help="the --workdir of a finished run")],
  out: Annotated[str, typer.Argument(help="folder to write: weights, card and head")],
  head: str = typer.Option(..., "--head", help="database that the head is fitted to, such as biq2021"),
  dtype: str = typer.Option("float16", "--dtype", help="float16 or float32, of the stored numbers"),
  data_dir: str = typer.Option(None, "--data_dir", help="where the prepared database lies; default $TFDS_DATA_DIR"),
  recipe: str = typer.Option(None, "--recipe", help="the command that trains such a run, for the card"),
  licence: str = typer.Option(None, "--licence", help="for the card"),
):
  """Makes a run small enough to give away, with a head and its measures: jiqa export-weights RUN OUT --head=biq2021"""
  import json

  from jiqa.inference import startup

  startup.prepare()
  from jiqa.inference.package import package

  written = package(run, out, database=head, dtype=dtype, data_dir=data_dir, recipe=recipe, licence=licence)
  print(json.dumps({key: value for key, value in written.items() if key != "config"}, indent=2))


@app.command()
def export(
  out: Annotated[str, typer.Argument(help="folder to write: model.stablehlo, model.json, example.npz")],
  model: str = typer.Option(None, "--model", help="reiqa, liqe or lml; default what the weights are of"),
  weights: str = typer.Option(None, "--weights", help="folder of weights or workdir; default those of jiqa"),
  head: str = typer.Option(None, "--head", help="head of `jiqa fit`; default the one beside the weights"),
):
  """Writes a metric as a program that runs without jiqa (StableHLO): jiqa export exported --weights=runs/reiqa_demo"""
  from jiqa.inference.export import export
  from jiqa.inference.load import load

  sheet = export(load(model, weights, head), out)
  for name, text in sheet["inputs"].items():
    print(f"{name}: {text}")
  print(f"exported: {out}")


@app.command()
def card(
  model: str = typer.Argument(None, help="reiqa, liqe or lml; default the weights that come with jiqa"),
  weights: list[str] = typer.Option([], "--weights", help="folder of weights or workdir of a run"),  # noqa: B008
  head: str = typer.Option(None, "--head", help="head of `jiqa fit`; default the one beside the weights"),
):
  """Says what a metric was trained on, how good it is and what its scores mean: jiqa card --weights=runs/reiqa_demo"""
  import json

  from jiqa.inference.load import load

  print(json.dumps(load(model, weights or None, head).card, indent=2))


@app.command()
def serve(
  model: str = typer.Option(None, "--model", help="reiqa, liqe or lml; default the weights that come with jiqa"),
  weights: list[str] = typer.Option([], "--weights", help="folder of weights or workdir of a run; several are joined"),  # noqa: B008
  head: str = typer.Option(None, "--head", help="head of `jiqa fit`; default the one beside the weights"),
  host: str = typer.Option("127.0.0.1", "--host", help="address to listen on; 0.0.0.0: every network, no password"),
  port: int = typer.Option(8000, "--port", min=0, max=65535, help="0: any free one"),
  max_megabytes: int = typer.Option(32, "--max_megabytes", min=1, help="of one file"),
  max_files: int = typer.Option(32, "--max_files", min=1, help="of one request"),
  max_megapixels: int = typer.Option(50, "--max_megapixels", min=1, max=178, help="of one image"),
  queue: int = typer.Option(256, "--queue", min=1, help="images that may wait; beyond it the answer is 503"),
):
  """Scores images in the browser: jiqa serve --model=lml --weights=weights/lml --port=8000"""
  from jiqa.serve.command import serve as run

  sizes = {"max_megabytes": max_megabytes, "max_files": max_files, "max_megapixels": max_megapixels, "queue": queue}
  run(model, weights or None, head, host=host, port=port, sizes=sizes)


@app.command()
def explain(
  model: Annotated[str, typer.Argument(help="lml: saliency, crops and their scores")],
  image: Annotated[str, typer.Argument(help="an image")],
  weights: str = typer.Option(..., "--weights", help="folder of weights or workdir of a run"),
  out: str = typer.Option("explained.png", "--out", help="image to write"),
):
  """Draws what a score is made of: jiqa explain lml photo.jpg --weights=runs/lml_demo --out=explained.png"""
  from jiqa.inference.explain import explain as draw

  print(draw(model, image, weights, out))


@app.command()
def evaluate(
  scores: Annotated[str, typer.Argument(help="CSV or Parquet, one row an image, one column a method")],
  mos: Annotated[str, typer.Option("--mos", help="column of human scores, or a file with image_name and mos")],
  group: str = typer.Option(None, "--group", help="column of references, or a file with image_name, reference_name"),
  score: list[str] = typer.Option([], "--score", help="column of a method; repeat; default all columns of numbers"),  # noqa: B008
  by: list[str] = typer.Option([], "--by", help="column to break down by, such as distortion or level; repeat"),  # noqa: B008
  split: str = typer.Option(None, "--split", help="beginning of the columns that say 'test', one column a split"),
  cross: str = typer.Option(None, "--cross", help="column of databases: a matrix of methods and databases instead"),
  out: str = typer.Option("report", "--out", help="folder for index.html, report.md, report.json, report.csv"),
  title: str = typer.Option(None, "--title", help="heading of the report"),
  unit: str = typer.Option("MOS", "--unit", help="name of the human scale"),
  resamples: int = typer.Option(1000, "--resamples", min=100, help="of the bootstrap"),
  seed: int = typer.Option(0, "--seed", help="of the bootstrap"),
):
  """Judges scores with intervals and tests: jiqa evaluate scores.csv --mos=mos --group=reference --by=distortion"""
  from jiqa.evaluation import console

  console.evaluate(
    scores, mos, methods=score, group=group, by=by, split=split, cross=cross, out=out, title=title, unit=unit,
    resamples=resamples, seed=seed,
  )  # fmt: skip


@app.command()
def gmad(
  scores: Annotated[list[str], typer.Argument(help="score tables with image_name and one column a method")],
  out: str = typer.Option("gmad", "--out", help="folder for the pairs, the page and the outcome"),
  images: str = typer.Option(None, "--images", help="folder the image names start from; makes sheets and the page"),
  anchors: str = typer.Option(None, "--anchors", help="table of labelled images (the methods' columns and mos)"),
  content: str = typer.Option(None, "--content", help="column or file that says what an image shows"),
  answers: list[str] = typer.Option([], "--answers", help="CSV file saved by the page; repeat"),  # noqa: B008
  proxy: str = typer.Option(None, "--proxy", help="column that answers in place of people, such as SSIM"),
  levels: int = typer.Option(6, "--levels", min=1, help="levels of every defender"),
  top: int = typer.Option(1, "--top", min=1, help="pairs of every level"),
):
  """Lets methods attack each other (gMAD): jiqa gmad a.csv b.csv --images=pool --out=gmad, then --answers=A.csv"""
  from jiqa.evaluation import console

  console.gmad(
    scores, out, images=images, anchors=anchors, content=content, answers=answers, proxy=proxy, levels=levels, top=top
  )


@app.command()
def realign(
  scores: Annotated[str, typer.Argument(help="CSV or Parquet: image_name, database, human score, model's score")],
  score: str = typer.Option("score", "--score", help="column of the model's scores"),
  mos: str = typer.Option("mos", "--mos", help="column of the raw human scores, higher is better"),
  database: str = typer.Option("database", "--database", help="column of the database names"),
  fitted: str = typer.Option(None, "--split", help="column that says 'test' where an image must not shape the curve"),
  out: str = typer.Option("realigned.csv", "--out", help="CSV file to write"),
):
  """Brings the scales of several databases together: jiqa realign scores.csv --split=split --out=realigned.csv"""
  from jiqa.evaluation import console

  console.realign(scores, score=score, mos=mos, database=database, fitted=fitted, out=out)


def main():
  """Runs the command; a `UserError` is printed without a traceback and exits with status 2."""
  try:
    app()
  except UserError as error:
    print(f"jiqa: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
  main()
