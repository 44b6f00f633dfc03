"""CLIP (Radford et al. 2021) with a vision transformer: two towers into one space.

Attribute paths are those of OpenAI's checkpoints (`visual.transformer.resblocks.0.attn.in_proj`). Parameters, the
residual stream, layer norms, softmax and the similarity are float32 whatever the dtype of the products.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jiqa.models.layers import LayerNorm, Linear, embed_patches, precision_of, product, unit_pixels

# Of the pixels that CLIP was trained on, in [0, 1].
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def quick_gelu(x):
  """CLIP's approximation of GELU: x sigmoid(1.702 x)."""
  return x * jax.nn.sigmoid(1.702 * x)


def normalise(pixels):
  """[..., 3] uint8, or floats in [0, 1], to what the image tower takes, float32."""
  return (unit_pixels(pixels) - jnp.asarray(MEAN)) / jnp.asarray(STD)


def similarity(images, texts, logit_scale):
  """exp(logit_scale) times the cosine of images [b, d] and texts [p, d] of unit length: [b, p] float32."""
  return jnp.exp(logit_scale) * jnp.matmul(unit(images), texts.T, precision=jax.lax.Precision.HIGHEST)


def unit(x):
  """[..., d] scaled to unit length; in bfloat16 a logit would be off by up to 0.06."""
  x = x.astype(jnp.float32)
  return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True))


def attend(query, key, value, heads, mask=None):
  """`layers.attend` without its weights, in the form that is quicker for many short rows of queries."""

  def split(x):
    return x.reshape(*x.shape[:2], heads, -1)

  precision = precision_of(query.dtype)
  query = split(query) * (query.shape[-1] // heads) ** -0.5
  logits = jnp.einsum("bqhc,bthc->bhqt", query, split(key), precision=precision).astype(jnp.float32)
  if mask is not None:
    logits = jnp.where(mask[..., None, :, :], logits, -jnp.inf)
  weights = jax.nn.softmax(logits, -1).astype(value.dtype)
  mixed = jnp.einsum("bhqt,bthc->bqhc", weights, split(value), precision=precision)
  return mixed.reshape(*mixed.shape[:2], -1)


class Block(nnx.Module):
  """A pre-norm transformer block, initialised as CLIP is; [..., width] are its inputs."""

  def __init__(self, width, heads, depth, *, dtype, rngs):
    def linear(inputs, outputs, deviation):
      return Linear(inputs, outputs, nnx.initializers.normal(deviation), dtype=dtype, rngs=rngs)

    inside, outside, hidden = width**-0.5, width**-0.5 * (2 * depth) ** -0.5, (2 * width) ** -0.5
    self.attn = nnx.Dict(in_proj=linear(width, 3 * width, inside), out_proj=linear(width, width, outside))
    self.mlp = nnx.Dict(c_fc=linear(width, 4 * width, hidden), c_proj=linear(4 * width, width, outside))
    self.ln_1, self.ln_2 = LayerNorm(width, 1e-5), LayerNorm(width, 1e-5)
    self.width, self.heads = width, heads

  def query(self, x):
    """What attention asks with."""
    return self.attn.in_proj(self.ln_1(x), slice(0, self.width))

  def key_value(self, x):
    """What attention looks at, and what it takes from there."""
    return jnp.split(self.attn.in_proj(self.ln_1(x), slice(self.width, None)), 2, -1)

  def query_key_value(self, x):
    """`query` and `key_value` in one product."""
    return jnp.split(self.attn.in_proj(self.ln_1(x)), 3, -1)

  def finish(self, x, mixed):
    """Adds what attention has mixed, then the two linear maps."""
    x = x + self.attn.out_proj(mixed)
    return x + self.mlp.c_proj(quick_gelu(self.mlp.c_fc(self.ln_2(x))))

  def __call__(self, x, mask=None):
    """[b, t, width] float32 to the same; mask as in `attend`."""
    query, key, value = self.query_key_value(x)
    return self.finish(x, attend(query, key, value, self.heads, mask))

  def first_token(self, x):
    """[b, t, width] to [b, 1, width]: the first token alone, where nothing more is wanted of the last block."""
    first = x[:, :1]
    return self.finish(first, attend(self.query(first), *self.key_value(x), self.heads))


def transformer(width, depth, heads, *, dtype, rngs):
  """A stack of blocks."""
  if width % heads or depth < 1:
    raise ValueError(f"width {width} must be a multiple of heads {heads}, and depth {depth} at least 1")
  return nnx.Dict(resblocks=nnx.List([Block(width, heads, depth, dtype=dtype, rngs=rngs) for _ in range(depth)]))


class VisionTransformer(nnx.Module):
  """The image tower; sides of images and patches are pixels, `dtype` is that of the matrix products.

  ViT-B/32: image 224, patch 32, width 768, depth 12, 12 heads, embedding 512.
  """

  def __init__(self, image, patch, width, depth, heads, embedding, *, dtype=jnp.float32, rngs):
    if image % patch:
      raise ValueError(f"image {image} must be a multiple of patch {patch}")
    normal = nnx.initializers.normal(width**-0.5)
    bound = (3 * patch * patch) ** -0.5  # torch's default for convolutions
    kernel = jax.random.uniform(rngs.params(), (patch, patch, 3, width), jnp.float32, -bound, bound)
    self.conv1 = nnx.Dict(kernel=nnx.Param(kernel))
    self.class_embedding = nnx.Param(normal(rngs.params(), (width,), jnp.float32))
    self.positional_embedding = nnx.Param(normal(rngs.params(), ((image // patch) ** 2 + 1, width), jnp.float32))
    self.ln_pre = LayerNorm(width, 1e-5)
    self.transformer = transformer(width, depth, heads, dtype=dtype, rngs=rngs)
    self.ln_post = LayerNorm(width, 1e-5)
    self.proj = nnx.Param(normal(rngs.params(), (width, embedding), jnp.float32))
    self.image, self.dtype = image, dtype

  def __call__(self, x):
    """[b, image, image, 3] float32, see `normalise`, to [b, embedding] float32; ValueError for other sizes."""
    if x.shape[1:] != (self.image, self.image, 3):
      raise ValueError(f"images are {x.shape[1:]}; this tower takes ({self.image}, {self.image}, 3)")
    patches = embed_patches(x, self.conv1.kernel[...], self.dtype)
    first = jnp.broadcast_to(self.class_embedding[...], (x.shape[0], 1, patches.shape[-1]))
    x = self.ln_pre(jnp.concatenate([first, patches], 1) + self.positional_embedding[...])
    *blocks, last = self.transformer.resblocks
    for block in blocks:
      x = checkpoint_name(block(x), "block")
    return project(self.ln_post(last.first_token(x)[:, 0]), self.proj[...], self.dtype)


def project(x, kernel, dtype):
  """x @ kernel, the product in `dtype`, the result float32."""
  return product(x.astype(dtype), kernel).astype(jnp.float32)


class CLIP(nnx.Module):
  """Both towers; the text tower's parts stand at the top level, as in OpenAI's checkpoints.

  Args:
    vision: keyword arguments of `VisionTransformer` without `embedding`, the number of features of the common space.
    vocabulary, context: number of tokens, of which the last one ends a text; and of those in the longest text.
    logit_scale: initial logarithm of what cosines are multiplied by.
  """

  def __init__(
    self, vision, embedding, vocabulary, context, width, depth, heads, *, logit_scale, dtype=jnp.float32, rngs
  ):
    self.visual = VisionTransformer(**vision, embedding=embedding, dtype=dtype, rngs=rngs)
    self.transformer = transformer(width, depth, heads, dtype=dtype, rngs=rngs)
    table = 0.02 * jax.random.normal(rngs.params(), (vocabulary, width))
    self.token_embedding = nnx.Dict(weight=nnx.Param(table))
    self.positional_embedding = nnx.Param(0.01 * jax.random.normal(rngs.params(), (context, width)))
    self.ln_final = LayerNorm(width, 1e-5)
    self.text_projection = nnx.Param(width**-0.5 * jax.random.normal(rngs.params(), (width, embedding)))
    self.logit_scale = nnx.Param(jnp.float32(logit_scale))
    self.dtype = dtype

  def encode_image(self, x):
    """See `VisionTransformer`."""
    return self.visual(x)

  def encode_text(self, tokens):
    """Encodes texts one by one: [p, t] int, 0 after the end, t at most the context, to [p, embedding] float32."""
    t = tokens.shape[1]
    x = self._embed(self.token_embedding.weight[...], tokens, jnp.arange(t))
    causal = jnp.tril(jnp.ones((t, t), bool))
    for block in self.transformer.resblocks:
      x = block(x, causal)
    end = jnp.take_along_axis(x, jnp.argmax(tokens, 1)[:, None, None], 1)[:, 0]
    return project(self.ln_final(end), self.text_projection[...], self.dtype)

  def encode_prompts(self, prompts, place=lambda x: x):
    """Encodes `Prompts` to [p, embedding] float32, in the order of the texts; equal to `encode_text` up to rounding.

    Every common beginning is computed once, which causal attention allows. `place`, a function of arrays with a leading
    axis of groups, may say which device has which groups.
    """
    groups, members, s = prompts.suffix.shape
    length = jnp.asarray(prompts.length)
    at = length[:, None, None] + jnp.broadcast_to(jnp.arange(s), (groups, members, s))
    # The tokens in use alone: devices then exchange the gradient of a few rows and not of the whole table.
    used = np.union1d(prompts.prefix, prompts.suffix)
    table = self.token_embedding.weight[...][used]
    prefix, suffix = (place(jnp.asarray(np.searchsorted(used, ids))) for ids in (prompts.prefix, prompts.suffix))
    prefix = self._embed(table, prefix, jnp.arange(prefix.shape[1]))
    suffix = self._embed(table, suffix, at).reshape(groups * members, s, -1)
    causal, visible = _masks(prefix.shape[1], length, members, s)
    *blocks, last = self.transformer.resblocks
    for block in blocks:
      query, key, value = block.query_key_value(prefix)
      suffix_query, *suffix_key_value = block.query_key_value(suffix)
      both = [_after(x, y, members) for x, y in zip((key, value), suffix_key_value, strict=True)]
      prefix = block.finish(prefix, attend(query, key, value, block.heads, causal))
      suffix = block.finish(suffix, attend(suffix_query, *both, block.heads, visible))
    # Of the last block only the last token of every text is wanted.
    both = [_after(x, y, members) for x, y in zip(last.key_value(prefix), last.key_value(suffix), strict=True)]
    end = suffix[:, -1:]
    end = last.finish(end, attend(last.query(end), *both, last.heads, visible[:, -1:]))[:, 0]
    features = project(self.ln_final(end), self.text_projection[...], self.dtype)
    return features[prompts.order]

  def _embed(self, table, tokens, positions):
    return jnp.take(table, tokens, 0) + jnp.take(self.positional_embedding[...], positions, 0)


def _after(prefix, suffix, members):
  """[g, l, d] and [g m, s, d] to [g m, l + s, d]: every suffix behind the prefix of its group."""
  groups, l, d = prefix.shape
  repeated = jnp.broadcast_to(prefix[:, None], (groups, members, l, d)).reshape(-1, l, d)
  return jnp.concatenate([repeated, suffix], 1)


def _masks(l, length, members, s):
  """What a prefix [l, l] and what a suffix [g m, s, l + s] may look at; prefixes are padded at their end."""
  causal = jnp.tril(jnp.ones((l, l), bool))
  real = jnp.repeat(jnp.arange(l) < length[:, None], members, 0)
  within = jnp.tril(jnp.ones((s, s), bool))
  shape = (real.shape[0], s)
  visible = [jnp.broadcast_to(real[:, None], (*shape, l)), jnp.broadcast_to(within, (*shape, s))]
  return causal, jnp.concatenate(visible, -1)


class Prompts(NamedTuple):
  """Texts in groups that begin alike."""

  prefix: np.ndarray  # [g, l] int32, the common beginnings, 0 after their end
  length: np.ndarray  # [g] int32, their lengths
  suffix: np.ndarray  # [g, m, s] int32, what follows, one row a text; the last token ends the text
  order: np.ndarray  # [p] int32, where in the flat [g m] the texts stand


def share_prefixes(tokens, multiple=1):
  """The `Prompts` with as few tokens as possible of texts, which all have as many tokens of their own.

  Args:
    tokens: [p, t] int, the highest id of a row is its last token, 0 after it; ValueError for fewer than two tokens.
    multiple: the number of groups is rounded up to a multiple of this (the number of devices) by repetition.

  Example:
    >>> prompts = share_prefixes(np.array([[8, 1, 2, 5, 9], [8, 1, 2, 6, 9], [8, 3, 4, 9, 0]]))
    >>> prompts.prefix.tolist(), prompts.suffix.tolist(), prompts.order.tolist()
    ([[8, 1, 2], [8, 3, 0]], [[[5, 9], [6, 9]], [[4, 9], [4, 9]]], [0, 1, 2])
  """
  tokens = np.asarray(tokens, np.int32)
  lengths = tokens.argmax(1) + 1
  if lengths.min() < 2:
    raise ValueError(f"text {int(lengths.argmin())} has {int(lengths.min())} token(s); expected at least start and end")
  best = None
  for s in range(1, lengths.min()):
    groups = {}
    for i, (row, length) in enumerate(zip(tokens, lengths, strict=True)):
      groups.setdefault(tuple(row[: length - s].tolist()), []).append(i)
    longest, members = max(map(len, groups)), max(map(len, groups.values()))
    cost = math.ceil(len(groups) / multiple) * multiple * (longest + members * s)
    if best is None or cost < best[0]:
      best = cost, s, groups, longest, members
  _, s, groups, longest, members = best
  rows = list(groups.items())
  rows += rows[:1] * (-len(rows) % multiple)
  prefix, suffix = np.zeros((len(rows), longest), np.int32), np.zeros((len(rows), members, s), np.int32)
  order = np.zeros(len(tokens), np.int32)
  for g, (beginning, texts) in reversed(list(enumerate(rows))):  # of a repeated group the first place counts
    prefix[g, : len(beginning)] = beginning
    for m in range(members):
      text = texts[min(m, len(texts) - 1)]
      suffix[g, m] = tokens[text, lengths[text] - s : lengths[text]]
    order[texts] = g * members + np.arange(len(texts))
  return Prompts(prefix, np.array([len(beginning) for beginning, _ in rows], np.int32), suffix, order)
