"""A competition worked by hand, identical and noisy methods, subjects, and a whole session on disk."""

import json

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from scipy import optimize, stats

from jiqa.errors import UserError
from jiqa.evaluation import gmad


def test_a_competition_by_hand():
  """Two levels of the defender: images 0-2 (0 to 50) and 3-5 (50 to 100); the attacker picks the ends of each."""
  defender = [0.0, 20, 45, 60, 80, 100]
  attacker = [30.0, 0, 90, 10, 100, 50]
  pairs = gmad.compete(np.array([defender, attacker]), levels=2, half_width=25.5)
  np.testing.assert_array_equal(pairs.defender, [0, 0, 1, 1])
  np.testing.assert_array_equal(pairs.attacker, [1, 1, 0, 0])
  np.testing.assert_array_equal(pairs.level, [0, 1, 0, 1])
  np.testing.assert_array_equal(pairs.rank, 0)
  # The second one's levels hold images 0, 1, 3, 5 (50 is in both) and 2, 4, 5.
  np.testing.assert_array_equal(pairs.low, [1, 3, 0, 2])
  np.testing.assert_array_equal(pairs.high, [2, 4, 5, 5])
  np.testing.assert_allclose(pairs.gap, [90 - 25, 90 - 20, 100 - 20, 55 - 40])
  np.testing.assert_allclose(pairs.share, [0.5, 0.5, 4 / 7, 3 / 7])
  quality = [3.0, 1, 2, 2, 5, 4]
  np.testing.assert_allclose(gmad.proxy_preferences(pairs, quality), [25, 75, 25, 50])
  with pytest.raises(UserError, match=r"the proxy is 2\.5 for every image"):
    gmad.proxy_preferences(pairs, np.full(6, 2.5))


def test_quantiles_are_the_share_of_the_pool_below():
  found = gmad.by_quantile([[5.0, -1, 7, 5, 0], [1, 2, 3, 4, 5]])
  np.testing.assert_allclose(found, [[62.5, 0, 100, 62.5, 25], [0, 25, 50, 75, 100]])


def test_matrices_and_ranking_by_hand():
  """Three methods, one defender attacked twice: A = 3/4 x 80 + 1/4 x 40, R = 3/4 x 20 + 1/4 x 60."""
  rows = [(0, 1, 0, 0.75, 80), (0, 1, 1, 0.25, 40), (1, 0, 0, 1.0, -30), (2, 0, 0, 1.0, 100), (0, 2, 0, 1.0, 0)]
  defender, attacker, level, share, preference = map(np.array, zip(*rows, strict=True))
  zero = np.zeros(5, int)
  pairs = gmad.Pairs(defender, attacker, level, zero, zero, zero + 1, np.zeros(5), share)
  attack, stand = gmad.matrices(pairs, preference.astype(float), 3)
  nan = np.nan
  np.testing.assert_allclose(attack, [[nan, 0, 100], [70, nan, nan], [0, nan, nan]])
  np.testing.assert_allclose(stand, [[nan, 30, 100], [70, nan, nan], [0, nan, nan]])

  def loss(free):
    mu = np.array([free[0], free[1], -free[0] - free[1]])
    won = np.nan_to_num(attack)
    return -sum(won[i, j] * stats.norm.logcdf(mu[i] - mu[j]) for i in range(3) for j in range(3)) + mu @ mu / 2

  best = optimize.minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x
  np.testing.assert_allclose(gmad.rank(attack), [*best, -best.sum()], atol=1e-5)


def test_identical_methods_have_no_gap_and_noise_loses():
  rng = np.random.default_rng(0)
  quality = rng.random(3000)
  same = gmad.compete(gmad.by_quantile(np.stack([quality, 3 * quality - 1, quality**3])))
  assert len(same.gap) == 36 and not same.gap.any()
  methods = np.stack([quality + spread * rng.normal(size=3000) for spread in (0.02, 0.1, 0.3)])
  pairs = gmad.compete(gmad.by_quantile(methods), top=3)
  attack, stand = gmad.matrices(pairs, gmad.proxy_preferences(pairs, quality), 3)
  for matrix in (attack, stand):
    assert (np.diff(gmad.rank(matrix)) < 0).all()
  assert attack[0, 2] > 50 > attack[2, 0]


def test_no_content_twice_in_a_level():
  rng = np.random.default_rng(1)
  contents = rng.integers(0, 12, 300)
  pairs = gmad.compete(gmad.by_quantile(rng.random((2, 300))), contents=contents, top=4)
  assert len(pairs.low) == 2 * 6 * 4
  for key in {(d, level) for d, level in zip(pairs.defender, pairs.level, strict=True)}:
    of = (pairs.defender == key[0]) & (pairs.level == key[1])
    shown = contents[np.concatenate([pairs.low[of], pairs.high[of]])]
    assert len(np.unique(shown)) == len(shown)
  assert (np.diff(pairs.gap.reshape(-1, 4)) <= 20).all()


def test_images_without_a_reference_stand_for_themselves():
  scores = gmad.by_quantile(np.random.default_rng(6).random((2, 60)))
  apart = gmad.compete(scores, top=2)
  alone = gmad.compete(scores, contents=np.full(60, ""), top=2)
  assert len(apart.low) == 24
  for field, expected in zip(alone, apart, strict=True):
    np.testing.assert_array_equal(field, expected)
  contents = np.where(np.arange(60) < 50, "", "one")  # ten of one reference make no pair with each other
  some = gmad.compete(scores, contents=contents, top=2)
  assert len(some.low) and not ((some.low >= 50) & (some.high >= 50)).any()


def test_the_logistic_scale_follows_the_human_scores():
  rng = np.random.default_rng(2)
  mos = rng.random(200) * 4 + 1
  anchors = np.stack([mos + 0.01 * rng.normal(size=200), np.exp(mos)])
  scale = gmad.by_logistic(anchors, anchors, mos)
  np.testing.assert_allclose(scale[0], (mos - mos.min()) / np.ptp(mos) * 100, atol=2)
  with pytest.raises(UserError, match="method 1 falls"):
    gmad.by_logistic(anchors, np.stack([mos, -mos]), mos)
  with pytest.raises(UserError, match=r"method flat: .* different scores; 200 are there, 1 different"):
    gmad.by_logistic(anchors, np.stack([mos, 0 * mos + 2]), mos, ["fine", "flat"])
  with pytest.raises(UserError, match="the human score: a curve needs"):
    gmad.by_logistic(anchors, anchors, 0 * mos + 3)


def test_a_subject_who_answers_at_random_is_rejected():
  rng = np.random.default_rng(3)
  truth = rng.uniform(-80, 80, 120)
  answers = truth + rng.normal(size=(40, 120)) * 5
  answers[4] = rng.uniform(-100, 100, 120)
  answers[2, :3] = np.nan
  mean, kept = gmad.screen(answers)
  np.testing.assert_array_equal(np.flatnonzero(~kept), [4])
  np.testing.assert_allclose(mean, np.nanmean(np.delete(answers, 4, 0), axis=0))


def test_who_is_rejected_depends_on_how_often_and_to_which_sides():
  rng = np.random.default_rng(4)
  answers = rng.uniform(-20, 20, 120) + rng.choice([-1.0, 1.0], (40, 120))
  answers[7, :5] += 60
  answers[7, 5:10] -= 60  # 8 % of the answers, to both sides
  answers[9, 10:12] += 60
  answers[9, 12] -= 60  # 2.5 %
  answers[11, 20:30] += 60  # 8 %, to one side: another opinion, no carelessness
  mean, kept = gmad.screen(answers)
  np.testing.assert_array_equal(np.flatnonzero(~kept), [7])
  np.testing.assert_allclose(mean, np.delete(answers, 7, 0).mean(0))


@pytest.fixture
def pool(tmp_path):
  """Forty small images and two score tables in different orders."""
  rng = np.random.default_rng(0)
  names = [f"set/{i:02d}.png" for i in range(40)]
  (tmp_path / "pool" / "set").mkdir(parents=True)
  for name in names:
    PIL.Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).save(tmp_path / "pool" / name)
  quality = rng.random(40)
  first = pd.DataFrame({"image_name": names, "score": quality + rng.normal(size=40) / 50, "ssim": quality})
  second = pd.DataFrame({"image_name": names, "score": quality + rng.normal(size=40) / 2}).sample(
    frac=1, random_state=0
  )
  first.to_csv(tmp_path / "first.csv", index=False)
  second.to_csv(tmp_path / "second.csv", index=False)
  return tmp_path


def test_a_session_from_tables_to_a_ranking(pool):
  files = [pool / "first.csv", pool / "second.csv"]
  first = pd.read_csv(files[0]).rename(columns={"score": "first"})
  first.to_csv(files[0], index=False)
  found = gmad.run(files, pool / "out", images=pool / "pool", proxy="ssim")
  assert found["methods"] == ["first", "second"]
  assert found["resistance_rank"][0] > found["resistance_rank"][1]
  listed = pd.read_csv(pool / "out" / "pairs.csv")
  assert len(listed) == len(found["pairs"].low)
  pool_scores = pd.DataFrame(
    {"first": first.set_index("image_name")["first"], "second": pd.read_csv(files[1]).set_index("image_name")["score"]}
  )
  share_below = (pool_scores.rank() - 1) / 39 * 100
  for row in listed.itertuples():
    attacker, defender = share_below[row.attacker], share_below[row.defender]
    seen = attacker[row.high] - attacker[row.low], abs(defender[row.high] - defender[row.low])
    assert row.attacker != row.defender and seen[0] >= 0 and seen[1] < 18
    assert row.gap == pytest.approx(seen[0] - seen[1], abs=1e-3)
    assert abs(defender[row.low] - (row.level - 0.5) * 100 / 6) < 9
  ranking = pd.read_csv(pool / "out" / "ranking.csv")
  assert ranking["method"].tolist() == ["first", "second"]
  np.testing.assert_allclose(ranking["resistance_rank"], found["resistance_rank"], atol=1e-4)
  stood = pd.read_csv(pool / "out" / "resistance.csv", index_col=0)
  assert stood.loc["first", "second"] == pytest.approx(found["resistance"][0, 1], abs=1e-3)
  page = (pool / "out" / "index.html").read_text()
  shown = json.loads(page.split("const pairs = ")[1].split(";")[0])
  assert len(shown) == len(listed) and all((pool / "out" / low).is_file() for _, low, _ in shown)
  assert "first" not in page and "second" not in page  # subjects must not know who attacks whom
  assert len(list((pool / "out" / "sheets").glob("*.png"))) == 2
  # The same again with the answers of two people, as the page saves them.
  for subject in ("ann", "bob"):
    answers = pd.DataFrame({"pair": listed["pair"], "subject": subject, "preference": 50})
    answers.to_csv(pool / f"{subject}.csv", index=False)
  first.drop(columns="ssim").to_csv(files[0], index=False)
  found = gmad.run(files, pool / "out", answers=[pool / "ann.csv", pool / "bob.csv"])
  np.testing.assert_allclose(found["aggressiveness"][~np.eye(len(found["methods"]), dtype=bool)], 50)
  assert (pd.read_csv(pool / "out" / "answers.csv")["answers"] == 2).all()


def test_a_proxy_may_come_from_another_file(pool):
  first = pd.read_csv(pool / "first.csv")
  first[["image_name", "ssim"]].sample(frac=1, random_state=1).to_csv(pool / "labels.csv", index=False)
  files = [pool / "a.csv", pool / "second.csv"]
  first[["image_name", "score"]].to_csv(files[0], index=False)
  found = gmad.run(files, pool / "out", proxy=f"{pool / 'labels.csv'}:ssim")
  answers = gmad.proxy_preferences(found["pairs"], first["ssim"])
  np.testing.assert_allclose(found["resistance"], gmad.matrices(found["pairs"], answers, 2)[1])


@pytest.mark.parametrize("width", [400, 1280])
def test_a_pair_is_judged_in_a_browser(pool, browser, width):
  from tests.browser import one, screen, texts, wait

  for image in (pool / "pool" / "set").iterdir():
    PIL.Image.open(image).resize((1000, 800)).save(image)
  # Other pairs at every width: the browser keeps what was answered.
  gmad.run([pool / "first.csv", pool / "second.csv"], pool / "out", images=pool / "pool", top=1 + (width == 400))
  shown = lambda: texts(browser, "figcaption")
  shape = "return [...document.querySelectorAll('.view img')].map(image => image.width)"
  places = "return [...document.querySelectorAll('.view')].map(view => [view.scrollLeft, view.scrollTop])"
  with screen(browser, width, touch=width == 400):
    browser.get((pool / "out" / "index.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # A phone has one image at a time, and a tap brings the other; a wide screen has both.
    assert shown() == (["A", ""] if width == 400 else ["A", "B"])
    if width == 1280:
      one(browser, "#single").click()
    for expected in (["", "B"], ["A", ""]):
      one(browser, "#images").click()
      assert shown() == expected
    one(browser, "#full").click()
    wait(browser, lambda: browser.execute_script(shape) == [1000, 1000])
    browser.execute_script("document.querySelector('.view').scrollTo(0, 100)")
    wait(browser, lambda: browser.execute_script(places) == [[0, 100]] * 2)
    # What is better on the side that B is on is an answer for the image that is there.
    state = one(browser, "#state")
    assert state.text.startswith("Pair 1 of ")
    better = one(browser, "figure:last-child img").get_attribute("src").rpartition("/")[2]
    browser.execute_script("document.getElementById('answer').value = 60")
    one(browser, "#next").click()
    assert state.text.startswith("Pair 2 of ") and "1 answered" in state.text
    pair, _, preference = browser.execute_script("return csv()").splitlines()[1].split(",")
    _, low, high = browser.execute_script("return pairs")[int(pair)]
    assert (high if int(preference) > 0 else low).endswith(better) and abs(int(preference)) == 60
  assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda t: t.drop(index=3), r"1 image\(s\) .* missing.*set/03.png"),
    (lambda t: pd.concat([t, t[:1]]), "set/00.png' stands in more than one row"),
    (lambda t: t.assign(second=np.where(t.index == 2, np.nan, t["second"])), "line 4.*set/02.png"),
    (lambda t: t.drop(columns="second"), "no column of scores"),
  ],
)
def test_a_wrong_table_is_refused_by_name(pool, change, message):
  table = pd.read_csv(pool / "first.csv")
  table[["image_name", "ssim"]].to_csv(pool / "a.csv", index=False)
  change(table[["image_name", "score"]].rename(columns={"score": "second"})).to_csv(pool / "b.csv", index=False)
  with pytest.raises(UserError, match=message):
    gmad.run([pool / "a.csv", pool / "b.csv"], pool / "out")
  assert not (pool / "out").exists()
