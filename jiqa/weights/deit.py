"""Checkpoints of DeiT III (facebookresearch/deit, timm) and of DEIQT, whose encoder is a DeiT III.

A pretraining file holds 174 encoder tensors and a classifier of its own, which is dropped. DEIQT's 20 further tensors
are its quality head. Ours: `params/encoder/...` and `params/head/...`, see models/vit.py and models/panel_decoder.py.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jiqa.models.vit import ViT
from jiqa.runtime.state import merge_module, split_module
from jiqa.weights.rename import CONV, LINEAR, SAME, Rule
from jiqa.weights.source import Source

# The spelling of LayerScale's parameters: Facebook's and timm's.
SPELLINGS = {"facebook": "gamma_{}", "timm": "ls{}.gamma"}
# The classifier of the pretraining.
CLASSIFIER = ("head.weight", "head.bias")
VIT_SMALL = {"image": 224, "patch": 16, "width": 384, "depth": 12, "heads": 6}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def encoder_rules(spelling="facebook", *, width=384, depth=12, patch=16, tokens=196):
  """The table of the encoder: 174 tensors at the sizes of ViT-S/16.

  Args:
    spelling: one of SPELLINGS.
    width, depth, patch, tokens: sizes of the network, see models/vit.py; tokens: patches of an image.

  Returns:
    list of `Rule`.

  Example:
    >>> len(encoder_rules())
    174
  """
  rules = [
    Rule("cls_token", "params/encoder/cls_token", (1, 1, width), SAME),
    Rule("pos_embed", "params/encoder/pos_embed", (1, tokens, width), SAME),
    Rule("patch_embed.proj.weight", "params/encoder/patch_embed/proj/kernel", (width, 3, patch, patch), CONV),
    Rule("patch_embed.proj.bias", "params/encoder/patch_embed/proj/bias", (width,), SAME),
  ]
  for i in range(depth):
    theirs, ours = f"blocks.{i}.", f"params/encoder/blocks[{i}]/"
    for n in (1, 2):
      rules.append(Rule(theirs + SPELLINGS[spelling].format(n), f"{ours}gamma_{n}", (width,), SAME))
      rules += _norm(f"{theirs}norm{n}", f"{ours}norm{n}", width)
    rules += _linear(theirs + "attn.qkv", ours + "attn/qkv", width, 3 * width)
    rules += _linear(theirs + "attn.proj", ours + "attn/proj", width, width)
    rules += _linear(theirs + "mlp.fc1", ours + "mlp/fc1", width, 4 * width)
    rules += _linear(theirs + "mlp.fc2", ours + "mlp/fc2", 4 * width, width)
  return rules + _norm("norm", "params/encoder/norm", width)


def head_rules(*, width=384):
  """The table of DEIQT's head: 20 tensors.

  Args:
    width: features of a token.

  Returns:
    list of `Rule`.

  Example:
    >>> len(head_rules())
    20
  """
  theirs, ours = "head.bunch_decoder.layers.0.", "params/head/bunch_decoder/layers[0]/"
  rules = [Rule("head.bunch_embedding", "params/head/bunch_embedding", (1, 6, width), SAME)]
  for name in ("self_attn", "multihead_attn"):
    rules += [
      Rule(f"{theirs}{name}.in_proj_weight", f"{ours}{name}/in_proj/kernel", (3 * width, width), LINEAR),
      Rule(f"{theirs}{name}.in_proj_bias", f"{ours}{name}/in_proj/bias", (3 * width,), SAME),
      *_linear(f"{theirs}{name}.out_proj", f"{ours}{name}/out_proj", width, width),
    ]
  rules += _linear(theirs + "linear1", ours + "linear1", width, 4 * width)
  rules += _linear(theirs + "linear2", ours + "linear2", 4 * width, width)
  for n in (1, 2, 3):
    rules += _norm(f"{theirs}norm{n}", f"{ours}norm{n}", width)
  return [*rules, Rule("head.heads.weight", "params/head/heads/kernel", (1, width), LINEAR)]


def _linear(theirs, ours, inputs, outputs):
  return [
    Rule(f"{theirs}.weight", f"{ours}/kernel", (outputs, inputs), LINEAR),
    Rule(f"{theirs}.bias", f"{ours}/bias", (outputs,), SAME),
  ]


def _norm(theirs, ours, width):
  return [
    Rule(f"{theirs}.weight", f"{ours}/scale", (width,), SAME),
    Rule(f"{theirs}.bias", f"{ours}/bias", (width,), SAME),
  ]


def spelled(tensors, spelling):
  """The tensors of a file with LayerScale's parameters in one spelling, whichever the file has.

  Example:
    >>> spelled({"blocks.3.ls2.gamma": 7, "blocks.3.norm1.bias": 8}, "facebook")
    {'blocks.3.gamma_2': 7, 'blocks.3.norm1.bias': 8}
  """
  pattern = re.compile(r"^(blocks\.\d+\.)(?:gamma_([12])|ls([12])\.gamma)$")

  def name(found):
    return found[1] + SPELLINGS[spelling].format(found[2] or found[3])

  return {pattern.sub(name, key): value for key, value in tensors.items()}


def probe_image():
  """[224, 224, 3] float32 in [0, 1]: an image of waves that anyone can make again."""
  y, x = np.mgrid[:224, :224].astype(np.float64)
  waves = [np.sin(x / 7 + y / 11 + phase) * np.cos(x * y / 900 + phase) for phase in (0, 1, 2)]
  return (0.5 + 0.5 * np.stack(waves, -1)).astype(np.float32)


def probe(params, stats, card):
  """The class token of `probe_image`.

  Args:
    params, stats: nested dicts of arrays with the entry 'encoder', a ViT-S/16.
    card: dict with 'mean' and 'std'.

  Returns:
    [384] float32.
  """
  del stats
  graphdef = split_module(nnx.eval_shape(lambda: ViT(**VIT_SMALL, rngs=nnx.Rngs(0))))[0]
  run = jax.jit(lambda params, x: merge_module(graphdef, params, {})(x)[0][:, 0])
  pixels = (probe_image() - np.float32(card["mean"])) / np.float32(card["std"])
  return np.asarray(run(params["encoder"], jnp.asarray(pixels[None])))[0]


_CARD = {"model": "lml", **VIT_SMALL, "mean": MEAN, "std": STD}
_LICENCE = (
  "DeiT's README says Apache-2.0, but a LICENSE file of its repository has said CC BY-NC 4.0: check before you pass "
  "the weights on"
)

DEIT3_SMALL = Source(
  what="the encoder of DeiT III ViT-S/16 at 224 pixels (deit_3_small_224_1k.pth, deit_3_small_224_21k.pth or timm's)",
  rules=encoder_rules,
  card={**_CARD, "licence": _LICENCE},
  probe=probe,
  ignored=CLASSIFIER,
  adapt=lambda tensors: spelled(tensors, "facebook"),
)
DEIT3_SMALL_TIMM = DEIT3_SMALL._replace(
  what=f"{DEIT3_SMALL.what}; written back with timm's names",
  rules=lambda: encoder_rules("timm"),
  wrapper="",
  adapt=lambda tensors: spelled(tensors, "timm"),
)
DEIQT = Source(
  what="DEIQT's encoder and head, as its training code saves them",
  rules=lambda: encoder_rules() + head_rules(),
  card={**_CARD, "licence": "DEIQT's repository gives no licence"},
  probe=probe,
)
