"""OpenAI's CLIP ViT-B/32, and LIQE, which is that network trained further: 302 tensors under the same names.

LIQE's checkpoints come bare, below `model_state_dict`, or below `params` with the prefix `clip_model.`, in float16 or
float32. OpenAI's has three more numbers, its sizes.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jiqa.models.clip import CLIP, normalise
from jiqa.weights.rename import respell
from jiqa.weights.source import Source, waves

VISION = {"image": 224, "patch": 32, "width": 768, "depth": 12, "heads": 12}
TEXT = {"vocabulary": 49408, "context": 77, "width": 512, "depth": 12, "heads": 8}
EMBEDDING = 512
# The prompts that the published weights know; those of methods/liqe.
JOINT = "a photo of a {scene} with {distortion} artifacts, which is of {quality} quality"
QUALITY = "a photo with {quality} quality"


def network(vision=VISION, text=TEXT, embedding=EMBEDDING):
  """A CLIP; sizes as those of `jiqa.models.clip.CLIP`, by default ViT-B/32's."""
  return CLIP(vision, embedding, **text, logit_scale=0.0, rngs=nnx.Rngs(0))


# Names of transformers, and OpenAI's.
SPELLINGS = (
  (r"^vision_model\.", "visual."), (r"^text_model\.", ""), (r"encoder\.layers", "transformer.resblocks"),
  (r"embeddings\.patch_embedding", "conv1"), (r"embeddings\.position_embedding\.weight", "positional_embedding"),
  (r"embeddings\.(class|token)", r"\1"), ("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post"),
  ("final_layer_norm", "ln_final"), ("layer_norm([12])", r"ln_\1"), ("self_attn", "attn"),
  (r"mlp\.fc1", "mlp.c_fc"), (r"mlp\.fc2", "mlp.c_proj"),
)  # fmt: skip


def openai_names(tensors):
  """The tensors of a CLIP as transformers writes it, under OpenAI's names; those of any other file as they are.

  There query, key and value are three tensors, and the two projections are transposed. What has no place in OpenAI's
  layout keeps a name of its own.
  """
  if "visual_projection.weight" not in tensors:
    return tensors
  tensors = respell(tensors, SPELLINGS)
  for theirs, ours in (("visual_projection.weight", "visual.proj"), ("text_projection.weight", "text_projection")):
    if theirs in tensors:
      tensors[ours] = tensors.pop(theirs).T
  for name in [name for name in tensors if ".q_proj." in name]:
    nothing = np.zeros((0, *tensors[name].shape[1:]))
    parts = [tensors.pop(name.replace(".q_proj.", f".{x}_proj."), nothing) for x in "qkv"]
    tensors[name.replace(".q_proj.", ".in_proj_")] = np.concatenate(parts)
  return tensors


def probe(network, _):
  """The image tower's features."""
  pixels = np.round(127.5 + 127.5 * waves(224, 224)).astype(np.uint8)
  return network.encode_image(normalise(jnp.asarray(pixels[None])))


_LICENCE = "the authors give no licence for these weights; their code is MIT"
_CLIP = Source(
  what="OpenAI's CLIP ViT-B/32 (ViT-B-32.pt, or model.safetensors of transformers)",
  network=network,
  card={"model": "clip", "licence": "MIT, OpenAI 2021"},
  probe=probe,
  ignored=("input_resolution", "context_length", "vocab_size", "position_ids"),
  not_named=("LIQE", "liqe"),
  wrapper="",
  adapt=openai_names,
)
_LIQE = _CLIP._replace(
  what="LIQE, trained on six databases (LIQE.pt; liqe_mix.pt of pyiqa)",
  card={"model": "liqe", "prompt": JOINT, "licence": _LICENCE},
  not_named=("ViT-B-32", "koniq"),
  adapt=dict,
)
# The same tensors, but other prompts: it knows nothing of scenes and distortions.
_LIQE_KONIQ = _LIQE._replace(
  what="LIQE, trained on KonIQ-10k for quality alone (liqe_koniq.pt of pyiqa)",
  card={**_LIQE.card, "prompt": QUALITY},
  not_named=("ViT-B-32", "LIQE", "mix"),
)
SOURCES = {"clip-vit-b-32": _CLIP, "liqe": _LIQE, "liqe-koniq": _LIQE_KONIQ}
