"""DEIQT's quality head (Qin et al. 2023): a panel of queries looks at the patches; its members' scores are averaged.

Attribute paths are torch's for one pre-norm `TransformerDecoderLayer`, so that weights can be renamed.
"""

import jax.numpy as jnp
from flax import nnx

from jiqa.models.layers import LayerNorm, Linear, attend, gelu
from jiqa.models.vit import normal_init

MEMBERS = 6
EPSILON = 1e-5  # torch's default here; the encoder has 1e-6


class CrossAttention(nnx.Module):
  """torch's MultiheadAttention: query, key and value maps are parts of one matrix."""

  def __init__(self, width, heads, *, dtype, rngs):
    # torch initialises the joint matrix, and DEIQT leaves it so.
    xavier = nnx.initializers.xavier_uniform()
    self.in_proj = Linear(width, 3 * width, xavier, dtype=dtype, rngs=rngs)
    self.out_proj = Linear(width, width, normal_init(width), dtype=dtype, rngs=rngs)
    self.heads = heads

  def __call__(self, x, memory):
    """[b, q, d] asks [b, t, d]; returns [b, q, d]."""
    width = x.shape[-1]
    query = self.in_proj(x, slice(width))
    key, value = jnp.split(self.in_proj(memory, slice(width, None)), 2, -1)
    return self.out_proj(attend(query, key, value, self.heads)[0])


class DecoderLayer(nnx.Module):
  """Self-attention, cross-attention and MLP, each after a layer norm and added to its input; no norm at the end."""

  def __init__(self, width, heads, *, dtype, rngs):
    self.self_attn = CrossAttention(width, heads, dtype=dtype, rngs=rngs)
    self.multihead_attn = CrossAttention(width, heads, dtype=dtype, rngs=rngs)
    self.linear1 = Linear(width, 4 * width, normal_init(width), dtype=dtype, rngs=rngs)
    self.linear2 = Linear(4 * width, width, normal_init(width), dtype=dtype, rngs=rngs)
    self.norm1, self.norm2, self.norm3 = (LayerNorm(width, EPSILON) for _ in range(3))

  def __call__(self, x, memory):
    """x [b, q, d] float32, memory [b, t, d]; returns [b, q, d] float32."""
    normed = self.norm1(x)
    x = x + self.self_attn(normed, normed)
    x = x + self.multihead_attn(self.norm2(x), memory)
    return x + self.linear2(gelu(self.linear1(self.norm3(x))))


class PanelDecoder(nnx.Module):
  """Tokens of an encoder, of `width` features, to a score; `dtype` is that of the matrix products."""

  def __init__(self, width, heads, *, dtype=jnp.float32, rngs):
    self.bunch_embedding = nnx.Param(normal_init(width)(rngs.params(), (1, MEMBERS, width), jnp.float32))
    self.bunch_decoder = nnx.Dict(layers=nnx.List([DecoderLayer(width, heads, dtype=dtype, rngs=rngs)]))
    self.heads = Linear(width, 1, normal_init(width), bias=False, dtype=jnp.float32, rngs=rngs)

  def __call__(self, tokens):
    """[b, 1 + t, width] float32, class token first, to scores [b] float32."""
    panel = self.bunch_embedding[...] + tokens[:, :1]
    panel = self.bunch_decoder.layers[0](panel, tokens[:, 1:])
    return self.heads(panel).mean((1, 2))
