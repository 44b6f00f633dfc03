"""Re-IQA's two published experts, and ImageNet ResNet-50s as a start.

Both experts have the same 322 tensors: an encoder with torchvision's names below `encoder.` and a projector below
`head.`, all behind the `module.` of DistributedDataParallel.
"""

from flax import nnx

from jiqa.models.layers import Projector
from jiqa.models.resnet import ResNet
from jiqa.weights.rename import KERNEL, NUMBER, Rule
from jiqa.weights.source import Source, unit_waves

ENCODER = (
  Rule(r"params/encoder/(.+)/kernel", r"\1.weight", KERNEL),
  Rule(r"params/encoder/(.+)/scale", r"\1.weight"),
  Rule(r"params/encoder/(.+)/bias", r"\1.bias"),
  Rule(r"stats/encoder/(.+)/(mean|var)", r"\1.running_\2"),
)
EXPERT = (
  # The counter of batches has no place in ours.
  Rule(r"stats/encoder/(.+)/mean", r"encoder.\1.num_batches_tracked", NUMBER),
  *(rule._replace(theirs=f"encoder.{rule.theirs}") for rule in ENCODER),
  Rule(r"params/head/layers/([02])/kernel", r"head.\1.weight", KERNEL),
  Rule(r"params/head/layers/([02])/bias", r"head.\1.bias"),
)


def expert(depth=50, width=64, embedding=128):
  """The network of a published expert: encoder and projector."""
  encoder, rngs = resnet(depth, width).encoder, nnx.Rngs(0)
  return nnx.Dict(encoder=encoder, head=Projector(encoder.num_features, embedding, rngs=rngs))


def resnet(depth=50, width=64):
  """A torchvision ResNet without its classifier."""
  return nnx.Dict(encoder=ResNet(depth, width, rngs=nnx.Rngs(0)))


def probe(network, card):
  """The encoder's features of an image of odd size."""
  return network.encoder(unit_waves(67, 93, card))


_NETWORK = {"model": "reiqa", "depth": 50, "width": 64}
_UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_LICENCE = "the authors give no licence for these weights; their training sets have terms of their own"
_EXPERT = {"network": expert, "rules": EXPERT, "probe": probe, "prefix": "module."}

SOURCES = {
  "reiqa-quality": Source(
    what="Re-IQA's quality expert (quality_aware_r50.pth)",
    card={**_NETWORK, "expert": "quality", **_UNIT, "embedding": 128, "licence": _LICENCE},
    not_named=("content",),
    **_EXPERT,
  ),
  "reiqa-content": Source(
    what="Re-IQA's content expert (content_aware_r50.pth)",
    card={**_NETWORK, "expert": "content", **_IMAGENET, "embedding": 128, "licence": _LICENCE},
    not_named=("quality",),
    **_EXPERT,
  ),
  "resnet50": Source(
    what="an ImageNet ResNet-50 of torchvision or timm",
    network=resnet,
    rules=ENCODER,
    card={**_NETWORK, "expert": "imagenet", **_IMAGENET, "licence": "that of the file it was converted from"},
    probe=probe,
    # Old torchvision files lack the counters, timm and torchvision have a classifier.
    ignored=("num_batches_tracked", "fc.weight", "fc.bias"),
  ),
}
