"""Scores for images: `jiqa.load`, and what the commands `jiqa score` and `jiqa card` run."""

import pathlib

import jax

from jiqa.errors import UserError
from jiqa.inference import command, heads, results
from jiqa.inference.card import describe
from jiqa.inference.metric import Metric
from jiqa.inference.model import Model
from jiqa.methods import names as method_names
from jiqa.runtime.sharding import make_mesh

PRETRAINED = pathlib.Path(__file__).parents[1] / "pretrained"
# What a name gives that comes with the package.
SHIPPED = {"reiqa": "reiqa_small"}
DEFAULT = "reiqa"
HOW_TO_CONVERT = {
  "reiqa": "jiqa convert reiqa-quality quality_aware_r50.pth weights/quality",
  "reiqa_content": "jiqa convert reiqa-content content_aware_r50.pth weights/content",
  "liqe": "jiqa convert liqe LIQE.pt weights/liqe",
}


def load(model=None, weights=None, head=None, devices=None):
  """A metric, ready to score images.

  Args:
    model: name of a method (reiqa, liqe, lml), or a folder as for `weights`; None: what the weights are of.
    weights: folder of weights, the --workdir of a training run, or a list of several, whose features are joined; None:
      the weights that come with the package.
    head: file of a head, from `jiqa fit` or a run's heads_DATABASE.npz; None: the one that lies beside the weights.
    devices: jax devices; None: those of this process.

  Returns:
    Metric.

  Raises:
    UserError: there are no such weights, or model, weights and head do not fit together.

  Example:
    >>> metric = load()                                # doctest: +SKIP
    >>> metric(["a.jpg", "b.png"]).score               # doctest: +SKIP
    array([0.571, 0.314])
  """
  model, folders = _folders(model, weights)
  mesh = make_mesh(jax.local_devices() if devices is None else devices)
  models = [Model(folder, mesh) for folder in folders]
  if model and model not in {each.name.partition("_")[0] for each in models} | {each.name for each in models}:
    raise UserError(f"{folders[0]}: holds weights of {models[0].name!r}, not of {model!r}")
  chosen, path = _head(models, head)
  if chosen is not None:
    models = heads.in_order(chosen, path, models)
  return Metric(models, chosen, mesh, describe(models, chosen, path))


def score_files(paths, model=None, weights=None, head=None, *, out=None, shard=None, frames_per_second=1.0):
  """`jiqa score`: see `scoring.command.score`; returns the exit code."""
  if out is not None:
    results.check(out)  # before anything is loaded
  metric = load(model, weights, head)
  command.announce(metric, shipped=weights is None)
  return command.score(metric, paths, out=out, shard=shard, frames_per_second=frames_per_second)


def fit_head(images, scores, weights=None, *, features=None, mos="mos", group=None, out, report_folder, shell):
  """`jiqa fit`: see `scoring.fit.fit`; prints what came out."""
  from jiqa.inference import fit

  folders = _folders(None, weights)[1]
  mesh = make_mesh(jax.local_devices())
  metric = Metric([Model(folder, mesh) for folder in folders], None, mesh, {})
  found = fit.fit(
    metric, images, scores, features=features, mos=mos, group=group, out=out, report_folder=report_folder, command=shell
  )
  fit.print_results(found, out, report_folder)


def _folders(model, weights):
  """(name of the method or None, list of folders)."""
  if weights is None and model is not None and model not in method_names():
    if pathlib.Path(model).exists():
      model, weights = None, model
    else:
      raise UserError(f"{model!r} is neither a method ({', '.join(method_names())}) nor a folder of weights")
  if model is not None and model not in method_names():
    raise UserError(f"model is {model!r}; expected one of {', '.join(method_names())}")
  if weights is not None:
    folders = [weights] if isinstance(weights, (str, pathlib.Path)) else list(weights)
    if not folders:
      raise UserError("weights is an empty list; expected a folder or several")
    return model, [pathlib.Path(folder) for folder in folders]
  name = model or DEFAULT
  folder = PRETRAINED / SHIPPED.get(name, name)
  if not folder.is_dir():
    how = HOW_TO_CONVERT.get(name, f"python launch.py --config=configs/{name}.py --workdir=runs/{name}")
    raise UserError(f"no weights of {name} come with the package; name a folder: --weights=FOLDER. To make one: {how}")
  return model, [folder]


def _head(models, path):
  """(Head or None, its file or None)."""
  if path is None and len(models) == 1:
    beside = models[0].heads
    if len(beside) > 1:
      raise UserError(
        f"{models[0].folder}: holds heads for {', '.join(beside)}; choose one with head= or --head, such as "
        f"{next(iter(beside.values()))}"
      )
    path = next(iter(beside.values()), None)
  if path is None:
    return None, None
  return heads.read(path), pathlib.Path(path)
