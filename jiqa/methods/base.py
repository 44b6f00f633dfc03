"""The contract between a method and everything that trains it or predicts with it."""

import jax
import jax.numpy as jnp
from flax import nnx

from jiqa.errors import UserError
from jiqa.runtime.sharding import replicated
from jiqa.runtime.state import State, merge_module, new_state, split_module
from jiqa.weights.store import adopt


class Method:
  """One published system, built as `Method(config, mesh)`.

  It holds no arrays, so its functions can be jitted. A config with which it could not predict raises ValueError. What
  has a body here is what most methods want.

  Attributes:
    score_range: (lowest, highest) score, of a method that gives one; None where there is none, or none is known.
    input: what the network sees of an image, in words; {key} stands for a key of the config.
    classes: dict from an output that is probabilities to the names of its classes.
    training_only: beginnings of paths in what `weights` returns, such as "params/head", that `predict` does not read.
    accumulates: whether a step may be taken in micro-batches (config.accumulate > 1).
    prediction_keys: keys of the config that only prediction reads; they may change after training.
    defaults: what configs written before a key existed meant by its absence.
    published: converted checkpoints: dicts of 'card' (entries that tell them), 'config' ("FILE:VARIANT" in configs/)
      and 'keys' (entries of the card that go into the config).
    how_to_get: command that makes weights of this method; None: training.
    feature_order: networks whose features are joined stand in this order.
    explain: None; or function (params, stats, extra, image) -> dict of NumPy arrays, what a score is made of: 'map'
      [g, g], where the network looks or what 'shows' says, perhaps 'image', 'score', and for n crops 'crops', 'boxes',
      'scores' and 'saliency', see `inference/explain.py`. `extra` is what `precompute` returned.
    prefit: None; or function (state, outputs, records) -> state, the State at step 0 after something was fitted to what
      `predict` gives for all training images: NumPy arrays [n, ...] and a list of n dicts as `preprocess_train` gets.
  """

  score_range = None
  input = "RGB"
  classes: dict = {}
  training_only: tuple = ()
  accumulates = True
  prediction_keys: tuple = ()
  defaults: dict = {}
  published: tuple = ()
  how_to_get = None
  feature_order = 0
  explain = None
  prefit = None

  def __init__(self, config, mesh):
    self.config, self.mesh = config, mesh

  def check_training(self):
    """Raises ValueError for a config with which it could predict, but not train."""

  def init(self, key, weights=None) -> State:
    """Parameters, statistics and `extra` at step 0, replicated over the mesh; `opt_state` is left None.

    What training does not change lies in `extra`: the optimiser sees `params` only.

    Args:
      key: jax PRNG key.
      weights: (params, stats), nested dicts of NumPy arrays to start from, whole or in part; None: from scratch. A
        UserError, which names the entries, where they do not fit.
    """
    raise NotImplementedError

  def state_shapes(self):
    """What `init` gives, as jax.ShapeDtypeStructs."""
    return jax.eval_shape(self.init, jax.random.key(0))

  def preprocess_train(self, image, record, rng):
    """What training needs of one image, on the host: a dict of NumPy arrays of static shape.

    Stacked over records they are the batch that `loss` receives.

    Args:
      image: [h, w, 3] uint8.
      record: dict, the label columns of the image (see data/source.py), `database` (its name), `entry` (its position
        in config.data) and `range` (lowest and highest mos of the database's scale).
      rng: np.random.Generator of this record at this position of the stream.
    """
    raise NotImplementedError

  def loss(self, params, state, batch, key):
    """The training objective; pure, jitted by the loop; may distort and crop on the device first.

    Args:
      params: what to differentiate by, like state.params.
      state: State of this step.
      batch: dict of arrays with a leading, sharded batch axis.
      key: jax PRNG key of this step.

    Returns:
      (loss [] float32, (stats, aux, metrics)): new running statistics, whatever `post_update` needs, and a flat dict
      of scalars to log.
    """
    raise NotImplementedError

  def merge_aux(self, aux):
    """The aux of a step from those of its micro-batches, stacked along a new leading axis: their mean."""
    return jax.tree.map(lambda x: x.mean(0), aux)

  def post_update(self, state, aux) -> State:
    """What happens after the optimiser step: moving averages, queues, schedules."""
    return state

  def weights(self, state):
    """(params, stats): what predicts, and is exported, converted and checksummed."""
    return state.params, state.stats

  def calibrate(self, params, stats, outputs, mos):
    """(params, stats) whose stated uncertainty fits images that were not trained on; default: as they are.

    Args:
      params, stats: from `weights`.
      outputs: what `predict` gave for n such images, NumPy arrays [n, ...].
      mos: [n] float64, their human scores on the scale of the score.
    """
    return params, stats

  def preprocess_eval(self, image):
    """What prediction needs of one image [h, w, 3] uint8, on the host; a function of the image alone.

    A dict from name to [h', w', 3] uint8, of any size, or to [n, h', w', 3] uint8 of one size for all images.
    """
    raise NotImplementedError

  def preprocess_float(self, images):
    """What prediction needs of images that are being computed; pure, traceable, differentiable, nothing is rounded.

    A batch for `predict` from [b, h, w, 3] float32 in [0, 1]: as from `preprocess_eval`, but of floats, and `name_size`
    is None, because all images fill their frames.
    """
    raise UserError(f"{type(self).__name__} predicts from image files only: it has no preprocess_float")

  def precompute(self, params, stats, extra=None):
    """What does not depend on an image, computed once before predictions: a pytree, the `extra` of `predict`.

    params and stats are from `weights`, extra is that of the State inside a run; None where there are only weights.
    """
    return {}

  def predict(self, params, stats, extra, batch):
    """Scores or features; pure, jitted by the caller. A row never depends on the other rows.

    Args:
      params, stats, extra: from `weights`, from `precompute`.
      batch: for every entry of any size `name` [b, H, W, 3] uint8, padded, and `name_size` [b, 2] int32; for every
        entry of one size `name` [b, n, h', w', 3] uint8. Or what `preprocess_float` gives: floats in [0, 1].

    Returns:
      dict with 'score' [b] float32, or 'features' [b, d] float32 to fit a head to, and further arrays [b, ...].
    """
    raise NotImplementedError

  def compute_metrics(self, outputs, records):
    """Further measures, such as the accuracy of other predictions: dict from name to float.

    outputs is what `predict` gave, as NumPy arrays [n, ...]; records a DataFrame of n rows, labels and `database`.
    """
    return {}


class NetworkMethod(Method):
  """A method with one nnx module, which its `build(rngs)` makes."""

  optional: tuple = ()  # beginnings of paths of parameters that weights to start from may lack

  def __init__(self, config, mesh):
    super().__init__(config, mesh)
    self.graphdef, *self.shapes = split_module(nnx.eval_shape(lambda: self.build(nnx.Rngs(0))))

  def network(self, params, stats=None):
    """The module with these arrays."""
    return merge_module(self.graphdef, params, stats or {})

  def fresh(self, key):
    """(params, stats) of an untrained module."""
    return split_module(self.build(nnx.Rngs(params=key)))[1:]

  def state_shapes(self):
    return jax.eval_shape(self.first_state, jax.random.key(0), *self.shapes)  # the module is not made again

  def first_state(self, key, params, stats):
    """The State that begins with these arrays; `key` is for what else it may hold."""
    return new_state(params, stats)

  def init(self, key, weights=None):
    whole = replicated(self.mesh)
    arrays = jax.jit(self.fresh, out_shardings=whole)(key)
    if weights is not None:
      arrays = [adopt(ours, theirs, optional=self.optional) for ours, theirs in zip(arrays, weights, strict=True)]
      arrays = jax.device_put(arrays, whole)
    # Copied: no array may stand twice in a state, whose memory is given away at every step.
    first_state = lambda *args: jax.tree.map(jnp.copy, self.first_state(*args))
    return jax.jit(first_state, out_shardings=whole)(key, *arrays)


def check(*rules):
  """Raises ValueError with the message of the first of the (holds, message) that does not hold."""
  for holds, message in rules:
    if not holds:
      raise ValueError(message)
