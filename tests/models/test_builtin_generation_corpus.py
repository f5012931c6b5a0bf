"""The corpus that the built-in generation model is trained on: same seed, same pairs, no leaks."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from asteady.models.training.corpus import Pair, documents, family_names, pairs
from asteady.models.training.corpus.drawing import (
    HELD_OUT_FILLERS,
    HELD_OUT_PHRASINGS,
    Draw,
    is_held_out,
)
from asteady.models.training.corpus.families.haiku_lines import FIVE, OWN, SEVEN
from asteady.models.training.corpus.words.grammar import article, plural, syllables


@pytest.fixture(scope="module")
def drawn() -> list[Pair]:
    return list(pairs(3, 20_000))


def test_the_same_seed_writes_the_same_pairs(drawn: list[Pair]) -> None:
    assert list(pairs(3, 500)) == drawn[:500]
    assert list(documents(3, 20)) == list(documents(3, 20))


def test_another_seed_writes_other_pairs(drawn: list[Pair]) -> None:
    assert list(pairs(4, 500)) != drawn[:500]


def test_there_are_families_enough_and_each_of_them_is_drawn(drawn: list[Pair]) -> None:
    assert len(family_names()) >= 60
    assert {pair.family for pair in drawn} == set(family_names())


def test_pairs_are_various(drawn: list[Pair]) -> None:
    assert len({(pair.prompt, pair.answer) for pair in drawn}) > 0.9 * len(drawn)


def test_an_answer_names_its_key_noun(drawn: list[Pair]) -> None:
    missing = [p for p in drawn if p.key_noun and p.key_noun.lower() not in p.answer.lower()]
    assert missing == []


def test_every_answer_says_something_and_no_blank_was_left_unfilled(drawn: list[Pair]) -> None:
    for pair in drawn:
        assert pair.answer.strip() == pair.answer != ""
        # Code in a prompt may well hold an empty dictionary.
        assert "{}" not in pair.prompt or pair.family == "document_function"


def test_a_held_out_filler_never_reaches_a_training_pair(drawn: list[Pair]) -> None:
    nouns = {p.key_noun for p in drawn if p.family == "sentence_with" and p.key_noun is not None}
    held_out = {n for n in nouns if is_held_out("sentence_with", n, HELD_OUT_FILLERS)}
    assert held_out
    trained = {p.key_noun for p in drawn if p.family == "sentence_with" and not p.held_out}
    assert trained
    assert not held_out & trained


def test_a_held_out_phrasing_stays_so_in_other_words_and_so_does_a_held_out_rewording() -> None:
    written = ("Write a line about {}", "Suggest a topic for {}", "Write a word on {}",
               "How do I {}?", "What is the heart of {}?", "{}, please")  # fmt: skip
    by_base, by_rewording, drawn_as = 0, 0, set[str]()
    for seed in range(4000):
        draw = Draw(random.Random(seed), "phrasings")
        chosen = draw.phrase(*written)
        drawn_as.add(chosen)
        if chosen not in written and is_held_out("phrasings", chosen, HELD_OUT_PHRASINGS):
            assert draw.held_out
            by_rewording += 1
        by_base += draw.held_out
    assert len(drawn_as) > 30
    assert by_rewording
    assert by_base > by_rewording


def test_rewording_keeps_what_is_to_be_filled_in() -> None:
    for seed in range(500):
        draw = Draw(random.Random(seed), "phrasings")
        assert draw.phrase("Name the {a} of {b}", "What is the {a} of {b}?", "How do I {a} {b}?"
                           ).format(a="x", b="y").count("x") == 1  # fmt: skip


def test_some_pairs_are_held_out_but_not_the_readme_prompt(drawn: list[Pair]) -> None:
    assert 0.03 < sum(pair.held_out for pair in drawn) / len(drawn) < 0.2
    prompt = "Write a haiku about caching"
    found = [p for p in islice(pairs(3, 60_000), 40_000) if p.prompt == prompt]
    assert found
    assert not any(pair.held_out for pair in found)


# The counting rule knows most words; these lines hold some of those that it does not.
MISCOUNTED = {
    "wind moves over everything", "warm breath rises in the cold", "the tall grass closes again",
    "voices fade into the walls", "everything can rest",
    "rain writes letters on the glass",
    "dust has settled on its edge", "the garden closes its eyes", "somewhere a small fan spins up",
    "somewhere a server dreams on", "it rolls off the tongue like rain",
    "the world breathes slowly",
    "the screen fades to black",
}  # fmt: skip


def test_haiku_lines_have_their_syllables() -> None:
    for count, lines in ((7, SEVEN), (5, FIVE)):
        for line in (line for bank in lines.values() for line in bank):
            assert syllables(line) == count or line in MISCOUNTED, line
    for poem in OWN["caching"]:
        assert [syllables(line) for line in poem] == [5, 7, 5]


@pytest.mark.parametrize(
    ("noun", "expected"),
    [("cache", "a"), ("index", "an"), ("hour", "an"), ("user", "a"), ("umbrella", "an")],
)
def test_articles(noun: str, expected: str) -> None:
    assert article(noun) == expected


@pytest.mark.parametrize(
    ("noun", "expected"),
    [("box", "boxes"), ("query", "queries"), ("blue wolf", "blue wolves"), ("key", "keys")],
)
def test_plurals(noun: str, expected: str) -> None:
    assert plural(noun) == expected
