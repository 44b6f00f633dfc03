"""A metric that all tests of this folder share, compiled once."""

import pytest

import jiqa
from tests.inference import made


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
  """Folder of a tiny Re-IQA with a head."""
  return made.weights(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="session")
def metric(weights):
  """The metric on one device."""
  import jax

  return jiqa.load(weights, devices=jax.devices()[:1])


@pytest.fixture
def brightness(tmp_path, monkeypatch):
  """Folder of weights whose score is twice the mean pixel in [0, 1]."""
  return made.brightness(tmp_path / "brightness")
