"""
What the simulated models say, and how its tokens are counted.

Text is a function of (model, prompt, index, seed) alone: the same question gets the
same answer from every process, on every route, in every generation.
One rule counts prompts and answers: a token is up to twelve letters, digits or
underscores, or one other mark, each with the blank before it, or a run of white space.
The tokens of a text, joined, are the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import msgspec

TOKEN: Final = re.compile(r" ?\w{1,12}| ?[^\w\s]|\s+")

# Answers up to this many tokens are remembered: load tests ask the same few questions.
# Longer ones are rare and would make the memory grow.
REMEMBERED_TOKENS: Final = 512


def words(listed: str) -> tuple[str, ...]:
    return tuple(listed.split())


OPENERS: Final = ("The", "Some", "Each", "One", "This", "That", "Every", "Another")
NOUNS: Final = words(
    "answer bridge question river garden model window market ledger letter signal "
    "teacher harbor machine pattern season library engine student mountain voice "
    "method traveler lantern village measure story system painter valley reason "
    "compass"
)
VERBS: Final = words(
    "follows carries explains measures opens shapes remembers supports finds crosses "
    "answers gathers reaches improves describes holds"
)
OBJECTLESS: Final = words(
    "changes grows waits works travels returns begins improves listens settles "
    "continues rests turns rises moves learns"
)
ADJECTIVES: Final = words(
    "quiet careful bright narrow patient distant simple steady early gentle useful "
    "hidden common sudden modern honest"
)
ADVERBS: Final = words(
    "slowly again today often quietly well together soon nearby twice clearly gladly "
    "somehow early always elsewhere"
)
LINKS: Final = words(
    "near beyond behind with without after before toward beside against within across "
    "around under above inside"
)
SHORTEST_SENTENCE: Final = 4
LONGEST_SENTENCE: Final = 16


class Composition(msgspec.Struct, frozen=True):
    """What a model says: its tokens, and whether it could finish."""

    pieces: Sequence[str]
    is_finished: bool = True

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def count_tokens(text: str) -> int:
    return len(TOKEN.findall(text))


def split_tokens(text: str) -> list[str]:
    return TOKEN.findall(text)


def digest_of(model: str, prompt: str, index: int, seed: int) -> bytes:
    # Lengths in front keep ("ab", "c") and ("a", "bc") apart.
    head = f"{len(model)}:{model}:{index}:{seed}:"
    return blake2b(head.encode() + prompt.encode(), digest_size=16).digest()


def compose(digest: bytes, shortest: int, longest: int, limit: int) -> Composition:
    """Write an answer of `shortest` to `longest` tokens, cut off after `limit`."""
    length = shortest + int.from_bytes(digest[8:]) % (longest - shortest + 1)
    write = remembered_text if length <= REMEMBERED_TOKENS else write_text
    return cut_off(write(digest, length), limit)


def cut_off(pieces: Sequence[str], limit: int) -> Composition:
    if len(pieces) <= limit:
        return Composition(pieces)
    return Composition(pieces[:limit], is_finished=False)


def write_text(digest: bytes, length: int) -> tuple[str, ...]:
    """Exactly `length` tokens (at least four) in whole sentences."""
    return tuple(Writer(digest).sentences(length))


remembered_text = lru_cache(maxsize=1024)(write_text)


class Writer:
    """Picks words by a linear congruential sequence that starts at a digest."""

    def __init__(self, digest: bytes) -> None:
        self._state = int.from_bytes(digest[:8])

    def sentences(self, length: int) -> Iterator[str]:
        opening = ""
        while length:
            size = self._sentence_length(length)
            yield opening + self._pick(OPENERS)
            yield from self._sentence_rest(size)
            length -= size
            opening = " "

    def _sentence_length(self, left: int) -> int:
        """A length that leaves either nothing or enough for another sentence."""
        if left <= LONGEST_SENTENCE:
            return left
        return 6 + self._draw() % (LONGEST_SENTENCE - SHORTEST_SENTENCE - 6 + 1)

    def _sentence_rest(self, size: int) -> Iterator[str]:
        """All but the first word: subject, verb, then phrases that fill the size."""
        left = size - SHORTEST_SENTENCE
        yield " " + self._pick(NOUNS)
        if left >= 2:
            left -= 2
            yield from self._phrase(VERBS, ("the",), NOUNS)
        else:
            yield " " + self._pick(OBJECTLESS)
        while left:
            if left >= 4:
                left -= 4
                yield from self._phrase(LINKS, ("the",), ADJECTIVES, NOUNS)
            elif left == 3:
                left -= 3
                yield from self._phrase(LINKS, ("the",), NOUNS)
            else:
                left -= 1
                yield " " + self._pick(ADVERBS)
        yield "."

    def _phrase(self, *lists: Sequence[str]) -> Iterator[str]:
        for choices in lists:
            yield " " + self._pick(choices)

    def _pick(self, choices: Sequence[str]) -> str:
        return choices[self._draw() % len(choices)]

    def _draw(self) -> int:
        # Knuth's MMIX constants; the low bits of such a sequence have short periods.
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
        return self._state >> 33
