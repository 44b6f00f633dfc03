"""The `jiqa` command. Each subcommand imports what it needs when it runs, so that `jiqa --help` is instant."""

import os
import sys
from typing import Annotated

import typer
from typer import Argument, Option

import jiqa
from jiqa.errors import INSTALL, UserError

# Options that several subcommands share.
Model = Annotated[str, Option("--model", help="a method; default what the weights are of")]
Weights = Annotated[list[str], Option("--weights", help="folder of weights or workdir of a run; repeat for several")]
HeadFile = Annotated[str, Option("--head", help="head of `jiqa fit`; default the one beside the weights")]
Name = Annotated[str, Option("--name", help="column of image names; default image_name, path or Image Name")]
DataDir = Annotated[str, Option("--data-dir", help="default $TFDS_DATA_DIR or ~/tensorflow_datasets")]


def _use(device):
  os.environ.update({"JAX_PLATFORMS": device} if device else {})  # read when jax is imported


Device = Annotated[str, Option("--device", callback=_use, help="cpu, gpu or tpu; default the best there is")]
app = typer.Typer(
  no_args_is_help=True, pretty_exceptions_enable=False,
  context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},  # --data_dir is --data-dir
)  # fmt: skip


def _print_version(asked):
  if asked:
    print(f"jiqa {jiqa.__version__}")
    raise typer.Exit


@app.callback()
def root(version: bool = Option(False, "--version", callback=_print_version, is_eager=True, help="print it")):
  """No-reference image quality assessment in JAX."""


def _before_jax():
  from jiqa.inference import startup

  startup.prepare()


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
def verify(
  run: Annotated[str, Argument(help="the --workdir of a run")],
  data_dir: DataDir = None,
):
  """Checks what a run has left: config, data, checkpoints, log, heads, results: jiqa verify runs/reiqa"""
  _before_jax()
  from jiqa.verify import verify as check

  wrong = 0
  for what, problem in check(run, data_dir):
    print(f"{what}: {problem or 'ok'}", flush=True)
    wrong += bool(problem)
  if wrong:
    raise typer.Exit(1)


@app.command()
def models():
  """Lists what scores: weights that come with jiqa and methods, how good they are and how to get them: jiqa models"""
  from jiqa.inference.card import list_models

  for name, facts in list_models().items():
    print(name, *(f"  {key.replace('_', ' '):<11}{value}" for key, value in facts.items()), "", sep="\n")


@app.command()
def databases(data_dir: DataDir = None):
  """Lists all databases, their scales, splits and terms, and which are prepared: jiqa databases"""
  from data_builders.catalogue import print_catalogue

  print_catalogue(data_dir)


@app.command()
def convert(
  source: Annotated[str, Argument(help="name of a published checkpoint; `list` shows all")],
  file: str = Argument(
    None,
    help="the published checkpoint: .safetensors, or a file of torch; may be left out where "
    "an installed package brings it: jiqa convert efficientnet-lite0 weights/lite0",
  ),
  out: str = Argument(None, help="folder of weights to write"),
  back: bool = Option(False, "--back", help="FILE is a folder of weights or a run, OUT as published"),
):
  """Converts published weights, all that predict and no other: jiqa convert resnet50 resnet50.pth weights/resnet50"""
  from jiqa.weights import convert as weights

  if source == "list":
    for name in weights.SOURCES:
      print(f"{name}: {weights.source_of(name).what}")
  elif file is None or (back and out is None):
    raise UserError("expected SOURCE FILE OUT; see jiqa convert --help")
  elif back:
    from jiqa.inference.loading import read_weights

    print(f"{out}: {weights.convert_back(source, file, out, read_weights)} tensors")
  else:
    file, out = (None, file) if out is None else (file, out)
    print(f"{weights.describe(weights.convert(source, file, out))}\nweights: {out}")


@app.command()
def features(
  paths: Annotated[list[str], Argument(help="images, folders, patterns, addresses")],
  weights: Weights = (),
  model: Model = None,
  out: str = Option("features.npz", "--out", help="image_name, features and card"),
  device: Device = None,
):
  """Writes an encoder's features: jiqa features photos --weights=weights/quality --out=features.npz

  Exit code 3 where an image could not be read: it has no row.
  """
  _before_jax()
  from jiqa.inference.command import UNREADABLE
  from jiqa.inference.features import write_features
  from jiqa.inference.metric import load

  written, refused = write_features(load(model, weights or None), paths, out)
  print(f"{out}: features of {written} images")
  for message in refused:
    print(f"left out: {message}", file=sys.stderr)
  if refused:
    raise typer.Exit(UNREADABLE)


@app.command()
def score(
  paths: Annotated[list[str], Argument(help="images, videos, folders, patterns, addresses, shards, @LIST, - (stdin)")],
  model: Model = None,
  weights: Weights = (),
  head: HeadFile = None,
  out: str = Option(None, "--out", help=".csv, .json or .parquet, for shards a folder; run again to go on"),
  overwrite: bool = Option(False, "--overwrite", help="keep nothing of what --out holds already"),
  shard: str = Option(None, "--shard", help="i/n: this process takes every n-th image, or shard"),
  keep: str = Option("", "--keep", help="of shards, columns and sidecars to carry along: url,txt"),
  fps: float = Option(1.0, "--fps", min=0.001, help="frames a second of videos"),
  device: Device = None,
):
  """Scores images: jiqa score photos --weights=runs/mine --out=scores.csv

  Exit code 3 where an image could not be read: its row has an error and no score.
  """
  _before_jax()
  from jiqa.inference.command import score_files

  kept = keep.split(",") if keep else []
  options = {"out": out, "overwrite": overwrite, "shard": shard, "keep": kept, "frames_per_second": fps}
  code = score_files(paths, model, weights or None, head, **options)
  if code:
    raise typer.Exit(code)


@app.command(context_settings={"ignore_unknown_options": True})
def score_shards(
  paths: Annotated[list[str], Argument(help="shards: files, patterns, addresses")],
  model: Model = None,
  weights: Weights = (),
  head: HeadFile = None,
  out: str = Option(..., "--out", help="folder or address, which all workers can reach; run again to go on"),
  overwrite: bool = Option(False, "--overwrite", help="keep nothing of what --out holds already"),
  keep: str = Option("", "--keep", help="of shards, columns and sidecars to carry along: url,txt"),
):
  """Scores shards by Apache Beam, whose options may follow: jiqa score-shards "data/*.tar" --out=scores --runner=...

  Exit code 3 where an image could not be read: its row has an error and no score.
  """
  _before_jax()
  from jiqa.beam import score_shards as score

  kept, pipeline_options = keep.split(",") if keep else [], [word for word in paths if word.startswith("--")]
  options = {"model": model, "weights": tuple(weights) or None, "head": head, "keep": kept, "overwrite": overwrite}
  code = score([word for word in paths if word not in pipeline_options], out, pipeline_options, **options)
  if code:
    raise typer.Exit(code)


@app.command()
def summary(
  paths: Annotated[list[str], Argument(help="what jiqa score wrote: .csv, .parquet, folders of them")],
  min_score: float = Option(None, "--min-score", help="says how many images reach this score"),
  out: str = Option(None, "--out", help="also writes the numbers as .json"),
):
  """Quantiles and a histogram of scores, in memory that does not grow: jiqa summary scores --min-score=40"""
  from jiqa.evaluation.summary import print_summary

  print_summary(paths, min_score, out)


@app.command("fit")
def fit_head(
  images: str = Option(..., "--images", help="folder that the image names start from"),
  scores: str = Option(..., "--scores", help="CSV or Parquet with image_name and ratings, perhaps split"),
  weights: Weights = (),
  features: str = Option(None, "--features", help="a method of the weights, or concat; default each and all joined"),
  mos: str = Option("mos", "--mos", help="column of the ratings, higher is better"),
  group: str = Option(None, "--group", help="column that says what an image shows"),
  out: str = Option("head.safetensors", "--out", help="head for jiqa score --head"),
  report: str = Option("fit_report", "--report", help="folder for the evaluation report"),
  device: Device = None,
):
  """Fits a head to your own ratings: jiqa fit --images=photos --scores=mos.csv --group=scene --out=head.safetensors"""
  import shlex

  _before_jax()
  from jiqa.inference.fit import fit, print_results
  from jiqa.inference.metric import Metric, load_models

  results = fit(
    Metric(load_models(weights=weights or None)), images, scores, features=features, mos=mos, group=group, out=out,
    report_folder=report, command=shlex.join(["jiqa", *sys.argv[1:]]),
  )  # fmt: skip
  print_results(results, out, report)


@app.command("export-weights")
def export_weights(
  run: Annotated[str, Argument(help="the --workdir of a finished run")],
  out: Annotated[str, Argument(help="folder to write: weights, card and head")],
  head: str = Option(
    None, "--head", help="database to fit a head to, or to test scores on; default the first that the run evaluates"
  ),
  dtype: str = Option("float16", "--dtype", help="float16 or float32, of the stored numbers"),
  data_dir: DataDir = None,
  recipe: str = Option(None, "--recipe", help="the command that trains such a run, for the card"),
  licence: str = Option(None, "--licence", help="for the card"),
  note: Annotated[list[str], Option("--note", help="what people should know, for the card; repeat")] = (),
):
  """Makes a run small enough to give away, with what it is worth: jiqa export-weights RUN OUT --head=biq2021"""
  import json

  _before_jax()
  from jiqa.inference.package import package

  written = package(run, out, database=head, dtype=dtype, data_dir=data_dir, recipe=recipe, licence=licence, notes=note)
  print(json.dumps({key: value for key, value in written.items() if key != "config"}, indent=2))


@app.command()
def export(
  out: Annotated[str, Argument(help="folder to write: model.stablehlo, model.json, example.npz")],
  model: Model = None,
  weights: str = Option(None, "--weights", help="folder of weights or workdir; default those of jiqa"),
  head: HeadFile = None,
):
  """Writes a metric as a program that runs without jiqa (StableHLO): jiqa export exported --weights=runs/mine"""
  from jiqa.inference.export import export
  from jiqa.inference.metric import load

  sheet = export(load(model, weights, head), out)
  for name, text in sheet["inputs"].items():
    print(f"{name}: {text}")
  print(f"exported: {out}")


@app.command()
def card(
  model: str = Argument(None, help="a method; default the weights that come with jiqa"),
  weights: Weights = (),
  head: HeadFile = None,
  as_json: bool = Option(False, "--json", help="everything that is known, as JSON"),
):
  """Says what a metric was trained on, how good it is and what its scores mean: jiqa card --weights=runs/mine"""
  import json

  from jiqa.inference.card import as_text
  from jiqa.inference.metric import load

  known = load(model, weights or None, head).card
  print(json.dumps(known, indent=2) if as_json else as_text(known))


@app.command()
def serve(
  model: Model = None,
  weights: Weights = (),
  head: HeadFile = None,
  host: str = Option("127.0.0.1", "--host", help="address to listen on; 0.0.0.0: every network, no password"),
  port: int = Option(8000, "--port", min=0, max=65535, help="0: any free one"),
  max_megabytes: int = Option(32, "--max-megabytes", min=1, help="of one file"),
  max_files: int = Option(32, "--max-files", min=1, help="of one request"),
  max_megapixels: int = Option(50, "--max-megapixels", min=1, max=67, help="of one image"),
  queue: int = Option(256, "--queue", min=1, help="images that may wait; beyond it the answer is 503"),
  access_log: bool = Option(False, "--access-log", help="print a line for every request"),
  deadline: float = Option(60.0, "--deadline", min=1, help="seconds that scoring a batch may take"),
  device: Device = None,
):
  """Scores images in the browser: jiqa serve --weights=runs/mine --port=8000"""
  from jiqa.serve.command import serve as run

  sizes = {"max_megabytes": max_megabytes, "max_files": max_files, "max_megapixels": max_megapixels, "queue": queue}
  sizes["deadline"] = deadline
  run(model, weights or None, head, host=host, port=port, sizes=sizes, access_log=access_log)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def plan(
  context: typer.Context,
  config: str = Option(..., "--config", help="FILE[:VARIANT]; also --config.KEY=VALUE, as for launch.py"),
  topology: str = Option(..., "--topology", help="v5e:4x8, v5p:2x2x4, v4:2x2x2, v6e:2x4; gpu40:8, gpu80:8"),
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
def explain(
  model: Annotated[str, Argument(help="a method that can explain its scores")],
  image: Annotated[str, Argument(help="an image")],
  weights: str = Option(None, "--weights", help="folder of weights or workdir of a run; default those of jiqa"),
  out: str = Option("explained.png", "--out", help="image to write"),
  device: Device = None,
):
  """Draws what a score is made of: jiqa explain METHOD photo.jpg --weights=runs/mine --out=explained.png"""
  from jiqa.inference.explain import explain as draw

  print(draw(model, image, weights, out))


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
  _before_jax()
  from jiqa.distortions import contact_sheet
  from jiqa.inference.inputs import Item, load

  contact_sheet.distort_file(load(Item(image, image)), out, kind, level, bank=bank, compat=compat, seed=seed, side=side)
  print(out)


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
  unit: str = Option("MOS", "--unit", help="name of the human scale"),
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
  proxy: str = Option(None, "--proxy", help="column that answers in place of people, such as SSIM"),
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


def main():
  """Runs the command; a `UserError` is printed without a traceback and exits with status 2."""
  try:
    app()
  except UserError as error:
    print(f"jiqa: {error}", file=sys.stderr)
    sys.exit(2)
  except ModuleNotFoundError as error:
    if (error.name or "jiqa").startswith("jiqa"):
      raise
    print(f"jiqa: {error.name} is not installed. {INSTALL}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
  main()
