"""What an encoder is, and the one that a config names: images of any size in, one row of features an image out."""

import pkgutil
from typing import Protocol

import jax.numpy as jnp

from jiqa.models.layers import WHOLE

ENCODERS = {
  "resnet": "jiqa.models.resnet:ResNet",
  "vit": "jiqa.models.vit:PooledViT",
  "efficientnet-lite": "jiqa.models.efficientnet:EfficientNetLite",
}


class Encoder(Protocol):
  """An nnx module whose features of a padded image are those of the image alone.

  Built with keyword arguments of its own and `bn_groups` (equal parts of the batch that are normalised separately),
  `dtype` (of the products; parameters, statistics and features are float32), `rngs` (nnx.Rngs with 'params').
  """

  num_features: int
  stride: int  # pixels between two activations of the last grid
  reach: int | None  # pixels that a last activation sees to each side, for tiles; None: all, and there are no tiles

  def __call__(self, x, size=None, *, train=False):
    """Encodes images.

    Args:
      x: [b, h, w, 3] float, normalised as the weights expect; anything outside `size` is ignored.
      size: [b, 2] int32, height and width of each image inside its padded frame; None: all fill it.
      train: normalise by the batch and update running statistics; with size None only.

    Returns:
      [b, num_features] float32.
    """

  def sums(self, x, part=None, window=WHOLE, *, train=False):
    """What is summed over the places of an image, tile by tile if need be; needed only where `reach` is not None.

    Args:
      part: `jiqa.models.layers.Part`, what of the image x is; None: all of it.
      window: slices of the frame's rows and columns, multiples of `stride`, whose places count; others lie in the
        image, but in other tiles.

    Returns:
      Pytree of [b, ...] float32.
    """

  def pool(self, sums, size):
    """What `__call__` returns: [b, num_features] float32, of the sums over whole images of sizes [b, 2]."""


def build_encoder(config, *, rngs):
  """The `Encoder` of a config with `depth`, `width`, `bn_groups`, `dtype` and perhaps `encoder`.

  That is a key of ENCODERS or "package.module:Class", which is given depth and width; or a dict of `name`, one of
  these, and keyword arguments that take their place. ValueError: there is none such, or it cannot have these sizes.
  """
  chosen = config.get("encoder") or "resnet"
  if isinstance(chosen, str):
    name, sizes = chosen, {"depth": config.depth, "width": config.width}
  else:
    sizes = dict(chosen)
    name = sizes.pop("name", None)
  try:
    return _class(name)(**sizes, bn_groups=config.bn_groups, dtype=jnp.dtype(config.dtype), rngs=rngs)
  except TypeError as error:
    raise ValueError(f"config.encoder {name!r} cannot be built with {sizes}: {error}") from error


def _class(name):
  path = ENCODERS.get(name, str(name))
  if ":" not in path:
    raise ValueError(f'config.encoder is {name!r}; expected one of {", ".join(ENCODERS)}, or "package.module:Class"')
  try:
    return pkgutil.resolve_name(path)
  except (ImportError, AttributeError) as error:
    raise ValueError(f"config.encoder is {name!r}, which cannot be imported ({error})") from error
