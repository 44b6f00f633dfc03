"""A method small enough to follow by hand: the score is a linear function of an image's mean brightness."""

import jax
import jax.numpy as jnp
import numpy as np

from jiqa.methods.base import Method
from jiqa.runtime.sharding import replicated
from jiqa.runtime.state import new_state

NAME = "tests.brightness_method:Brightness"


class Brightness(Method):
  """score = slope * brightness; trained towards mos / range, its slope drawn at random."""

  def init(self, key, weights=None):
    slope = weights[0]["slope"] if weights else jax.random.normal(key, ())
    return jax.device_put(new_state({"slope": jnp.float32(slope)}, {}), replicated(self.mesh))

  def preprocess_train(self, image, record, rng):
    low, high = record["range"]
    return {"brightness": np.float32(image.mean() / 255), "target": np.float32((record["mos"] - low) / (high - low))}

  def loss(self, params, state, batch, key):
    error = params["slope"] * batch["brightness"] - batch["target"]
    return (error**2).mean(), (state.stats, {}, {})

  def preprocess_eval(self, image):
    return {"image": image}

  def precompute(self, params, stats, extra=None):
    return {"doubled": 2 * params["slope"]}

  def predict(self, params, stats, extra, batch):
    pixels = batch["image_size"].prod(-1) * 3
    brightness = batch["image"].astype(jnp.float32).sum((1, 2, 3)) / 255 / pixels
    return {"score": extra["doubled"] * brightness / 2, "brightness": brightness}

  def compute_metrics(self, outputs, records):
    error = float(np.abs(outputs["score"] - records.mos.to_numpy()).mean())
    return {"mean brightness": float(outputs["brightness"].mean()), "rows": float(len(records)), "error": error}


class Averaged(Brightness):
  """The same, predicting from an average of its parameters."""

  def init(self, key, weights=None):
    state = super().init(key, weights)
    return state.replace(extra={"average": state.params})

  def weights(self, state):
    return state.extra["average"], state.stats
