"""Everyday sentences from `embedding_topics.toml`: what people talk about, and ways to say it.

A topic has things, actions, qualities and places; a frame is one meaning said in several ways.
Frame x fillings gives groups of paraphrases; two groups of a topic are about the same subject.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple


class Topic(NamedTuple):
    things: list[str]
    actions: list[str]
    qualities: list[str]
    places: list[str]


_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
TOPICS: dict[str, Topic] = {
    name: Topic(**columns) for name, columns in sorted(_TABLES["topics"].items())
}
FRAMES: list[tuple[str, ...]] = [tuple(frame) for frame in _TABLES["frames"]]


class Group(NamedTuple):
    """Texts that belong together: paraphrases, or a function and its docstring."""

    family: str
    topic: str
    texts: tuple[str, ...]


def fillings(rng: Random, topic: Topic, words: Topic) -> dict[str, str]:
    """One choice for every slot; a thing or a quality is now and then any word of the language."""
    any_thing = rng.random() < 0.5
    thing, other = rng.choice(words.things if any_thing else topic.things), rng.choice(topic.things)
    if rng.random() < 0.3:
        other = rng.choice(words.things)
    action = rng.choice(topic.actions)
    if rng.random() < 0.3:
        action = f"{rng.choice(words.actions)} the {rng.choice(words.things)}"
    quality = rng.choice(words.qualities if rng.random() < 0.4 else topic.qualities)
    return {
        "t": thing,
        "u": other,
        "a": action,
        "q": quality,
        "p": rng.choice(topic.places),
        "n": str(rng.choice([2, 3, 5, 7, 10, 12, 20, 50, 100, 1000])),
    }


def paraphrases(
    rng: Random,
    topics: Mapping[str, Topic],
    words: Topic,
    count: int,
    frames: Sequence[tuple[str, ...]],
) -> list[Group]:
    """`count` groups of two or three texts that mean about the same."""
    names = sorted(topics)
    out: list[Group] = []
    for _ in range(count):
        name = rng.choice(names)
        frame = rng.choice(frames)
        slots = fillings(rng, topics[name], words)
        chosen = rng.sample(frame, min(len(frame), rng.choice((2, 2, 3))))
        texts = (text.format(**slots) for text in chosen)
        out.append(Group("paraphrase", name, tuple(t[:1].upper() + t[1:] for t in texts)))
    return out
