"""What a method fits to all training images before the first step."""

import jax.numpy as jnp
import numpy as np

from jiqa import train as loop
from jiqa.runtime.checkpoint import Checkpoints
from jiqa.runtime.sharding import make_mesh
from tests.brightness_method import Brightness


class Prefitted(Brightness):
  """Begins with the mean score over the brightness of all training images."""

  calls: list = []

  def prefit(self, state, outputs, records):
    self.calls.append((outputs["brightness"], [record["mos"] for record in records], int(state.step)))
    assert all(record["range"] == (0, 97.5) and record["entry"] == 0 for record in records)
    return state.replace(params={"slope": jnp.float32(3)})


def test_a_method_may_fit_something_to_all_training_images_first_and_once(brightness_run, monkeypatch):
  config, workdir = brightness_run
  monkeypatch.setattr(loop, "build_method", Prefitted)
  config.checkpoint_every, config.optimizer.learning_rate, config.steps = 5, 0.0, 15
  config.split, config.data[0].protocol = 0, "folds"
  for _ in range(2):
    assert loop.train(config, workdir)
  ((brightness, scores, step),) = Prefitted.calls
  assert step == 0 and 0 < len(scores) < 40  # not those of the test part
  np.testing.assert_allclose(brightness, 6 * np.array(scores) / 2.5 / 255, atol=1e-6)
  method = Prefitted(config, make_mesh())
  like = loop.init_state(config, method, loop.build_optimizer(config, len(scores))[0], method.mesh)
  with Checkpoints(workdir / "checkpoints", keep=2) as kept:
    assert kept.restore(like).params["slope"] == 3
