"""The tokenizer of the shipped model's text encoder. A checkpoint brings a list of words, and nothing else of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ..checks.errors import CheckpointError, shown
from ..checks.plain_json import parse
from ..config import TextConfig
from .characters import is_chinese, normalised

PAD, UNKNOWN, START = SPECIAL = "[PAD]", "[UNK]", "[START]"
CHUNKS = 8  # of a prompt, each of the text encoder's length; what is longer is cut
NAMED = 20  # unknown words that are named
MOST = 16 << 20  # bytes of a word list in a file
LETTERS = 200  # of a word
SHOWN = 2000  # letters of what was cut


class Word(NamedTuple):
    """A word as the vocabulary has it, and where in its text it stands."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Prompt:
    """A prompt as token ids with their weights: one or more chunks of the text encoder's length, each with its start
    token.

    `cut` is the end that did not fit, as it was typed; `unknown` are the words that the vocabulary lacks, each once.
    """

    chunks: list[list[tuple[int, float]]]
    cut: str = ""
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tokenizer:
    """Lower-cased words, Chinese by the character; what is not in `words` becomes one unknown token, never an error.

    `words` is the vocabulary in the order of its ids, the three special tokens first; `length` is that of the text
    encoder.
    """

    words: tuple[str, ...]
    length: int

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Each word's token id."""
        return {word: number for number, word in enumerate(self.words)}

    def ids(self, text: str) -> list[int]:
        """`length` token ids: start, words, padding. What is longer is cut: training's captions are shorter."""
        return [number for number, _ in self.prompt([(text, 1.0)], most=1).chunks[0]]

    def prompt(self, parts: Iterable[tuple[str, float]], most: int = CHUNKS) -> Prompt:
        """Parts of a prompt with their weights -> chunks of token ids, at most `most`."""
        parts, room = list(parts), most * (self.length - 1)
        tokens: list[tuple[int, float]] = []
        unknown: list[Word] = []
        cut = ""
        for number, (text, weight) in enumerate(parts):
            words = words_in(text, room - len(tokens) + 1)
            if len(tokens) + len(words) > room:
                rest = words[room - len(tokens) :]
                cut = shortened(
                    "".join([text[rest[0].start :], *(part for part, _ in parts[number + 1 :])]).strip(), SHOWN
                )
                words = words[: room - len(tokens)]
            tokens += [(self.vocabulary.get(word.text, 1), weight) for word in words]
            unknown += self.unknown_in(words)
            if cut:
                break
        named = tuple(dict.fromkeys(shortened(word.text, LETTERS) for word in unknown))[:NAMED]
        return Prompt(self.chunked(tokens), cut, named)

    def chunked(self, tokens: list[tuple[int, float]]) -> list[list[tuple[int, float]]]:
        """Cut token ids into chunks of the text encoder's length."""
        each, start, pad = self.length - 1, (2, 1.0), (0, 1.0)
        pieces = [tokens[i : i + each] for i in range(0, len(tokens), each)] or [[]]
        return [[start, *piece, *[pad] * (each - len(piece))] for piece in pieces]

    def unknown_in(self, words: list[Word]) -> list[Word]:
        """Words with a letter or digit that the vocabulary lacks; Chinese characters that follow each other are one."""
        found: list[Word] = []
        for word in words:
            if word.text in self.vocabulary or not any(c.isalnum() for c in word.text):
                continue
            last = found[-1] if found else None
            if last is not None and last.end == word.start and is_chinese(last.text[-1]) and is_chinese(word.text):
                found[-1] = Word(last.text + word.text, last.start, word.end)
            else:
                found.append(word)
        return found

    def to_json(self) -> str:
        """Return the words as a checkpoint's metadata carries them."""
        return json.dumps(self.words, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, config: TextConfig, file: str, key: str) -> Tokenizer:
        """The word list that a checkpoint holds. Raises CheckpointError."""
        return cls(_checked(_parsed(text, file, key), config, file, key), config.length)

    @classmethod
    def from_library_json(cls, text: str, config: TextConfig, file: str, key: str) -> Tokenizer:
        """The vocabulary of files before format 2, which hold a whole JSON of the `tokenizers` library: nothing else
        of it is read."""
        value = _parsed(text, file, key)
        model = value.get("model") if isinstance(value, dict) else None
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if not isinstance(vocabulary, dict):
            raise CheckpointError(file, f"{key}'s model.vocab", shown(vocabulary), "words with their ids")
        numbers = list(vocabulary.values())
        if any(type(number) is not int for number in numbers) or sorted(numbers) != list(range(len(numbers))):
            odd = next((n for n in numbers if type(n) is not int or not 0 <= n < len(numbers)), "ids that occur twice")
            raise CheckpointError(
                file, f"{key}'s model.vocab", shown(odd), f"ids from 0 to {len(numbers) - 1}, each once"
            )
        return cls(_checked(sorted(vocabulary, key=vocabulary.__getitem__), config, file, key), config.length)


def _parsed(text: str, file: str, key: str) -> object:
    try:
        return parse(text, MOST)
    except ValueError as error:
        raise CheckpointError(file, key, f"no JSON that can be read ({error})", "a list of words") from error


def _checked(words: object, config: TextConfig, file: str, key: str) -> tuple[str, ...]:
    if not isinstance(words, list) or any(not isinstance(word, str) or not 0 < len(word) <= LETTERS for word in words):
        got = (
            next((w for w in words if not isinstance(w, str) or not 0 < len(w) <= LETTERS), "")
            if isinstance(words, list)
            else words
        )
        raise CheckpointError(file, key, shown(got), f"a list of words of 1 to {LETTERS} letters")
    if tuple(words[:3]) != SPECIAL:
        raise CheckpointError(file, key, f"a list that begins with {shown(words[:3])}", f"{', '.join(SPECIAL)} first")
    if len(words) > config.vocabulary:
        raise CheckpointError(file, key, f"{len(words):,} words", f"at most text.vocabulary, {config.vocabulary:,}")
    if len(set(words)) != len(words):
        raise CheckpointError(file, key, "a list with a word twice", "each word once")
    return tuple(words)


def words_in(text: str, most: int | None = None) -> list[Word]:
    """The words of `text` as a vocabulary has them; `most`: after so many, reading ends."""
    words: list[Word] = []
    letters: list[str] = []
    start = end = 0
    for place, character in enumerate(text + " "):
        for letter in normalised(character):
            if letter != " ":
                start, end = start if letters else place, place + 1
                letters.append(letter)
            elif letters:
                words.append(Word("".join(letters), start, end))
                letters = []
        if most is not None and len(words) >= most:
            return words[:most]
    return words


def shortened(text: str, most: int) -> str:
    """Shorten a text for a message."""
    return text if len(text) <= most else text[:most] + "…"


def words_of(texts: Iterable[str]) -> list[str]:
    """All distinct words in `texts`, sorted: the vocabulary to build from."""
    return sorted({word.text for text in texts for word in words_in(text)})


def build_tokenizer(words: list[str], length: int) -> Tokenizer:
    """A tokenizer of the special tokens and `words`."""
    return Tokenizer((*SPECIAL, *words), length)
