"""A method and its config in one file, see docs/extending.md."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from jiqa.methods.base import Method
from jiqa.runtime.sharding import replicated
from jiqa.runtime.state import new_state


def get_config():
  """Trains on the database csv/mine, tests on the rest of it."""
  data = [base.images("csv/mine", protocol="folds")]
  c = base.training("docs.examples.brightness:Brightness", data, split=0, batch_size=8, epochs=0, steps=200)
  c.optimizer = base.optimizer("adamw", "cosine", 3.0, 0.0)
  c.evaluation = base.evaluation(("csv/mine",), "folds", pixels_per_batch=2**22)
  return c


class Brightness(Method):
  """score = slope * mean pixel."""

  def init(self, key, weights=None):
    slope = weights[0]["slope"] if weights else jax.random.normal(key, ())
    return jax.device_put(new_state({"slope": jnp.float32(slope)}, {}), replicated(self.mesh))

  def preprocess_train(self, image, record, rng):
    return {"brightness": np.float32(image.mean() / 255), "mos": np.float32(record["mos"])}

  def loss(self, params, state, batch, key):
    error = params["slope"] * batch["brightness"] - batch["mos"]
    return (error**2).mean(), (state.stats, {}, {})

  def preprocess_eval(self, image):
    return {"image": image}

  def predict(self, params, stats, extra, batch):
    values = batch["image_size"].prod(-1) * 3  # what the padding adds is zero
    return {"score": params["slope"] * batch["image"].astype(jnp.float32).sum((1, 2, 3)) / 255 / values}
