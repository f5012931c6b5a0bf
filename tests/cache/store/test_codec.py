"""What is stored is read back equal, or found out to be damaged."""

from __future__ import annotations

import math
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

text = st.text(st.characters(codec="utf-8"))
tops = st.tuples(st.integers(0, 2**31 - 1), st.binary(max_size=8), st.floats(allow_nan=False))
logprobs = st.builds(
    TokenLogprob,
    token_id=st.integers(0, 2**31 - 1),
    token=st.binary(max_size=8),
    logprob=st.floats(allow_nan=False),
    top=st.lists(tops, max_size=3).map(tuple),
)


@given(
    chunks=st.lists(text).map(tuple),
    logprobs=st.none() | st.lists(logprobs, max_size=5).map(tuple),
    cost_s=st.floats(0, 1e6),
    finish_reason=st.sampled_from(["stop", "length"]),
)
def test_a_completion_is_read_back_equal(chunks: tuple[str, ...], **fields: Any) -> None:
    answer = completion("".join(chunks), chunks=chunks, **fields)
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


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_a_vector_is_read_back_bit_by_bit_and_read_only(numbers: list[float]) -> None:
    answer = embedding(*numbers, truncated=True)
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
    with pytest.raises(DamagedError, match="decoded"):
        read_back(EmbeddingCodec(), "key", 1.0, checksum("key", 1.0, values), values)


def test_sizes_count_bytes() -> None:
    assert payload_bytes(["é", b"abc", 7, 1.5, None]) == 2 + 3 + 8 + 8
