"""The distortion bank: any kind at any level for every image of a batch, on the accelerator, from a key.

Twenty-six kinds of five levels (bank 'reiqa26', Saha et al. 2023, CVPR, arXiv 2304.00451) and the twenty-five of
KADID-10k (bank 'kadid25', Lin et al. 2019, QoMEX). Two ways to call it:

  distort            arbitrary requests, one (kind, level) for every image: sorted by kind, computed in small tiles.
  distort_versions   training: several versions of every image, kinds assigned in turn by `cyclic_kinds`, so that
                     every kind fills its own block of fixed size.

Neither computes a kind that was not asked for. (Under `vmap`, a `lax.switch` runs all branches for every image:
twenty-six times the work.)

compat='official' does what the published code of Re-IQA does, bugs included. Mostly it truncates to 8 bits where the
default rounds; sharpen, colour shift, motion blur, Gaussian blur and denoise differ further. Every difference stands
at the head of the module of its kind: blur, color, compression, noise, spatial, tone.
"""

import functools

import jax
import jax.numpy as jnp

from jiqa.distortions import blur, color, compression, jpeg2000, noise, palette, spatial, streams, tone
from jiqa.distortions.planes import COMPAT, to_images, to_planes
from jiqa.errors import UserError

LEVELS = 5

_REIQA26 = (
  ("gaussian blur", blur.gaussian_blur),
  ("lens blur", blur.lens_blur),
  ("colour diffusion", color.color_diffusion),
  ("colour shift", color.color_shift),
  ("saturation HSV", color.saturation_hsv),
  ("saturation Lab", color.saturation_lab),
  ("JPEG", compression.jpeg),
  ("white noise", noise.white_noise),
  ("component noise", noise.component_noise),
  ("impulse noise", noise.impulse_noise),
  ("multiplicative noise", noise.multiplicative_noise),
  ("denoise", noise.denoise),
  ("brighten", tone.brighten),
  ("darken", tone.darken),
  ("mean shift", tone.mean_shift),
  ("resize bicubic", spatial.resize_bicubic),
  ("sharpen", tone.sharpen),
  ("contrast", tone.contrast),
  ("colour block", spatial.color_block),
  ("pixelate", spatial.pixelate),
  ("patches", spatial.patches),
  ("jitter", spatial.jitter),
  ("resize bilinear", spatial.resize_bilinear),
  ("resize nearest", spatial.resize_nearest),
  ("resize lanczos", spatial.resize_lanczos),
  ("motion blur", blur.motion_blur),
)
# Two kinds have other levels than Re-IQA's.
_KADID25 = (
  ("gaussian blur", blur.gaussian_blur),
  ("lens blur", blur.lens_blur),
  ("motion blur", functools.partial(blur.motion_blur, strengths=(1, 2, 4, 6, 10))),
  ("colour diffusion", color.color_diffusion),
  ("colour shift", color.color_shift),
  ("colour quantisation", palette.color_quantization),
  ("saturation HSV", color.saturation_hsv),
  ("saturation Lab", color.saturation_lab),
  ("JPEG2000", jpeg2000.jpeg2000),
  ("JPEG", functools.partial(compression.jpeg, strengths=(43, 36, 24, 7, 4))),
  ("white noise", noise.white_noise),
  ("component noise", noise.component_noise),
  ("impulse noise", noise.impulse_noise),
  ("multiplicative noise", noise.multiplicative_noise),
  ("denoise", noise.denoise),
  ("brighten", tone.brighten),
  ("darken", tone.darken),
  ("mean shift", tone.mean_shift),
  ("jitter", spatial.jitter),
  ("patches", spatial.patches),
  ("pixelate", spatial.pixelate),
  ("quantisation", palette.quantization),
  ("colour block", spatial.color_block),
  ("sharpen", tone.sharpen),
  ("contrast", tone.contrast),
)
BANKS = {"reiqa26": _REIQA26, "kadid25": _KADID25}


def names(bank="reiqa26"):
  """The kinds of a bank in the order of their numbers.

  Example:
    >>> names()[6]
    'JPEG'
  """
  return tuple(name for name, _ in _table(bank))


def _table(bank, compat="fixed"):
  if bank not in BANKS:
    raise UserError(f"distortion bank {bank!r} is unknown; use one of {', '.join(BANKS)}")
  if compat not in COMPAT:
    raise UserError(f"compat={compat!r} is unknown; use one of {', '.join(COMPAT)}")
  return BANKS[bank]


def image_keys(key, count):
  """One key for every image: a key array is taken as it is, a single key is folded with the position.

  Args:
    key: typed PRNG key, [] or [count].
    count: number of images.

  Returns:
    [count] typed PRNG keys.
  """
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    raise UserError(f"key is a {key.dtype} array; expected a typed key: jax.random.key(seed), not PRNGKey(seed)")
  if key.ndim == 0:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
  if key.shape != (count,):
    raise UserError(f"keys have shape {key.shape}; expected one key, or one for each of the {count} images")
  return key


def distort(images, kinds, levels, key, compat="fixed", bank="reiqa26", tile=None):
  """Distorts every image by its own kind and level.

  Args:
    images: [b, h, w, 3] float32 in [0, 1], sides of at least 8 pixels.
    kinds: [b] int32, numbers into `names(bank)`. A number outside comes back as NaN.
    levels: [b] int32 in 0..4.
    key: one typed PRNG key, or [b] keys. With one key for every image, an image's result does not depend on the
      batch.
    compat: 'fixed' does what the distortion's name says; 'official' what the published code does.
    bank: 'reiqa26' or 'kadid25'.
    tile: images of one kind computed together; None chooses by the size of the batch.

  Returns:
    [b, h, w, 3] float32, multiples of 1/255 in [0, 1].

  Raises:
    UserError: wrong shape, too small an image, unknown bank or compat.
  """
  table = _table(bank, compat)
  planes = to_planes(images)
  seeds = streams.seeds_of(image_keys(key, images.shape[0]))
  rows = jnp.arange(images.shape[0])
  return to_images(_by_tiles(planes, rows, kinds, levels, seeds, table, compat, tile))


def _by_tiles(planes, source, kinds, levels, seeds, table, compat, tile=None):
  """Computes `rows` requests sorted by kind, `tile` at a time; the last tile of a kind may be partly empty.

  Args:
    planes: [n, h, 3, w].
    source: [rows] int32, the image of every request.
    kinds: [rows] int32.
    levels: [rows] int32.
    seeds: [rows, 2] uint32.
    table: the bank.
    compat: as `distort`.
    tile: as `distort`.

  Returns:
    [rows, h, 3, w] float32.
  """
  rows, count = kinds.shape[0], len(table)
  tile = tile or max(1, min(8, rows // (2 * count)))
  branches = [functools.partial(function, compat=compat) for _, function in table]
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
    place = start + jnp.arange(tile)
    real = (place < members[inside]) & (kind < count)
    row = order[jnp.clip(first_row[inside] + place, 0, rows - 1)]
    # The extra branch stands for tiles that the worst case would need and this batch does not.
    result = jax.lax.switch(
      kind, [*branches, lambda planes, levels, seeds: planes], planes[source[row]], levels[row], seeds[row]
    )
    return out.at[jnp.where(real, row, rows)].set(result, mode="drop", unique_indices=True), None

  out = jnp.full((rows, *planes.shape[1:]), jnp.nan, planes.dtype)
  return jax.lax.scan(one_tile, out, jnp.arange(bound))[0]


def cyclic_kinds(key, num_images, versions, allowed=26):
  """Assigns kinds in turn: request t = i * versions + j gets pi[t mod K], with pi a random order of the K kinds.

  An image's kinds are distinct when versions <= K, and any run of images uses every kind equally often, up to one:
  block sizes are known in advance for the batch and for any contiguous part of it.

  Args:
    key: typed PRNG key; a fresh one for every step.
    num_images: b.
    versions: v.
    allowed: number of kinds (26, or 25 for 'kadid25'), or a tuple of the kinds to use.

  Returns:
    [b, v] int32.

  Example:
    >>> kinds = cyclic_kinds(jax.random.key(0), 13, 4)
    >>> bool((jnp.bincount(kinds.ravel(), length=26) == 2).all())
    True
  """
  allowed = tuple(range(allowed)) if isinstance(allowed, int) else tuple(allowed)
  order = jax.random.permutation(key, jnp.asarray(allowed, jnp.int32))
  return order[jnp.arange(num_images * versions) % len(allowed)].reshape(num_images, versions)


def distort_versions(images, kinds, levels, key, *, allowed=None, groups=1, compat="fixed", bank="reiqa26", mesh=None):
  """Makes several distorted versions of every image, kinds assigned in turn.

  Every kind has a block of ceil(requests / K) places in every group: static shapes, and less than one place per kind
  unused.

  Args:
    images: [b, h, w, 3] float32 in [0, 1], sides of at least 8 pixels.
    kinds: [b, v] int32 from `cyclic_kinds`, or any assignment in which no kind exceeds its block. A request beyond its
      block, or of a kind that is not allowed, comes back as NaN.
    levels: [b, v] int32 in 0..4.
    key: one typed PRNG key, or [b] keys, one for every image; version j uses fold_in(key of the image, j).
    allowed: number of kinds, or a tuple of the kinds that occur: only these are computed. None allows the whole bank.
    groups: number of contiguous parts of the batch that are dispatched separately.
    compat: 'fixed' or 'official'.
    bank: 'reiqa26' or 'kadid25'.
    mesh: devices over which the batch is split, as many as groups: each computes its group for itself. Without it XLA
      divides the work, and gathers all images for some kinds, such as those with Fourier transforms.

  Returns:
    [b, v, h, w, 3] float32, multiples of 1/255 in [0, 1].

  Raises:
    UserError: wrong shape, too small an image, unknown bank or compat, batch not divisible by groups.
  """
  table = _table(bank, compat)
  planes = to_planes(images)
  allowed = len(table) if allowed is None else allowed
  allowed = tuple(range(allowed)) if isinstance(allowed, int) else tuple(sorted(allowed))
  (b, v), size = kinds.shape, planes.shape[1:]
  if b % groups:
    raise UserError(f"a batch of {b} images cannot be cut into {groups} groups; use a multiple")
  keys = image_keys(key, b)
  keys = jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(v)))(keys)
  seeds = streams.seeds_of(keys)
  rows = b // groups * v
  if groups == 1 and rows < len(allowed):  # blocks would stand mostly empty
    flat = (array.reshape(rows, *array.shape[2:]) for array in (kinds, levels, seeds))
    out = _by_tiles(planes, jnp.arange(rows) // v, *flat, table, compat)
    return to_images(out).reshape(*kinds.shape, *images.shape[1:])
  blocks = functools.partial(_by_blocks, table=table, allowed=allowed, compat=compat)
  parts = (
    planes.reshape(groups, b // groups, *size),
    kinds.reshape(groups, rows),
    levels.reshape(groups, rows),
    seeds.reshape(groups, rows, 2),
  )
  if groups == 1:
    out = blocks(*(part[0] for part in parts))
  elif mesh is None:
    out = jax.vmap(blocks)(*parts)
  else:
    split = jax.P(mesh.axis_names)
    out = jax.shard_map(jax.vmap(blocks), mesh=mesh, in_specs=split, out_specs=split, check_vma=False)(*parts)
  return to_images(out.reshape(b * v, *size)).reshape(*kinds.shape, *images.shape[1:])


def _by_blocks(planes, kinds, levels, seeds, table, allowed, compat):
  """Computes one block per allowed kind; arguments as `_by_tiles`, with request t of image t // versions."""
  rows = kinds.shape[0]
  versions = rows // planes.shape[0]
  capacity = -(-rows // len(allowed))
  order = jnp.argsort(kinds)
  kinds = kinds[order]
  out = jnp.full((rows, *planes.shape[1:]), jnp.nan, planes.dtype)
  for kind in allowed:
    place = jnp.searchsorted(kinds, kind) + jnp.arange(capacity)
    row = order[jnp.clip(place, 0, rows - 1)]
    real = (place < rows) & (kinds[jnp.clip(place, 0, rows - 1)] == kind)
    result = table[kind][1](planes[row // versions], levels[row], seeds[row], compat=compat)
    out = out.at[jnp.where(real, row, rows)].set(result, mode="drop", unique_indices=True)
  return out
