"""Weights from an address are those that were meant, to the last bit, or they are not used."""

import functools
import hashlib
import http.server
import json
import pickle
import shutil
import threading

import fsspec
import jax
import numpy as np
import pytest

import jiqa
from jiqa.errors import UserError
from jiqa.inference import inputs, loading
from jiqa.weights.store import checksum, load_weights, save_weights
from tests.inference import made

IMAGE = made.images()[0]


def load(weights):
  return jiqa.load(weights=weights, devices=jax.devices()[:1])


def digest(folder, *names):
  """As `cat weights.safetensors card.json head.safetensors | sha256sum`."""
  names = names or ("weights.safetensors", "card.json", "head.safetensors")
  return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return tmp_path / "cache" / "jiqa" / "weights"


@pytest.fixture
def published(weights, tmp_path):
  """A folder of weights with a head that may be changed."""
  return shutil.copytree(weights, tmp_path / "published")


@pytest.fixture
def address(tmp_path):
  """The address of `tmp_path` on the web."""
  handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_weights_on_the_web_score_as_their_folder_and_are_kept(published, address, metric, cache, monkeypatch):
  monkeypatch.setattr(inputs, "MAX_BYTES", 1000)  # weights may be larger than images
  name = f"{address}/published/@sha256:{digest(published)}"
  found = load(name)
  assert found([IMAGE]).score == metric([IMAGE]).score
  assert (found.weights_sha256, found.head_sha256) == (metric.weights_sha256, metric.head_sha256)
  (kept,) = cache.iterdir()
  assert sorted(path.name for path in kept.iterdir()) == ["card.json", "head.safetensors", "weights.safetensors"]
  shutil.rmtree(published)
  assert load(name)([IMAGE]).score == metric([IMAGE]).score


def test_stores_and_weights_without_a_head(published, cache):
  pin = digest(published, "weights.safetensors", "card.json")
  store = fsspec.filesystem("memory")
  for file in ("weights.safetensors", "card.json"):
    store.pipe(f"/w/{file}", (published / file).read_bytes())
  assert loading.pinned(f"memory://w@sha256:{pin}") == cache / pin
  # A head that the digest does not speak of is none, also beside a folder of this machine.
  assert loading.read_folder(f"{published}@sha256:{pin}").path == cache / pin
  assert load(f"{published}@sha256:{pin}").head is None and load(str(published)).head is not None


def tampered(published, how):
  """Changes weights that are then consistent in themselves, as whoever changes them on purpose would."""
  if how == "head":
    head = made.head(json.loads((published / "card.json").read_text()), seed=9)
    return head.save(published / "head.safetensors")
  params, stats, card = load_weights(published)
  if how == "weights":
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(1e-6), params)
  else:
    card["config"]["method"] = "antigravity:Class"
  head = (published / "head.safetensors").read_bytes()
  save_weights(published, params, stats, card)
  (published / "head.safetensors").write_bytes(head)
  assert load_weights(published)[2]["weights_sha256"] == checksum(params, stats)


@pytest.mark.parametrize("how", ["weights", "card", "head"])
def test_tampered_files_are_not_used(how, published, address, cache, monkeypatch):
  pin = digest(published)
  tampered(published, how)
  monkeypatch.setattr(loading, "load_weights", lambda *_: pytest.fail("they were looked at"))
  for name in (f"{address}/published@sha256:{pin}", f"{published}@sha256:{pin}"):
    with pytest.raises(UserError, match=r"not those of .*not used"):
      load(name)
  assert not cache.exists()


def test_a_copy_that_was_changed_is_not_used_either(published, cache):
  pin = digest(published)
  kept = loading.pinned(f"{published}@sha256:{pin}")
  (kept / "card.json").write_text("{}")
  with pytest.raises(UserError, match="not those of"):
    loading.pinned(f"{published}@sha256:{pin}")


@pytest.mark.parametrize("pin", ["", "@sha256:", "@sha256:abc", "@sha256:" + "G" * 64, "@sha256:../" + "a" * 61])
def test_an_address_without_a_digest_is_refused_before_anything_is_read(pin, address, monkeypatch):
  monkeypatch.setattr(loading, "read_bytes", lambda *_: pytest.fail("something was read"))
  with pytest.raises(UserError, match="64 digits"):
    load(f"{address}/published{pin}")


def test_a_pickle_is_no_weights_whatever_its_digest(published, address):
  (published / "weights.safetensors").write_bytes(pickle.dumps({"params": np.ones(3)}))
  with pytest.raises(UserError, match="cannot be read as weights"):
    load(f"{address}/published@sha256:{digest(published)}")
