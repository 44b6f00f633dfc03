"""The 26 distortions of Re-IQA on PIL, SciPy and scikit-image, one 8-bit image at a time.

This is the oracle of the tests and the other side of `python -m benchmarks.distortions`. It does what the published
code does, bugs included, with the same libraries; random kinds draw from a NumPy generator. It shares no code with the
bank.
"""

import io

import numpy as np
import scipy.ndimage
from PIL import Image, ImageFilter
from scipy.interpolate import UnivariateSpline
from skimage import color


def _truncate(values):
  """Values in [0, 1] to 8 bits as a cast does."""
  return np.clip(values * 255, 0, 255).astype(np.uint8)


def _float(image):
  return image.astype(np.float32) / 255


def gaussian_blur(image, level, rng):
  return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur((0.1, 0.5, 1, 2, 5)[level])))


def disc_kernel(radius, samples=400):
  """Coverage of every pixel cell by a disc, by counting sample points."""
  size = 2 * radius + 1
  points = (np.arange(size * samples) + 0.5) / samples - size / 2
  inside = points[:, None] ** 2 + points[None, :] ** 2 < radius**2
  cover = inside.reshape(size, samples, size, samples).mean(axis=(1, 3))
  return cover / cover.sum()


_DISCS = {}


def lens_blur(image, level, rng):
  radius = (1, 2, 4, 6, 8)[level]
  if radius not in _DISCS:
    _DISCS[radius] = disc_kernel(radius)
  values = _float(image)
  planes = [scipy.ndimage.convolve(values[..., c], _DISCS[radius], mode="nearest") for c in range(3)]
  return _truncate(np.stack(planes, axis=-1))


def color_diffusion(image, level, rng):
  amount = (1, 3, 6, 8, 12)[level]
  values = color.rgb2lab(_float(image))
  for c in (1, 2):
    values[..., c] = scipy.ndimage.gaussian_filter(values[..., c], 1.5 * amount + 2, mode="nearest") * amount
  return _truncate(_lab_to_rgb(values))


def _lab_to_rgb(values):
  import warnings

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # colours outside sRGB are expected
    return color.lab2rgb(values)


def _unit(values):
  return (values - values.min()) / (values.max() - values.min())


def edge_map(image):
  """Where colour shift acts."""
  values = _float(image)
  luma = values @ np.array([0.2989, 0.5870, 0.1140], np.float32)
  magnitude = np.hypot(*np.gradient(luma))
  edges = _unit(np.clip(_unit(scipy.ndimage.gaussian_filter(magnitude, 4, mode="nearest")), 0.1, 1))
  return _unit(np.clip(edges, *np.percentile(edges, [1, 99])))


def shift_green(image, first, second):
  """The flattened roll: pad, roll the whole array as one line, cut the pad off."""
  green = _float(image)[..., 1]
  pad = max(first, second)
  rolled = np.roll(np.pad(green, pad, mode="symmetric"), first + second)
  return rolled[pad : pad + green.shape[0], pad : pad + green.shape[1]]


def color_shift(image, level, rng):
  direction = rng.random(2)
  first, second = np.round((1, 3, 6, 8, 12)[level] * direction / np.linalg.norm(direction)).astype(int)
  values, edges = _float(image), edge_map(image)
  values[..., 1] = shift_green(image, first, second) * edges + values[..., 1] * (1 - edges)
  return _truncate(values)


def saturation_hsv(image, level, rng):
  values = color.rgb2hsv(_float(image))
  values[..., 1] *= (0.4, 0.2, 0.1, 0, -0.4)[level]
  return _truncate(color.hsv2rgb(values))


def saturation_lab(image, level, rng):
  values = color.rgb2lab(_float(image))
  values[..., 1:] *= (1, 2, 3, 6, 9)[level]
  return _truncate(_lab_to_rgb(values))


def jpeg(image, level, rng):
  return libjpeg(image, (70, 43, 36, 24, 7)[level])


def libjpeg(image, quality):
  """Saves and loads with PIL's default 4:2:0."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "JPEG", quality=quality)
  return np.asarray(Image.open(buffer).convert("RGB"))


_WHITE_VARIANCES = (0.001, 0.002, 0.003, 0.005, 0.01)


def white_noise(image, level, rng):
  return _truncate(_float(image) + rng.normal(0, np.sqrt(_WHITE_VARIANCES[level]), image.shape))


def component_noise(image, level, rng):
  values = color.rgb2ycbcr(_float(image)) / 255
  values = values + rng.normal(0, np.sqrt((0.0001, 0.0005, 0.001, 0.002, 0.003)[level]), image.shape)
  return _truncate(color.ycbcr2rgb(values * 255))


def impulse_noise(image, level, rng):
  share, draw, out = (0.001, 0.005, 0.01, 0.02, 0.03)[level], rng.random(image.shape[:2]), image.copy()
  out[draw < share / 2] = 0
  out[draw > 1 - share / 2] = 255
  return out


def multiplicative_noise(image, level, rng):
  values = _float(image)
  return _truncate(values + values * rng.normal(0, np.sqrt((0.001, 0.005, 0.01, 0.02, 0.05)[level]), image.shape))


def denoise(image, level, rng):
  noisy = Image.fromarray(white_noise(image, level, rng))
  return np.asarray(noisy.filter(ImageFilter.GaussianBlur(3) if rng.random() < 0.5 else ImageFilter.BoxBlur(2)))


def _curve(values, middle):
  spline = UnivariateSpline([0, 0.5, 1], [0, middle, 1], k=2, s=0)
  return np.clip(spline(values.ravel()).reshape(values.shape), 0, 1)


def brighten(image, level, rng):
  middle, values = 0.5 + 0.5 * (0.1, 0.2, 0.4, 0.7, 1.1)[level], _float(image)
  lab = color.rgb2lab(values)
  lab[..., 0] = 100 * _curve(lab[..., 0] / 100, middle)
  return _truncate((2 * _curve(values, middle) + np.clip(_lab_to_rgb(lab), 0, 1)) / 3)


def darken(image, level, rng):
  return _truncate(_curve(_float(image), 0.5 - 0.5 * (0.05, 0.1, 0.2, 0.4, 0.8)[level]))


def mean_shift(image, level, rng):
  return _truncate(_float(image) + np.float32((0.15, 0.08, 0, -0.08, -0.15)[level]))


def _resize(image, factor, method):
  h, w = image.shape[:2]
  return np.asarray(Image.fromarray(image).resize((int(w / factor), int(h / factor)), method).resize((w, h), method))


def resize_bicubic(image, level, rng):
  return _resize(image, (2, 3, 4, 8, 16)[level], Image.Resampling.BICUBIC)


def sharpen(image, level, rng):
  """As published: Lab of 0..255 values."""
  return _sharpened(color.rgb2lab(image.astype(np.float64)), level)


def sharpen_properly(image, level):
  """What the name says."""
  return _sharpened(color.rgb2lab(_float(image)), level)


def _sharpened(lab, level):
  rows, columns = np.gradient(lab[..., 0])
  laplacian = np.gradient(rows, axis=0) + np.gradient(columns, axis=1)
  lab[..., 0] = np.clip(lab[..., 0] - (1, 2, 3, 6, 12)[level] * laplacian, 0, 100)
  return _truncate(_lab_to_rgb(lab))


def contrast(image, level, rng):
  amount = (0.3, 0.15, 0, -0.4, -0.6)[level]
  spline = UnivariateSpline([0, 0.3, 0.5, 0.7, 1], [0, 0.25 - amount / 4, 0.5, 0.75 + amount / 4, 1])
  return _truncate(np.clip(spline(_float(image).ravel()), 0, 1).reshape(image.shape))


def color_block(image, level, rng):
  out, (h, w) = image.copy(), image.shape[:2]
  for _ in range((2, 4, 6, 8, 10)[level]):
    left, top = int(rng.random() * (w - 32)), int(rng.random() * (h - 32))
    out[top : top + 32, left : left + 32] = rng.integers(0, 256, 3)
  return out


def pixelate(image, level, rng):
  share, (h, w) = 0.95 - (0.01, 0.05, 0.1, 0.2, 0.5)[level] ** 0.6, image.shape[:2]
  small = Image.fromarray(image).resize((int(w * share), int(h * share)), Image.Resampling.NEAREST)
  return np.asarray(small.resize((w, h), Image.Resampling.NEAREST))


def patches(image, level, rng):
  out, (h, w) = image.copy(), image.shape[:2]
  for _ in range((20, 40, 60, 80, 100)[level]):
    top, left = int(rng.random() * (h - 48)) + 16, int(rng.random() * (w - 48)) + 16
    to_top, to_left = (start + int((rng.random() - 0.5) * 16) for start in (top, left))
    out[to_top : to_top + 16, to_left : to_left + 16] = out[top : top + 16, left : left + 16].copy()
  return out


def jitter(image, level, rng):
  amount, values = (0.05, 0.1, 0.2, 0.5, 1)[level], _float(image)
  grid = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float64)
  for _ in range(5):
    places = grid + rng.normal(0, amount, grid.shape)
    planes = [scipy.ndimage.map_coordinates(values[..., c], places, order=3, mode="reflect") for c in range(3)]
    values = np.clip(np.stack(planes, axis=-1), 0, 1)
  return _truncate(values)


def resize_bilinear(image, level, rng):
  return _resize(image, (2, 3, 4, 8, 16)[level], Image.Resampling.BILINEAR)


def resize_nearest(image, level, rng):
  return _resize(image, (2, 3, 4, 5, 6)[level], Image.Resampling.NEAREST)


def resize_lanczos(image, level, rng):
  return _resize(image, (2, 3, 4, 8, 16)[level], Image.Resampling.LANCZOS)


def move(image, level, vertical):
  """Mean over offsets -k/2 .. k/2 - 1 along the line, one pixel beside it."""
  length = (12, 16, 20, 24, 28)[level]
  kernel = np.zeros((length + 1, 3))
  kernel[:length, 0] = 1 / length  # correlate: centre at row length // 2, column 1
  kernel = kernel if vertical else kernel.T
  values = _float(image)
  planes = [scipy.ndimage.correlate(values[..., c], kernel, mode="nearest") for c in range(3)]
  return _truncate(np.stack(planes, axis=-1))


def motion_blur(image, level, rng):
  return move(image, level, rng.random() < 0.5)


KINDS = (
  gaussian_blur,
  lens_blur,
  color_diffusion,
  color_shift,
  saturation_hsv,
  saturation_lab,
  jpeg,
  white_noise,
  component_noise,
  impulse_noise,
  multiplicative_noise,
  denoise,
  brighten,
  darken,
  mean_shift,
  resize_bicubic,
  sharpen,
  contrast,
  color_block,
  pixelate,
  patches,
  jitter,
  resize_bilinear,
  resize_nearest,
  resize_lanczos,
  motion_blur,
)
