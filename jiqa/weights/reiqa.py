"""Re-IQA's two published experts, and ImageNet ResNet-50s as a start: which tensor of theirs is which array of ours.

Both experts have the same 322 tensors: an encoder with torchvision's names below `encoder.` and a projector below
`head.`, all behind the `module.` of DistributedDataParallel.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jiqa.models.resnet import EXPANSION, STAGE_BLOCKS, ResNet
from jiqa.runtime.state import merge_module, split_module
from jiqa.weights.rename import CONV, LINEAR, Rule
from jiqa.weights.source import Source

COUNTER = "num_batches_tracked"
PROBE_SIZE = (67, 93)


def batch_norm_rules(theirs, ours, channels):
  """The five tensors of one BatchNorm2d; the counter of batches has no place in ours."""
  names = {"weight": "params/{}/scale", "bias": "params/{}/bias", "running_mean": "stats/{}/mean"}
  names["running_var"] = "stats/{}/var"
  rules = [Rule(f"{theirs}.{name}", path.format(ours), (channels,)) for name, path in names.items()]
  return [*rules, Rule(f"{theirs}.{COUNTER}", "", ())]


def encoder_rules(depth=50, width=64, theirs="encoder.", ours="encoder/"):
  """Every tensor of a torchvision ResNet without its classifier.

  Args:
    depth: a key of `jiqa.models.resnet.STAGE_BLOCKS`.
    width: channels of the stem.
    theirs, ours: what stands before the names.

  Returns:
    list of `Rule`, in the order of a torch state dict.
  """
  rules = []

  def layer(path, kernel, bn, inputs, outputs, size):
    path_of_ours = ours + path.replace(".", "/")
    rules.append(Rule(f"{theirs}{path}{kernel}.weight", _indexed(f"params/{path_of_ours}{kernel}/kernel"),
                      (outputs, inputs, size, size), CONV))  # fmt: skip
    norms = batch_norm_rules(f"{theirs}{path}{bn}", f"{path_of_ours}{bn}", outputs)
    rules.extend(rule._replace(ours=_indexed(rule.ours)) for rule in norms)

  layer("", "conv1", "bn1", 3, width, 7)
  inputs = width
  for stage, blocks in enumerate(STAGE_BLOCKS[depth]):
    planes = width * 2**stage
    outputs = planes * EXPANSION[depth]
    for block in range(blocks):
      path = f"layer{stage + 1}.{block}."
      if EXPANSION[depth] == 1:
        convolutions = ((inputs, planes, 3), (planes, planes, 3))
      else:
        convolutions = ((inputs, planes, 1), (planes, planes, 3), (planes, outputs, 1))
      for i, (before, after, size) in enumerate(convolutions, 1):
        layer(path, f"conv{i}", f"bn{i}", before, after, size)
      if block == 0 and (stage > 0 or inputs != outputs):
        layer(f"{path}downsample.", "0", "1", inputs, outputs, 1)
      inputs = outputs
  return rules


def _indexed(path):
  """Numbers that are places in a list, in our notation: layer1/0/conv1 is layer1[0]/conv1."""
  parts = []
  for part in path.split("/"):
    if part.isdigit():
      parts[-1] += f"[{part}]"
    else:
      parts.append(part)
  return "/".join(parts)


def expert_rules(depth=50, width=64, embedding=128):
  """Every tensor of a published expert: encoder and projector; see `encoder_rules`."""
  features = width * 8 * EXPANSION[depth]
  rules = encoder_rules(depth, width)
  for name, outputs in (("0", features), ("2", embedding)):
    ours = f"params/head/layers/{name}"
    rules.append(Rule(f"head.{name}.weight", f"{ours}/kernel", (outputs, features), LINEAR))
    rules.append(Rule(f"head.{name}.bias", f"{ours}/bias", (outputs,)))
  return rules


def probe_image():
  """[1, 67, 93, 3] float32 in [0, 1]: an image of waves that anyone can make again, of odd size."""
  y, x = np.mgrid[: PROBE_SIZE[0], : PROBE_SIZE[1]].astype(np.float64)
  waves = [np.sin(x / 7 + y / 11 + phase) * np.cos(x * y / 900 + phase) for phase in (0, 1, 2)]
  return (0.5 + 0.5 * np.stack(waves, -1))[None].astype(np.float32)


def probe(params, stats, card):
  """The encoder's features of `probe_image`, normalised as the card says.

  Args:
    params, stats: nested dicts of arrays with the entry 'encoder'.
    card: dict with 'depth', 'width', 'mean' and 'std'.

  Returns:
    [d] float32.
  """
  graphdef = split_module(nnx.eval_shape(lambda: ResNet(card["depth"], card["width"], rngs=nnx.Rngs(0))))[0]
  pixels = (probe_image() - np.float32(card["mean"])) / np.float32(card["std"])
  run = jax.jit(lambda params, stats, x: merge_module(graphdef, params, stats)(x))
  return np.asarray(run(params["encoder"], stats["encoder"], jnp.asarray(pixels)))[0]


_NETWORK = {"model": "reiqa", "depth": 50, "width": 64}
_UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_LICENCE = "the authors give no licence for these weights; their training sets have terms of their own"

QUALITY = Source(
  what="Re-IQA's quality expert (quality_aware_r50.pth)",
  rules=expert_rules,
  card={**_NETWORK, "expert": "quality", **_UNIT, "embedding": 128, "licence": _LICENCE},
  probe=probe,
  not_named=("content",),
  prefix="module.",
)
CONTENT = Source(
  what="Re-IQA's content expert (content_aware_r50.pth)",
  rules=expert_rules,
  card={**_NETWORK, "expert": "content", **_IMAGENET, "embedding": 128, "licence": _LICENCE},
  probe=probe,
  not_named=("quality",),
  prefix="module.",
)
# Old torchvision files lack the counters, timm and torchvision have a classifier.
RESNET50 = Source(
  what="an ImageNet ResNet-50 of torchvision or timm",
  rules=lambda: [rule for rule in encoder_rules(theirs="") if rule.ours],
  card={**_NETWORK, "expert": "imagenet", **_IMAGENET, "licence": "that of the file it was converted from"},
  probe=probe,
  ignored=(COUNTER, "fc.weight", "fc.bias"),
)
