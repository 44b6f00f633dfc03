"""jiqa: no-reference image quality assessment in JAX.

    metric = jiqa.load()
    metric("photo.jpg").score

Importing this package imports neither jax nor the models; data-loading workers re-import it.
"""

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name):
  """`load` is fetched when it is first asked for: it needs jax."""
  if name != "load":
    raise AttributeError(f"module 'jiqa' has no attribute {name!r}")
  from jiqa.inference.metric import load

  return load
