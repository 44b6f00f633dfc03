"""What saves bits: JPEG, JPEG2000, few colours, few grey levels; docs/distortions.md says how near they are to others.

JPEG is libjpeg's without the entropy coder, which loses nothing. JPEG2000 has its irreversible colour transform, five
levels of the CDF 9/7 wavelet and the dead-zone quantiser with mid-point reconstruction (ITU-T T.800, annexes E to G).
Its coder truncates bit planes until the file fits; here one step serves all coefficients of an image, by bisection: the
estimated code length, 3.7 sum log2(1 + |q|) bits, meets the budget of 24 h w / ratio.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from jiqa.distortions import resample
from jiqa.distortions.planes import by_level, finish, mix_channels

# ITU-T T.81, tables K.1 and K.2.
_LUMA = np.array([
  [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
  [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
  [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
  [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# The DCT along the rows and along the columns of a block that is written as a vector of 64, scaled by sqrt(8) each.
_DCT = np.sqrt(8) * scipy.fft.dct(np.eye(8), axis=0, norm="ortho")
_ALONG_ROWS = np.kron(np.eye(8), _DCT).astype(np.float32)
_ALONG_COLUMNS = np.kron(_DCT, np.eye(8)).astype(np.float32)
# What Cb and Cr add to Y in R, G and B; Y itself is added after rounding.
_COLOR_OF_CHROMA = np.array([[0, 0, 1.402], [0, -0.344136286, -0.714136286], [0, 1.772, 0]])


def quantization_tables(quality):
  """libjpeg's baseline luma and chroma tables of a quality in 1..100, [2, 8, 8] int64."""
  scale = 5000 // quality if quality < 50 else 200 - 2 * quality
  return np.clip((np.stack([_LUMA, _CHROMA]) * scale + 50) // 100, 1, 255)


def _code_plane(plane, table):
  """Transforms, quantises and restores one plane of 0..255 values; table: [b, 1, 64]."""
  # The rounding is that of libjpeg's integer transform: two extra bits after the first pass, then eighths. Without it
  # one coefficient of every few blocks falls on the other side of a quantisation step.
  product = functools.partial(jnp.matmul, precision="highest")
  plane = jnp.pad(plane, ((0, 0), (0, -plane.shape[1] % 8), (0, 0)), mode="edge")
  b, h, w = plane.shape
  blocks = (plane - 128).reshape(b, h // 8, 8, w // 8, 8).swapaxes(2, 3).reshape(b, -1, 64)
  rows = jnp.round(4 * product(blocks, _ALONG_ROWS.T))
  eighths = jnp.round(product(rows, _ALONG_COLUMNS.T) / 4)
  coefficients = jnp.sign(eighths) * jnp.floor(jnp.abs(eighths) / (8 * table) + 0.5) * table
  columns = jnp.round(4 * product(coefficients, _ALONG_COLUMNS))
  blocks = jnp.round(product(columns, _ALONG_ROWS) / 32)
  return jnp.clip(blocks.reshape(b, h // 8, w // 8, 8, 8).swapaxes(2, 3).reshape(b, h, w) + 128, 0, 255)


def _halve(plane):
  """2x2 means in integers; the bias alternates 1, 2 from column to column, as libjpeg's h2v2_downsample."""
  rows = plane[:, 0::2] + plane[:, 1::2]
  sums = rows[..., 0::2] + rows[..., 1::2]
  bias = jnp.asarray(1.0 + np.arange(sums.shape[-1]) % 2, jnp.float32)
  return jnp.floor((sums + bias) / 4)


def _double(plane):
  """Triangle upsampling in integers, weights 9 3 3 1 of 16: libjpeg's h2v2_fancy_upsample."""
  b, h, w = plane.shape
  padded = jnp.pad(plane, ((0, 0), (1, 1), (1, 1)), mode="edge")
  upper, middle, lower = (padded[:, i : i + h] for i in range(3))
  tall = jnp.stack([3 * middle + upper, 3 * middle + lower], axis=2).reshape(b, 2 * h, w + 2)
  left, middle, right = (tall[..., i : i + w] for i in range(3))
  halves = jnp.floor((3 * middle + left + 8) / 16), jnp.floor((3 * middle + right + 7) / 16)
  return jnp.stack(halves, axis=3).reshape(b, 2 * h, 2 * w)


def jpeg(planes, levels, seeds=None, compat="fixed", strengths=(70, 43, 36, 24, 7)):
  """Saves and loads a baseline JPEG with 4:2:0 chroma; strengths: libjpeg quality. The gradient is mostly zero."""
  _, h, _, w = planes.shape
  # libjpeg repeats the last pixel of a row up to a whole block, but the last row only after halving the chroma.
  padded = jnp.pad(jnp.round(planes * 255), ((0, 0), (0, -h % 2), (0, 0), (0, -w % 16)), mode="edge")
  r, g, b = (padded[:, :, i] for i in range(3))
  y = jnp.floor(0.299 * r + 0.587 * g + 0.114 * b + 0.5)
  cb = _halve(jnp.floor(-0.168735892 * r - 0.331264108 * g + 0.5 * b + 128.49999))
  cr = _halve(jnp.floor(0.5 * r - 0.418687589 * g - 0.081312411 * b + 128.49999))

  tables = np.stack([quantization_tables(quality) for quality in strengths]).reshape(-1, 2, 64).astype(np.float32)
  tables = jnp.asarray(tables)[levels]
  y = _code_plane(y, tables[:, :1])[:, :h, :w]
  half_h, half_w = (h + 1) // 2, (w + 1) // 2  # the decoder repeats the last real chroma sample, not the padding
  cb, cr = (_double(_code_plane(c, tables[:, 1:])[:, :half_h, :half_w])[:, :h, :w] - 128 for c in (cb, cr))
  planes = y[:, :, None] + jnp.round(mix_channels(_COLOR_OF_CHROMA, jnp.stack([y, cb, cr], axis=2)))
  return finish(planes / 255)


_DEPTH, _BITS = 5, 3.7  # of JPEG2000: levels of the transform, bits of a coefficient q over log2(1 + |q|)
_OCTAVES, _BISECTIONS = (-3.0, 11.0), 12  # the range searched for the step, as powers of two
# ITU-T T.800, table F.4, and the scaling that makes the transform nearly orthonormal.
_LIFTING = ((-1.586134342, 1), (-0.052980118, 0), (0.882911076, 1), (0.443506852, 0))
_SCALE = 1.230174105 / np.sqrt(2)
_COLOR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def analysis_matrix(size):
  """One level of the 9/7 transform along one axis with mirrored borders: low-pass rows first, then high-pass rows."""
  matrix = np.eye(size)
  mirror = np.abs(np.arange(-1, size + 1))
  mirror = np.where(mirror < size, mirror, 2 * (size - 1) - mirror)
  for weight, start in _LIFTING:
    rows = np.arange(start, size, 2)
    matrix[rows] += weight * (matrix[mirror[rows]] + matrix[mirror[rows + 2]])
  return np.concatenate([matrix[0::2] / _SCALE, matrix[1::2] * _SCALE])


@functools.cache
def _bands(size):
  """Bands of the analysis, and of the synthesis from the low and from the high half."""
  analysis = analysis_matrix(size)
  synthesis = np.linalg.inv(analysis)
  synthesis[np.abs(synthesis) < 1e-9] = 0
  half = (size + 1) // 2
  # Larger blocks than usual: five levels of small ones would take XLA seconds to compile.
  return tuple(resample.banded([part], block=128) for part in (analysis, synthesis[:, :half], synthesis[:, half:]))


def decompose(planes):
  """The wavelet transform of [b, h, 3, w]: (approximation, [three detail planes of every level, finest first])."""
  zero, details = jnp.zeros(planes.shape[0], jnp.int32), []
  while len(details) < _DEPTH and min(planes.shape[1], planes.shape[3]) >= 2:
    half_h, half_w = (planes.shape[1] + 1) // 2, (planes.shape[3] + 1) // 2
    both = resample.along(1, _bands(planes.shape[1])[0], zero, planes)
    both = resample.along(3, _bands(planes.shape[3])[0], zero, both)
    details.append((both[:, :half_h, :, half_w:], both[:, half_h:, :, :half_w], both[:, half_h:, :, half_w:]))
    planes = both[:, :half_h, :, :half_w]
  return planes, details


def _join(axis, low, high):
  """Synthesis along one axis."""
  _, from_low, from_high = _bands(low.shape[axis] + high.shape[axis])
  zero = jnp.zeros(low.shape[0], jnp.int32)
  return resample.along(axis, from_low, zero, low) + resample.along(axis, from_high, zero, high)


def recompose(planes, details):
  """The way back from `decompose`."""
  for right, below, corner in reversed(details):
    left, right = jnp.concatenate([planes, below], axis=1), jnp.concatenate([right, corner], axis=1)
    both = _join(3, left, right)
    planes = _join(1, both[:, : planes.shape[1]], both[:, planes.shape[1] :])
  return planes


def _step_for(coefficients, budget):
  """The quantiser's step at which every image's coefficients, arrays [b, ...], meet its budget [b] in bits: [b]."""
  magnitudes = jnp.concatenate([jnp.abs(c).reshape(c.shape[0], -1) for c in coefficients], axis=1)

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) / 2
    bits = _BITS * jnp.sum(jnp.log2(1 + jnp.floor(magnitudes * jnp.exp2(-middle)[:, None])), axis=1)
    return jnp.where(bits > budget, middle, low), jnp.where(bits > budget, high, middle)

  bounds = tuple(jnp.full(budget.shape, octave, jnp.float32) for octave in _OCTAVES)
  return jnp.exp2(jax.lax.fori_loop(0, _BISECTIONS, halve, bounds)[1])


def jpeg2000(planes, levels, seeds=None, compat="fixed", strengths=(16, 32, 45, 120, 400)):
  """Compresses as JPEG2000 would; strengths: ratio of 24 bits per pixel to the compressed size."""
  colors = mix_channels(_COLOR, 255 * planes)
  offset = np.array([128, 0, 0], np.float32)[:, None]
  coefficients, tree = jax.tree.flatten(decompose(colors - offset))
  budget = 24 * planes.shape[1] * planes.shape[3] / by_level(strengths, levels)[:, 0, 0, 0]
  step = _step_for(coefficients, budget).reshape(-1, 1, 1, 1)

  def quantize(values):
    whole = jnp.floor(jnp.abs(values) / step)
    return jnp.sign(values) * step * jnp.where(whole > 0, whole + 0.5, 0)

  colors = recompose(*jax.tree.unflatten(tree, [quantize(c) for c in coefficients])) + offset
  return finish(mix_channels(np.linalg.inv(_COLOR), colors) / 255)


_SAMPLES, _ITERATIONS = 64, 12  # palettes are fitted to at most 64 x 64 pixels of a regular grid


def _sample(planes):
  """[b, n, 3]: the pixels of a regular grid."""
  rows, columns = (-(-planes.shape[axis] // _SAMPLES) for axis in (1, 3))
  return jnp.swapaxes(planes[:, ::rows, :, ::columns], 2, 3).reshape(planes.shape[0], -1, 3)


def _fit(points, palette, alive):
  """Moves every entry of a palette [b, k, c] to the mean of the nearest of points [b, n, c]; alive: [b, k], in use."""

  def move(_, palette):
    score = jnp.einsum("bnc,bkc->bnk", points, palette, precision="highest") - jnp.sum(palette**2, -1)[:, None] / 2
    nearest = jnp.argmax(jnp.where(alive[:, None], score, -jnp.inf), axis=-1)
    member = jax.nn.one_hot(nearest, palette.shape[1])
    size = jnp.sum(member, axis=1)[..., None]
    mean = jnp.einsum("bnk,bnc->bkc", member, points, precision="highest") / jnp.maximum(size, 1)
    return jnp.where(size > 0, mean, palette)

  return jax.lax.fori_loop(0, _ITERATIONS, move, palette)


def _shear(planes):
  """[b, h, c, w] to [w + 2 h - 2, b, h, c]: entry t holds column t - 2 y of every row y, and 0 outside the image."""
  b, h, c, w = planes.shape
  steps = w + 2 * h - 2
  rows = jnp.pad(jnp.swapaxes(planes, 1, 2), ((0, 0), (0, 0), (0, 0), (0, steps + 2 - w))).reshape(b, c, -1)
  return jnp.transpose(rows[:, :, : h * steps].reshape(b, c, h, steps), (3, 0, 2, 1))


def _unshear(sheared, w):
  """The way back from `_shear`."""
  steps, b, h, c = sheared.shape
  rows = jnp.pad(jnp.transpose(sheared, (1, 3, 2, 0)).reshape(b, c, -1), ((0, 0), (0, 0), (0, 2 * h)))
  return jnp.swapaxes(rows.reshape(b, c, h, steps + 2)[..., :w], 1, 2)


def dither(planes, palette, alive):
  """Floyd and Steinberg's error diffusion (1976): planes [b, h, 3, w] in the colours of palettes [b, k, 3] float32.

  Row y runs two columns behind row y - 1, so that all rows advance together: w + 2 h - 2 steps instead of w h. Entries
  that are not alive [b, k] bool are not used. No gradient flows through the errors.
  """
  squares = jnp.where(alive, 0.5 * jnp.sum(palette**2, axis=-1), jnp.inf)[..., None]
  entries = jnp.arange(palette.shape[1])[:, None]
  product = functools.partial(jnp.einsum, precision="highest")

  def advance(errors, pixels):
    colors, inside = pixels
    last, older, oldest = errors
    above = 3 * last + 5 * older + oldest
    colors = colors + (7 * last + jnp.pad(above, ((0, 0), (1, 0), (0, 0)))[:, :-1]) / 16
    # The first that is nearest, as argmax has it: of which XLA makes no vector instructions on CPUs.
    score = product("bhc,bkc->bkh", colors, palette) - squares
    nearest = jnp.where(score == jnp.max(score, axis=1, keepdims=True), entries, len(entries)).min(1, keepdims=True)
    chosen = product("bkh,bkc->bhc", (entries == nearest).astype(jnp.float32), palette)
    return (jax.lax.stop_gradient(colors - chosen) * inside, last, older), chosen

  inside = _shear(jnp.ones_like(planes[:1, :, :1]))
  start = (jnp.zeros_like(planes[..., 0]),) * 3
  _, chosen = jax.lax.scan(advance, start, (_shear(planes), inside))
  return _unshear(chosen, planes.shape[3])


def color_quantization(planes, levels, seeds=None, compat="fixed", strengths=(64, 48, 32, 16, 8)):
  """Draws the image with a few colours, dithered; strengths: their number. The gradient is that of the palette."""
  count = jnp.array(strengths)[levels][:, None]
  entries = jnp.arange(max(strengths))
  points = _sample(planes)
  # Start from the colours at equal steps of the luma's distribution.
  order = jnp.argsort(points @ jnp.asarray([0.299, 0.587, 0.114], jnp.float32), axis=1)
  start = jnp.clip(((entries + 0.5) / count * points.shape[1]).astype(jnp.int32), 0, points.shape[1] - 1)
  start = jnp.take_along_axis(points, jnp.take_along_axis(order, start, axis=1)[..., None], axis=1)
  alive = entries < count
  return finish(dither(planes, _fit(points, start, alive), alive))


def otsu_thresholds(histogram, count, most):
  """The `count` [b] thresholds whose classes vary least (Otsu 1979), found exactly: [b, most] int32, rising.

  Each is the greatest value of its class that occurs in the histogram [b, n] float32, how often the values 0..n - 1 do;
  those beyond `count`, which is at least 1, repeat the last one.
  """
  values = jnp.arange(histogram.shape[1], dtype=jnp.float32) / histogram.shape[1]
  size, total = (jnp.pad(jnp.cumsum(part, axis=1), ((0, 0), (1, 0))) for part in (histogram, histogram * values))
  size, total = (part[:, None, :] - part[:, :, None] for part in (size, total))
  # What the class of values i .. j - 1 adds to the variance between classes, up to a constant.
  gain = jnp.where(jnp.tri(size.shape[1], dtype=bool).T, total**2 / jnp.maximum(size, 1), -jnp.inf)

  def add_class(best, _):
    totals = best[:, :, None] + gain
    return jnp.max(totals, axis=1), jnp.argmax(totals, axis=1)

  _, starts = jax.lax.scan(add_class, gain[:, 0], length=most)  # [most, b, n + 1]: where the last of the classes starts

  def go_back(start, step):
    row, starts = step
    start = jnp.where(row < count, jnp.take_along_axis(starts, start[:, None], axis=1)[:, 0], start)
    return start, start

  end = jnp.full(count.shape, histogram.shape[1])
  _, cuts = jax.lax.scan(go_back, end, (jnp.arange(most), starts), reverse=True)
  cuts = jnp.where(jnp.arange(most)[:, None] < count, cuts, jnp.take_along_axis(cuts, count[None] - 1, axis=0))
  return jnp.maximum(cuts.T - 1, jnp.argmax(histogram > 0, axis=1)[:, None])


def quantization(planes, levels, seeds=None, compat="fixed", strengths=(20, 16, 13, 10, 7)):
  """Cuts all channels' values at n Otsu thresholds; the n + 1 classes become 0, thresholds 2 to n, and 1.

  strengths: n. So every value but those of the two outer classes becomes the greatest of its class. No gradient flows.
  """
  count = jnp.array(strengths)[levels]
  values = jnp.round(255 * planes)
  high, low = jnp.divmod(_sample(values).reshape(values.shape[0], -1).astype(jnp.int32), 16)
  # A histogram as a matrix product: [b, 16, 16], upper against lower four bits.
  histogram = jnp.einsum("bni,bnj->bij", jax.nn.one_hot(high, 16), jax.nn.one_hot(low, 16), precision="highest")
  thresholds = otsu_thresholds(histogram.reshape(-1, 256), count, max(strengths))
  becomes = jnp.where(jnp.arange(max(strengths)) < count[:, None] - 1, jnp.roll(thresholds, -1, axis=1), 255)
  result = jnp.zeros_like(planes)
  for i in range(max(strengths)):
    threshold, value = (part[:, i].reshape(-1, 1, 1, 1) for part in (thresholds, becomes))
    result = jnp.where(values > threshold, value, result)
  return finish(result / 255)
