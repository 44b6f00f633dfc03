"""What a run records of itself: one line of strict JSON a record, the same numbers for TensorBoard."""

import json
import math
from unittest import mock

from jiqa.runtime.writer import Writer


def test_what_is_undefined_is_null_in_the_records_and_no_point_of_a_curve(tmp_path, capsys):
  with mock.patch("jiqa.runtime.writer.SummaryWriter") as board, Writer(tmp_path, 0, 10) as log:
    log.note(4, {"validation_srcc": math.nan, "other": 0.5})
  assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 4, "validation_srcc": null, "other": 0.5}\n'
  assert "step 4/10  validation_srcc nan  other 0.5" in capsys.readouterr().err
  drawn = board.return_value.__enter__.return_value.add_scalar
  assert drawn.mock_calls == [mock.call("other", 0.5, 4)]


def test_a_resumed_run_replaces_what_it_does_again(tmp_path, capsys):
  values = {"loss": 2.0, "images_per_second": 30.0, "input_wait": 0.125}
  with mock.patch("jiqa.runtime.writer.SummaryWriter"), Writer(tmp_path, 0, 10) as log:
    for step in range(9):
      log.write(step, values)
  with mock.patch("jiqa.runtime.writer.SummaryWriter") as board, Writer(tmp_path, 7, 10) as log:
    log.write(7, values | {"loss": 1.0})
  records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [record["step"] for record in records] == list(range(8)) and records[7] == {"step": 7, **values, "loss": 1.0}
  assert board.call_args.kwargs["purge_step"] == 7
  goes_on = [line for line in capsys.readouterr().err.splitlines() if "checkpoint" in line]
  assert goes_on == ["step 7/10  goes on from a checkpoint"]


def test_damaged_lines_are_dropped_and_hide_nothing(tmp_path):
  lines = [
    b'{"step": 1, "loss": 0.5}',
    b'{"step": 2, "lo',
    b"\xff\xfe\x00",
    b"7",
    b"[" * 10_000,
    b"{}",
    b"",
    b'{"step": 3}',
  ]
  (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*lines, b'{"step": 8}', b'{"step": 4', b""]))
  with mock.patch("jiqa.runtime.writer.SummaryWriter"), Writer(tmp_path, 7, 10):
    pass
  assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1, "loss": 0.5}\n{"step": 3}\n'
