"""Special tokens in a text: found in linear time, and cut where they are not meant."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from asteady._engine.llama.special import SpecialTexts

ALPHABET = "<|>ab"


def places(texts: set[str], text: str) -> list[tuple[int, int]]:
    """Start and end of every occurrence of every text."""
    return [
        (start, start + len(special))
        for start in range(len(text))
        for special in texts
        if text.startswith(special, start)
    ]


@given(
    st.sets(st.text(ALPHABET, min_size=2, max_size=5), max_size=8),
    st.text(ALPHABET, max_size=25),
    st.integers(0, 25),
)
def test_the_first_one_is_found_and_the_longest_of_those(
    texts: set[str], text: str, start: int
) -> None:
    special = SpecialTexts(texts)
    later = [(at, end) for at, end in places(texts, text) if at >= start]
    expected = min(later, key=lambda place: (place[0], -place[1]), default=None)
    assert special.find(text, start) == expected
    assert special.end_at(text, start) == max(
        (end for at, end in later if at == start), default=None
    )


@given(st.sets(st.text(ALPHABET, min_size=2, max_size=5), max_size=8), st.text(ALPHABET))
def test_parts_at_the_ends_of_a_text_are_found(texts: set[str], text: str) -> None:
    special = SpecialTexts(texts)
    assert special.unfinished(text) == max(
        (
            n
            for n in range(1, len(text) + 1)
            for s in texts
            if s.startswith(text[-n:]) and len(s) > n
        ),
        default=0,
    )
    assert special.unbegun(text) == max(
        (n for n in range(1, len(text) + 1) for s in texts if s.endswith(text[:n]) and len(s) > n),
        default=0,
    )
    assert special.is_part(text) == (bool(text) and any(text in s for s in texts))


@given(
    st.sets(st.text(ALPHABET, min_size=2, max_size=5), min_size=1, max_size=8),
    st.text(ALPHABET, max_size=25),
    st.sets(st.integers(0, 25)),
)
def test_a_text_is_cut_so_that_only_the_trusted_ones_are_whole(
    texts: set[str], text: str, chosen: set[int]
) -> None:
    special = SpecialTexts(texts)
    trusted: list[tuple[int, int]] = []
    for number, (start, end) in enumerate(sorted(places(texts, text))):
        if number in chosen and (not trusted or start >= trusted[-1][1]):
            trusted.append((start, end))
    pieces = special.split(text, trusted)
    assert "".join(pieces) == text
    assert "" not in pieces or text == ""
    whole = []
    at = 0
    for piece in pieces:
        whole += [(at + start, at + end) for start, end in places(texts, piece)]
        at += len(piece)
    assert set(trusted) <= set(whole)
    for start, end in whole:
        assert any(first <= start and end <= last for first, last in trusted)


def test_a_text_without_special_tokens_is_one_piece() -> None:
    assert SpecialTexts(["<|end|>"]).split("end |> <|") == ["end |> <|"]
    assert SpecialTexts([]).split("<|end|>") == ["<|end|>"]
    assert SpecialTexts(["<|end|>"]).split("") == [""]


@pytest.mark.parametrize("unit", ["<|user|>x", "<", "<unused", "<unused17>", "a"])
def test_thousands_of_tokens_and_a_long_text_are_no_matter(unit: str) -> None:
    texts = [f"<unused{number}>" for number in range(6000)] + ["<|user|>", "[INST]", "</s>"]
    random.Random(1).shuffle(texts)
    special = SpecialTexts(texts)
    text = unit * 100_000
    pieces = special.split(text)
    assert len(pieces) == 1 + (100_000 if unit.endswith((">", ">x")) else 0)
