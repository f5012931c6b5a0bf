"""Answers to rows and back: text as UTF-8, vectors as little-endian float32.

A codec names the columns of its table and turns an answer into their values. A checksum over the
key and all values is stored beside them, so that a row that is damaged, or belongs to another key,
is detected when it is read. Nothing is pickled.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from asteady._base.errors import AsteadyError
from asteady._base.requests import Completion, Embedding, Key, TokenLogprob

A = TypeVar("A")
Values: TypeAlias = tuple[Any, ...]
Columns: TypeAlias = tuple[tuple[str, str], ...]


class DamagedError(AsteadyError):
    """A stored value is not what was written. Never leaves the cache, where it is a miss."""


class Codec(Protocol[A]):
    """Turns answers of one kind into the values of `columns`, and back."""

    kind: ClassVar[str]
    columns: ClassVar[Columns]

    def encode(self, answer: A) -> Values:
        """Raises ValueError for an answer that could not be read back equal."""
        ...

    def decode(self, values: Sequence[Any], cost_s: float) -> A:
        """The answer, `cached`. May raise anything for values that `encode` did not make."""
        ...


def checksum(key: Key, cost_s: float, values: Sequence[Any]) -> int:
    """CRC-32 over the key, the cost and the values with their types."""
    plain = [len(value) if type(value) is bytes else value for value in values]
    crc = zlib.crc32(repr((key, cost_s, plain)).encode())
    for value in values:
        if type(value) is bytes:
            crc = zlib.crc32(value, crc)
    return crc


def payload_bytes(values: Sequence[Any]) -> int:
    """The size of the values in a row, without their headers; a number counts 8."""
    total = 0
    for value in values:
        if type(value) is bytes:
            total += len(value)
        elif type(value) is str:
            total += len(value) if value.isascii() else len(value.encode())
        elif value is not None:
            total += 8
    return total


def read_back(codec: Codec[A], key: Key, cost_s: float, crc: int, values: Sequence[Any]) -> A:
    """Decode the values that were stored under this key.

    Raises:
        DamagedError: the checksum does not match, or the values cannot be decoded.
    """
    if checksum(key, cost_s, values) != crc:
        raise DamagedError(f"the checksum of {key} does not match")
    try:
        return codec.decode(values, cost_s)
    except Exception as exc:
        raise DamagedError(f"the value of {key} cannot be decoded") from exc


# Columns and fields of a completion that have the same value.
_PLAIN = ("model", "fingerprint", "seed", "finish_reason", "prompt_tokens", "completion_tokens")
_PLAIN_VALUES = attrgetter(*_PLAIN)


class CompletionCodec:
    """Stores the lengths of chunks, so that a stream replays with its original boundaries."""

    kind: ClassVar[str] = "generation"
    columns: ClassVar[Columns] = (
        ("model", "TEXT"),
        ("fingerprint", "TEXT"),
        ("seed", "INTEGER"),
        ("finish_reason", "TEXT"),
        ("prompt_tokens", "INTEGER"),
        ("completion_tokens", "INTEGER"),
        ("text", "BLOB"),
        ("chunks", "BLOB"),
        ("logprobs", "BLOB"),
    )

    def encode(self, answer: Completion) -> Values:
        if "".join(answer.chunks) != answer.text:
            raise ValueError("the chunks of a completion must join to its text")
        return (
            *_PLAIN_VALUES(answer),
            answer.text.encode(),
            _pack_lengths([len(chunk) for chunk in answer.chunks]),
            None if answer.logprobs is None else _pack_logprobs(answer.logprobs),
        )

    def decode(self, values: Sequence[Any], cost_s: float) -> Completion:
        *plain, encoded, lengths, logprobs = values
        text = encoded.decode()
        bounds = [0, *accumulate(_unpack_lengths(lengths))]
        return Completion(
            **dict(zip(_PLAIN, plain, strict=True)),
            text=text,
            chunks=tuple(text[start:end] for start, end in pairwise(bounds)),
            logprobs=None if logprobs is None else _unpack_logprobs(logprobs),
            cost_s=cost_s,
            cached=True,
        )


class EmbeddingCodec:
    """Stores the bytes of the vector; the array that is read is a read-only view of them."""

    kind: ClassVar[str] = "embedding"
    columns: ClassVar[Columns] = (
        ("model", "TEXT"),
        ("fingerprint", "TEXT"),
        ("tokens", "INTEGER"),
        ("truncated", "INTEGER"),
        ("vector", "BLOB"),
    )

    def encode(self, answer: Embedding) -> Values:
        vector = answer.vector
        if vector.ndim != 1 or vector.dtype.kind != "f" or vector.dtype.itemsize != 4:
            raise ValueError(f"a vector must be one-dimensional float32, not {vector.dtype}")
        return (
            answer.model,
            answer.fingerprint,
            answer.tokens,
            int(answer.truncated),
            vector.astype("<f4", copy=False).tobytes(),
        )

    def decode(self, values: Sequence[Any], cost_s: float) -> Embedding:
        import numpy as np

        model, fingerprint, tokens, truncated, blob = values
        return Embedding(
            vector=np.frombuffer(blob, dtype="<f4"),
            tokens=tokens,
            truncated=bool(truncated),
            model=model,
            fingerprint=fingerprint,
            cost_s=cost_s,
            cached=True,
        )


def _pack_lengths(lengths: Sequence[int]) -> bytes:
    # A chunk is the text of a token, so a byte is nearly always enough, and bytes() is one C call.
    try:
        return b"\x01" + bytes(lengths)
    except ValueError:
        return b"\x04" + struct.pack(f"<{len(lengths)}I", *lengths)


def _unpack_lengths(packed: bytes) -> Sequence[int]:
    if packed[0] == 1:
        return packed[1:]
    return struct.unpack(f"<{len(packed) // 4}I", packed[1:])


# Logprobs column by column: counts, then token ids, doubles (nothing is rounded), lengths, bytes.
_COUNTS = struct.Struct("<II")


def _pack_logprobs(logprobs: Sequence[TokenLogprob]) -> bytes:
    tops = [top for item in logprobs for top in item.top]
    n, m = len(logprobs), len(tops)
    return b"".join(
        (
            _COUNTS.pack(n, m),
            struct.pack(f"<{n}I", *(len(item.top) for item in logprobs)),
            struct.pack(
                f"<{n + m}i", *(item.token_id for item in logprobs), *(top[0] for top in tops)
            ),
            struct.pack(
                f"<{n + m}d", *(item.logprob for item in logprobs), *(top[2] for top in tops)
            ),
            struct.pack(
                f"<{n + m}I", *(len(item.token) for item in logprobs), *(len(t[1]) for t in tops)
            ),
            *(item.token for item in logprobs),
            *(top[1] for top in tops),
        )
    )


def _unpack_logprobs(packed: bytes) -> tuple[TokenLogprob, ...]:
    n, m = _COUNTS.unpack_from(packed)
    body = struct.Struct(f"<{n}I{n + m}i{n + m}d{n + m}I")
    numbers = body.unpack_from(packed, _COUNTS.size)
    counts, numbers = numbers[:n], numbers[n:]
    ids, values, lengths = numbers[: n + m], numbers[n + m : 2 * (n + m)], numbers[2 * (n + m) :]
    bounds = accumulate(lengths, initial=_COUNTS.size + body.size)
    texts = [packed[low:high] for low, high in pairwise(bounds)]
    tops = list(zip(ids[n:], texts[n:], values[n:], strict=True))
    ends = [0, *accumulate(counts)]
    return tuple(
        TokenLogprob(
            token_id=ids[index],
            token=texts[index],
            logprob=values[index],
            top=tuple(tops[ends[index] : ends[index + 1]]),
        )
        for index in range(n)
    )
