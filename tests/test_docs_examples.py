"""The examples of docs/functional.md and docs/extending.md do what they say, in a few steps."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jiqa
from docs.examples import brightness, denoiser, drawing, reward, tone_curve
from jiqa import evaluate, train

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def metric():
  return jiqa.load(devices=jax.devices()[:1])


def test_a_tone_curve_rises_and_the_score_with_it(metric):
  image = drawing.photo(side=96) ** 2.2
  steps, scores = tone_curve.optimise(metric, image, updates=12)
  assert scores[-1] > scores[0] + 0.002
  curve = np.asarray(tone_curve.curve(steps))
  assert curve[0] == 0
  assert curve[-1] == pytest.approx(1)
  assert (np.diff(curve) > 0).all()


def test_a_metric_as_second_loss_raises_the_score(metric):
  photo = drawing.photo(side=160)
  noise = denoiser.NOISE * np.random.default_rng(0).normal(size=photo.shape).astype(np.float32)
  noisy = np.clip(photo + noise, 0, 1)[None]
  plain, with_metric = (
    denoiser.train(metric, weight, [photo[:, :100], photo], updates=60, batch=2, width=8, learning_rate=1e-2)(noisy)
    for weight in (0.0, 0.2)
  )
  assert denoiser.psnr(plain, photo) > denoiser.psnr(noisy, photo) + 0.5
  assert float(metric.apply(with_metric)[0]) > float(metric.apply(plain)[0])


def test_a_search_by_reward_finds_better_settings(metric):
  image = 0.4 * drawing.photo(side=80) + 0.05
  settings, history = reward.search(metric, image, rounds=4, population=12)
  assert history[-1] > history[0]
  developed = reward.develop(settings, image)
  assert float(metric.apply(developed)) > float(metric.apply(image))
  slope = jax.grad(lambda s: metric.apply(reward.develop(s, image)))(jnp.asarray(settings))
  assert not np.any(slope[:4])  # there is no gradient to follow


def test_a_method_with_its_config_trains_as_its_page_shows_it(brightness_run):
  page = (ROOT / "docs/extending.md").read_text()
  assert (ROOT / "docs/examples/brightness.py").read_text().partition('"""\n\n')[2] in page
  tiny, workdir = brightness_run  # forty gray images, whose mos is their brightness times 106.25
  config = brightness.get_config()
  config.data_dir, config.data[0].name, config.evaluation.databases = tiny.data_dir, "csv/gray", ("csv/gray",)
  assert train.train(config, workdir)
  assert evaluate.evaluate(config, workdir)["databases"]["csv/gray"]["srcc"] == [1.0]
  slope = float(jiqa.load(workdir).models[0].weights[0]["slope"])
  assert slope == pytest.approx(106.25, rel=0.05)
