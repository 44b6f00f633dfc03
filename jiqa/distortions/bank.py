"""The distortion bank: any kind at any level for every image of a batch, on the accelerator, from a key.

Bank 'reiqa26' has 26 kinds of five levels (Saha et al. 2023, arXiv 2304.00451), 'kadid25' KADID-10k's 25 (Lin et al.
2019). `distort` compiles the kinds it is asked for, each once; traced requests it sorts by kind and computes in small
tiles. `distort_versions` gives every kind a block of fixed size. Neither computes a kind that was not asked for, as
`lax.switch` under `vmap` would.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jiqa.distortions import blur, color, compression, noise, spatial, streams
from jiqa.distortions.planes import COMPAT, to_bytes, to_images, to_planes
from jiqa.errors import UserError

LEVELS = 5

_REIQA26 = {
  "gaussian blur": blur.gaussian_blur,
  "lens blur": blur.lens_blur,
  "colour diffusion": color.color_diffusion,
  "colour shift": color.color_shift,
  "saturation HSV": color.saturation_hsv,
  "saturation Lab": color.saturation_lab,
  "JPEG": compression.jpeg,
  "white noise": noise.white_noise,
  "component noise": noise.component_noise,
  "impulse noise": noise.impulse_noise,
  "multiplicative noise": noise.multiplicative_noise,
  "denoise": noise.denoise,
  "brighten": color.brighten,
  "darken": color.darken,
  "mean shift": color.mean_shift,
  "resize bicubic": spatial.resize,
  "sharpen": color.sharpen,
  "contrast": color.contrast,
  "colour block": spatial.color_block,
  "pixelate": spatial.pixelate,
  "patches": spatial.patches,
  "jitter": spatial.jitter,
  "resize bilinear": functools.partial(spatial.resize, method="bilinear"),
  "resize nearest": functools.partial(spatial.resize, method="nearest", strengths=(2, 3, 4, 5, 6)),
  "resize lanczos": functools.partial(spatial.resize, method="lanczos"),
  "motion blur": blur.motion_blur,
}
# Five kinds of its own, two with other levels than Re-IQA's.
_KADID25 = _REIQA26 | {
  "motion blur": functools.partial(blur.motion_blur, strengths=(1, 2, 4, 6, 10)),
  "colour quantisation": compression.color_quantization,
  "JPEG2000": compression.jpeg2000,
  "JPEG": functools.partial(compression.jpeg, strengths=(43, 36, 24, 7, 4)),
  "quantisation": compression.quantization,
  "denoise": noise.wavelet_denoise,
  "sharpen": color.unsharp_mask,
}
_KADID25_ORDER = (
  "gaussian blur", "lens blur", "motion blur", "colour diffusion", "colour shift", "colour quantisation",
  "saturation HSV", "saturation Lab", "JPEG2000", "JPEG", "white noise", "component noise", "impulse noise",
  "multiplicative noise", "denoise", "brighten", "darken", "mean shift", "jitter", "patches", "pixelate",
  "quantisation", "colour block", "sharpen", "contrast",
)  # fmt: skip
BANKS = {"reiqa26": tuple(_REIQA26.items()), "kadid25": tuple((name, _KADID25[name]) for name in _KADID25_ORDER)}


def names(bank="reiqa26"):
  """The kinds of a bank in the order of their numbers: 'gaussian blur', 'lens blur', ..."""
  return tuple(name for name, _ in _table(bank))


def _table(bank, compat="fixed"):
  """The functions of a bank with their names."""
  for option, value, known in (("bank", bank, BANKS), ("compat", compat, COMPAT)):
    if value not in known:
      raise UserError(f"{option}={value!r} is unknown; use one of {', '.join(known)}")
  return BANKS[bank]


def _image_keys(key, count):
  """[count] keys: an array of them is taken as it is, a single one is folded with the image's position."""
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    raise UserError(f"key is a {key.dtype} array; expected a typed key: jax.random.key(seed), not PRNGKey(seed)")
  if key.ndim == 0:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
  if key.shape != (count,):
    raise UserError(f"keys have shape {key.shape}; expected one key, or one for each of the {count} images")
  return key


def numbers(kinds, bank="reiqa26"):
  """The numbers of kinds given by name or number, one or several: int32 array [] or [n].

  Names count without regard to capitals, - and _. A UserError names what the bank does not have.
  """
  spell = lambda name: name.casefold().replace("_", " ").replace("-", " ")
  known = {spell(name): number for number, name in enumerate(names(bank))}

  def number(kind):
    if isinstance(kind, str) and spell(kind) in known:
      return known[spell(kind)]
    if isinstance(kind, (int, np.integer)) and not isinstance(kind, bool) and 0 <= kind < len(known):
      return int(kind)
    raise UserError(f"kind {kind!r} is not in {bank}: use 0 to {len(known) - 1}, or one of {', '.join(names(bank))}")

  kinds = kinds.tolist() if hasattr(kinds, "tolist") else kinds
  kinds = list(kinds) if isinstance(kinds, tuple) else kinds
  return np.array([number(kind) for kind in kinds] if isinstance(kinds, list) else number(kinds), np.int32)


def distort(images, kinds, levels, key, compat="fixed", bank="reiqa26", tile=None):
  """Distorts every image by its own kind and level.

  Each kind is compiled when it is first asked for, once for every size of image. Inside `jax.jit` the same holds for
  kinds that are known while it traces; where they are traced themselves, the whole bank is compiled.

  Args:
    images: [b, h, w, 3] float32 in [0, 1], NumPy or JAX, sides of at least 8 pixels.
    kinds: names or numbers of `names(bank)`, one for all images or [b]; others, where traced, come back as NaN.
    levels: int in 0..4, one for all images or [b]; others, where traced, come back as NaN.
    key: typed PRNG key, or [b] keys: an image's result then does not depend on the batch.
    compat: 'fixed' does what the names say; 'official' what the published code of Re-IQA does, see docs/distortions.md.
    bank: 'reiqa26' or 'kadid25'.
    tile: images of one kind computed together under jit; None chooses by the size of the batch.

  Returns:
    [b, h, w, 3] float32, multiples of 1/255 in [0, 1].

  Raises:
    UserError: wrong shape, too small an image, unknown bank, compat, kind or level.

  Example:
    >>> images = np.full((2, 16, 16, 3), 0.5, np.float32)
    >>> (255 * distort(images, ["brighten", "darken"], 4, jax.random.key(0))[:, 0, 0, 0]).astype(int).tolist()
    [255, 25]
  """
  table = _table(bank, compat)
  planes = to_planes(images)
  count = planes.shape[0]
  seeds = _image_seeds(key, count)
  levels = _per_image(levels if _traced(levels) else checked_levels(levels), count, "levels")
  if not _traced(kinds):
    kinds = _per_image(numbers(kinds, bank), count, "kinds")
    if not any(map(_traced, (planes, levels, seeds))):
      # One by one: whatever a batch is mixed of, no kind is compiled again.
      each = zip(planes, levels, seeds, kinds.tolist(), strict=True)
      return to_images(jnp.stack([_distort_one(*row, kind=kind, compat=compat, bank=bank) for *row, kind in each]))
    used, kinds = np.unique(kinds, return_inverse=True)
    table = [table[kind] for kind in used]
  levels = jnp.asarray(levels)
  kinds = jnp.where((levels >= 0) & (levels < LEVELS), _per_image(kinds, count, "kinds"), -1)
  return to_images(_by_tiles(planes, jnp.arange(count), kinds, levels, seeds, table, compat, tile))


def _traced(x):
  return isinstance(x, jax.core.Tracer)


def checked_levels(levels):
  """Levels as an int32 array; a UserError where one is not in 0..4."""
  levels = np.asarray(levels)
  if levels.dtype.kind not in "iu" or np.any((levels < 0) | (levels >= LEVELS)):
    raise UserError(f"levels are {levels.tolist()}; expected whole numbers from 0 (weakest) to {LEVELS - 1}")
  return levels.astype(np.int32)


def _per_image(values, count, what):
  """Values [] or [count] as [count]."""
  if np.shape(values) not in ((), (count,)):
    raise UserError(f"{what} have the shape {np.shape(values)}; expected one for all {count} images, or one for each")
  return (jnp if _traced(values) else np).broadcast_to(values, (count,))


@functools.partial(jax.jit, static_argnums=1)
def _image_seeds(key, count):
  return streams.seeds_of(_image_keys(key, count))


@functools.partial(jax.jit, static_argnames=("kind", "compat", "bank"))
def _distort_one(planes, level, seeds, *, kind, compat, bank):
  """One image [h, 3, w], by a kind that the program is compiled for."""
  return BANKS[bank][kind][1](planes[None], level[None], seeds[None], compat=compat)[0]


def _by_tiles(planes, source, kinds, levels, seeds, table, compat, tile=None):
  """Computes requests, `source` [rows] being their images, sorted by kind, `tile` at a time: [rows, h, 3, w]."""
  rows, count = kinds.shape[0], len(table)
  tile = tile or max(1, min(8, rows // (2 * count)))
  branches = [functools.partial(function, compat=compat) for _, function in table]
  # Stands for tiles that the worst case would need and this batch does not.
  branches.append(lambda planes, levels, seeds: planes)
  kinds = jnp.where(kinds < 0, count, kinds)  # bincount would take them for 0
  order = jnp.argsort(kinds)
  members = jnp.bincount(kinds, length=count)
  first_row = jnp.cumsum(members) - members
  tiles_until = jnp.cumsum(-(-members // tile))
  bound = (rows + min(count, rows) * (tile - 1)) // tile

  def one_tile(out, i):
    kind = jnp.searchsorted(tiles_until, i, side="right")
    inside = jnp.clip(kind, 0, count - 1)
    start = (i - jnp.where(inside > 0, tiles_until[inside - 1], 0)) * tile
    member = start + jnp.arange(tile)  # the last tile of a kind may be partly empty
    real = (member < members[inside]) & (kind < count)
    row = order[jnp.clip(first_row[inside] + member, 0, rows - 1)]
    result = jax.lax.switch(kind, branches, planes[source[row]], levels[row], seeds[row])
    return out.at[jnp.where(real, row, rows)].set(result, mode="drop", unique_indices=True), None

  out = jnp.full((rows, *planes.shape[1:]), jnp.nan, planes.dtype)
  return jax.lax.scan(one_tile, out, jnp.arange(bound))[0]


def cyclic_kinds(key, num_images, versions, allowed=26):
  """Assigns kinds in turn, [b, v] int32: request t = i * v + j gets pi[t mod K], with pi a random order of the K kinds.

  An image's kinds are distinct when v <= K, and any run of images uses every kind equally often, up to one. `key` is a
  typed PRNG key, a fresh one for every step; `allowed` the number of kinds, or a tuple of the kinds to use.
  """
  allowed = tuple(range(allowed)) if isinstance(allowed, int) else tuple(allowed)
  order = jax.random.permutation(key, jnp.asarray(allowed, jnp.int32))
  return order[jnp.arange(num_images * versions) % len(allowed)].reshape(num_images, versions)


@functools.partial(jax.jit, static_argnames=("allowed", "groups", "compat", "bank", "mesh", "dtype"))
def distort_versions(
  images, kinds, levels, key, *, allowed=None, groups=1, compat="fixed", bank="reiqa26", mesh=None, dtype=jnp.float32
):
  """Makes several distorted versions of every image, kinds assigned in turn.

  Args:
    images, compat, bank: as `distort`.
    kinds: [b, v] int32 from `cyclic_kinds`, or any in which no kind exceeds its block, ceil(requests / K) rows a group.
      A request beyond its block, or of a kind that is not allowed, comes back as NaN.
    levels: [b, v] int32 in 0..4; others come back as NaN.
    key: typed PRNG key, or [b] keys; version j uses fold_in(key of the image, j).
    allowed: number of kinds, or a tuple of the kinds that occur, of the bank: only these are computed. None allows all.
    groups: number of contiguous parts of the batch that are dispatched separately.
    mesh: devices over which the batch is split, as many as groups: each computes its group for itself. Without it XLA
      divides the work, and gathers all images for Fourier transforms.
    dtype: float32, or uint8: the same pixels, of 0 to 255, in a quarter of the memory; 0 stands for NaN, and there is
      no gradient.

  Returns:
    [b, v, h, w, 3] of dtype, float32 being multiples of 1/255 in [0, 1].

  Raises:
    UserError: wrong shapes, too small an image, unknown bank or compat, `allowed` holds none or what the bank does not
      have, or groups do not divide the batch.
  """
  table = _table(bank, compat)
  planes = to_planes(images)
  allowed = tuple(range(len(table)) if allowed is None else range(allowed) if isinstance(allowed, int) else allowed)
  if not allowed:
    raise UserError(f"no kind of {bank} is allowed; name at least one, or None for all")
  allowed = tuple(sorted(numbers(allowed, bank).tolist()))
  if kinds.ndim != 2 or kinds.shape != levels.shape or len(kinds) != len(planes):
    raise UserError(f"kinds are {kinds.shape}, levels {levels.shape}; expected both [b, v] for {len(planes)} images")
  (b, v), size = kinds.shape, planes.shape[1:]
  if b % groups:
    raise UserError(f"a batch of {b} images cannot be cut into {groups} groups; use a multiple")
  keys = jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(v)))(_image_keys(key, b))
  kinds = jnp.where((levels >= 0) & (levels < LEVELS), kinds, -1)
  requests = (kinds, levels, streams.seeds_of(keys))
  rows = b // groups * v
  if groups == 1 and rows < len(allowed):  # blocks would stand mostly empty
    kinds, *requests = (part.reshape(rows, *part.shape[2:]) for part in requests)
    same = kinds[:, None] == np.array(allowed)
    kinds = jnp.where(same.any(1), same.argmax(1), -1)
    out = _by_tiles(planes, jnp.arange(rows) // v, kinds, *requests, [table[kind] for kind in allowed], compat)
    out = to_bytes(out) if dtype == jnp.uint8 else out
  else:
    requests = (part.reshape(groups, rows, *part.shape[2:]) for part in requests)
    parts = planes.reshape(groups, b // groups, *size), *requests
    # One image at a time stays in the fast memory of a TPU, where a block of them would go through the slow one.
    singly = mesh is not None and mesh.devices.flat[0].platform == "tpu"
    blocks = functools.partial(_by_blocks, table=table, allowed=allowed, compat=compat, dtype=dtype, singly=singly)
    if groups == 1:
      out = blocks(*(part[0] for part in parts))
    elif mesh is None:
      out = jax.vmap(blocks)(*parts)
    else:
      spec = jax.P(mesh.axis_names)
      out = jax.shard_map(jax.vmap(blocks), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(*parts)
  return to_images(out.reshape(b * v, *size)).reshape(b, v, *images.shape[1:])


def _by_blocks(planes, kinds, levels, seeds, table, allowed, compat, dtype, singly):
  """Computes one block per allowed kind; arguments as `_by_tiles`, with request t of image t // versions.

  singly: the images of a block one after the other.
  """
  rows = kinds.shape[0]
  versions = rows // planes.shape[0]
  capacity = -(-rows // len(allowed))
  order = jnp.argsort(kinds)
  first = jnp.searchsorted(kinds[order], jnp.asarray(allowed))
  blocks = []

  def block(function, row):
    result = function(planes[row // versions], levels[row], seeds[row], compat=compat)
    return to_bytes(result) if dtype == jnp.uint8 else result

  def one_by_one(function, row):
    return jax.lax.map(functools.partial(block, function), row[:, None])[:, 0]

  for number, kind in enumerate(allowed):
    name, function = table[kind]
    row = order[jnp.clip(first[number] + jnp.arange(capacity), 0, rows - 1)]
    with jax.named_scope(name):  # for profiles
      blocks.append((one_by_one if singly else block)(function, row))
  # One gather at the end: every scatter into the whole result would read and write all of it.
  stray = jnp.full((1, *planes.shape[1:]), 0 if dtype == jnp.uint8 else jnp.nan, dtype)
  number = jnp.clip(jnp.searchsorted(jnp.asarray(allowed), kinds), 0, len(allowed) - 1)
  member = jnp.argsort(order) - first[number]
  real = (jnp.asarray(allowed)[number] == kinds) & (member < capacity)
  return jnp.concatenate([*blocks, stray])[jnp.where(real, number * capacity + member, len(allowed) * capacity)]
