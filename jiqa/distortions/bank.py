"""The distortion bank: any kind at any level for every image of a batch, on the accelerator, from a key.

Bank 'reiqa26' has 26 kinds of five levels (Saha et al. 2023, arXiv 2304.00451), 'kadid25' KADID-10k's 25 (Lin et al.
2019). `distort` sorts arbitrary requests by kind and computes them in small tiles; `distort_versions` gives every kind
a block of fixed size. Neither computes a kind that was not asked for, as `lax.switch` under `vmap` would.
"""

import functools

import jax
import jax.numpy as jnp

from jiqa.distortions import blur, color, compression, noise, spatial, streams
from jiqa.distortions.planes import COMPAT, to_images, to_planes
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


def distort(images, kinds, levels, key, compat="fixed", bank="reiqa26", tile=None):
  """Distorts every image by its own kind and level.

  Args:
    images: [b, h, w, 3] float32 in [0, 1], sides of at least 8 pixels.
    kinds: [b] int32, numbers into `names(bank)`; others come back as NaN.
    levels: [b] int32 in 0..4.
    key: typed PRNG key, or [b] keys: an image's result then does not depend on the batch.
    compat: 'fixed' does what the names say; 'official' what the published code of Re-IQA does, see docs/distortions.md.
    bank: 'reiqa26' or 'kadid25'.
    tile: images of one kind computed together; None chooses by the size of the batch.

  Returns:
    [b, h, w, 3] float32, multiples of 1/255 in [0, 1].

  Raises:
    UserError: wrong shape, too small an image, unknown bank or compat.
  """
  table = _table(bank, compat)
  planes = to_planes(images)
  seeds = streams.seeds_of(_image_keys(key, images.shape[0]))
  rows = jnp.arange(images.shape[0])
  return to_images(_by_tiles(planes, rows, kinds, levels, seeds, table, compat, tile))


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
  """Assigns kinds in turn: request t = i * versions + j gets pi[t mod K], with pi a random order of the K kinds.

  An image's kinds are distinct when versions <= K, and any run of images uses every kind equally often, up to one.

  Args:
    key: typed PRNG key; a fresh one for every step.
    num_images, versions: b and v of the result, [b, v] int32.
    allowed: number of kinds, or a tuple of the kinds to use.
  """
  allowed = tuple(range(allowed)) if isinstance(allowed, int) else tuple(allowed)
  order = jax.random.permutation(key, jnp.asarray(allowed, jnp.int32))
  return order[jnp.arange(num_images * versions) % len(allowed)].reshape(num_images, versions)


def distort_versions(images, kinds, levels, key, *, allowed=None, groups=1, compat="fixed", bank="reiqa26", mesh=None):
  """Makes several distorted versions of every image, kinds assigned in turn.

  Args:
    images, compat, bank: as `distort`.
    kinds: [b, v] int32 from `cyclic_kinds`, or any in which no kind exceeds its block, ceil(requests / K) rows a group.
      A request beyond its block, or of a kind that is not allowed, comes back as NaN.
    levels: [b, v] int32 in 0..4.
    key: typed PRNG key, or [b] keys; version j uses fold_in(key of the image, j).
    allowed: number of kinds, or a tuple of the kinds that occur: only these are computed. None allows the whole bank.
    groups: number of contiguous parts of the batch that are dispatched separately.
    mesh: devices over which the batch is split, as many as groups: each computes its group for itself. Without it XLA
      divides the work, and gathers all images for Fourier transforms.

  Returns:
    [b, v, h, w, 3] float32, multiples of 1/255 in [0, 1]. Raises as `distort`, and for a batch that groups do not
    divide.
  """
  table = _table(bank, compat)
  planes = to_planes(images)
  allowed = len(table) if allowed is None else allowed
  allowed = tuple(range(allowed)) if isinstance(allowed, int) else tuple(sorted(allowed))
  (b, v), size = kinds.shape, planes.shape[1:]
  if b % groups:
    raise UserError(f"a batch of {b} images cannot be cut into {groups} groups; use a multiple")
  keys = jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(v)))(_image_keys(key, b))
  requests = (kinds, levels, streams.seeds_of(keys))
  rows = b // groups * v
  if groups == 1 and rows < len(allowed):  # blocks would stand mostly empty
    requests = (part.reshape(rows, *part.shape[2:]) for part in requests)
    out = _by_tiles(planes, jnp.arange(rows) // v, *requests, table, compat)
  else:
    requests = (part.reshape(groups, rows, *part.shape[2:]) for part in requests)
    parts = planes.reshape(groups, b // groups, *size), *requests
    blocks = functools.partial(_by_blocks, table=table, allowed=allowed, compat=compat)
    if groups == 1:
      out = blocks(*(part[0] for part in parts))
    elif mesh is None:
      out = jax.vmap(blocks)(*parts)
    else:
      spec = jax.P(mesh.axis_names)
      out = jax.shard_map(jax.vmap(blocks), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(*parts)
  return to_images(out.reshape(b * v, *size)).reshape(b, v, *images.shape[1:])


def _by_blocks(planes, kinds, levels, seeds, table, allowed, compat):
  """Computes one block per allowed kind; arguments as `_by_tiles`, with request t of image t // versions."""
  rows = kinds.shape[0]
  versions = rows // planes.shape[0]
  capacity = -(-rows // len(allowed))
  order = jnp.argsort(kinds)
  kinds = kinds[order]
  out = jnp.full((rows, *planes.shape[1:]), jnp.nan, planes.dtype)
  for kind in allowed:
    member = jnp.searchsorted(kinds, kind) + jnp.arange(capacity)
    clipped = jnp.clip(member, 0, rows - 1)
    row = order[clipped]
    real = (member < rows) & (kinds[clipped] == kind)
    result = table[kind][1](planes[row // versions], levels[row], seeds[row], compat=compat)
    out = out.at[jnp.where(real, row, rows)].set(result, mode="drop", unique_indices=True)
  return out
