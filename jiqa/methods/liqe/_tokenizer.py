"""CLIP's byte-pair encoding, for prompts in other words than the published ones; its vocabulary is read from a file."""

import functools
import gzip
import hashlib
import html
import importlib.util
import itertools
import pathlib
import re
import unicodedata

from jiqa.errors import UserError

FILE = "bpe_simple_vocab_16e6.txt.gz"
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
MERGES = 49152 - 256 - 2
PACKAGES = ("open_clip", "clip")  # that have the file
CONTRACTIONS = re.compile("('s|'t|'re|'ve|'m|'ll|'d)")
RUNS = re.compile("L+|O+|.")  # of the kinds that `_kind` tells
# A printable character for every byte, in the order of the vocabulary: bytes that are printable come first.
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = (byte for byte in range(256) if byte not in _PRINTABLE)
SYMBOLS = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_OTHERS)}


def open_tokenizer(vocabulary):
  """A tokenizer: function from text to a list of token ids, without start and end.

  The vocabulary is the path of its file, or 'installed': that of an installed open_clip_torch or clip. A UserError
  where there is no such file or package, or the file is another one.
  """
  path = _installed() if vocabulary == "installed" else pathlib.Path(vocabulary)
  if not path.is_file():
    raise UserError(f"config.vocabulary: {path}: no such file; expected {FILE} of OpenAI's CLIP, or 'installed'")
  data = path.read_bytes()
  digest = hashlib.sha256(data).hexdigest()
  if digest != SHA256:
    raise UserError(f"{path}: SHA-256 {digest}, expected {SHA256}: this is not {FILE} of OpenAI's CLIP")
  lines = gzip.decompress(data).decode().split("\n")[1 : 1 + MERGES]
  return build([tuple(line.split()) for line in lines])


def _installed():
  for package in PACKAGES:
    spec = importlib.util.find_spec(package)
    path = pathlib.Path(spec.origin).with_name(FILE) if spec and spec.origin else None
    if path and path.is_file():
      return path
  raise UserError(
    "config.vocabulary is 'installed', but neither open_clip_torch nor clip is; pip install open_clip_torch, or give "
    f"the path of {FILE}"
  )


def build(merges):
  """A tokenizer, see `open_tokenizer`, from pairs of symbols, the most frequent first.

  An id is the position among the 256 bytes, the 256 bytes that end a word, the merged symbols.
  """
  names = [*SYMBOLS.values(), *(symbol + "</w>" for symbol in SYMBOLS.values()), *map("".join, merges)]
  ids = {name: i for i, name in enumerate(names)}
  rank = {pair: i for i, pair in enumerate(merges)}

  @functools.cache
  def encode_word(word):
    parts = [SYMBOLS[byte] for byte in word.encode()]
    parts[-1] += "</w>"
    while len(parts) > 1:
      first = min(itertools.pairwise(parts), key=lambda pair: rank.get(pair, len(rank)))
      if first not in rank:
        break
      parts = _merged(parts, first)
    return [ids[part] for part in parts]

  return lambda text: [token for word in split_words(text) for token in encode_word(word)]


def _merged(parts, pair):
  """Every occurrence of a pair of neighbours, from the left, as one symbol."""
  merged = []
  for part in parts:
    if merged and (merged[-1], part) == pair:
      merged[-1] += part
    else:
      merged.append(part)
  return merged


def split_words(text):
  """Lower-cased runs of letters, single digits, runs of anything else, and English contractions.

  Example:
    >>> split_words("It's a still_life, 4K &amp; more")
    ['it', "'s", 'a', 'still', '_', 'life', ',', '4', 'k', '&', 'more']
  """
  text = html.unescape(html.unescape(text)).lower()
  kinds = "".join(map(_kind, text))
  words, i = [], 0
  while i < len(text):
    end = (CONTRACTIONS.match(text, i) or RUNS.match(kinds, i)).end()
    if kinds[i] != " ":
      words.append(text[i:end])
    i = end
  return words


def _kind(character):
  """L: a letter, N: a number, space, or O: another character."""
  category = unicodedata.category(character)[0]
  return " " if character.isspace() else category if category in "LN" else "O"
