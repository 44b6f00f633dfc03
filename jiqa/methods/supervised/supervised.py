"""Supervised regression: a pretrained encoder, fitted to human scores and to an order on which people agree.

An image is seen at full scale, at half scale or at both. Beside the human scores of one or several databases the
network learns that an image is better than a distorted version of itself, and this one better than a version of the
same kind at a higher level. Every score has a standard deviation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from ml_collections import ConfigDict

from jiqa import losses
from jiqa.data.crops import half_scale, random_window
from jiqa.distortions import bank, resample
from jiqa.errors import UserError
from jiqa.methods.base import NetworkMethod, check
from jiqa.models import tiles
from jiqa.models.encoders import build_encoder
from jiqa.models.layers import gelu, precision_of, unit_pixels
from jiqa.runtime.state import BLOCK, new_state
from jiqa.weights.store import flatten, unflatten

BANK = "kadid25"
SCALES = {"full": 1, "half": 2}  # by how much an image is reduced
REACH = 8.0  # standard deviations beyond which a feature is cut off
# Scores of a grid of windows explain that of the image: windows along a side, and the sides of one, pixels.
WINDOWS, LEAST_WINDOW, LARGEST_WINDOW = 8, 96, 256


class Heads(nnx.Module):
  """Several small networks side by side, from features to the logit of a score and the size of its error.

  Features are normalised by running means and deviations, of training and of prediction alike.
  """

  def __init__(self, inputs, hidden, count, *, rngs):
    init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", batch_axis=0)
    zeros = nnx.initializers.zeros_init()
    self.hidden = nnx.Dict(
      kernel=nnx.Param(init(rngs.params(), (count, inputs, hidden))), bias=nnx.Param(zeros(None, (count, 1, hidden)))
    )
    self.output = nnx.Dict(
      kernel=nnx.Param(0.1 * init(rngs.params(), (count, hidden, 2))), bias=nnx.Param(zeros(None, (count, 1, 2)))
    )
    self.mean = nnx.BatchStat(jnp.zeros(inputs))
    self.deviation = nnx.BatchStat(jnp.ones(inputs))
    self.factor = nnx.BatchStat(jnp.ones(()))  # of the predicted error, from validation images

  def __call__(self, features, dropout=None):
    """Of every head the logit of the score and the error in points, both [heads, b] float32.

    Args:
      features: [b, d] float32.
      dropout: function (x, number of the layer) -> x with dropout; None: as for prediction.
    """
    x = jnp.clip((features - self.mean[...]) / self.deviation[...], -REACH, REACH)
    x = jnp.broadcast_to(x, (len(self.hidden["kernel"]), *x.shape))
    for number, (layer, activation) in enumerate(((self.hidden, gelu), (self.output, lambda x: x))):
      x = x if dropout is None else dropout(x, number)
      x = activation(jnp.matmul(x, layer["kernel"][...], precision=precision_of(x.dtype)) + layer["bias"][...])
    return x[..., 0], self.factor[...] * (5 * jax.nn.softplus(x[..., 1]) + 1)


class Network(nnx.Module):
  """An encoder, heads on the joined features of all scales, and how databases use their own scales of scores.

  Scales that are seen at as many levels share the encoder.
  """

  def __init__(self, config, *, rngs):
    encoders = {levels: _encoder(config, levels, rngs) for levels in sorted(set(config.levels.values()))}
    self.encoders = nnx.Dict({scale: encoders[levels] for scale, levels in config.levels.items()})
    width = sum(encoder.num_features for encoder in self.encoders.values())
    self.heads = Heads(width, config.hidden, config.heads, rngs=rngs)
    # Slope and shift of the logit on the scale of every database but the first, whose scale the score has.
    self.databases = nnx.Dict(scale=nnx.Param(jnp.tile(jnp.array([1.0, 0.0]), (len(config.data), 1))))


def _encoder(config, levels, rngs):
  encoder = {**config.encoder, "levels": levels}
  return build_encoder(ConfigDict({"encoder": encoder, "bn_groups": 1, "dtype": config.dtype}), rngs=rngs)


class Supervised(NetworkMethod):
  """Scores of 0 to 100, with `score_std`, behind the contract of `methods/base.py`."""

  score_range = (0.0, 100.0)
  input = "RGB of any size, neither cropped nor brought to a common size; levels of the encoder at each scale: {levels}"
  training_only, optional = ("params/databases",), ("heads", "databases")
  accumulates = False  # correlations are those of the whole step
  how_to_get = "python launch.py --config=configs/supervised.py:small --config.init_from=weights/lite0"

  def __init__(self, config, mesh):
    levels = dict(config.levels)
    known = f"config.levels is {levels}; expected a number of levels for 'full', for 'half' or for both"
    check((levels and set(levels) <= set(SCALES), known))
    super().__init__(config, mesh)
    if not config.prefit.epochs:
      self.prefit = None

  def build(self, rngs):
    return Network(self.config, rngs=rngs)

  def check_training(self):
    c = self.config
    known = bank.names(BANK)
    check(
      (c.split >= 0, f"config.split is {c.split}; human scores are trained on, so name a split: 0 or more"),
      (set(c.kinds) <= set(known), f"config.kinds {sorted(set(c.kinds) - set(known))} are not in {', '.join(known)}"),
      (
        c.ranked == 0 or (c.batch_size % c.ranked == 0 and c.ranked % self.mesh.size == 0),
        f"config.ranked is {c.ranked}; expected 0, or a multiple of the {self.mesh.size} devices that divides "
        f"config.batch_size {c.batch_size}",
      ),
      (c.kinds or not c.ranked, "config.kinds is empty; name kinds of distortion, or set config.ranked to 0"),
      (c.temperature > 0, f"config.temperature is {c.temperature}; expected more than 0"),
      (0 < c.crop <= c.window, f"config.crop is {c.crop}; expected at most config.window {c.window} pixels"),
      (
        c.at_once == 0
        or (c.at_once > 0 and not any(n % (c.at_once * self.mesh.size) for n in (c.batch_size, 3 * c.ranked))),
        f"config.at_once is {c.at_once}; expected 0, all images of a device, or a divisor of those that it gets of "
        f"config.batch_size {c.batch_size} and of three times config.ranked {c.ranked}",
      ),
      (c.window % 2 == 0 and c.window > 0, f"config.window is {c.window}; expected an even number of pixels"),
      (0 <= c.average < 1, f"config.average is {c.average}; expected at least 0 and below 1"),
      *(
        (0 <= p < 1, f"config.dropout is {tuple(c.dropout)}; expected two numbers of at least 0, below 1")
        for p in c.dropout
      ),
    )

    paths = flatten(self.shapes[0])
    idle = [start for start in c.frozen if not any(path.startswith(start) for path in paths)]
    check((not idle, f"config.frozen: no parameter begins with {idle[:3]}; they are called {next(iter(paths))!r}, ..."))

  def init(self, key, weights=None):
    """As `Method.init`; from weights of an encoder alone, as `jiqa convert` writes them, those of all scales start."""
    if weights is not None and "encoder" in weights[0]:
      weights = [
        {"encoders": {scale: _known(encoder, theirs["encoder"]) for scale, encoder in ours["encoders"].items()}}
        for ours, theirs in zip(self.shapes, weights, strict=True)
      ]
    return super().init(key, weights)

  def first_state(self, key, params, stats):
    frozen, trained = self._divide(params)
    return new_state(trained, stats, {"frozen": frozen, "average": trained})

  def _divide(self, params):
    """Parameters as (frozen, trained), two nested dicts."""
    flat = flatten(params)
    frozen = {path: leaf for path, leaf in flat.items() if path.startswith(tuple(self.config.frozen))}
    return unflatten(frozen), unflatten({path: leaf for path, leaf in flat.items() if path not in frozen})

  def weights(self, state):
    return join(state.extra["frozen"], state.extra["average"]), state.stats

  def preprocess_train(self, image, record, rng):
    target = self.target(record)
    window = random_window(image, self.config.window, self.config.window, rng)["image"]
    return {
      "image": window[:, ::-1].copy() if rng.integers(2) else window,
      "target": target,
      "database": np.int32(record["entry"]),
    }

  def target(self, record):
    """The score of a record on the scale of 0 to 100, float32."""
    (low, high), mos = record["range"], record["mos"]
    if not np.isfinite([low, high, mos]).all():
      raise UserError(
        f"{record['image_name']} of {record['database']}: the score is {mos} in a range of {low} to {high}; "
        "supervised training needs finite ones"
      )
    return np.float32(100 * (mos - low) / (high - low))

  def prefit(self, state, outputs, records):
    """Fits the heads to the features of the encoder as it comes: heads at random would make it forget what it knows."""
    features, given = outputs["features"], self.config.prefit
    target = np.array([self.target(record) for record in records])
    database = np.array([record["entry"] for record in records], np.int32)
    normal = {"mean": jnp.array(features.mean(0)), "deviation": jnp.array(np.sqrt(features.var(0) + 1e-6))}
    stats = {**state.stats, "heads": {**state.stats["heads"], **normal}}
    fixed = {"encoders": join(state.extra["frozen"], state.params)["encoders"]}
    size = min(given.batch_size, len(features))
    per_epoch = len(features) // size
    steps = given.epochs * per_epoch
    warmup = min(100, steps // 5)
    tx = optax.adamw(optax.warmup_cosine_decay_schedule(0, given.learning_rate, warmup, steps), weight_decay=0.01)

    def loss(params, *batch):
      parts = self.fit_losses(self.network(join(fixed, params), stats), *batch)
      return sum(self.config.weights[name] * part for name, part in parts.items())

    @jax.jit
    def step(params, tx_state, *batch):
      updates, tx_state = tx.update(jax.grad(loss)(params, *batch), tx_state, params)
      return optax.apply_updates(params, updates), tx_state

    params = {name: part for name, part in state.params.items() if name != "encoders"}
    tx_state, rng, keys = tx.init(params), np.random.default_rng(self.config.seed), jax.random.key(self.config.seed)
    for number in range(steps):
      if number % per_epoch == 0:
        order = rng.permutation(len(features))
      rows = order[number % per_epoch * size :][:size]
      batch = features[rows], target[rows], database[rows]
      params, tx_state = step(params, tx_state, *batch, jax.random.fold_in(keys, number))
    params = {**state.params, **params}
    return state.replace(params=params, stats=stats, extra=state.extra | {"average": jax.tree.map(jnp.copy, params)})

  def fit_losses(self, network, features, target, database, key):
    """How far scores of features [b, d] with dropout are from targets [b] of databases [b]: dict of scalars."""
    logits, error = network.heads(features, functools.partial(self._drop, key=key))
    scale = jnp.where(database[:, None] == 0, jnp.array([1.0, 0.0]), network.databases["scale"][...][database])
    scores = points(logits * scale[:, 0] + scale[:, 1])
    return {
      "regression": losses.smooth_l1(scores / 10, target / 10).mean(),
      "correlation": jax.vmap(lambda s: losses.plcc_loss(s, target, database))(scores).mean(),
      "likelihood": deviation_loss(error, jax.lax.stop_gradient(scores) - target),
    }

  def loss(self, params, state, batch, key):
    config = self.config
    params = join(state.extra["frozen"], params)
    features = self.features(params, state.stats, batch["image"])
    statistics = {**state.stats, "heads": self._follow(state, jax.lax.stop_gradient(features))}
    network = self.network(params, statistics)
    parts = self.fit_losses(network, features, batch["target"], batch["database"], jax.random.fold_in(key, 0))
    if config.ranked:
      with jax.named_scope("augment"):  # its arithmetic is not the model's
        versions, gap = checkpoint_name(self.versions(batch["image"], jax.random.fold_in(key, 1)), BLOCK)
      seen = self.features(params, statistics, versions.reshape(-1, *versions.shape[2:]))
      ordered = points(network.heads(seen)[0]).reshape(config.heads, *versions.shape[:2])
      parts["ranking"] = order_loss(ordered, config.margin * gap, config.temperature)
    return sum(config.weights[name] * part for name, part in parts.items()), (statistics, {}, parts)

  def features(self, params, stats, images):
    """Features [b, d] of images [b, h, w, 3], uint8 or in [0, 1]; each device encodes `config.at_once` at a time."""

    def encode(params, stats, images):
      encoders = self.network(params, stats).encoders
      images = unit_pixels(images)
      seen = [encoder(normalise(resample.reduce(images, SCALES[scale]))) for scale, encoder in encoders.items()]
      return jnp.concatenate(seen, 1)

    def one_by_one(params, stats, images):
      return jax.lax.map(lambda some: encode(params, stats, some), images.reshape(-1, at_once, *images.shape[1:]))

    at_once = self.config.at_once
    if not at_once:
      return encode(params, stats, images)
    batch = jax.P(self.mesh.axis_names)
    specs = {"in_specs": (jax.P(), jax.P(), batch), "out_specs": batch}
    features = jax.shard_map(one_by_one, mesh=self.mesh, check_vma=False, **specs)(params, stats, images)
    return features.reshape(len(images), -1)

  def versions(self, images, key):
    """A crop of every so many images [b, w, w, 3] uint8 and two versions of it, of one kind at different levels.

    ([r, 3, c, c, 3] float32 in [0, 1], from best to worst; [r, 2] float32: the levels between neighbours.)
    """
    config, count = self.config, self.config.ranked
    kind_key, level_key, place_key, noise_key = jax.random.split(key, 4)
    sources = images.reshape(count, -1, *images.shape[1:])[:, 0]
    corners = jax.random.randint(place_key, (count, 2), 0, config.window - config.crop + 1)
    crop = lambda image, at: jax.lax.dynamic_slice(image, (*at, 0), (config.crop, config.crop, 3))
    sources = jax.vmap(crop)(sources, corners).astype(jnp.float32) / 255
    known = bank.names(BANK)
    kinds = bank.cyclic_kinds(kind_key, count, 1, tuple(known.index(kind) for kind in config.kinds))[:, 0]
    two = lambda key: jax.random.choice(key, bank.LEVELS, (2,), replace=False)
    levels = jnp.sort(jax.vmap(two)(jax.random.split(level_key, count)), -1)
    distort = functools.partial(bank.distort, bank=BANK)
    if self.mesh.size > 1:
      spec = jax.P(self.mesh.axis_names)
      distort = jax.shard_map(distort, mesh=self.mesh, in_specs=spec, out_specs=spec, check_vma=False)
    keys = jax.random.split(noise_key, (2, count))
    distorted = [distort(sources, kinds, levels[:, i], keys[i]) for i in (0, 1)]
    gap = jnp.stack([levels[:, 0] + 1, levels[:, 1] - levels[:, 0]], 1).astype(jnp.float32)
    return jnp.stack([sources, *distorted], 1), gap

  def _follow(self, state, features):
    """Running statistics of the features after those of one more batch; fast at first, where there were none."""
    stats = state.stats["heads"]
    momentum = 0.995 if self.prefit else jnp.minimum(0.995, (1.0 + state.step) / (10.0 + state.step))
    mean = momentum * stats["mean"] + (1 - momentum) * features.mean(0)
    variance = momentum * jnp.square(stats["deviation"]) + (1 - momentum) * jnp.square(features - mean).mean(0)
    return {**stats, "mean": mean, "deviation": jnp.sqrt(variance + 1e-6)}

  def _drop(self, x, number, key):
    keep = 1 - self.config.dropout[number]
    return x * jax.random.bernoulli(jax.random.fold_in(key, number), keep, x.shape) / keep

  def post_update(self, state, aux):
    momentum = jnp.minimum(self.config.average, (1.0 + state.step) / (10.0 + state.step))
    average = lambda old, new: momentum * old + (1 - momentum) * new
    return state.replace(extra=state.extra | {"average": jax.tree.map(average, state.extra["average"], state.params)})

  def preprocess_eval(self, image):
    """The image at every scale of config.levels."""
    return {scale: image if scale == "full" else half_scale(image) for scale in self.config.levels}

  def preprocess_float(self, images):
    seen = {scale: resample.reduce(images, SCALES[scale]) for scale in self.config.levels}
    return seen | {f"{scale}_size": None for scale in seen}

  def predict(self, params, stats, extra, batch):
    """Score and score_std [b], in points of 100, and features [b, d]."""
    network = self.network(params, stats)
    of_scale = lambda encoder, scale: tiles.features(encoder, batch[scale], batch[f"{scale}_size"], normalise)
    features = jnp.concatenate([of_scale(encoder, scale) for scale, encoder in network.encoders.items()], 1)
    logits, error = network.heads(features)
    scores = points(logits)
    return {"score": scores.mean(0), "score_std": jnp.sqrt(jnp.square(error).mean(0)), "features": features}

  def explain(self, params, stats, extra, image):
    """The scores of a grid of windows: where the image is good and where it is not."""
    side = min(*image.shape[:2], max(LEAST_WINDOW, min(LARGEST_WINDOW, min(image.shape[:2]) // 4)))
    rows, columns = (np.linspace(0, n - side, WINDOWS).round().astype(int) for n in image.shape[:2])
    windows = [self.preprocess_eval(image[y : y + side, x : x + side]) for y in rows for x in columns]
    batch = {}
    for name in windows[0]:
      batch[name] = np.stack([window[name] for window in windows])
      batch[f"{name}_size"] = np.tile(np.int32(batch[name].shape[1:3]), (len(windows), 1))
    scores = np.asarray(self._predict(params, stats, {}, batch)["score"])
    return {"map": scores.reshape(WINDOWS, WINDOWS), "shows": f"scores of windows of {side} pixels"}

  @functools.cached_property
  def _predict(self):
    return jax.jit(self.predict)

  def calibrate(self, params, stats, outputs, mos):
    """Scales score_std so that 90 % of the human scores lie within 1.645 of it around the score."""
    factor = np.quantile(np.abs(outputs["score"] - mos) / outputs["score_std"], 0.9) / 1.645
    heads = {**stats["heads"], "factor": stats["heads"]["factor"] * np.float32(factor)}
    return params, {**stats, "heads": heads}


def join(first, second):
  """Two nested dicts without a common leaf as one."""
  return unflatten(flatten(first) | flatten(second))


def _known(ours, theirs):
  """The leaves of `theirs` that `ours` has."""
  theirs = flatten(theirs)
  return unflatten({path: theirs[path] for path in flatten(ours) if path in theirs})


def normalise(pixels):
  """uint8, or floats in [0, 1], to what EfficientNet-Lite was trained with."""
  pixels = pixels.astype(jnp.float32) * (1 if pixels.dtype == jnp.uint8 else 255)
  return (pixels - 127) / 128


def points(logits):
  """Logits to scores of 0 to 100."""
  return 100 * jax.nn.sigmoid(logits)


def order_loss(scores, margin, temperature):
  """How far scores [heads, r, n], from best to worst, miss their order by a margin [r, n - 1], in points."""
  return jax.nn.softplus((margin + scores[..., 1:] - scores[..., :-1]) / temperature).mean()


def deviation_loss(std, error):
  """Negative log-likelihood of errors under normal distributions of these deviations, in nats, up to a constant."""
  return (0.5 * jnp.square(error / std) + jnp.log(std)).mean()
