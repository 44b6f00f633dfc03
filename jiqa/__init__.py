"""jiqa: no-reference image quality assessment in JAX.

Importing this package imports neither jax nor the models; data-loading workers re-import it.
"""

__version__ = "0.1.0"
