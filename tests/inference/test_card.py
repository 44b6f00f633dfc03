"""A card for people has the figures of the card, and is silent on what it does not know."""

import copy

import numpy as np
import pytest

from jiqa.inference import package
from jiqa.inference.card import as_text

TEST = {
  "images": 299, "srcc": 0.8712, "plcc": 0.8834, "rmse": 7.126, "database": "biq2021", "protocol": "official",
  "pairs_ordered_alike_by_points": {5: 0.664, 20: 0.91}, "within_90_percent_intervals": 0.8863,
}  # fmt: skip
NETWORK = {
  "weights_sha256": "ab12", "folder": "f", "parameters": 1234567, "input": "RGB", "trained_on": "biq2021",
  "licence": "L", "recipe": "launch.py --config=x", "notes": ["good at blur", "bad at art"],
}  # fmt: skip
SCORE = {"direction": "higher is better", "range": [0.0, 100.0], "test": TEST}
CARD = {"method": "supervised", "jiqa": "0.1", "score": SCORE, "weights": [NETWORK]}


def test_all_figures_are_told():
  text = as_text(CARD)
  for part in (
    "supervised", "0 to 100", "ab12", "1,234,567", "launch.py --config=x", "- good at blur", "- bad at art",
    "299 images of biq2021 (official test part)", "SRCC 0.871, PLCC 0.883, RMSE 7.13",
    "5 points: 66%, 20 points: 91%", "of 89% of them",
  ):  # fmt: skip
    assert part in text, part


def test_a_heads_figures_stand_for_the_score():
  card = copy.deepcopy(CARD)
  del card["score"]["test"]
  assert "not that this card knows of" in as_text(card)
  card["score"]["head"] = {"database": "clive", "protocol": "folds", "test": TEST | {"images": 7}}
  assert "ridge fitted to clive" in as_text(card) and "7 images of clive (folds test part)" in as_text(card)


def test_a_head_for_own_ratings_says_what_it_was_tested_on():
  card = copy.deepcopy(CARD)
  head = {"database": "mos.csv", "protocol": "folds", "images": 80, "test": {"srcc": 0.8819, "plcc": 0.7}}
  card["score"]["head"] = head
  assert "the images of mos.csv (folds test part) that it has not seen: SRCC 0.882, PLCC 0.700" in as_text(card)
  head["tested"] = "median of 10 random splits"
  assert "tested       median of 10 random splits: SRCC 0.882, PLCC 0.700" in as_text(card)


def test_pairs_are_counted_by_their_distance_in_points():
  rng = np.random.default_rng(0)
  score = rng.uniform(0, 100, 120)
  mos = score + rng.normal(0, 10, 120)
  shares = package._agreement(score, mos)["pairs_ordered_alike_by_points"]
  for points, share in shares.items():
    alike = [
      (score[i] > score[j]) == (mos[i] > mos[j])
      for i in range(120)
      for j in range(i)
      if 0.8 * points < abs(score[i] - score[j]) < 1.2 * points
    ]
    assert share == pytest.approx(np.mean(alike), abs=6e-4) and len(alike) >= package.LEAST_PAIRS
  assert 5 in shares and 40 in shares and shares[5] < shares[20] < shares[40]
  assert package._agreement(score / 200, mos) == {}  # on so small a scale points mean nothing
