"""The contract between a method and the loop: what `train.py`, `evaluate.py` and `score.py` may call."""

import jax

from jiqa.runtime.state import State


class Method:
  """One published system, built as `Method(config, shards)`: its config and the number of devices of the mesh.

  It holds no arrays, so that its functions can be jitted. A config that cannot run raises ValueError. What has a body
  here is what most methods want.

  Attributes:
    training_only: beginnings of paths in the State, such as "params/head", of what `predict` does not read: weights
      without it can still predict.
  """

  training_only = ()

  def init(self, key, mesh, weights=None) -> State:
    """Parameters, statistics and `extra` at step 0, replicated over `mesh`; `opt_state` is left None.

    What stays as it is during training lies in `extra`: the optimiser sees `params` only.

    Args:
      key: jax PRNG key.
      mesh: jax.sharding.Mesh.
      weights: (params, stats), nested dicts of NumPy arrays to start from, whole or in part; None: from scratch.

    Raises:
      UserError: if the weights do not fit, naming the entries.
    """
    raise NotImplementedError

  def preprocess_train(self, image, record, rng):
    """What training needs of one image, on the host.

    Args:
      image: [h, w, 3] uint8.
      record: dict, the label columns of the image (see data/source.py), `database` (its name), `entry` (its position
        in config.data) and `range` (lowest and highest mos of the database's scale).
      rng: np.random.Generator of this record at this place of the stream.

    Returns:
      dict of NumPy arrays of static shape; stacked over records they are the batch that `loss` receives.
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

  def join(self, aux):
    """The aux of a step from those of its micro-batches, stacked along a new leading axis: their mean."""
    return jax.tree.map(lambda x: x.mean(0), aux)

  def post_update(self, state, aux) -> State:
    """What happens after the optimiser step: moving averages, queues, schedules."""
    del aux
    return state

  def preprocess_eval(self, image):
    """What prediction needs of one image, on the host; a function of the image alone.

    Args:
      image: [h, w, 3] uint8.

    Returns:
      dict from view name to [h', w', 3] uint8, of any size, or to [n, h', w', 3] uint8 of one size for all images.
    """
    raise NotImplementedError

  def prepare(self, state) -> State:
    """Called once before predictions: what does not depend on an image is computed here and kept in `extra`."""
    return state

  def predict(self, state, batch):
    """Features or scores of views; pure, jitted by the caller. A row never depends on the other rows.

    Args:
      state: State, after `prepare`.
      batch: for every view of any size name [b, H, W, 3] uint8, padded, and name_size [b, 2] int32; for every view of
        one size name [b, n, h', w', 3] uint8.

    Returns:
      dict with 'features' [b, d] float32, to be regressed on, or 'score' [b] float32, and further arrays [b, ...].
    """
    raise NotImplementedError

  def compute_metrics(self, outputs, records):
    """Further measures of scored images, such as the accuracy of other predictions.

    Args:
      outputs: dict of what `predict` gave, NumPy arrays [n, ...].
      records: DataFrame of n rows: the label columns and `database`.

    Returns:
      dict from name to float.
    """
    del outputs, records
    return {}
