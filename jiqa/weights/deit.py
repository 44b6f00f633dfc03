"""Checkpoints of DeiT III (facebookresearch/deit, timm) and of DEIQT, whose encoder is a DeiT III.

A pretraining file holds 174 encoder tensors and a classifier of its own, which is dropped. DEIQT's 20 further tensors
are its quality head.
"""

from flax import nnx

from jiqa.models.layers import IMAGENET
from jiqa.models.panel_decoder import PanelDecoder
from jiqa.models.vit import ViT
from jiqa.weights.rename import respell
from jiqa.weights.source import Source, unit_waves

VIT_SMALL = {"image": 224, "patch": 16, "width": 384, "depth": 12, "heads": 6}

BARE = (r"^encoder\.", "")
# timm spells LayerScale's parameters in another way.
TO_TIMM = (r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma")
FROM_TIMM = (r"^(blocks\.\d+)\.ls([12])\.gamma$", r"\1.gamma_\2")


def encoder(sizes=VIT_SMALL):
  """A DeiT III; sizes as those of `jiqa.models.vit.ViT`, by default ViT-S/16's."""
  return nnx.Dict(encoder=ViT(**sizes, rngs=nnx.Rngs(0)))


def deiqt(sizes=VIT_SMALL):
  """A DEIQT: encoder and quality head."""
  return nnx.Dict(encoder=encoder(sizes).encoder, head=PanelDecoder(sizes["width"], sizes["heads"], rngs=nnx.Rngs(0)))


def probe(network, card):
  """The class token."""
  return network.encoder(unit_waves(224, 224, card))[0][:, 0]


_CARD = {"model": "lml", **VIT_SMALL, **IMAGENET}
_LICENCE = (
  "DeiT's README says Apache-2.0, but a LICENSE file of its repository has said CC BY-NC 4.0: check before you pass "
  "the weights on"
)
_DEIT3_SMALL = Source(
  what="the encoder of DeiT III ViT-S/16 at 224 pixels (deit_3_small_224_1k.pth, deit_3_small_224_21k.pth or timm's)",
  network=encoder,
  card={**_CARD, "licence": _LICENCE},
  probe=probe,
  spellings=(BARE,),
  ignored=("head.weight", "head.bias"),  # the classifier of the pretraining
  adapt=lambda tensors: respell(tensors, [FROM_TIMM]),
)

SOURCES = {
  "deit3-small": _DEIT3_SMALL,
  "deit3-small-timm": _DEIT3_SMALL._replace(
    what=f"{_DEIT3_SMALL.what}; written back with timm's names",
    spellings=(BARE, TO_TIMM),
    wrapper="",
    adapt=lambda tensors: respell(tensors, [TO_TIMM]),
  ),
  "deiqt": Source(
    what="DEIQT's encoder and head, as its training code saves them",
    network=deiqt,
    card={**_CARD, "licence": "DEIQT's repository gives no licence"},
    probe=probe,
    spellings=(BARE,),
  ),
}
