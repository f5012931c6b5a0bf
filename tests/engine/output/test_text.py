"""The text stream of an answer: whole characters, and nothing of a stop string."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given, strategies as st

from asteady._engine.output.text import TextStream


def run(pieces: Sequence[bytes], stops: Sequence[str] = ()) -> tuple[list[str], bool]:
    stream = TextStream(stops)
    chunks = []
    for piece in pieces:
        chunks.append(stream.add(piece))
        if stream.stopped:
            break
    else:
        chunks.append(stream.end(cut=False))
    return [chunk for chunk in chunks if chunk], stream.stopped


def test_a_character_is_held_back_until_its_last_byte() -> None:
    stream = TextStream(())
    assert [stream.add(bytes([byte])) for byte in "a€b".encode()] == ["a", "", "", "€", "b"]


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    assert run([b"a\xff", b"b\xe2\x82"]) == (["a\ufffd", "b", "\ufffd"], False)


def test_a_character_that_the_limit_cuts_is_left_out() -> None:
    for data in ("é", "漢", "😀"):
        for length in range(1, len(data.encode())):
            stream = TextStream(["a漢"])
            assert stream.add(b"a" + data.encode()[:length]) == ""
            assert stream.end(cut=True) == "a"
            assert not stream.stopped


def test_text_ends_before_the_stop_string_and_no_part_of_it_is_shown() -> None:
    assert run([b"one ST", b"O", b"P two"], ["STOP"]) == (["one "], True)


def test_text_that_only_began_like_a_stop_string_is_shown() -> None:
    assert run([b"one ST", b"ARE"], ["STOP"]) == (["one ", "STARE"], False)


def test_the_beginning_of_a_stop_string_at_the_end_is_shown() -> None:
    assert run([b"one STO"], ["STOP"]) == (["one ", "STO"], False)


def test_a_stop_string_may_be_completed_by_the_last_incomplete_character() -> None:
    assert run([b"a\xe2\x82"], ["\ufffd"]) == (["a"], True)


def test_the_stop_string_that_is_complete_first_counts() -> None:
    assert run([b"xabcd"], ["abcd", "bc"]) == (["xa"], True)
    assert run([b"xabc"], ["abc", "c"]) == (["x"], True)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


def expected(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """By the definition: read on character by character until a stop string is complete."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def test_a_long_stop_string_takes_memory_and_time_in_proportion_to_its_length() -> None:
    class Counted(str):
        read = 0

        def __getitem__(self, at: Any) -> str:
            Counted.read += 1
            return str.__getitem__(self, at)

    half = 50_000
    stop = Counted("a" * half + "b" + "a" * half)
    tracemalloc.start()
    try:
        stream = TextStream([stop])
        used_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used_bytes < 16 * len(stop)
    assert stream.add(b"a" * (2 * half)) == "a" * half
    assert stream.add(b"x" + stop.encode()) == "a" * half + "x"
    assert stream.stopped
    # Each character is compared at most twice on average, in the stop string and in the text.
    assert Counted.read <= 4 * (len(stop) + 4 * half)


@given(
    st.text("abé€😀", max_size=20),
    st.lists(st.text("abé€", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 100), max_size=12),
)
def test_the_text_does_not_depend_on_how_it_was_cut(
    text: str, stops: list[str], places: list[int]
) -> None:
    chunks, stopped = run(cut(text.encode(), places), stops)
    assert ("".join(chunks), stopped) == expected(text, stops)


@given(st.binary(max_size=20), st.lists(st.integers(0, 100), max_size=8))
def test_any_bytes_become_the_same_text_however_they_were_cut(
    data: bytes, places: list[int]
) -> None:
    chunks, _ = run(cut(data, places))
    assert "".join(chunks) == data.decode("utf-8", "replace")
    assert "" not in chunks
