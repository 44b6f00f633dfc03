"""A metric as a pure function of images that other programs compute: to jit, differentiate, map, shard, cast."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jiqa.errors import UserError
from jiqa.methods import build_method


def functional(metric, dtype=None):
  """A metric as parameters and a function; `Metric.apply` is the two together.

  Nothing is rounded to 8 bits on the way, and no size is padded; docs/functional.md says how little that changes.

  Args:
    metric: Metric.
    dtype: of the products, such as "bfloat16"; None: as the network was trained. Parameters stay float32.

  Returns:
    (params, function). params: nested dicts and lists of jax arrays that belong to no device yet. function(params,
    images): images [b, h, w, 3] float in [0, 1] to scores [b] float32, or [h, w, 3] to []; pure.

  Raises:
    UserError: the metric gives no score, or its method none of float images; from `function` where it is traced, for
      other shapes and types.

  Example:
    >>> params, score = functional(jiqa.load())                                          # doctest: +SKIP
    >>> gradient = jax.jit(jax.grad(lambda x: score(params, x).sum()))(images)           # doctest: +SKIP
  """
  metric.check_scores()
  methods = [model.method if dtype is None else _with_dtype(model, dtype) for model in metric.models]
  params = {"networks": [list(model.weights) for model in metric.models], "head": head_arrays(metric.head)}

  def function(params, images):
    _check(images)
    batch = images.astype(jnp.float32).reshape(-1, *images.shape[-3:])
    calls = zip(methods, params["networks"], strict=True)
    outputs = [method.predict(*weights, method.preprocess_float(batch)) for method, weights in calls]
    if params["head"] is None:
      score = outputs[0]["score"]
    else:
      score = head_score(params["head"], jnp.concatenate([each["features"] for each in outputs], 1))
    return score.astype(jnp.float32).reshape(images.shape[:-3])

  # Copies that are not committed to the devices on which the metric scores; arrays, even if this is being traced.
  with jax.ensure_compile_time_eval():
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), params), function


def head_arrays(head):
  """A `Head` as a dict of float32 NumPy arrays, or None."""
  return head and {name: np.float32(getattr(head, name)) for name in ("weights", "mean", "scale", "intercept")}


def head_score(head, features):
  """`Head.__call__` in float32, traceable: features [b, d] to [b]."""
  centred = (features - head["mean"]) / head["scale"]
  return jnp.matmul(centred, head["weights"], precision=jax.lax.Precision.HIGHEST) + head["intercept"]


def _with_dtype(model, dtype):
  if "dtype" not in model.config:
    raise UserError(f"{model.folder}: method {model.name!r} has one type of numbers only; leave out dtype")
  return build_method(ConfigDict({**model.config, "dtype": jnp.dtype(dtype).name}), model.mesh)


def _check(images):
  shape = images.shape
  if len(shape) not in (3, 4) or shape[-1] != 3 or 0 in shape:
    raise UserError(f"images have the shape {shape}; expected [b, h, w, 3] or [h, w, 3]")
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise UserError(f"images are {images.dtype}; expected floats in [0, 1]: divide 8-bit images by 255")
