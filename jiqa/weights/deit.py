"""Checkpoints of DeiT III (facebookresearch/deit, timm) and of DEIQT, whose encoder is a DeiT III.

A pretraining file holds 174 encoder tensors and a classifier of its own, which is dropped. DEIQT's 20 further tensors
are its quality head. Ours: `params/encoder/...` and `params/head/...`, see models/vit.py and models/panel_decoder.py.
"""

from jiqa.weights.rename import CONV, LINEAR, SAME, Rule

# The spelling of LayerScale's parameters: Facebook's and timm's.
SPELLINGS = {"facebook": "gamma_{}", "timm": "ls{}.gamma"}
# The 1,000-class head of the pretraining.
CLASSIFIER = ("head.weight", "head.bias")


def encoder_rules(spelling="facebook", *, width=384, depth=12, patch=16, tokens=196):
  """The table of the encoder: 174 tensors at the sizes of ViT-S/16.

  Args:
    spelling: one of SPELLINGS.
    width, depth, patch, tokens: sizes of the network, see models/vit.py; tokens: patches of a picture.

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
