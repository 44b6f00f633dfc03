"""Checkpoints of DeiT III (facebookresearch/deit, timm) and of DEIQT, whose encoder is a DeiT III.

A pretraining file holds 174 encoder tensors and a classifier of its own, which is dropped. DEIQT's 20 further tensors
are its quality head. Ours: `params/encoder/...` and `params/head/...`, see models/vit.py and models/panel_decoder.py.
"""

import functools

from flax import nnx

from jiqa.models.panel_decoder import PanelDecoder
from jiqa.models.vit import ViT
from jiqa.weights.rename import KERNEL, Rule, respell
from jiqa.weights.source import Source, unit_waves

VIT_SMALL = {"image": 224, "patch": 16, "width": 384, "depth": 12, "heads": 6}

ENCODER = (
  Rule(r"params/encoder/(.+)/kernel", r"\1.weight", KERNEL),
  Rule(r"params/encoder/(.+)/scale", r"\1.weight"),
  Rule(r"params/encoder/(.+)", r"\1"),
)
# timm spells LayerScale's parameters in another way.
TIMM = (Rule(r"params/encoder/(blocks\[\d+\])/gamma_([12])", r"\1.ls\2.gamma"), *ENCODER)
HEAD = (
  Rule(r"params/(head/.+/in_proj)/kernel", r"\1_weight", KERNEL),
  Rule(r"params/(head/.+/in_proj)/bias", r"\1_bias"),
  Rule(r"params/(head/.+)/kernel", r"\1.weight", KERNEL),
  Rule(r"params/(head/.+)/scale", r"\1.weight"),
  Rule(r"params/(head/.+)", r"\1"),
)


def encoder(sizes=None):
  """A DeiT III; sizes as those of `jiqa.models.vit.ViT`, by default ViT-S/16's."""
  return nnx.Dict(encoder=ViT(**(sizes or VIT_SMALL), rngs=nnx.Rngs(0)))


def deiqt(sizes=None):
  """A DEIQT: encoder and quality head."""
  sizes = sizes or VIT_SMALL
  head = PanelDecoder(sizes["width"], sizes["heads"], rngs=nnx.Rngs(0))
  return nnx.Dict(encoder=encoder(sizes).encoder, head=head)


def probe(network, card):
  """The class token."""
  return network.encoder(unit_waves(224, 224, card))[0][:, 0]


_CARD = {"model": "lml", **VIT_SMALL, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_LICENCE = (
  "DeiT's README says Apache-2.0, but a LICENSE file of its repository has said CC BY-NC 4.0: check before you pass "
  "the weights on"
)
_DEIT3_SMALL = Source(
  what="the encoder of DeiT III ViT-S/16 at 224 pixels (deit_3_small_224_1k.pth, deit_3_small_224_21k.pth or timm's)",
  network=encoder,
  rules=ENCODER,
  card={**_CARD, "licence": _LICENCE},
  probe=probe,
  ignored=("head.weight", "head.bias"),  # the classifier of the pretraining
  adapt=functools.partial(respell, spellings=[(r"^(blocks\.\d+)\.ls([12])\.gamma$", r"\1.gamma_\2")]),
)

SOURCES = {
  "deit3-small": _DEIT3_SMALL,
  "deit3-small-timm": _DEIT3_SMALL._replace(
    what=f"{_DEIT3_SMALL.what}; written back with timm's names",
    rules=TIMM,
    wrapper="",
    adapt=functools.partial(respell, spellings=[(r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma")]),
  ),
  "deiqt": Source(
    what="DEIQT's encoder and head, as its training code saves them",
    network=deiqt,
    rules=(*HEAD, *ENCODER),
    card={**_CARD, "licence": "DEIQT's repository gives no licence"},
    probe=probe,
  ),
}
