"""What is stored is read back equal, or found out to be damaged."""

from __future__ import annotations

import math
import struct
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, strategies as st

from asteady._base.requests import TokenLogprob
from asteady._cache.store.codec import (
    CompletionCodec,
    DamagedError,
    EmbeddingCodec,
    checksum,
    payload_bytes,
    read_back,
)
from tests.cache.helpers import completion, embedding

text = st.text(st.characters(codec="utf-8"), min_size=1)
finite = st.floats(allow_nan=False, allow_infinity=False)
tops = st.tuples(st.integers(0, 2**31 - 1), st.binary(max_size=8), finite)
logprobs = st.builds(
    TokenLogprob,
    token_id=st.integers(0, 2**31 - 1),
    token=st.binary(max_size=8),
    logprob=finite,
    top=st.lists(tops, max_size=3).map(tuple),
)


def logprob(*, token_id: int = 1, value: float = -1.0, top: int = 0) -> bytes:
    """The logprobs of one token, as they are stored."""
    return struct.pack(
        f"<II I {1 + top}i {1 + top}d {1 + top}I",
        1,
        top,
        top,
        *[token_id] * (1 + top),
        *[value] * (1 + top),
        *[0] * (1 + top),
    )


@given(
    chunks=st.lists(text, max_size=5).map(tuple),
    reasoning_chunks=st.lists(text, max_size=5).map(tuple),
    reasoning_tokens=st.integers(5, 10),
)
def test_reasoning_is_read_back_equal(
    chunks: tuple[str, ...], reasoning_chunks: tuple[str, ...], reasoning_tokens: int
) -> None:
    answer = completion(
        "".join(chunks),
        chunks=chunks,
        completion_tokens=10,
        reasoning="".join(reasoning_chunks) or None,
        reasoning_chunks=reasoning_chunks,
        reasoning_tokens=reasoning_tokens,
    )
    values = CompletionCodec().encode(answer)
    back = CompletionCodec().decode(values, answer.cost_s)
    assert back == attrs.evolve(answer, cached=True)


def test_an_answer_without_reasoning_is_stored_as_before() -> None:
    values = CompletionCodec().encode(completion("abc", chunks=("a", "bc"), completion_tokens=2))
    assert values[6:] == (b"abc", b"\x01\x01\x02", None)


@pytest.mark.parametrize(
    ("front", "problem"),
    [
        (b"\x02", "cannot be read"),
        (struct.pack("<BII", 2, 0, 0), "encoded differently"),
        (struct.pack("<BII", 2, 3, 1), "3 of its 2 chunks"),
        (struct.pack("<BII", 2, 1, 9), "9 of 2 tokens"),
    ],
)
def test_reasoning_that_cannot_be_is_damage(front: bytes, problem: str) -> None:
    codec = CompletionCodec()
    values = list(codec.encode(completion("abc", chunks=("a", "bc"), completion_tokens=2)))
    values[7] = front + values[7] if len(front) > 1 else front
    with pytest.raises(ValueError, match=problem):
        codec.check(values)


@given(
    chunks=st.lists(text, max_size=10).map(tuple),
    logprobs=st.none() | st.lists(logprobs, max_size=5).map(tuple),
    cost_s=st.floats(0, 1e6),
    finish_reason=st.sampled_from(["stop", "length"]),
)
def test_a_completion_is_read_back_equal(chunks: tuple[str, ...], **fields: Any) -> None:
    answer = completion("".join(chunks), chunks=chunks, completion_tokens=9, **fields)
    values = CompletionCodec().encode(answer)
    back = CompletionCodec().decode(values, answer.cost_s)
    assert back == attrs.evolve(answer, cached=True)
    assert back.chunks == chunks


def test_a_chunk_may_be_longer_than_a_byte_counts() -> None:
    answer = completion("a" * 300 + "é" * 70000, chunks=("a" * 300, "é" * 70000))
    values = CompletionCodec().encode(answer)
    assert CompletionCodec().decode(values, 1.0).chunks == answer.chunks


def test_logprobs_keep_every_bit() -> None:
    item = TokenLogprob(token_id=1, token=b"\xff", logprob=math.log(1 / 3), top=((2, b"", -0.0),))
    values = CompletionCodec().encode(completion(logprobs=(item, item)))
    (back, _) = CompletionCodec().decode(values, 1.0).logprobs or ()
    assert repr(back) == repr(item)


def test_chunks_that_do_not_join_to_the_text_are_refused() -> None:
    with pytest.raises(ValueError, match="join to its text"):
        CompletionCodec().encode(completion("abc", chunks=("a", "c")))


@given(st.lists(st.floats(0.1, 1.0) | st.just(-0.0), max_size=20).filter(any))
def test_a_vector_is_read_back_bit_by_bit_and_read_only(numbers: list[float]) -> None:
    answer = embedding(*np.array(numbers) / np.linalg.norm(numbers), truncated=True)
    values = EmbeddingCodec().encode(answer)
    back = EmbeddingCodec().decode(values, answer.cost_s)
    assert back.vector.tobytes() == answer.vector.tobytes()
    assert not back.vector.flags.writeable
    assert back.cached
    assert attrs.evolve(back, vector=answer.vector, cached=False).__repr__() == repr(answer)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32"])
def test_a_vector_of_another_type_is_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match="float32"):
        EmbeddingCodec().encode(attrs.evolve(embedding(), vector=np.ones(3, dtype=dtype)))


@given(
    place=st.integers(0, len(CompletionCodec.columns) - 1),
    change=st.sampled_from(["flip", "type", "none"]),
)
def test_a_changed_value_is_found_out(place: int, change: str) -> None:
    values: list[Any] = list(CompletionCodec().encode(completion(logprobs=())))
    crc = checksum("key", 1.0, values)
    value = values[place]
    if change == "none":
        values[place] = None
    elif change == "type":
        values[place] = value.decode() if isinstance(value, bytes) else repr(value).encode()
    elif isinstance(value, bytes):
        values[place] = bytes([value[0] ^ 1]) + value[1:]
    elif isinstance(value, str):
        values[place] = value + " "
    else:
        values[place] = value + 1
    with pytest.raises(DamagedError, match="checksum"):
        read_back(CompletionCodec(), "key", 1.0, crc, values)


def test_a_value_under_another_key_or_cost_is_found_out() -> None:
    codec = EmbeddingCodec()
    values = codec.encode(embedding())
    crc = checksum("key", 1.0, values)
    assert read_back(codec, "key", 1.0, crc, values).tokens == 2
    with pytest.raises(DamagedError):
        read_back(codec, "other", 1.0, crc, values)
    with pytest.raises(DamagedError):
        read_back(codec, "key", 2.0, crc, values)


def test_a_value_with_a_valid_checksum_that_cannot_be_decoded_is_damaged() -> None:
    values = ("model", "print", 1, 0, b"abc")
    with pytest.raises(DamagedError, match="not a vector"):
        read_back(EmbeddingCodec(), "key", 1.0, checksum("key", 1.0, values), values)


def test_sizes_count_bytes() -> None:
    assert payload_bytes(["é", b"abc", 7, 1.5, None]) == 2 + 3 + 8 + 8


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ([1.0, 1.0, 1.0], "norm 1.73205 instead of 1"),
        ([9.0], "norm 9 instead of 1"),
        ([0.0, 0.0], "norm 0 instead of 1"),
        ([math.nan, 1.0], "norm nan instead of 1"),
        ([math.inf], "norm inf instead of 1"),
    ],
)
def test_a_vector_that_no_engine_makes_is_neither_stored_nor_read(
    numbers: list[float], reason: str
) -> None:
    codec = EmbeddingCodec()
    with pytest.raises(ValueError, match=reason):
        codec.encode(embedding(*numbers))
    values = ("model", "print", 1, 0, np.array(numbers, "<f4").tobytes())
    with pytest.raises(DamagedError, match=reason):
        read_back(codec, "key", 1.0, checksum("key", 1.0, values), values)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chunks": b"\x01" + bytes(8)}, "8 chunks of 3 tokens"),
        ({"chunks": b"\x01\x03\x00"}, "do not divide its text of 3"),
        ({"chunks": b"\x01\x04"}, "do not divide its text of 3"),
        ({"chunks": b"\x04\x03\x00\x00\x00"}, "encoded differently"),
        ({"chunks": b"\x04\x03\x00\x00"}, "cannot be read"),
        ({"chunks": b"\x02\x03"}, "cannot be read"),
        ({"completion_tokens": -1}, "-1 of completion"),
        ({"completion_tokens": 2**21}, "2097152 of completion"),
        ({"prompt_tokens": -1}, "-1 tokens of prompt"),
        ({"prompt_tokens": 1.0}, "prompt_tokens is of the type float"),
        ({"logprobs": b""}, "cannot be read"),
        ({"logprobs": struct.pack("<II", 4, 0) + bytes(80)}, "logprobs of 4 tokens"),
        ({"logprobs": struct.pack("<II", 1, 2**31)}, "logprobs of 1 tokens and 2147483648 others"),
        ({"logprobs": logprob(top=101)}, "more than 100 likely tokens"),
        ({"logprobs": logprob(value=math.nan)}, "not a finite number"),
        ({"logprobs": logprob(value=-math.inf)}, "not a finite number"),
        ({"logprobs": logprob(token_id=-1)}, "a token that cannot be"),
        ({"logprobs": logprob() + b"x"}, "of another size"),
    ],
)
def test_a_completion_that_no_engine_makes_is_damaged(changes: dict[str, Any], reason: str) -> None:
    codec = CompletionCodec()
    names = [name for name, _ in codec.columns]
    plain = dict(zip(names, codec.encode(completion("abc")), strict=True))
    values = [*(plain | changes).values()]
    with pytest.raises(DamagedError, match=reason):
        read_back(codec, "key", 1.0, checksum("key", 1.0, values), values)


@pytest.mark.parametrize("cost_s", [math.nan, math.inf, -1.0, "1.0", 1])
def test_a_cost_that_cannot_be_is_damaged(cost_s: Any) -> None:
    codec = EmbeddingCodec()
    values = codec.encode(embedding())
    with pytest.raises(DamagedError, match="cost_s"):
        read_back(codec, "key", cost_s, checksum("key", cost_s, values), values)
