"""MoCo-v2's augmentations against Pillow, SciPy, colorsys and the rule of torchvision's random crop in plain Python."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, ImageEnhance, ImageFilter

from jiqa.distortions import augment
from tests.published_resnet import photographs

PHOTO = photographs()[0]  # 97 x 131
FLOAT = jnp.asarray(PHOTO, jnp.float32) / 255


def of_pillow(image):
  return np.asarray(image, np.float32) / 255


@pytest.mark.parametrize("box", [(0, 0, 97, 131), (10, 20, 41, 23), (5, 7, 60, 80), (0, 0, 1, 1)])
def test_resized_crop_is_pillows(box):
  top, left, height, width = box
  ours = jax.jit(augment.resized_crop, static_argnums=3)(
    FLOAT, jnp.float32([top, left]), jnp.float32([height, width]), 32
  )
  crop = Image.fromarray(PHOTO).crop((left, top, left + width, top + height))
  expected = of_pillow(crop.resize((32, 32), Image.Resampling.BILINEAR))
  assert np.abs(ours - expected).max() <= 1.01 / 255  # Pillow rounds twice


@pytest.mark.parametrize("factor", [0.6, 0.93, 1.4])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_enhancements_are_pillows(name, factor):
  ours = getattr(augment, f"adjust_{name}")(FLOAT, factor)
  enhancer = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
  }
  expected = of_pillow(enhancer[name](Image.fromarray(PHOTO)).enhance(factor))
  assert np.abs(ours - expected).max() <= 1.5 / 255  # Pillow truncates, and rounds its gray image


def test_grayscale_is_pillows():
  assert np.abs(augment.luma(FLOAT)[..., 0] - of_pillow(Image.fromarray(PHOTO).convert("L"))).max() <= 0.51 / 255


@pytest.mark.parametrize("turn", [-0.1, 0.0, 0.07, 0.5])
def test_hue_is_that_of_colorsys(turn):
  pixels = (
    np.concatenate([PHOTO[::9, ::9].reshape(-1, 3), np.eye(3, dtype=np.uint8) * 255, [[7, 7, 7], [0, 0, 0]]]) / 255
  )
  ours = augment.shift_hue(jnp.asarray(pixels, jnp.float32)[None], turn)[0]
  for pixel, got in zip(pixels, ours, strict=True):
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
    np.testing.assert_allclose(got, colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value), atol=2e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_gaussian(sigma):
  ours = np.asarray(jax.jit(augment.blur)(FLOAT, sigma))
  exact = scipy.ndimage.gaussian_filter(np.float64(FLOAT), (sigma, sigma, 0), mode="nearest", radius=(6, 6, 0))
  np.testing.assert_allclose(ours, exact, atol=1e-5)
  pillow = of_pillow(Image.fromarray(PHOTO).filter(ImageFilter.GaussianBlur(sigma)))
  assert np.abs(ours - pillow).mean() < 1.5 / 255


def crop_by_hand(areas, ratios, height, width):
  """Extent by torchvision's rule, given its draws."""
  for area, ratio in zip(areas, ratios, strict=True):
    w, h = round((height * width * area * ratio) ** 0.5), round((height * width * area / ratio) ** 0.5)
    if 0 < w <= width and 0 < h <= height:
      return h, w
  own = width / height
  if own < 3 / 4:
    return round(width / (3 / 4)), width
  if own > 4 / 3:
    return height, round(height * 4 / 3)
  return height, width


@pytest.mark.parametrize(("height", "width"), [(97, 131), (400, 30), (20, 300), (224, 224)])
def test_random_crops_follow_torchvisions_rule(height, width):
  size = jnp.int32([height, width])
  keys = jax.random.split(jax.random.key(0), 400)
  corner, extent = (np.asarray(x) for x in jax.jit(jax.vmap(lambda k: augment.draw_crop(k, size)))(keys))

  def draws(key):
    area_key, ratio_key, _ = jax.random.split(key, 3)
    ratios = jnp.exp(jax.random.uniform(ratio_key, (10,), minval=np.log(0.75), maxval=np.log(4 / 3)))
    return jax.random.uniform(area_key, (10,), minval=0.2, maxval=1.0), ratios

  areas, ratios = (np.float64(x) for x in jax.jit(jax.vmap(draws))(keys))
  expected = np.array([crop_by_hand(a, r, height, width) for a, r in zip(areas, ratios, strict=True)])
  assert (np.abs(extent - expected) <= 1).all() and (extent == expected).mean() > 0.98  # float32 at a rounding
  assert corner.min() >= 0 and (corner + extent <= [height, width]).all()
  assert (corner == np.round(corner)).all()
  if height == width:
    inside = extent.prod(1) / (height * width)
    assert inside.min() > 0.19 and abs(inside.mean() - 0.57) < 0.04  # large ones fit less often
    free = height - extent[:, 0]
    assert abs((corner[:, 0] / np.maximum(free, 1))[free > 20].mean() - 0.5) < 0.05


def test_views_are_a_function_of_their_key_and_use_every_augmentation():
  size = jnp.int32([97, 131])
  padded = jnp.pad(FLOAT, ((0, 31), (0, 0), (0, 0)), constant_values=7.0)  # what lies outside must not show
  make = jax.jit(jax.vmap(lambda k: augment.moco_v2(k, padded, size, 32)))
  keys = jax.random.split(jax.random.key(0), 300)
  views = np.asarray(make(keys))
  np.testing.assert_array_equal(views, make(keys))
  assert views.min() >= 0 and views.max() <= 1 + 1e-6
  assert len(np.unique(views.mean((1, 2, 3)))) == 300
  gray = (np.ptp(views, -1).max((1, 2)) < 1e-6).mean()
  assert abs(gray - 0.2) < 0.07


def test_a_flat_image_shows_how_often_it_is_jittered():
  flat = jnp.broadcast_to(jnp.array([0.6, 0.4, 0.3]), (40, 40, 3))
  make = jax.jit(jax.vmap(lambda k: augment.moco_v2(k, flat, jnp.int32([40, 40]), 16)))
  views = np.asarray(make(jax.random.split(jax.random.key(1), 400)))
  assert np.ptp(views, (1, 2)).max() < 1e-5
  colors = views[:, 0, 0]
  untouched = (np.abs(colors - [0.6, 0.4, 0.3]).max(-1) < 1e-5).mean()
  assert abs(untouched - 0.2 * 0.8) < 0.06
  jittered = colors[(np.ptp(colors, -1) > 1e-6) & (np.abs(colors - [0.6, 0.4, 0.3]).max(-1) > 1e-5)]
  hues = np.array([colorsys.rgb_to_hsv(*c)[0] for c in jittered])
  own = colorsys.rgb_to_hsv(0.6, 0.4, 0.3)[0]
  turns = (hues - own + 0.5) % 1 - 0.5
  assert turns.min() < -0.08 and turns.max() > 0.08 and np.abs(turns).max() < 0.101


def test_views_are_mirrored_and_blurred_as_often_as_published(monkeypatch):
  """A ramp from left to right tells the mirror image; a blur that adds ten times its sigma tells itself."""
  monkeypatch.setattr(augment, "blur", lambda image, sigma: image + 10 * sigma)
  monkeypatch.setattr(augment, "color_jitter", lambda key, image: image)
  ramp = jnp.broadcast_to(jnp.linspace(0.2, 0.8, 40)[:, None], (40, 40, 3))
  make = jax.jit(jax.vmap(lambda k: augment.moco_v2(k, ramp, jnp.int32([40, 40]), 16)))
  views = np.asarray(make(jax.random.split(jax.random.key(2), 500)))
  mirrored = views[:, 0, 0, 0] > views[:, 0, -1, 0]
  assert abs(mirrored.mean() - 0.5) < 0.06
  blurred = views.min((1, 2, 3)) > 1
  assert abs(blurred.mean() - 0.5) < 0.06
  sigmas = (views.mean((1, 2, 3))[blurred] - 0.5) / 10  # within 0.03
  assert 0.07 <= sigmas.min() < 0.2 and 1.9 < sigmas.max() <= 2.03 and abs(sigmas.mean() - 1.05) < 0.12


def test_jitter_draws_its_factors_and_their_order_from_the_published_ranges(monkeypatch):
  """Every adjustment writes its factor, and when it came, instead of changing colours."""
  names = ("adjust_brightness", "adjust_contrast", "adjust_saturation", "shift_hue")
  for i, name in enumerate(names):
    write = lambda image, factor, i=i: image.at[0, i].set(jnp.stack([factor, image[1, 0, 0], 1])).at[1].add(1)
    monkeypatch.setattr(augment, name, write)
  keys = jax.random.split(jax.random.key(3), 600)
  written = np.asarray(jax.jit(jax.vmap(lambda k: augment.color_jitter(k, jnp.zeros((2, 4, 3)))))(keys))[:, 0]
  assert (written[..., 2] == 1).all()  # each came once
  factors, turn = written[:, :3, 0], written[:, 3, 0]
  assert (factors >= 0.6).all() and (factors <= 1.4).all() and (np.abs(turn) <= 0.1).all()
  assert (factors.min(0) < 0.61).all() and (factors.max(0) > 1.39).all()
  assert np.abs(factors.mean(0) - 1).max() < 0.04 and turn.min() < -0.097 and turn.max() > 0.097
  assert np.abs(np.corrcoef(np.c_[factors, turn].T) - np.eye(4)).max() < 0.15
  when = written[..., 1]
  assert (np.sort(when, 1) == np.arange(4)).all()
  assert np.abs((when == np.arange(4)[:, None, None]).mean(1) - 0.25).max() < 0.07
