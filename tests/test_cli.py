"""The `jiqa` command hands every option on, to the argument it belongs to, and ends with the right status."""

import sys
from unittest import mock

import pytest

from jiqa import cli
from jiqa.errors import UserError

# Arguments, what they call, and with what; no value is a default.
CALLS = {
  "prepare": (
    "koniq10k csiq --manual_dir=m --data_dir=d --workers=3 --strict --beam=x",
    "data_builders.prepare.prepare_several",
    mock.call(["koniq10k", "csiq"], "m", "d", strict=True, workers=3, beam="x"),
  ),
  "score": (
    "a.png b --model=lml --weights=w1 --weights=w2 --head=h --out=o.csv --shard=1/3 --fps=2.5",
    "jiqa.inference.command.score_files",
    mock.call(["a.png", "b"], "lml", ["w1", "w2"], "h", out="o.csv", shard="1/3", frames_per_second=2.5),
  ),
  "export-weights": (
    "run out --head=biq2021 --dtype=float32 --data_dir=d --recipe=r --licence=l",
    "jiqa.inference.package.package",
    mock.call("run", "out", database="biq2021", dtype="float32", data_dir="d", recipe="r", licence="l"),
  ),
  "serve": (
    "--model=lml --weights=w --head=h --host=::1 --port=81 --max_megabytes=3 --max_files=4 --max_megapixels=5 "
    "--queue=6",
    "jiqa.serve.command.serve",
    mock.call(
      "lml", ["w"], "h", host="::1", port=81,
      sizes={"max_megabytes": 3, "max_files": 4, "max_megapixels": 5, "queue": 6},
    ),
  ),
  "explain": (
    "lml photo.jpg --weights=w --out=o.png",
    "jiqa.inference.explain.explain",
    mock.call("lml", "photo.jpg", "w", "o.png"),
  ),
  "evaluate": (
    "s.csv --mos=m --group=g --score=a --score=b --by=x --by=y --split=p --cross=c --out=o --title=t --unit=u "
    "--resamples=200 --seed=5",
    "jiqa.evaluation.console.evaluate",
    mock.call(
      "s.csv", "m", methods=["a", "b"], group="g", by=["x", "y"], split="p", cross="c", out="o", title="t", unit="u",
      resamples=200, seed=5,
    ),
  ),
  "gmad": (
    "a.csv b.csv --out=o --images=i --anchors=a --content=c --answers=x --answers=y --proxy=p --levels=3 --top=2",
    "jiqa.evaluation.console.gmad",
    mock.call(
      ["a.csv", "b.csv"], "o", images="i", anchors="a", content="c", answers=["x", "y"], proxy="p", levels=3, top=2
    ),
  ),
  "realign": (
    "s.csv --score=q --mos=m --database=d --split=p --out=o",
    "jiqa.evaluation.console.realign",
    mock.call("s.csv", score="q", mos="m", database="d", fitted="p", out="o"),
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_options_reach_the_arguments_that_they_are_of(name):
  arguments, target, expected = CALLS[name]
  returned = {"export-weights": {"config": 0}}.get(name, 0)
  with mock.patch.object(cli, "_before_jax"), mock.patch(target, return_value=returned) as called:
    assert cli.app([name, *arguments.split()], standalone_mode=False) in (None, 0)
  assert called.mock_calls == [expected]


@pytest.mark.parametrize(("answer", "status"), [(3, 3), (UserError("no such head"), 2)])
def test_the_status_says_that_an_image_could_not_be_read_or_nothing_was_done(answer, status, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["jiqa", "score", "a.png"])
  with (
    mock.patch.object(cli, "_before_jax"),
    mock.patch("jiqa.inference.command.score_files", side_effect=[answer]),
    pytest.raises(SystemExit) as ended,
  ):
    cli.main()
  assert ended.value.code == status
  assert capsys.readouterr().err == ("jiqa: no such head\n" if status == 2 else "")
