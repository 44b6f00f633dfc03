"""The metric that `jiqa.load` returns: images in, scores out."""

import dataclasses
import functools
import hashlib
import pathlib

import jax
import numpy as np

import jiqa
from jiqa.errors import UserError
from jiqa.inference import functional, heads, predictor
from jiqa.inference.inputs import as_items, is_address
from jiqa.inference.loading import PIN, Model
from jiqa.methods import method_class, names
from jiqa.runtime.sharding import check_devices, make_mesh
from jiqa.weights.store import CARD

PRETRAINED = pathlib.Path(__file__).parents[1] / "pretrained"
DEFAULT = "lite0"  # how the folder of PRETRAINED ends that scores where no weights are named
NO_LICENCE = "that of the images it was trained on; its own card names none"
NOT_SHOWN = ("config", "left_out", "ignored", "test")  # of a network's card; "test" stands beside its score


@dataclasses.dataclass(eq=False, repr=False)
class Scores:
  """Scores of n images, in the order in which they were given: a sequence of n float, and an array for NumPy."""

  names: list  # n str
  score: np.ndarray  # [n] float64; nan where there is an error
  columns: dict  # from name to [n, ...] array of whatever else the model predicts
  errors: list  # n str, why an image has no score; '' where it has one
  classes: dict  # from a column that is probabilities [n, k] to the names of its k classes

  def __len__(self):
    return len(self.names)

  def __getitem__(self, index):
    """The score of one image, float; of a slice `Scores`."""
    if not isinstance(index, slice):
      return float(self.score[index])
    columns = {name: values[index] for name, values in self.columns.items()}
    return Scores(self.names[index], self.score[index], columns, self.errors[index], self.classes)

  def __array__(self, dtype=None, copy=None):
    return np.array(self.score, dtype, copy=copy)

  def to_pandas(self):
    """A pandas.DataFrame: image_name, score, further numbers and likeliest classes, error."""
    import pandas as pd

    further = {name: values for name, values in self.columns.items() if name in self.classes or values.ndim == 1}
    for name in further.keys() & self.classes.keys():  # in place: columns keep their order
      likeliest = np.take(self.classes[name], further[name].argmax(1)).tolist()
      further[name] = [None if error else label for label, error in zip(likeliest, self.errors, strict=True)]
    return pd.DataFrame({"image_name": self.names, "score": self.score, **further, "error": self.errors})

  def __float__(self):
    """The score of a single image."""
    if len(self) != 1:
      raise TypeError(f"{len(self)} scores are not one number; use .score")
    return float(self.score[0])

  def __repr__(self):
    shown = ", ".join(f"{name}: {score:.4g}" for name, score in zip(self.names[:3], self.score[:3], strict=True))
    return f"Scores({shown}{', ...' if len(self) > 3 else ''})"


class Metric:
  """What `jiqa.load` returns: call it with images.

  Args:
    models: list of `Model`; the features of several are joined in this order.
    head: Head or None; needed where the models give features and no score.
    head_file: pathlib.Path of the head, or None.

  Attributes:
    card: dict of plain values: what it was trained on and how, range and direction of the score, input policy, licence.
    weights_sha256: checksum of the weights, of several joined by +.
    head_sha256: checksum of the head, "" where there is none.
  """

  def __init__(self, models, head=None, head_file=None):
    self.models, self.head = models, head
    self.card = describe(models, head, head_file)
    self.weights_sha256 = heads.JOINED.join(model.card["weights_sha256"] for model in models)
    self.head_sha256 = "" if head is None else _checksum(head)

  def __repr__(self):
    low_high = self.card["score"]["range"]
    scale = "{:g} to {:g}, ".format(*low_high) if low_high else ""
    device = self.models[0].mesh.devices.flat[0]
    where = f"on {self.models[0].mesh.size} x {device.device_kind}"
    return f"Metric({self.card['method']}, {scale}higher is better, weights {self.weights_sha256}, {where})"

  def __call__(self, images, errors="raise") -> Scores:
    """Scores images.

    Args:
      images: an image or a list of images of any sizes: path or address, folder, PIL image, bytes of a file, array
        [h, w, 3], or [h, w] of gray (NumPy, JAX), of uint8 or of floats in [0, 1]; or an array [n, h, w, 3].
      errors: "raise"; or "return": an image that cannot be read has the score nan, and the reason in `Scores.errors`.

    Returns:
      Scores.

    Raises:
      UserError: naming the image that cannot be read or has a wrong shape, type or range; or the model gives
        features and there is no head.
      TypeError: there is something that is no image.
    """
    self.check_scores()
    if errors not in ("raise", "return"):
      raise UserError(f'errors is {errors!r}; expected "raise" or "return"')
    predictions = self._all(images, errors == "return")
    like = next((p.outputs for p in predictions if p.outputs), {"score": np.float64(np.nan)})
    missing = {name: np.full(np.shape(value), np.nan) for name, value in like.items()}
    outputs = {name: np.stack([(p.outputs or missing)[name] for p in predictions]) for name in like}
    score = outputs.pop("score").astype(np.float64)
    outputs.pop("features", None)
    said = [prediction.error for prediction in predictions]
    return Scores([p.name for p in predictions], score, outputs, said, self.models[0].method.classes)

  def features(self, images):
    """Features [n, d] float32 of images, before any head; images and errors as for a call."""
    self.check_features()
    return np.stack([prediction.outputs["features"] for prediction in self._all(images)])

  def apply(self, images):
    """Scores of images that a program computes, without gradients being lost or anything rounded.

    Pure and jitted; for programs of many devices, or to pass the parameters as arguments, see `jiqa.functional`.

    Args:
      images: [b, h, w, 3] float in [0, 1], NumPy or JAX, traced or not; or one image [h, w, 3].

    Returns:
      [b] or [] float32, higher is better.
    """
    params, function = self._functional
    return function(params, images)

  def loss(self, images):
    """What an optimiser lowers for better images, [b] or [] float32; arguments as for `apply`.

    0 at the best score of the metric's range and 1 at the worst; where no range is known, minus the score.
    """
    low, high = self.card["score"]["range"] or (-1, 0)
    return (high - self.apply(images)) / (high - low)

  @functools.cached_property
  def _functional(self):
    params, function = functional.functional(self)
    return params, jax.jit(function)

  def stream(self, items, threads=None, pixels_per_batch=None):
    """Predictions of an iterable of inputs.Item, see `predictor.stream`."""
    return predictor.stream(self.models, items, head=self.head, threads=threads, pixels_per_batch=pixels_per_batch)

  def _all(self, images, also_broken=False):
    predictions = []
    for prediction in self.stream(as_items(images)):
      if prediction.error and not also_broken:
        raise UserError(prediction.error)
      predictions.append(prediction)
    return sorted(predictions)

  def columns(self, outputs):
    """What one image's outputs say besides the score: dict from name to number or likeliest class.

    NAME of probabilities becomes the class, and NAME_probability beside it how likely that is.
    """
    columns, classes = {}, self.models[0].method.classes
    for name in (name for name in classes if name in outputs):
      likeliest = int(np.argmax(outputs[name]))
      columns |= {name: classes[name][likeliest], f"{name}_probability": float(outputs[name][likeliest])}
    return columns | {name: np.asarray(x).item() for name, x in outputs.items() if name != "score" and np.ndim(x) == 0}

  @property
  def can_explain(self):
    """Whether the method says what its scores are made of."""
    return len(self.models) == 1 and self.models[0].method.explain is not None

  def explain(self, image):
    """What the score of an image [h, w, 3] uint8 is made of, see `Method.explain`."""
    return self.models[0].explain(image)

  def check_scores(self):
    """Raises a UserError where there is neither a score in what the model gives nor a head that makes one."""
    how = "Fit one to your own ratings with `jiqa fit`, or name one: --head=FILE, jiqa.load(head=FILE)"
    if self.head is None and len(self.models) > 1:
      folders = " and ".join(str(model.folder) for model in self.models)
      raise UserError(f"{folders}: the score of several networks is that of a head for their joined features. {how}")
    model = self.models[0]
    # A method that knows the scale of its scores gives scores; the network of another is traced to see it.
    if self.head is None and not model.method.score_range and "score" not in model.outputs:
      raise UserError(f"{model.folder}: gives features; a score needs a head. {how}")

  def check_features(self):
    """Raises a UserError where a model gives no features."""
    for model in self.models:
      if "features" not in model.outputs:
        raise UserError(f"{model.folder}: method {model.name!r} gives scores and no features")


def _checksum(head):
  digest = hashlib.sha256()
  for part in (head.weights, head.mean, head.scale, head.intercept):
    digest.update(np.ascontiguousarray(part, np.float64).tobytes())
  return digest.hexdigest()[:16]


def load(model=None, weights=None, head=None, devices=None) -> Metric:
  """A metric, ready to score images.

  Args:
    model: name of a method or of weights that come with jiqa ('reiqa-small'), or a folder as for `weights`; None: what
      the weights are of.
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
    array([71.4, 23.9])
  """
  models = load_models(model, weights, devices)
  if head is None and len(models) == 1:
    files = heads.beside(models[0].folder)
    head = next(iter(files.values()), None)
    if len(files) > 1:
      which = f"holds heads for {', '.join(files)}; choose one with head= or --head, such as {head}"
      raise UserError(f"{models[0].folder}: {which}")
  if head is None:
    return Metric(models)
  chosen = heads.read(head)
  return Metric(heads.in_order(chosen, head, models), chosen, pathlib.Path(head))


def load_models(model=None, weights=None, devices=None):
  """The networks of `load`: list of Model."""
  if weights is None and model in shipped():
    model, weights = None, shipped()[model]
  if model is not None and model not in names():
    if weights is None and (PIN in str(model) or is_address(str(model)) or pathlib.Path(model).exists()):
      model, weights = None, model
    else:
      _check_method(str(model))
  if weights is None:
    weights = _shipped(model)
  folders = [weights] if isinstance(weights, (str, pathlib.Path)) else list(weights)
  if not folders:
    raise UserError("weights is an empty list; expected a folder or several")
  check_devices()
  mesh = make_mesh(jax.local_devices() if devices is None else devices)
  models = [Model(folder, mesh) for folder in folders]
  if model and model not in {x.family for x in models} | {x.name for x in models}:
    raise UserError(f"{folders[0]}: holds weights of {models[0].name!r}, not of {model!r}")
  return models


def _check_method(name):
  """Raises a UserError where there is no "package.module:Class" of this name."""
  module, _, attribute = name.partition(":")
  if not all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
    raise UserError(f"{name!r} is neither a method ({', '.join(names())}) nor a folder of weights")
  try:
    method_class(name)
  except ValueError as error:
    raise UserError(f"{name!r} cannot be used as a method ({error.__cause__ or error})") from error


def shipped():
  """The folders of weights that come with the package: dict from name, such as 'reiqa-small'."""
  return {path.parent.name.replace("_", "-"): path.parent for path in sorted(PRETRAINED.glob(f"*/{CARD}"))}


def _shipped(model):
  """The folder of weights of a method that comes with the package; of None the best."""
  folders = [f for f in shipped().values() if (f.name.startswith(model) if model else f.name.endswith(DEFAULT))]
  if not folders and model is None:
    raise UserError(f"{PRETRAINED}/*{DEFAULT}: the weights that come with jiqa are missing; install it again")
  if not folders:
    how = how_to_get(model)
    raise UserError(f"no weights of {model} come with the package; name a folder: --weights=FOLDER. To make one: {how}")
  return folders[0]


def how_to_get(method):
  """The command that makes weights of a method."""
  return method_class(method).how_to_get or f"python launch.py --config=configs/{method}.py --workdir=runs/{method}"


def describe(models, head, head_file):
  """The card of a metric, plain values: what a user must know before trusting its numbers.

  'method'; 'weights', a dict for every network: 'folder', 'trained_on', 'input', 'licence' and what its folder says;
  'score': 'direction', 'range', 'test', how good it is on images it has not seen, or 'head' with that and what it was
  fitted to.
  """
  score_range = models[0].method.score_range if head is None else head.card.get("range")
  score = {"direction": "higher is better", "range": list(score_range) if score_range else None}
  if head is None and "test" in models[0].card:
    score["test"] = models[0].card["test"]
  if head is not None:
    score["head"] = {"file": head_file and head_file.name, **head.card}
  method = "+".join(model.name for model in models)
  return {"method": method, "weights": [_network(m) for m in models], "score": score, "jiqa": jiqa.__version__}


def without_folders(card):
  """The card of a metric for others: what lies on this machine is called by its name alone."""
  networks = [network | {"folder": pathlib.Path(network["folder"]).name} for network in card["weights"]]
  return card | {"weights": networks}


def _network(model):
  converted = "source" in model.card
  return {
    "folder": str(model.folder), "method": model.name,
    "trained_on": f"see the paper; converted from {model.card['file']}" if converted else trained_on(model.config),
    "input": model.method.input.format_map(model.config), "licence": NO_LICENCE,
    **{key: value for key, value in model.card.items() if key not in NOT_SHOWN},
  }  # fmt: skip


def trained_on(config):
  """What a run's config, a dict, trains on, in words.

  Example:
    >>> trained_on({"split": -1, "data": [{"name": "biq2021", "protocol": "official"}, {"name": "image_folder/crops"}]})
    'biq2021 without the test images of its official splits, image_folder/crops; without human scores'
  """
  split, names = config.get("split", -1), []
  for entry in config.get("data", ()):
    protocol, part = entry.get("protocol"), ""
    if protocol and split < 0:
      part = f" without the test images of its {protocol} splits"
    elif protocol:
      part = f" (training part of split {split + 1} of {protocol})"
    names.append(entry["name"] + part)
  return f"{', '.join(names) or 'unknown'}; {'without human scores' if split < 0 else 'with human scores'}"
