"""Families and pairs: the registry, and the one generator that everything else reads."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .drawing import Draw
from .manner import manner

# A family's writer returns prompt, answer, and the noun that the answer must contain, if any.
Written = tuple[str, str, str | None]
Writer = Callable[[Draw], Written]


@dataclass(frozen=True)
class Pair:
    """One prompt with its answer.

    `key_noun` is the word or phrase of the prompt that the answer has to contain, where the
    family calls for it. `held_out` pairs are for measuring only.
    """

    family: str
    prompt: str
    answer: str
    key_noun: str | None
    held_out: bool


@dataclass(frozen=True)
class Family:
    name: str
    weight: float
    polite: bool
    write: Writer


_FAMILIES: dict[str, Family] = {}


def family(name: str, weight: float = 1.0, polite: bool = True) -> Callable[[Writer], Writer]:
    """Register a writer. `polite=False` leaves the prompt exactly as written."""

    def register(write: Writer) -> Writer:
        if name in _FAMILIES:
            raise ValueError(f"family {name!r} is registered twice")
        _FAMILIES[name] = Family(name, weight, polite, write)
        return write

    return register


def family_names() -> list[str]:
    return sorted(_FAMILIES)


def pairs(seed: int, count: int) -> Iterator[Pair]:
    """Yield `count` pairs, held-out ones among them; the same for the same seed.

    Each pair draws from a generator of its own, so a change in one family leaves the rest of
    the text as it was.
    """
    families = [_FAMILIES[name] for name in family_names()]
    weights = [f.weight for f in families]
    order = random.Random(f"order-{seed}")
    for index in range(count):
        chosen = order.choices(families, weights)[0]
        draw = Draw(random.Random(f"{seed}-{index}-{chosen.name}"), chosen.name)
        prompt, answer, key = chosen.write(draw)
        if chosen.polite:
            prompt = manner(draw, prompt)
        yield Pair(chosen.name, prompt, answer, key, draw.held_out)
