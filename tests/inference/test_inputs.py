"""Names a user gives, and the bytes behind them."""

import glob
import http.server
import io
import os
import threading

import fsspec
import numpy as np
import pytest

from jiqa.errors import UserError
from jiqa.inference import inputs
from tests.inference import made


@pytest.fixture
def tree(tmp_path):
  for name in ("b.png", "a.JPG", "sub/c.webp", "sub/deep/d.mp4", "notes.txt", "sub/e.csv", "odd[1]/f.png"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode())
  return tmp_path


def names(tree, found):
  return [path.removeprefix(f"{tree}/") for path in found]


def test_folders_patterns_and_files(tree):
  everything = ["a.JPG", "b.png", "odd[1]/f.png", "sub/c.webp", "sub/deep/d.mp4"]
  assert names(tree, inputs.expand([tree])) == everything
  assert names(tree, inputs.expand([f"{tree}/*.png", f"{tree}/sub"])) == ["b.png", "sub/c.webp", "sub/deep/d.mp4"]
  assert names(tree, inputs.expand([f"{tree}/**/*.png"])) == ["b.png", "odd[1]/f.png"]
  assert names(tree, inputs.expand([f"{tree}/odd[1]/f.png", f"{tree}/odd[1]"])) == ["odd[1]/f.png"]
  # What is named is kept, whatever it is called; twice is once.
  assert names(tree, inputs.expand([f"{tree}/notes.txt", f"{tree}/gone.png", f"{tree}/notes.txt"])) == [
    "notes.txt",
    "gone.png",
  ]


@pytest.mark.parametrize("pattern", ["", "/**", "/**/*", "/*/**/*.png", "/**/deep/**/*"])
def test_links_are_followed_once(tree, pattern):
  (tree / ".hidden").mkdir()
  (tree / ".hidden/g.png").touch()
  (tree / "sub/.h.png").touch()
  (tree / "elsewhere").mkdir()
  (tree / "elsewhere/h.png").touch()
  root = tree / "sub"
  for name, target in {"a": ".", "b": "..", "deep/c": "..", "d": "../elsewhere", "e": "e", "deep/f": "../d"}.items():
    (root / name).symlink_to(target)
  found = names(tree, inputs.expand([f"{root}{pattern}"]))
  assert len({(tree / path).resolve() for path in found}) == len(found)
  if pattern in ("", "/**", "/**/*"):
    beside = [f"sub/b/{name}" for name in ("a.JPG", "b.png", "elsewhere/h.png", "odd[1]/f.png")]
    assert found == [*beside, "sub/c.webp", "sub/deep/d.mp4"]
  else:
    assert {"/*/**/*.png": "b.png", "/**/deep/**/*": "d.mp4"}[pattern] in {os.path.basename(path) for path in found}


def test_names_of_a_search_are_those_that_glob_gives(tree, monkeypatch):
  monkeypatch.chdir(tree)
  for pattern in ("**/*.png", "**", "sub/**/d.*", "*/**", "./**/f.png", "s*/**/deep/*", "sub//**", "**/odd[[]1]/*"):
    expected = filter(os.path.isfile, glob.glob(pattern, recursive=True))
    assert sorted(filter(os.path.isfile, inputs._matching(pattern))) == sorted(set(expected)), pattern


def test_lists(tree, monkeypatch):
  (tree / "list.txt").write_text(f"# the first\n{tree}/b.png\n\n  {tree}/sub  \n")
  expected = ["b.png", "sub/c.webp", "sub/deep/d.mp4"]
  assert names(tree, inputs.expand([f"@{tree}/list.txt"])) == expected
  monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tree / "list.txt").read_bytes()), "utf-8"))
  assert names(tree, inputs.expand(["-"])) == expected
  # As Windows writes it, with a name in Latin-1, one that only looks like a comment, and one like a pattern.
  listed = [b"\xef\xbb\xbf" + bytes(tree) + b"/b.png", b"\xe4.png", b"#1.jpg", b"gone[1].png", b"#", b"# no name"]
  (tree / "list.txt").write_bytes(b"\r\n".join([*listed, bytes(tree) + b"/s*/*.webp"]))
  monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tree / "list.txt").read_bytes()), "utf-8"))
  for name in (f"@{tree}/list.txt", "-"):
    assert names(tree, inputs.expand([name])) == ["b.png", "\udce4.png", "#1.jpg", "gone[1].png", "sub/c.webp"]
  (tree / "list.txt").write_text("@other.txt\n")
  with pytest.raises(UserError, match="a list cannot hold another list"):
    inputs.expand([f"@{tree}/list.txt"])


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ([], "nothing to score"),
    (["@gone.txt"], "gone.txt: no such list"),
    (["{tree}/*.bmp"], r"\*.bmp: holds no image"),
    (["{tree}/empty"], "empty: holds no image"),
    (["nosuchstore://a/b.png"], "nosuchstore:// is not known"),
  ],
)
def test_what_holds_nothing_is_named(tree, given, message):
  (tree / "empty").mkdir()
  with pytest.raises(UserError, match=message):
    inputs.expand([name.format(tree=tree) for name in given])


def test_object_stores_through_fsspec(tree):
  store = fsspec.filesystem("memory")
  store.pipe({"/bucket/x/b.png": b"b", "/bucket/a.jpg": b"a", "/bucket/readme.txt": b""})
  try:
    assert inputs.expand(["memory://bucket"]) == ["memory:///bucket/a.jpg", "memory:///bucket/x/b.png"]
    assert inputs.expand(["memory://bucket/*.jpg"]) == ["memory:///bucket/a.jpg"]
    assert inputs.expand(["memory://bucket/a.jpg"]) == ["memory://bucket/a.jpg"]
    assert inputs.read_bytes("memory:///bucket/x/b.png") == b"b"
    with pytest.raises(UserError, match=r"memory://bucket/gone.png: no such file"):
      inputs.read_bytes("memory://bucket/gone.png")
  finally:
    store.rm("/bucket", recursive=True)


def test_addresses_on_the_web(metric, tmp_path):
  path = made.files(tmp_path)[0]

  class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args):
      super().__init__(*args, directory=tmp_path)

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    assert inputs.expand([f"{address}/0000.png?x=[1]"]) == [f"{address}/0000.png?x=[1]"]
    assert float(metric(f"{address}/0000.png")) == float(metric(path))
    with pytest.raises(UserError, match=f"{address}/gone.png: the server answers 404"):
      metric([path, f"{address}/gone.png"])
    server.shutdown()
  with pytest.raises(UserError, match=r"0000.png: cannot be read \(URLError"):
    inputs.read_bytes(f"{address}/0000.png")


def test_downloads_are_bounded(tmp_path, monkeypatch):
  monkeypatch.setattr(inputs, "MAX_BYTES", 10)
  response = type("Response", (io.BytesIO,), {"length": None})
  monkeypatch.setattr(inputs.urllib.request, "urlopen", lambda *_, **__: response(bytes(11)))
  with pytest.raises(UserError, match="more than 10 bytes"):
    inputs.read_bytes("https://example.com/a.png")


def test_downloads_end(monkeypatch):
  times = iter(range(0, 10_000, 200))
  monkeypatch.setattr(inputs.time, "monotonic", lambda: next(times))
  slow = type("Slow", (io.BytesIO,), {"read1": lambda self, size: self.read(1), "length": None})
  monkeypatch.setattr(inputs.urllib.request, "urlopen", lambda *_, **__: slow(bytes(9)))
  with pytest.raises(UserError, match=r"a\.png: has not arrived within 600 seconds"):
    inputs.read_bytes("https://example.com/a.png")
  monkeypatch.setattr(inputs.urllib.request, "urlopen", lambda *_, **__: slow(b"abc"))
  assert inputs.read_bytes("https://example.com/a.png") == b"abc"


@pytest.mark.parametrize("sent", [0, 6, 10])
def test_a_download_that_breaks_off_is_no_file(sent):
  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.send_response(200)
      self.send_header("Content-Length", "10")
      self.end_headers()
      self.wfile.write(bytes(sent))

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/a.bmp"
    if sent == 10:
      assert inputs.read_bytes(address) == bytes(10)
    else:
      with pytest.raises(UserError, match=rf"a\.bmp: the connection ended {10 - sent} bytes too early"):
        inputs.read_bytes(address)
    server.shutdown()


@pytest.mark.parametrize("excess", [1e-3, 1.5e-6])
def test_floats_beyond_rounding_are_refused_with_the_value(excess):
  pixels = np.zeros((2, 3, 3), np.float32)
  pixels[1, 1] = 1 + excess
  with pytest.raises(UserError, match=rf"float pixels from 0.0 to {pixels.max()!s}; expected"):
    inputs.load(inputs.Item("image 0", pixels))
  pixels[:] = [-3e-7, 0.5, 1 + 5e-7]
  assert inputs.load(inputs.Item("image 0", pixels))[0, 0].tolist() == [0, 128, 255]


def test_shards_share_everything_out():
  names = [f"{i}" for i in range(11)]
  parts = [inputs.shard(names, f"{i}/3") for i in range(3)]
  assert (
    sorted((name for part in parts for name in part), key=int) == names
    and max(map(len, parts)) - min(map(len, parts)) <= 1
  )
  for wrong in ("3/3", "a/2", "1", "-1/2", "1/2/3"):
    with pytest.raises(UserError, match="expected i/n"):
      inputs.shard(names, wrong)


def test_what_a_search_passes_over_is_counted(tmp_path, capsys):
  made.files(tmp_path, [(4, 4)])
  assert len(inputs.expand([str(tmp_path)])) == 1 and capsys.readouterr().err == ""
  (tmp_path / "a.heic").touch()
  (tmp_path / "b.jpg").symlink_to(tmp_path / "nowhere")
  assert len(inputs.expand([str(tmp_path)])) == 1
  assert capsys.readouterr().err == f"jiqa: {tmp_path}: 2 files that are not read: 1 .heic, 1 dangling link\n"
