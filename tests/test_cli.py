"""The `jiqa` command hands every option on, to the argument it belongs to, and ends with the right status."""

import contextlib
import json
import os
import sys
from types import SimpleNamespace
from unittest import mock

import pytest

from jiqa import cli
from jiqa.errors import UserError

# Arguments, what they call, and with what; no value is a default.
CALLS = {
  "prepare": (
    "koniq10k csiq --manual-dir=m --data_dir=d --workers=3 --strict --beam=x",
    "data_builders.prepare.prepare_several",
    mock.call(["koniq10k", "csiq"], "m", "d", strict=True, workers=3, beam="x"),
  ),
  "score": (
    "a.png b --model=lml --weights=w1 --weights=w2 --head=h --out=o.csv --overwrite --shard=1/3 --fps=2.5 "
    "--keep=url,txt --sandbox",
    "jiqa.inference.command.score_files",
    mock.call(
      ["a.png", "b"], "lml", ["w1", "w2"], "h", out="o.csv", overwrite=True, shard="1/3", keep=["url", "txt"],
      frames_per_second=2.5, sandbox=True,
    ),
  ),
  "score-shards": (
    "a.tar b.parquet --model=lml --weights=w --head=h --out=o --overwrite --keep=txt --sandbox "
    "--runner=FlinkRunner --flink_master=x:80",
    "jiqa.beam.score_shards",
    mock.call(
      ["a.tar", "b.parquet"], "o", ["--runner=FlinkRunner", "--flink_master=x:80"], model="lml", weights=("w",),
      head="h", keep=["txt"], overwrite=True, sandbox=True,
    ),
  ),
  "summary": (
    "a.csv b --min-score=40 --out=o.json",
    "jiqa.evaluation.summary.print_summary",
    mock.call(["a.csv", "b"], 40.0, "o.json"),
  ),
  "export-weights": (
    "run out --head=biq2021 --dtype=float32 --data_dir=d --recipe=r --licence=l --note=a --note=b",
    "jiqa.inference.package.package",
    mock.call(
      "run", "out", database="biq2021", dtype="float32", data_dir="d", recipe="r", licence="l", notes=["a", "b"]
    ),
  ),
  "serve": (
    "--model=lml --weights=w --head=h --host=::1 --port=81 --max_megabytes=3 --max_files=4 --max_megapixels=5 "
    "--queue=6 --deadline=7 --token=t --access_log",
    "jiqa.serve.command.serve",
    mock.call(
      "lml", ["w"], "h", host="::1", port=81,
      sizes={"max_megabytes": 3, "max_files": 4, "max_megapixels": 5, "queue": 6, "deadline": 7.0},
      token="t", access_log=True,
    ),
  ),
  "explain": (
    "lml photo.jpg --weights=w --out=o.png",
    "jiqa.inference.explain.explain",
    mock.call("lml", "photo.jpg", "w", "o.png"),
  ),
  "evaluate": (
    "s.csv z.csv --mos=m --group=g --score=a --score=b --by=x --by=y --split=p --cross=c --name=n --out=o --title=t "
    "--unit=u --resamples=200 --seed=5",
    "jiqa.evaluation.console.evaluate",
    mock.call(
      ["s.csv", "z.csv"], "m", methods=["a", "b"], group="g", by=["x", "y"], split="p", cross="c", name="n", out="o",
      title="t", unit="u", resamples=200, seed=5,
    ),
  ),
  "gmad": (
    "a.csv b.csv --out=o --images=i --anchors=a --content=c --answers=x --answers=y --proxy=p --levels=3 --top=2 "
    "--name=n",
    "jiqa.evaluation.console.gmad",
    mock.call(
      ["a.csv", "b.csv"], "o", images="i", anchors="a", content="c", answers=["x", "y"], proxy="p", levels=3, top=2,
      name="n",
    ),
  ),
  "realign": (
    "s.csv --score=q --mos=m --database=d --split=p --name=n --out=o",
    "jiqa.evaluation.console.realign",
    mock.call("s.csv", score="q", mos="m", database="d", fitted="p", name="n", out="o"),
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_options_reach_the_arguments_that_they_are_of(name):
  arguments, target, expected = CALLS[name]
  returned = {"export-weights": {"config": 0}}.get(name, 0)
  with mock.patch("jiqa.inference.startup.prepare"), mock.patch(target, return_value=returned) as called:
    assert cli.app([name, *arguments.split()], standalone_mode=False) in (None, 0)
  assert called.mock_calls == [expected]


def run(text, **functions):
  """Runs `jiqa TEXT` where each function, by its place, is a mock that answers with the given value.

  Returns:
    (exit status, list of their calls in order, each named by the last part of its place).
  """
  record = mock.Mock()
  with contextlib.ExitStack() as stack:
    stack.enter_context(mock.patch("jiqa.inference.startup.prepare"))
    for place, answer in functions.items():
      function = stack.enter_context(mock.patch(place.replace("__", "."), return_value=answer))
      record.attach_mock(function, place.rpartition("__")[2])
    status = cli.app(text.split(), standalone_mode=False)
  return status, record.mock_calls


def test_features_hands_on_paths_weights_and_file_and_says_what_was_left_out(capsys):
  arguments = "features a.png b --weights=w1 --weights=w2 --model=reiqa --out=o.npz"
  for refused, status in ((["b/c.png: cut off"], 3), ([], None)):
    functions = {"metric__load_models": "models", "metric__Metric": "metric", "features__write_features": (5, refused)}
    functions = {f"jiqa__inference__{name}": answer for name, answer in functions.items()}
    ended, calls = run(arguments, **functions)
    assert ended == status
    assert calls == [  # of runs with several heads, none has to be chosen
      mock.call.load_models("reiqa", ["w1", "w2"]), mock.call.Metric("models"),
      mock.call.write_features("metric", ["a.png", "b"], "o.npz"),
    ]  # fmt: skip
    printed = capsys.readouterr()
    assert printed.out == "o.npz: features of 5 images\n"
    assert printed.err == "".join(f"left out: {message}\n" for message in refused)


@pytest.mark.parametrize(("given", "of_environment"), [("--token=", None), ("", ""), ("--token=", "secret")])
def test_an_empty_password_is_refused(given, of_environment, monkeypatch):
  monkeypatch.delenv("JIQA_TOKEN", raising=False)
  if of_environment is not None:
    monkeypatch.setenv("JIQA_TOKEN", of_environment)
  with mock.patch("jiqa.serve.command.serve") as served, pytest.raises(UserError, match="JIQA_TOKEN is empty"):
    cli.app(["serve", *given.split()], standalone_mode=False)
  assert not served.called


def test_fit_hands_on_every_option_and_keeps_the_command(monkeypatch):
  arguments = (
    "fit --images=i --scores=s.csv --weights=w1 --weights=w2 --features=concat --mos=m --group=g --out=h --report=r"
  )
  monkeypatch.setattr(sys, "argv", ["/usr/bin/jiqa", "fit", "--images=my photos"])
  answers = {
    "metric__load_models": "models",
    "metric__Metric": "metric",
    "fit__fit": "results",
    "fit__print_results": 0,
  }
  functions = {f"jiqa__inference__{place}": answer for place, answer in answers.items()}
  _, calls = run(arguments, **functions)
  options = {"features": "concat", "mos": "m", "group": "g", "out": "h", "report_folder": "r"}
  assert calls == [
    mock.call.load_models(weights=["w1", "w2"]),
    mock.call.Metric("models"),
    mock.call.fit("metric", "i", "s.csv", **options, command="jiqa fit '--images=my photos'"),
    mock.call.print_results("results", "h", "r"),
  ]


def test_card_prints_the_card_of_the_named_metric(capsys):
  metric = SimpleNamespace(card={"trained_on": ["koniq10k"]})
  _, calls = run("card lml --weights=w1 --weights=w2 --head=h --json", jiqa__inference__metric__load=metric)
  assert calls == [mock.call.load("lml", ["w1", "w2"], "h")]
  assert json.loads(capsys.readouterr().out) == metric.card


def test_distort_hands_on_the_pixels_and_every_option():
  functions = {"jiqa__inference__inputs__load": "pixels", "jiqa__distortions__contact_sheet__distort_file": None}
  options = "--kind=jpeg --kind=7 --level=3 --out=o.png --bank=kadid25 --compat=official --seed=5 --side=99"
  _, calls = run(f"distort photo.jpg {options}", **functions)
  expected = {"bank": "kadid25", "compat": "official", "seed": 5, "side": 99}
  assert calls == [
    mock.call.load(("photo.jpg", "photo.jpg", False)),
    mock.call.distort_file("pixels", "o.png", ["jpeg", "7"], 3, **expected),
  ]


def test_export_exports_the_named_metric_into_the_folder(capsys):
  sheet = {"inputs": {"image": "uint8 pixels"}}
  functions = {"jiqa__inference__metric__load": "metric", "jiqa__inference__export__export": sheet}
  _, calls = run("export folder --model=lml --weights=w --head=h", **functions)
  assert calls == [mock.call.load("lml", "w", "h"), mock.call.export("metric", "folder")]
  assert capsys.readouterr().out == "image: uint8 pixels\nexported: folder\n"


def test_doctor_hands_on_every_option_and_its_status_says_whether_something_is_wrong(capsys):
  for problems, status in ((["no labels"], 1), ([], None)):
    report = SimpleNamespace(problems=problems)
    functions = {"data_builders__doctor__examine": report, "data_builders__doctor__as_text": "in words"}
    ended, calls = run("doctor folder csiq --data_dir=d --decode", **functions)
    assert ended == status
    assert calls == [mock.call.examine("folder", "csiq", data_dir="d", decode=True), mock.call.as_text(report)]
    assert capsys.readouterr().out == "in words\n"


def test_databases_are_those_of_the_given_folder():
  _, calls = run("databases --data_dir=d", data_builders__catalogue__print_catalogue=None)
  assert calls == [mock.call.print_catalogue("d")]


def test_convert_goes_the_way_that_is_asked_for(capsys):
  from jiqa.inference.loading import read_weights

  place = "jiqa__weights__convert__"
  functions = {f"{place}convert": {"some": "card"}, f"{place}describe": "in words", f"{place}convert_back": 7}
  _, calls = run("convert resnet50 file.pth folder", **functions)
  assert calls == [mock.call.convert("resnet50", "file.pth", "folder"), mock.call.describe({"some": "card"})]
  assert capsys.readouterr().out == "in words\nweights: folder\n"
  _, calls = run("convert resnet50 run out.safetensors --back", **functions)
  assert calls == [mock.call.convert_back("resnet50", "run", "out.safetensors", read_weights)]
  assert capsys.readouterr().out == "out.safetensors: 7 tensors\n"


def test_convert_lists_every_checkpoint_and_asks_for_missing_arguments(capsys):
  from jiqa.weights.convert import SOURCES, source_of

  run("convert list")
  assert capsys.readouterr().out.splitlines() == [f"{name}: {source_of(name).what}" for name in SOURCES]
  for arguments in ("convert resnet50", "convert resnet50 file.pth", "convert resnet50 file --back"):
    with pytest.raises(UserError, match=r"SOURCE FILE OUT|name the FILE"):
      run(arguments)


@pytest.mark.parametrize(("answer", "status"), [(3, 3), (UserError("no such head"), 2)])
def test_the_status_says_that_an_image_could_not_be_read_or_nothing_was_done(answer, status, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["jiqa", "score", "a.png"])
  with (
    mock.patch("jiqa.inference.startup.prepare"),
    mock.patch("jiqa.inference.command.score_files", side_effect=[answer]),
    pytest.raises(SystemExit) as ended,
  ):
    cli.main()
  assert ended.value.code == status
  assert capsys.readouterr().err == ("jiqa: no such head\n" if status == 2 else "")


@pytest.mark.parametrize(
  ("error", "said"),
  [
    (
      PermissionError(13, "Permission denied", "/data/f.npz"),
      "jiqa: /data/f.npz: cannot be read or written (Permission",
    ),
    (OSError(28, "No space left on device"), "jiqa: a file: cannot be read or written (No space left on device)"),
    (ConnectionResetError(104, "Connection reset by peer"), None),
  ],
)
def test_what_the_disk_refuses_is_said_in_one_line(error, said, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["jiqa", "databases"])
  place = "data_builders.catalogue.print_catalogue"
  with mock.patch(place, side_effect=error), pytest.raises(SystemExit if said else ConnectionResetError) as ended:
    cli.main()
  if said:
    assert ended.value.code == 2 and capsys.readouterr().err.startswith(said)


def test_underscores_in_options_are_hyphens():
  for option in ("--data-dir=d", "--data_dir=d"):
    _, calls = run(f"databases {option}", data_builders__catalogue__print_catalogue=None)
    assert calls == [mock.call.print_catalogue("d")]


def test_version_is_that_of_the_package(capsys):
  import jiqa

  cli.app(["--version"], standalone_mode=False)
  assert capsys.readouterr().out == f"jiqa {jiqa.__version__}\n"


def test_device_is_settled_before_jax_is_imported(monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "tpu")
  for option, platform in (("", "tpu"), (" --device=cpu", "cpu")):
    run(f"score a.png{option}", jiqa__inference__command__score_files=0)
    assert os.environ["JAX_PLATFORMS"] == platform


def test_models_are_printed_with_what_is_known(capsys):
  run("models", jiqa__inference__card__list_models={"one": {"srcc": 0.5, "how_to_get": "x"}, "two": {"licence": "l"}})
  assert capsys.readouterr().out == "one\n  srcc       0.5\n  how to get x\n\ntwo\n  licence    l\n\n"


@pytest.mark.parametrize(
  ("missing", "extras"), [("orbax.checkpoint", "train,evaluate"), ("pandas", "evaluate"), ("jiqa.nothing", "")]
)
def test_a_missing_package_is_named_with_what_to_do_and_our_own_errors_are_not_hidden(
  missing, extras, monkeypatch, capsys
):
  monkeypatch.setattr(sys, "argv", ["jiqa", "databases"])
  error = ModuleNotFoundError("missing", name=missing)
  place = "data_builders.catalogue.print_catalogue"
  with mock.patch(place, side_effect=error), pytest.raises(SystemExit if extras else ModuleNotFoundError) as ended:
    cli.main()
  if extras:
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"{missing} is not installed" in said and f"pip install -e '.[{extras}]'" in said


def test_evaluate_without_human_scores_takes_workdirs():
  with mock.patch("jiqa.evaluation.console.aggregate", return_value=None) as called:
    cli.app(["evaluate", "runs/a", "runs/b", "--out=o"], standalone_mode=False)
  assert called.mock_calls == [mock.call(["runs/a", "runs/b"], "o")]
