"""Families and pairs: the registry, and the one generator that everything else reads."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

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
_WRITERS: list[Callable[[Draw], str]] = []


def family(name: str, weight: float = 1.0, polite: bool = True) -> Callable[[Writer], Writer]:
    """Register a writer. `polite=False` leaves the prompt exactly as written."""

    def register(write: Writer) -> Writer:
        if name in _FAMILIES:
            raise ValueError(f"family {name!r} is registered twice")
        _FAMILIES[name] = Family(name, weight, polite, write)
        return write

    return register


def document(write: Callable[[Draw], str]) -> Callable[[Draw], str]:
    """Register a writer of running text."""
    _WRITERS.append(write)
    return write


def family_names() -> list[str]:
    return sorted(_FAMILIES)


def documents(seed: int, count: int) -> Iterator[str]:
    """Yield short texts that are no answers: what a prompt without a chat template continues."""
    for index in range(count):
        draw = Draw(random.Random(f"document-{seed}-{index}"), "document")
        text = "\n\n".join(_WRITERS[draw.number(0, len(_WRITERS) - 1)](draw) for _ in "ab")
        if not draw.held_out:
            yield text


def pairs(
    seed: int, count: int, emphasis: Mapping[str, float] = MappingProxyType({})
) -> Iterator[Pair]:
    """Yield `count` pairs, held-out ones among them; the same for the same seed.

    A family named in `emphasis` is drawn so many times as often as it is otherwise.
    Each pair draws from a generator of its own, so a change in one family leaves the rest of
    the text as it was.
    """
    families = [_FAMILIES[name] for name in family_names()]
    weights = [f.weight * emphasis.get(f.name, 1.0) for f in families]
    order = random.Random(f"order-{seed}")
    for index in range(count):
        chosen = order.choices(families, weights)[0]
        draw = Draw(random.Random(f"{seed}-{index}-{chosen.name}"), chosen.name)
        prompt, answer, key = chosen.write(draw)
        if chosen.polite:
            prompt = manner(draw, prompt, key)
        yield Pair(chosen.name, prompt, answer, key, draw.held_out)
