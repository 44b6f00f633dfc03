"""The benchmark of the server: what it asks, what it counts, and that the server is what it measures."""

import re

import pytest

from benchmarks import serving
from jiqa.data.decode import decode_rgb
from jiqa.errors import UserError


def test_requests_hold_images_of_which_the_last_are_cut_off():
  requests = serving.photographs(4, cut_off=1)
  for number, request in enumerate(requests):
    head, _, body = request.partition(b"\r\n\r\n")
    assert int(re.search(rb"Content-Length: (\d+)", head)[1]) == len(body)
    data = body.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n--x--\r\n")
    if number < 3:
      assert decode_rgb(data).shape == (96, 96, 3)
    else:
      with pytest.raises(UserError):
        decode_rgb(data)


def test_ratios_are_of_ours_to_the_bare_handlers(capsys):
  ours = {"clients": 8, "side": "jiqa serve", "requests": 7}
  ours |= {"p50_ms": 30.0, "p99_ms": 90.0, "per_second": 50.0, "processor_ms": 8.0}
  theirs = ours | {"side": "bare handler", "p50_ms": 20.0, "p99_ms": 60.0, "per_second": 100.0, "processor_ms": 4.0}
  serving.print_comparison([ours, theirs])
  assert re.search(r"jiqa serve / bare\W+1\.50\W+1\.50\W+0\.50\W+2\.00", capsys.readouterr().out)


@pytest.mark.slow
def test_the_server_answers_everything_and_its_two_processes_are_looked_at():
  rows = serving.soak(60, clients=4, looks=2)
  assert [row["requests"] for row in rows] == [0, 30, 60] and not any(row["restarted"] for row in rows)
  assert all(set(row["answers"]) <= {"200"} for row in rows)
  assert all(row["scores_mb"] > row["listens_mb"] > 20 for row in rows)
