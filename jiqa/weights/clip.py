"""OpenAI's CLIP ViT-B/32, and LIQE, which is that network trained further: 302 tensors under the same names.

LIQE's checkpoints come bare, below `model_state_dict`, or below `params` with the prefix `clip_model.`, in float16 or
float32. OpenAI's is a TorchScript archive with three more numbers, its sizes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jiqa.methods.liqe._prompts import JOINT, QUALITY
from jiqa.models.clip import VisionTransformer, normalise
from jiqa.runtime.state import merge_module, split_module
from jiqa.weights.rename import CONV, LINEAR, Rule
from jiqa.weights.source import Source

VISION = {"image": 224, "patch": 32, "width": 768, "depth": 12, "heads": 12}
TEXT = {"vocabulary": 49408, "context": 77, "width": 512, "depth": 12, "heads": 8}
EMBEDDING = 512
# Numbers beside the weights in OpenAI's archive.
SIZES = ("input_resolution", "context_length", "vocab_size")


def clip_rules(vision=VISION, text=TEXT, embedding=EMBEDDING):
  """Every tensor of a CLIP with a vision transformer; the sizes default to ViT-B/32's.

  Args:
    vision: dict with image, patch, width and depth.
    text: dict with vocabulary, context, width and depth.
    embedding: features of the common space.

  Returns:
    list of `Rule`.

  Example:
    >>> len(clip_rules())
    302
  """
  width, patch = vision["width"], vision["patch"]
  tokens = (vision["image"] // patch) ** 2 + 1
  return [
    Rule("visual.class_embedding", "params/visual/class_embedding", (width,)),
    Rule("visual.positional_embedding", "params/visual/positional_embedding", (tokens, width)),
    Rule("visual.proj", "params/visual/proj", (width, embedding)),
    Rule("visual.conv1.weight", "params/visual/conv1/kernel", (width, 3, patch, patch), CONV),
    *_norm("visual.ln_pre", "params/visual/ln_pre", width),
    *_transformer("visual.transformer", "params/visual/transformer", width, vision["depth"]),
    *_norm("visual.ln_post", "params/visual/ln_post", width),
    *_transformer("transformer", "params/transformer", text["width"], text["depth"]),
    Rule("token_embedding.weight", "params/token_embedding/weight", (text["vocabulary"], text["width"])),
    Rule("positional_embedding", "params/positional_embedding", (text["context"], text["width"])),
    *_norm("ln_final", "params/ln_final", text["width"]),
    Rule("text_projection", "params/text_projection", (text["width"], embedding)),
    Rule("logit_scale", "params/logit_scale", ()),
  ]


def _transformer(theirs, ours, width, depth):
  rules = []
  for i in range(depth):
    block, path = f"{theirs}.resblocks.{i}", f"{ours}/resblocks[{i}]"
    rules += [
      Rule(f"{block}.attn.in_proj_weight", f"{path}/attn/in_proj/kernel", (3 * width, width), LINEAR),
      Rule(f"{block}.attn.in_proj_bias", f"{path}/attn/in_proj/bias", (3 * width,)),
      *_linear(f"{block}.attn.out_proj", f"{path}/attn/out_proj", width, width),
      *_norm(f"{block}.ln_1", f"{path}/ln_1", width),
      *_linear(f"{block}.mlp.c_fc", f"{path}/mlp/c_fc", width, 4 * width),
      *_linear(f"{block}.mlp.c_proj", f"{path}/mlp/c_proj", 4 * width, width),
      *_norm(f"{block}.ln_2", f"{path}/ln_2", width),
    ]
  return rules


def _linear(theirs, ours, inputs, outputs):
  return [
    Rule(f"{theirs}.weight", f"{ours}/kernel", (outputs, inputs), LINEAR),
    Rule(f"{theirs}.bias", f"{ours}/bias", (outputs,)),
  ]


def _norm(theirs, ours, width):
  return [Rule(f"{theirs}.weight", f"{ours}/scale", (width,)), Rule(f"{theirs}.bias", f"{ours}/bias", (width,))]


def openai_names(tensors):
  """The tensors of a CLIP as transformers writes it, under OpenAI's names; those of any other file as they are.

  There query, key and value are three tensors, and the two projections are transposed.

  Args:
    tensors: dict from name to array.

  Returns:
    dict from name to array. What has no place in OpenAI's layout keeps its name.
  """
  if "visual_projection.weight" not in tensors:
    return tensors
  found = {}
  for name, value in tensors.items():
    if name in ("visual_projection.weight", "text_projection.weight"):
      found[{"v": "visual.proj", "t": "text_projection"}[name[0]]] = value.T
    elif ".self_attn." in name and not name.partition(".self_attn.")[2].startswith("out_proj"):
      block, _, part = name.partition(".self_attn.")
      first, _, kind = part.partition("_proj.")
      if first == "q":
        parts = [tensors.get(f"{block}.self_attn.{x}_proj.{kind}", np.zeros((0, *value.shape[1:]))) for x in "qkv"]
        found[f"{_renamed(block)}.attn.in_proj_{kind}"] = np.concatenate(parts)
    else:
      found[_renamed(name)] = value
  return found


# Parts of names, transformers' and OpenAI's, in the order in which they are replaced.
SPELLINGS = (
  ("vision_model.embeddings.patch_embedding", "visual.conv1"),
  ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
  ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
  ("vision_model.pre_layrnorm", "visual.ln_pre"),
  ("vision_model.post_layernorm", "visual.ln_post"),
  ("vision_model.encoder.layers", "visual.transformer.resblocks"),
  ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
  ("text_model.embeddings.token_embedding", "token_embedding"),
  ("text_model.final_layer_norm", "ln_final"),
  ("text_model.encoder.layers", "transformer.resblocks"),
  ("self_attn.out_proj", "attn.out_proj"),
  ("layer_norm1", "ln_1"),
  ("layer_norm2", "ln_2"),
  ("mlp.fc1", "mlp.c_fc"),
  ("mlp.fc2", "mlp.c_proj"),
)


def _renamed(name):
  for theirs, openais in SPELLINGS:
    name = name.replace(theirs, openais)
  return name


def probe_image():
  """[224, 224, 3] uint8: an image of waves that anyone can make again."""
  y, x = np.mgrid[:224, :224].astype(np.float64)
  waves = [np.sin(x / 7 + y / 11 + phase) * np.cos(x * y / 900 + phase) for phase in (0, 1, 2)]
  return np.round(127.5 + 127.5 * np.stack(waves, -1)).astype(np.uint8)


def probe(params, stats, card):
  """The image tower's features of `probe_image`.

  Args:
    params, stats: nested dicts of arrays, a CLIP ViT-B/32.
    card: dict, not used: the sizes are those of the table.

  Returns:
    [512] float32.
  """
  del stats, card
  graphdef = split_module(nnx.eval_shape(lambda: VisionTransformer(**VISION, embedding=EMBEDDING, rngs=nnx.Rngs(0))))[0]
  run = jax.jit(lambda params, x: merge_module(graphdef, params, {})(normalise(x)))
  return np.asarray(run(params["visual"], jnp.asarray(probe_image()[None])))[0]


_SOURCE = {"rules": clip_rules, "probe": probe, "ignored": (*SIZES, "position_ids"), "wrapper": ""}
_LICENCE = "the authors give no licence for these weights; their code is MIT"

CLIP_VIT_B_32 = Source(
  what="OpenAI's CLIP ViT-B/32 (ViT-B-32.pt, or model.safetensors of transformers)",
  card={"model": "clip", "licence": "MIT, OpenAI 2021"},
  not_named=("LIQE", "liqe"),
  adapt=openai_names,
  **_SOURCE,
)
LIQE = Source(
  what="LIQE, trained on six databases (LIQE.pt; liqe_mix.pt of pyiqa)",
  card={"model": "liqe", "prompt": JOINT, "licence": _LICENCE},
  not_named=("ViT-B-32", "koniq"),
  **_SOURCE,
)
# The same tensors, but other prompts: it knows nothing of scenes and distortions.
LIQE_KONIQ = Source(
  what="LIQE, trained on KonIQ-10k for quality alone (liqe_koniq.pt of pyiqa)",
  card={"model": "liqe", "prompt": QUALITY, "licence": _LICENCE},
  not_named=("ViT-B-32", "LIQE", "mix"),
  **_SOURCE,
)
