"""What the embedding model learns from and is measured on, and which part is held out.

Held out, by a digest of the name so that it does not depend on order or seed: a tenth of the
standard library's functions, a twentieth of all docstrings, an eighth of the ways of saying
something (whole frames), and a tenth of the fillings of the generated sentences.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.resources import files
from itertools import pairwise
from random import Random
from typing import NamedTuple

from .embedding_sources import Document, Function, collect
from .embedding_topics import FRAMES, TOPICS, Group, Topic, paraphrases


class Pair(NamedTuple):
    """Two held-out texts and how the pair was drawn."""

    kind: str
    first: str
    second: str


class Data(NamedTuple):
    """Training groups, held-out pairs, and the held-out functions for retrieval."""

    groups: list[Group]
    pairs: list[Pair]
    functions: list[Function]


def held_out(name: str, one_in: int) -> bool:
    """Whether a name falls into the held-out part, one in `one_in` of all names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % one_in == 0


def _lines(name: str) -> list[str]:
    text = files("wonderwords").joinpath("assets", name).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def word_lists() -> Topic:
    """Nouns, verbs and adjectives of everyday English (package wonderwords, MIT)."""
    bad = set(_lines("profanitylist.txt"))
    nouns, verbs, adjectives = (
        [word for word in _lines(f"{kind}list.txt") if word not in bad]
        for kind in ("noun", "verb", "adjective")
    )
    return Topic(nouns, verbs, adjectives, ["here"])


def _split(topic: Topic, *, test: bool) -> Topic:
    def part(words: list[str]) -> list[str]:
        return [word for word in words if held_out(word, 10) == test] or words

    return Topic(*(part(column) for column in topic))


def _frames(*, test: bool) -> list[tuple[str, ...]]:
    return [frame for index, frame in enumerate(FRAMES) if (index % 8 == 3) == test]


def _generated(seed: int, count: int, *, test: bool) -> list[Group]:
    topics = {name: _split(topic, test=test) for name, topic in TOPICS.items()}
    words = _split(word_lists(), test=test)
    return paraphrases(Random(seed), topics, words, count, _frames(test=test))


# n, m nouns; v verb; a, b adjectives; w, x, y any word.
_GLUE = (
    "{a} {n}",
    "{w} {n}",
    "{n} and {m}",
    "{v} the {n}",
    "the {n} of the {m}",
    "{v} the {w} of the {n}",
    "{w}, {x} and {y}",
    "The {a} {n} will {v} the {m}.",
    "They {v} a {a} {n} with the {w}.",
    "{w} is not {x}, but it is {a}.",
    "How to {v} {w} and {x}?",
    "Her {n} had a {b} {m} for {w}.",
    "He said that the {w} {n} was too {a} to {v}.",
    "A {n} is a kind of {m} used to {v} {w}.",
    "In {w}, every {n} has to {v} before the {m}.",
    "There were {x} {m}s near the {a} {n}, {w} and {y}.",
)


def _salad(rng: Random, vocabulary: Sequence[str], words: Topic, count: int) -> list[Group]:
    """Words with no grammar: the only place where most of the language's words are met.

    `vocabulary` is the teacher's, commonest first; a rank is drawn log-uniformly, as in text.
    """
    common = [piece for piece in vocabulary if re.fullmatch(r"[a-z]{2,}", piece)]
    singles = [*common, *words.things, *words.qualities, *words.actions]
    out = [Group("word", "", (word,)) for word in dict.fromkeys(singles)]

    def any_word() -> str:
        if rng.random() < 0.5:
            return common[int(len(common) ** rng.random()) - 1]
        return rng.choice(common)

    for _ in range(count):
        if rng.random() < 0.6:
            text = rng.choice(_GLUE).format(
                n=rng.choice(words.things),
                m=rng.choice(words.things),
                v=rng.choice(words.actions),
                a=rng.choice(words.qualities),
                b=rng.choice(words.qualities),
                w=any_word(),
                x=any_word(),
                y=any_word(),
            )
        else:
            text = " ".join(any_word() for _ in range(rng.choice((2, 3, 3, 4, 5, 6, 8, 10))))
        out.append(Group("words", "", (text,)))
    return out


def _function_groups(functions: Iterable[Function]) -> list[Group]:
    return [Group("function", f.module, (f.signature, f.summary)) for f in functions]


def _document_groups(documents: Iterable[Document]) -> list[Group]:
    out: list[Group] = []
    for document in documents:
        found = document.sentences
        for start in range(0, len(found), 3):
            out.append(Group("prose", document.origin, tuple(found[start : start + 3])))
        if len(found) >= 4 and held_out(document.origin + "#", 3):
            out.append(Group("long", document.origin, (" ".join(found[:8]),)))
    return out


def _evaluation(
    rng: Random, groups: list[Group], functions: list[Function], documents: list[Document]
) -> list[Pair]:
    """2,000 pairs over the whole range of similarities, a fixed number of each kind."""
    pairs: dict[str, list[Pair]] = {}
    pool = [text for group in groups for text in group.texts]
    pool += [text for f in functions for text in (f.signature, f.summary)]
    pool += [text for document in documents for text in document.sentences]

    def draw(kind: str, count: int, candidates: Iterable[tuple[str, str]]) -> None:
        found = [Pair(kind, a, b) for a, b in dict.fromkeys(candidates) if a != b]
        pairs[kind] = rng.sample(found, min(count, len(found)))

    draw("paraphrase", 500, (g.texts[:2] for g in groups))  # type: ignore[misc]
    by_topic: dict[str, list[str]] = {}
    for group in groups:
        by_topic.setdefault(group.topic, []).append(group.texts[0])
    draw("same topic", 500, (p for found in by_topic.values() for p in pairwise(found)))
    draw("neighbours in a docstring", 400, (p for d in documents for p in pairwise(d.sentences)))
    draw("signature and summary", 200, ((f.signature, f.summary) for f in functions))
    draw("random", 400, (tuple(rng.sample(pool, 2)) for _ in range(1000)))  # type: ignore[misc]
    return [pair for found in pairs.values() for pair in found]


def assemble(seed: int, vocabulary: Sequence[str], *, first_version: bool) -> Data:
    """Everything, deterministically in `seed` (and in the installed sources)."""
    rng = Random(seed)
    functions, documents = collect()
    test_function = partial(held_out, one_in=10)
    test_functions = [
        f
        for f in functions
        if f.module.startswith("python.")
        and not f.signature.startswith("_")
        and test_function(f.module)
    ]
    test_documents = [d for d in documents if held_out(d.origin, 20)]
    test_groups = _generated(seed + 1, 1500, test=True)

    # Tuned to the hour: everything is met several times in the time that training is given.
    made, salad = (15_000, 10_000) if first_version else (60_000, 70_000)
    groups = _function_groups(f for f in functions if f not in set(test_functions))
    groups += _document_groups(d for d in documents if not held_out(d.origin, 20))
    groups += _generated(seed, made, test=False)
    if first_version:
        groups = rng.sample(groups, 45_000)
    groups += _salad(rng, vocabulary, _split(word_lists(), test=False), salad)

    forbidden = {text for f in test_functions for text in (f.signature, f.summary)}
    forbidden |= {text for d in test_documents for text in d.sentences}
    forbidden |= {text for g in test_groups for text in g.texts}
    seen: set[str] = set()
    kept: list[Group] = []
    for group in groups:
        texts = tuple(t for t in dict.fromkeys(group.texts) if t not in forbidden and t not in seen)
        seen.update(texts)
        if texts:
            kept.append(group._replace(texts=texts))
    pairs = _evaluation(rng, test_groups, test_functions, test_documents)
    return Data(kept, pairs, rng.sample(test_functions, min(500, len(test_functions))))
