"""Images in, scores out."""

import os
import sys
from typing import Annotated

import typer
from typer import Argument, Option

from jiqa.cli.app import Device, HeadFile, Keep, Model, Overwrite, Sandbox, Weights, app
from jiqa.errors import UserError
from jiqa.inference import startup


@app.command()
def score(
  paths: Annotated[list[str], Argument(help="images, videos, folders, patterns, addresses, shards, @LIST, - (stdin)")],
  model: Model = None,
  weights: Weights = (),
  head: HeadFile = None,
  out: str = Option(None, "--out", help=".csv, .json or .parquet, for shards a folder; run again to go on"),
  overwrite: Overwrite = False,
  shard: str = Option(None, "--shard", help="i/n: this process takes every n-th image, or shard"),
  keep: Keep = "",
  fps: float = Option(1.0, "--fps", min=0.001, help="frames a second of videos"),
  sandbox: Sandbox = False,
  device: Device = None,
):
  """Scores images: jiqa score photos --weights=runs/mine --out=scores.csv

  Exit code 3 where an image could not be read: its row has an error and no score.
  """
  startup.prepare()
  from jiqa.inference.command import score_files

  kept = keep.split(",") if keep else []
  options = {"out": out, "overwrite": overwrite, "shard": shard, "frames_per_second": fps, "sandbox": sandbox}
  raise typer.Exit(score_files(paths, model, weights or None, head, keep=kept, **options))


@app.command(context_settings={"ignore_unknown_options": True})
def score_shards(
  paths: Annotated[list[str], Argument(help="shards: files, patterns, addresses")],
  model: Model = None,
  weights: Weights = (),
  head: HeadFile = None,
  out: str = Option(..., "--out", help="folder or address, which all workers can reach; run again to go on"),
  overwrite: Overwrite = False,
  keep: Keep = "",
  sandbox: Sandbox = False,
):
  """Scores shards by Apache Beam, whose options may follow: jiqa score-shards "data/*.tar" --out=scores --runner=...

  Exit code 3 where an image could not be read: its row has an error and no score.
  """
  startup.prepare()
  from jiqa.beam import score_shards as score

  kept, pipeline_options = keep.split(",") if keep else [], [word for word in paths if word.startswith("--")]
  options = {"model": model, "weights": tuple(weights) or None, "head": head}
  options |= {"keep": kept, "overwrite": overwrite, "sandbox": sandbox}
  raise typer.Exit(score([word for word in paths if word not in pipeline_options], out, pipeline_options, **options))


@app.command()
def summary(
  paths: Annotated[list[str], Argument(help="what jiqa score wrote: .csv, .parquet, folders of them")],
  min_score: float = Option(None, "--min-score", help="says how many images reach this score"),
  out: str = Option(None, "--out", help="also writes the numbers as .json"),
):
  """Quantiles and a histogram of scores, in memory that does not grow: jiqa summary scores --min-score=40"""
  from jiqa.evaluation.summary import print_summary

  print_summary(paths, min_score, out)


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
  startup.prepare()
  from jiqa.inference.command import UNREADABLE
  from jiqa.inference.features import write_features
  from jiqa.inference.metric import Metric, load_models

  written, refused = write_features(Metric(load_models(model, weights or None)), paths, out)
  print(f"{out}: features of {written} images")
  for message in refused:
    print(f"left out: {message}", file=sys.stderr)
  if refused:
    raise typer.Exit(UNREADABLE)


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
def serve(
  model: Model = None,
  weights: Weights = (),
  head: HeadFile = None,
  host: str = Option("127.0.0.1", "--host", help="address to listen on; 0.0.0.0: every network"),
  port: int = Option(8000, "--port", min=0, max=65535, help="0: any free one"),
  max_megabytes: int = Option(32, "--max-megabytes", min=1, help="of one file"),
  max_files: int = Option(32, "--max-files", min=1, help="of one request"),
  max_megapixels: int = Option(50, "--max-megapixels", min=1, max=67, help="of one image"),
  queue: int = Option(256, "--queue", min=1, help="images that may wait; beyond it the answer is 503"),
  token: str = Option(None, "--token", envvar="JIQA_TOKEN", help="password of the user jiqa; better in $JIQA_TOKEN"),
  access_log: bool = Option(False, "--access-log", help="print a line for every request"),
  deadline: float = Option(60.0, "--deadline", min=1, help="seconds that scoring a batch may take"),
  device: Device = None,
):
  """Scores images in the browser: jiqa serve --weights=runs/mine --port=8000"""
  if (os.environ.get("JIQA_TOKEN") if token is None else token) == "":  # of the environment, typer takes it for none
    raise UserError("--token or $JIQA_TOKEN is empty; give it a password, or leave both out to serve without one")
  from jiqa.serve.command import serve as run

  sizes = {"max_megabytes": max_megabytes, "max_files": max_files, "max_megapixels": max_megapixels}
  sizes |= {"queue": queue, "deadline": deadline}
  run(model, weights or None, head, host=host, port=port, sizes=sizes, token=token, access_log=access_log)
