"""Drawing fillers and phrasings, and remembering whether any of them is held out.

A filler or phrasing is held out by a digest of its own text, so the choice needs no list, is the
same for every seed, and a held-out one can never reach the training text by another way: every
pair that drew one is marked.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from .reword import reword

T = TypeVar("T")

HELD_OUT_FILLERS = 25  # one filler in so many
HELD_OUT_PHRASINGS = 14  # one phrasing in so many; the first of a family never

# What people type first, and the README's own prompt: always in the training text.
ALWAYS_TRAINED = frozenset({"caching", "cache", "recursion", "machine learning", "python"})


def digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def is_held_out(kind: str, text: str, one_in: int) -> bool:
    return text.lower() not in ALWAYS_TRAINED and digest(f"{kind}|{text}") % one_in == 0


@dataclass
class Draw:
    """One pair's source of choices; lives as long as the pair is being written."""

    rng: random.Random
    family: str
    held_out: bool = field(default=False)

    def pick(self, options: Sequence[T]) -> T:
        """Any of `options`, none held out: for the answer's own variety, and for what can only be
        known, such as a definition, where an answer never seen would be a guess."""
        return options[int(self.rng.random() * len(options))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        return self.rng.sample(options, count)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def filler(self, options: Sequence[T], text: Callable[[T], str] = str) -> T:
        """What the prompt is about: some are held out."""
        chosen = self.pick(options)
        self.note(text(chosen))
        return chosen

    def note(self, filler: str) -> str:
        """Declare a composed filler, which may be held out."""
        if is_held_out(self.family, filler, HELD_OUT_FILLERS):
            self.held_out = True
        return filler

    def phrase(self, *templates: str) -> str:
        """How the prompt is put, perhaps with another opening: some are held out, in the words
        they were written in and in those they are put in; the first never."""
        # The first phrasing is the plain one, which people type most.
        index = max(0, int(self.rng.random() * (len(templates) + 1)) - 1)
        written = templates[index]
        chosen = reword(self.rng, written)
        for text in {written, chosen} - {templates[0]}:
            if is_held_out(self.family, text, HELD_OUT_PHRASINGS):
                self.held_out = True
        return chosen
