"""Re-IQA's two published experts, and ImageNet ResNet-50s as a start.

Both experts have the same 322 tensors: an encoder with torchvision's names below `encoder.` and a projector below
`head.`, all behind the `module.` of DistributedDataParallel.
"""

from flax import nnx

from jiqa.models.layers import IMAGENET, Projector
from jiqa.models.resnet import ResNet
from jiqa.weights.source import Source, encoder_probe


def expert(depth=50, width=64, embedding=128):
  """The network of a published expert: encoder and projector."""
  encoder, rngs = resnet(depth, width).encoder, nnx.Rngs(0)
  return nnx.Dict(encoder=encoder, head=Projector(encoder.num_features, embedding, rngs=rngs))


def resnet(depth=50, width=64):
  """A torchvision ResNet without its classifier."""
  return nnx.Dict(encoder=ResNet(depth, width, rngs=nnx.Rngs(0)))


_NETWORK = {"model": "reiqa", "depth": 50, "width": 64}
_UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
_LICENCE = "the authors give no licence for these weights; their training sets have terms of their own"

SOURCES = {
  f"reiqa-{name}": Source(
    what=f"Re-IQA's {name} expert ({name}_aware_r50.pth)",
    network=expert,
    card={**_NETWORK, "expert": name, **pixels, "embedding": 128, "licence": _LICENCE},
    probe=encoder_probe,
    spellings=((r"^head\.layers\.", "head."),),
    counters=True,
    not_named=(other,),
    prefix="module.",
  )
  for name, other, pixels in (("quality", "content", _UNIT), ("content", "quality", IMAGENET))
} | {
  "resnet50": Source(
    what="an ImageNet ResNet-50 of torchvision or timm",
    network=resnet,
    card={**_NETWORK, "expert": "imagenet", **IMAGENET, "licence": "that of the file it was converted from"},
    probe=encoder_probe,
    spellings=((r"^encoder\.", ""),),
    # Old torchvision files lack the counters, timm and torchvision have a classifier.
    ignored=("num_batches_tracked", "fc.weight", "fc.bias"),
  ),
}
