"""From a CSV of scores to a report, and realignment, through the `jiqa` command."""

import csv
import html.parser
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from jiqa import cli
from jiqa.errors import UserError
from jiqa.evaluation import realignment, report, study


@pytest.fixture
def table(tmp_path):
  rng = np.random.default_rng(0)
  quality = rng.random(80)
  scores = pd.DataFrame(
    {
      "image_name": [f"{i:02d}.png" for i in range(80)],
      "good": np.round(quality + rng.normal(size=80) / 20, 2),
      "bad <b>": quality + rng.normal(size=80),
      "mos": quality * 5,
      "reference": [f"r{i // 4}" for i in range(80)],
      "distortion": np.array(["blur", "jpeg"])[np.arange(80) % 2],
    }
  )
  for k in range(5):
    scores[f"split_{k}"] = rng.choice(["train", "test"], 80)
  scores.to_csv(tmp_path / "scores.csv", index=False)
  return scores


def run(*arguments):
  return CliRunner().invoke(cli.app, list(map(str, arguments)))


class Page(html.parser.HTMLParser):
  """Collects what a page refers to, inside of it (`links` to `anchors`) and elsewhere, and its words."""

  def __init__(self, text):
    super().__init__()
    self.sources, self.links, self.anchors, self.words = [], [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    refers = [value for name, value in attributes if name in ("src", "href")]
    self.sources += [value for value in refers if value[0] != "#"]
    self.links += [value[1:] for value in refers if value[0] == "#"]
    self.anchors += [value for name, value in attributes if name == "id"]

  def handle_data(self, data):
    self.words.append(data)


def test_evaluate_from_scores_alone(table, tmp_path):
  out = tmp_path / "report"
  done = run("evaluate", tmp_path / "scores.csv", "--mos=mos", "--group=reference", "--by=distortion", f"--out={out}")
  assert done.exit_code == 0, done.output
  assert sorted(path.name for path in out.iterdir()) == ["index.html", "report.csv", "report.json", "report.md"]
  data = json.loads((out / "report.json").read_text())
  expected = stats.spearmanr(table["good"], table["mos"])[0]
  assert data["methods"]["good"]["value"]["srcc"] == pytest.approx(expected, abs=1e-10)
  low, high = data["methods"]["good"]["interval"]["srcc"]
  assert low < expected < high
  blur = table[table["distortion"] == "blur"]
  found = data["methods"]["bad <b>"]["conditions"]["distortion"]["blur"]
  assert found["krcc"] == pytest.approx(stats.kendalltau(blur["bad <b>"], blur["mos"])[0], abs=1e-10)
  assert data["comparison"]["table"] == [[0, 1], [-1, 0]]
  assert data["settings"]["resampled"] == "references" and len(next(iter(data["checksums"].values()))) == 64
  page = Page((out / "index.html").read_text())
  assert len(page.sources) == 5 and all(source.startswith("data:image/png;base64,") for source in page.sources)
  assert "bad <b>" in page.words and f"{expected:.4f}" in page.words
  assert page.links == page.anchors == ["results", "is-the-difference-real-", "by-distortion", *page.links[3:]]
  assert len(set(page.links)) == 6 and page.links[-1] == "made"
  assert f"{expected:.4f}" in (out / "report.md").read_text() and f"{expected:.4f}" in done.output
  with open(out / "report.csv", newline="") as file:
    rows = {(row["method"], row["part"], row["measure"]): row for row in csv.DictReader(file)}
  assert float(rows["good", "all", "srcc"]["value"]) == pytest.approx(expected)
  assert [float(rows["good", "all", "srcc"][end]) for end in ("low", "high")] == [low, high]
  assert float(rows["good", "distortion jpeg", "plcc"]["images"]) == 40


def test_splits_are_summed_up_by_their_median(table, tmp_path):
  written = table.assign(split_3=np.where(np.arange(80) % 2, table.split_3, table.split_3.str.upper()))
  written.to_csv(tmp_path / "scores.csv", index=False)  # in capitals a part is the same
  found = study.compare_table(
    [tmp_path / "scores.csv"], "mos", scores=["good", "bad <b>"], split="split_", resamples=128
  )
  values = []
  for k in range(5):
    part = table[f"split_{k}"] == "test"
    values.append(stats.spearmanr(table["good"][part], table["mos"][part])[0])
  np.testing.assert_allclose(found["methods"]["good"]["splits"]["srcc"], values, atol=1e-10)
  assert found["methods"]["good"]["value"]["srcc"] == pytest.approx(np.median(values))
  assert values[found["shown_split"]] == np.median(values)
  assert found["comparison"]["over_splits"][0, 1] == pytest.approx(0.0625)  # the good one wins all five


def test_human_scores_from_another_file_in_another_order(table, tmp_path):
  other = table[["image_name", "mos", "reference"]].rename(columns={"reference": "reference_name"}).sample(frac=1)
  other.to_csv(tmp_path / "labels.csv", index=False)
  table[["image_name", "good"]].to_csv(tmp_path / "only.csv", index=False)
  labels = tmp_path / "labels.csv"
  found = study.compare_table([tmp_path / "only.csv"], str(labels), group=str(labels), resamples=128)
  expected = stats.spearmanr(table["good"], table["mos"])[0]
  assert found["methods"]["good"]["value"]["srcc"] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
  ("change", "options", "message"),
  [
    (lambda t: t, ["--mos=moss"], "'moss' is neither a column"),
    (lambda t: t.assign(mos=t["mos"].where(t.index != 4)), [], "line 6 \\(04.png\\), expected a number"),
    (
      lambda t: t.assign(good=t["good"].astype(str).where(t.index != 4, "n/a?")),
      ["--score=good"],
      "'n/a\\?' in line 6",
    ),
    (lambda t: t[:0], [], "no rows"),
    (lambda t: t, ["--split=part"], "no column begins with 'part'"),
    (lambda t: t, ["--by=level"], "no column 'level'"),
    (lambda t: t[:2], [], "at least 3"),
  ],
)
def test_bad_input_is_refused_and_leaves_nothing(table, tmp_path, change, options, message):
  change(table).to_csv(tmp_path / "changed.csv", index=False)
  out = tmp_path / "report"
  done = run(
    "evaluate",
    tmp_path / "changed.csv",
    f"--out={out}",
    *(["--mos=mos"] if "--mos=moss" not in options else []),
    *options,
  )
  assert isinstance(done.exception, UserError) and re.search(message, str(done.exception)), done.exception
  assert not out.exists()


def test_what_is_undefined_is_said_on_the_page(table, tmp_path):
  table.assign(flat=1.0).to_csv(tmp_path / "flat.csv", index=False)
  done = run(
    "evaluate", tmp_path / "flat.csv", "--mos=mos", "--score=flat", "--by=distortion", f"--out={tmp_path / 'r'}"
  )
  assert done.exit_code == 0, done.exception
  page = (tmp_path / "r" / "index.html").read_text()
  assert "SRCC is undefined: every prediction is 1.0" in page and "undefined" in page
  assert json.loads((tmp_path / "r" / "report.json").read_text())["methods"]["flat"]["value"]["srcc"] is None


def test_the_columns_have_their_own_names(table, tmp_path):
  table = table.rename(columns={"mos": "ssim"}).assign(ssim=table["mos"].where(table["distortion"] == "blur", 5.0))
  table.to_csv(tmp_path / "scores.csv", index=False)
  out = tmp_path / "r"
  done = run("evaluate", tmp_path / "scores.csv", "--mos=ssim", "--score=good", "--by=distortion", f"--out={out}")
  assert done.exit_code == 0 and "undefined" not in done.output  # one group is all the same, as pristine images are
  page = (out / "index.html").read_text()
  assert "<th>ssim</th>" in page and "MOS" not in page and 'class="warn"' not in page
  assert "<td>jpeg<small>every ssim is 5.0</small></td><td>40</td><td>undefined</td>" in page
  assert "| jpeg every ssim is 5.0 | 40 | undefined | undefined |" in (out / "report.md").read_text()
  run("evaluate", tmp_path / "scores.csv", "--mos=ssim", "--score=good", "--unit=DMOS", f"--out={out}")
  assert "<th>DMOS</th>" in (out / "index.html").read_text()


def test_on_a_phone_the_tables_scroll_and_say_so(table, tmp_path, browser):
  from tests.browser import one, screen, texts, wait

  run("evaluate", tmp_path / "scores.csv", "--mos=mos", "--score=good", "--split=split_", f"--out={tmp_path / 'r'}")
  hint = "#results .hint"
  with screen(browser, 400):
    browser.get((tmp_path / "r" / "index.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    wait(browser, one(browser, hint).is_displayed)
    browser.execute_script("document.querySelector('.scroll').scrollTo(9999, 0)")
    wait(browser, lambda: not one(browser, hint).is_displayed())
    assert not one(browser, "#every-split table").is_displayed()
    one(browser, "#every-split summary").click()
    assert texts(browser, "#every-split td:first-child") == list("12345")
  with screen(browser, 1280):
    browser.refresh()
    assert not one(browser, hint).is_displayed()


def test_cross_database_is_measured_inside_every_database(tmp_path):
  scores, mos, names, _ = several_databases(np.random.default_rng(1))
  noisy = scores + np.random.default_rng(2).normal(size=300)
  table = pd.DataFrame({"image_name": [f"{i}.png" for i in range(300)], "mos": mos, "set": names})
  table["trained on a"], table["trained on b"] = np.where(names == "a", np.nan, scores), noisy
  table.to_csv(tmp_path / "scores.csv", index=False)
  out = tmp_path / "r"
  done = run("evaluate", tmp_path / "scores.csv", "--mos=mos", "--cross=set", f"--out={out}")
  assert done.exit_code == 0, done.exception
  found = json.loads((out / "report.json").read_text())["cross_database"]
  assert list(found["trained on a"]) == ["b", "c"] and list(found["trained on b"]) == ["a", "b", "c"]
  expected = stats.spearmanr(noisy[names == "c"], mos[names == "c"])[0]
  assert found["trained on b"]["c"]["srcc"] == pytest.approx(expected) and f"{expected:.4f}" in done.output
  page = (out / "index.html").read_text()
  assert "Cross-database" in page and f"{expected:.4f}" in page and len(Page(page).sources) == 1
  rows = pd.read_csv(out / "report.csv").query(
    "method == 'trained on b' and part == 'database c' and measure == 'srcc'"
  )
  assert rows.value.item() == pytest.approx(expected) and rows.images.item() == 100
  table.loc[0, "trained on b"] = np.nan
  table.to_csv(tmp_path / "scores.csv", index=False)
  with pytest.raises(UserError, match="'trained on b' scores only some images of 'a'"):
    study.cross_database(tmp_path / "scores.csv", "mos", "set")
  done = run("evaluate", tmp_path / "scores.csv", "--mos=mos", "--cross=set", "--by=mos", f"--out={out}")
  assert isinstance(done.exception, UserError) and "no --group, --by or --split" in str(done.exception)


def test_scatter_draws_only_what_has_a_prediction(tmp_path):
  prediction = np.r_[np.arange(20.0), np.nan]
  report.scatter(tmp_path / "plots" / "s.png", prediction, np.arange(21.0), title="T", labels=["a"] * 10 + ["b"] * 11)
  assert (tmp_path / "plots" / "s.png").read_bytes()[:4] == b"\x89PNG"


def several_databases(rng):
  """One quality; three databases that report it on curved scales of their own."""
  quality = rng.random(300)
  names = np.repeat(["a", "b", "c"], 100)
  mos = np.where(names == "a", 100 * quality**2, np.where(names == "b", 1 + 4 * np.sqrt(quality), 0.3 * quality))
  return quality + rng.normal(size=300) / 20, mos, names, quality


def test_realignment_recovers_the_common_scale():
  scores, mos, names, quality = several_databases(np.random.default_rng(0))
  fitted = np.arange(300) % 2 == 0
  found = realignment.realign(scores, mos, names, fitted)
  pooled = found["pooled"]
  assert pooled["realigned"]["srcc"] > pooled["linear"]["srcc"] + 0.02 > pooled["raw"]["srcc"] + 0.02
  assert pooled["realigned"]["srcc"] == pytest.approx(stats.spearmanr(scores[~fitted], found["realigned"][~fitted])[0])
  assert stats.spearmanr(found["realigned"], quality)[0] > 0.99 > stats.spearmanr(found["linear"], quality)[0]
  for name in "abc":  # monotone inside every database
    of = names == name
    assert stats.kendalltau(found["realigned"][of], mos[of])[0] == pytest.approx(1)
  other = realignment.realign(np.where(fitted, scores, scores[::-1]), mos, names, fitted)
  np.testing.assert_array_equal(other["realigned"], found["realigned"])  # the test images have no say
  with pytest.raises(UserError, match=r"database a.*direction"):
    realignment.realign(np.where(names == "a", -scores, scores), mos, names)


def test_realign_command(tmp_path):
  scores, mos, names, _ = several_databases(np.random.default_rng(0))
  table = pd.DataFrame({"image_name": [f"{i}.png" for i in range(300)], "score": scores, "mos": mos, "database": names})
  table["part"] = np.array(["train", "test"])[np.arange(300) % 2]
  table.to_csv(tmp_path / "scores.csv", index=False)
  done = run("realign", tmp_path / "scores.csv", "--split=part", f"--out={tmp_path / 'realigned.csv'}")
  assert done.exit_code == 0, done.exception
  written = pd.read_csv(tmp_path / "realigned.csv")
  expected = realignment.realign(scores, mos, names, np.arange(300) % 2 == 0)["realigned"]
  np.testing.assert_allclose(written["realigned_mos"], expected, rtol=1e-8)
  assert list(written["image_name"]) == list(table["image_name"])


def test_drawing_leaves_the_users_matplotlib_alone():
  """In a notebook its own figures would no longer be shown."""
  program = (
    "import matplotlib, numpy as np; matplotlib.use('svg'); from jiqa.evaluation import figures, logistic;"
    "x = np.arange(9.0); figures.scatter(x, x**2, logistic.fit(x, x**2));"
    "from matplotlib import pyplot; assert matplotlib.get_backend() == 'svg' and not pyplot.get_fignums()"
  )
  subprocess.run([sys.executable, "-c", program], check=True)
