"""jiqa: no-reference image quality assessment in JAX.

    metric = jiqa.load()
    metric("photo.jpg").score
    metric.loss(images)             # inside your own jitted, differentiated program

Importing this package imports neither jax nor the models; data-loading workers re-import it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what follows is fetched when it is first asked for
  from jiqa.errors import UserError
  from jiqa.inference.card import list_models
  from jiqa.inference.functional import functional
  from jiqa.inference.metric import Metric, Scores, load

__version__ = "0.1.0"
__all__ = ["Metric", "Scores", "UserError", "functional", "list_models", "load"]


def __getattr__(name):
  """The public names; all but `UserError` need jax."""
  import importlib

  if name not in __all__:
    raise AttributeError(f"module 'jiqa' has no attribute {name!r}")
  homes = {"UserError": "errors", "functional": "inference.functional", "list_models": "inference.card"}
  return getattr(importlib.import_module(f"jiqa.{homes.get(name, 'inference.metric')}"), name)


def __dir__():
  return [*__all__, "__version__"]
