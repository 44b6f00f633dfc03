"""The contract between a method and the loop: what `train.py`, `evaluate.py` and `score.py` may call."""

from typing import Protocol

from jiqa.runtime.state import State


class Method(Protocol):
  """One published system, built as `Method(config, shards)`: its config and the number of devices of the mesh.

  It holds no arrays, so that its functions can be jitted. A config that cannot run raises ValueError.
  """

  def init(self, key, mesh) -> State:
    """Fresh parameters, statistics and `extra` at step 0, replicated over `mesh`; `opt_state` is left None.

    Args:
      key: jax PRNG key.
      mesh: jax.sharding.Mesh.
    """

  def cut(self, image, rng):
    """What training needs of one picture, on the host.

    Args:
      image: [h, w, 3] uint8.
      rng: np.random.Generator of this record at this place of the stream.

    Returns:
      dict of NumPy arrays of static shape; stacked over records they are the batch that `loss` receives.
    """

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

  def post_update(self, state, aux) -> State:
    """What happens after the optimiser step (moving averages, queues, schedules); the identity if nothing does."""

  def views(self, image):
    """What prediction needs of one picture, on the host.

    Args:
      image: [h, w, 3] uint8.

    Returns:
      dict from view name to [h', w', 3] uint8; sizes may differ from picture to picture.
    """

  def predict(self, state, batch):
    """Features or scores of padded views; pure, jitted by the caller. A row never depends on the other rows.

    Args:
      state: State.
      batch: for every view: name [b, H, W, 3] uint8 and name_size [b, 2] int32.

    Returns:
      dict with 'features' [b, d] float32, to be regressed on, or 'score' [b] float32.
    """
