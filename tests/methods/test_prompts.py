"""The committed tokens against the published checksum, and the tokenizer against the committed tokens."""

import hashlib
import os
import pathlib

import numpy as np
import pytest

from jiqa.errors import UserError
from jiqa.methods.liqe import _tokenizer as tokenizer
from jiqa.methods.liqe.liqe import _prompts as prompts

# The published templates.
JOINT = "a photo of a {scene} with {distortion} artifacts, which is of {quality} quality"
QUALITY_SCENE = "a photo of a {scene}, which is of {quality} quality"
QUALITY_DISTORTION = "a photo with {distortion} artifacts, which is of {quality} quality"
QUALITY = "a photo with {quality} quality"


def test_the_table_is_the_published_one():
  table = prompts.encode(JOINT)
  assert table.shape == (495, 24) and table.dtype == np.int32
  wide = np.zeros((495, 77), np.int32)
  wide[:, :24] = table
  expected = "e55e68bc88bd5480b95f646a081c1a31330ee5995cf7404878527197832eddac"
  assert hashlib.sha256(wide.tobytes()).hexdigest() == expected
  lengths = (table > 0).sum(1)
  assert (lengths.min(), lengths.max(), lengths.sum()) == (16, 24, 8615)
  assert len(np.unique(table)) == 46


def test_the_order_is_quality_scene_distortion():
  texts = prompts.texts(JOINT)
  assert texts[3 * 99 + 7 * 11 + 4] == "a photo of a still_life with color artifacts, which is of good quality"
  assert texts[-1] == "a photo of a others with other artifacts, which is of perfect quality"
  assert {template: prompts.shape(template) for template in (QUALITY_SCENE, QUALITY_DISTORTION)} == {
    QUALITY_SCENE: (5, 9),
    QUALITY_DISTORTION: (5, 11),
  }
  assert [len(prompts.encode(t)) for t in (QUALITY_SCENE, QUALITY_DISTORTION, QUALITY)] == [
    45, 55, 5,
  ]  # fmt: skip


@pytest.mark.parametrize("template", ["a photo", "{quality} {kind}", "{scene} with {distortion}", "{} {quality}"])
def test_templates_without_quality_or_with_other_words_in_braces_are_refused(template):
  with pytest.raises(UserError, match=r"must hold \{quality\}"):
    prompts.tasks(template)


def test_unknown_words_and_long_prompts_are_refused():
  with pytest.raises(UserError, match=r"without a committed token: image, splendid\. .*config\.vocabulary"):
    prompts.encode("a splendid image of {quality} quality")
  with pytest.raises(UserError, match="up to 83 tokens"):
    prompts.encode("a photo " * 40 + "{quality}")


def test_pairs_are_merged_by_rank_and_from_the_left():
  tokens = tokenizer.build([("b", "c"), ("a", "b"), ("x", "x"), ("bc", "d</w>")])
  names = [*(chr(c) for c in range(33, 127))]
  at = {name: i for i, name in enumerate(names)}
  assert tokens("abcd") == [at["a"], 512 + 3]  # b and c are joined before a and b
  assert tokens("xxxxx") == [512 + 2, 512 + 2, 256 + at["x"]]
  assert tokens("") == [] and tokens("7 8") == [256 + at["7"], 256 + at["8"]]
  assert tokenizer.split_words("don't 12 -- é!") == ["don", "'t", "1", "2", "--", "é", "!"]
  assert len(tokens("é")) == 2  # two bytes


def vocabulary():
  """The published vocabulary, where the machine has it: $CLIP_VOCABULARY or an installed package."""
  given = os.environ.get("CLIP_VOCABULARY")
  try:
    return given or str(tokenizer._installed())
  except UserError:
    return None


@pytest.mark.skipif(vocabulary() is None, reason="CLIP's vocabulary is not here: pip install open_clip_torch --no-deps")
def test_the_tokenizer_gives_the_committed_table():
  encode = tokenizer.open_tokenizer(vocabulary())
  for template in (JOINT, QUALITY_SCENE, QUALITY_DISTORTION, QUALITY):
    np.testing.assert_array_equal(prompts.encode(template, encode), prompts.encode(template))
  assert encode("Hello, world! It's 2026 é") == encode("hello ,  WORLD !it's 2026 &eacute;")
  assert prompts.encode("the {scene} looks {quality}", encode).shape[0] == 45


def test_another_vocabulary_is_refused(tmp_path):
  path = tmp_path / "vocabulary.gz"
  path.write_bytes(b"something else")
  with pytest.raises(UserError, match=r"vocabulary\.gz: SHA-256 .* expected 924691ac"):
    tokenizer.open_tokenizer(str(path))
  with pytest.raises(UserError, match="no such file"):
    tokenizer.open_tokenizer(str(pathlib.Path("nowhere.gz")))
