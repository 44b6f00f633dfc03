"""Models: which there are, where their weights come from and go."""

import sys
from typing import Annotated

from typer import Argument, Option

from jiqa.cli.app import DataDir, Device, HeadFile, Model, Weights, app
from jiqa.errors import UserError
from jiqa.inference import startup


@app.command()
def models():
  """Lists what scores: weights that come with jiqa and methods, how good they are and how to get them: jiqa models"""
  from jiqa.inference.card import list_models

  for name, facts in list_models().items():
    print(name, *(f"  {key.replace('_', ' '):<11}{value}" for key, value in facts.items()), "", sep="\n")


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

  startup.prepare()
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

  startup.prepare()
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
