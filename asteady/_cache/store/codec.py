"""Answers to rows and back: text as UTF-8, vectors as little-endian float32.

A codec names the columns of its table and turns an answer into their values. A checksum over the
key and all values is stored beside them, so that a row that is damaged, or belongs to another key,
is detected when it is read. The checksum is against damage and not against an attacker, who can
compute it: so what is read must also be an answer, by every rule that an engine's answers keep.
Nothing is pickled.
"""

from __future__ import annotations

import json
import math
import struct
import sys
import zlib
from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, get_args

from asteady._base.errors import AsteadyError
from asteady._base.messages import ToolCall
from asteady._base.requests import (
    MAX_LOGPROBS,
    Completion,
    Embedding,
    FinishReason,
    Key,
    TokenLogprob,
)

A = TypeVar("A")
Values: TypeAlias = tuple[Any, ...]
Columns: TypeAlias = tuple[tuple[str, str], ...]

# Of one answer. Each is an object when it is decoded, so this bounds what a row can cost.
MAX_COMPLETION_TOKENS = 2**20
MAX_DIMENSIONS = 2**20
# A norm that was computed in float32 differs from 1 by some millionths.
NORM_TOLERANCE = 1e-4
_TYPES: dict[str, type] = {"TEXT": str, "INTEGER": int, "BLOB": bytes}


class DamagedError(AsteadyError):
    """A stored value is not what was written. Never leaves the cache, where it is a miss."""


class Codec(Protocol[A]):
    """Turns answers of one kind into the values of `columns`, and back."""

    kind: ClassVar[str]
    columns: ClassVar[Columns]

    def encode(self, answer: A) -> Values:
        """Raises ValueError for an answer that could not be read back equal."""
        ...

    def check(self, values: Sequence[Any]) -> None:
        """Raises ValueError for values that `encode` would not make of an engine's answer.

        Takes time in proportion to their bytes, and little memory: nothing is decoded.
        """
        ...

    def decode(self, values: Sequence[Any], cost_s: float) -> A:
        """The answer, `cached`; the values have been checked."""
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
        DamagedError: the checksum does not match, or the values are not an answer.
    """
    check_values(codec, key, cost_s, crc, values)
    return codec.decode(values, cost_s)


def check_values(
    codec: Codec[Any], key: Key, cost_s: float, crc: int, values: Sequence[Any]
) -> None:
    """Check, as `read_back` does, values that are not decoded.

    Raises:
        DamagedError: the checksum does not match, or the values are not an answer.
    """
    if checksum(key, cost_s, values) != crc:
        raise DamagedError(f"the checksum of {key} does not match")
    try:
        if not (type(cost_s) is float and 0 <= cost_s < math.inf):
            raise ValueError(f"cost_s={cost_s!r}")
        codec.check(values)
    except ValueError as exc:
        raise DamagedError(f"the value of {key} is not an answer: {exc}") from exc


def _check_types(columns: Columns, values: Sequence[Any]) -> None:
    # SQLite stores values of any type in any column.
    for (name, type_), value in zip(columns, values, strict=True):
        if type(value) is not _TYPES[type_] and not (value is None and name == "logprobs"):
            raise ValueError(f"{name} is of the type {type(value).__name__}")


# Columns and fields of a completion that have the same value.
_PLAIN = ("model", "fingerprint", "seed", "finish_reason", "prompt_tokens", "completion_tokens")
_PLAIN_VALUES = attrgetter(*_PLAIN)


class CompletionCodec:
    """Stores the lengths of chunks, so that a stream replays with its original boundaries.

    Reasoning is before the text in the column of it, and so are its chunks; how many these are, and
    of how many tokens, is in front of the lengths. Calls of tools are behind the text, as JSON, and
    how many characters that has is in front of all. Answers without have no such fronts, as those
    that older versions stored.
    """

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
        reasoning = answer.reasoning or ""
        if "".join(answer.reasoning_chunks) != reasoning or answer.reasoning == "":
            raise ValueError("the chunks of a completion's reasoning must join to it")
        front, calls = b"", ""
        if answer.tool_calls:
            calls = _calls_text(answer.tool_calls)
            front = _CALLS_FRONT.pack(3, len(calls))
        if answer.reasoning_tokens or reasoning:
            front += _FRONT.pack(2, len(answer.reasoning_chunks), answer.reasoning_tokens)
        chunks = (*answer.reasoning_chunks, *answer.chunks)
        values = (
            *_PLAIN_VALUES(answer),
            (reasoning + answer.text + calls).encode(),
            front + _pack_lengths([len(chunk) for chunk in chunks]),
            None if answer.logprobs is None else _pack_logprobs(answer.logprobs),
        )
        self.check(values)
        return values

    def check(self, values: Sequence[Any]) -> None:
        _check_types(self.columns, values)
        finish_reason, prompt_tokens, tokens, text, chunks, logprobs = values[3:]
        if finish_reason not in get_args(FinishReason):
            raise ValueError(f"finish_reason={finish_reason[:80]!r}")
        if not (prompt_tokens >= 0 and 0 <= tokens <= MAX_COMPLETION_TOKENS):
            raise ValueError(f"{prompt_tokens} tokens of prompt and {tokens} of completion")
        size, chunks = _split_calls_front(chunks)
        characters = text.decode()
        if size:
            _check_calls(characters[-size:], size)
        if (finish_reason == "tool_calls") != (size > 0):
            raise ValueError(f"finish_reason={finish_reason!r} with calls of {size} characters")
        reasoning, reasoning_tokens, lengths = _split_front(chunks)
        if reasoning_tokens > tokens or (reasoning and not reasoning_tokens):
            raise ValueError(f"{reasoning_tokens} of {tokens} tokens are reasoning")
        _check_lengths(lengths, len(characters) - size, tokens, reasoning=reasoning)
        if logprobs is not None:
            _check_logprobs(logprobs, tokens)

    def decode(self, values: Sequence[Any], cost_s: float) -> Completion:
        *plain, encoded, packed, logprobs = values
        size, packed = _split_calls_front(packed)
        both = encoded.decode()
        calls: tuple[ToolCall, ...] = ()
        if size:
            calls, both = _calls_of(both[-size:]), both[:-size]
        count, reasoning_tokens, lengths = _split_front(packed)
        bounds = [0, *accumulate(_unpack_lengths(lengths))]
        chunks = tuple(both[start:end] for start, end in pairwise(bounds))
        return Completion(
            **dict(zip(_PLAIN, plain, strict=True)),
            text=both[bounds[count] :],
            chunks=chunks[count:],
            reasoning=both[: bounds[count]] or None,
            reasoning_chunks=chunks[:count],
            reasoning_tokens=reasoning_tokens,
            tool_calls=calls,
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
        values = (
            answer.model,
            answer.fingerprint,
            answer.tokens,
            int(answer.truncated),
            vector.astype("<f4", copy=False).tobytes(),
        )
        self.check(values)
        return values

    def check(self, values: Sequence[Any]) -> None:
        import numpy as np

        _check_types(self.columns, values)
        tokens, truncated, blob = values[2:]
        if tokens < 0 or truncated not in (0, 1):
            raise ValueError(f"tokens={tokens}, truncated={truncated}")
        dimensions, rest = divmod(len(blob), 4)
        if rest or not 1 <= dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"{len(blob)} bytes are not a vector of float32")
        vector = np.frombuffer(blob, dtype="<f4").astype(np.float64)
        norm = math.sqrt(float(np.dot(vector, vector)))
        # False for a norm that is not a number.
        if not abs(norm - 1.0) <= NORM_TOLERANCE:
            raise ValueError(f"its vector has the L2 norm {norm:.6g} instead of 1")

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


# Before the lengths of chunks: 2, how many of them are reasoning, and of how many tokens.
_FRONT = struct.Struct("<BII")


# Before that: 3, and how many characters the calls of tools have.
_CALLS_FRONT = struct.Struct("<BI")


def _split_calls_front(packed: bytes) -> tuple[int, bytes]:
    if packed[:1] != b"\x03":
        return 0, packed
    if len(packed) < _CALLS_FRONT.size:
        raise ValueError("the size of its calls cannot be read")
    _, size = _CALLS_FRONT.unpack_from(packed)
    if not size:
        raise ValueError("its calls are encoded differently")
    return size, packed[_CALLS_FRONT.size :]


def _calls_text(calls: Sequence[ToolCall]) -> str:
    return json.dumps(
        [[call.name, call.arguments_json, call.id] for call in calls], ensure_ascii=False
    )


def _calls_of(text: str) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(name=name, arguments_json=arguments, id=id)
        for name, arguments, id in json.loads(text)
    )


def _check_calls(text: str, size: int) -> None:
    try:
        calls = _calls_of(text)
        fits = len(text) == size and calls and _calls_text(calls) == text
        for call in calls:
            fits = fits and isinstance(call.name, str) and isinstance(call.id, str)
            fits = fits and isinstance(call.arguments, dict)
    except (ValueError, TypeError, RecursionError) as exc:
        raise ValueError("its calls of tools cannot be read") from exc
    if not fits:
        raise ValueError("its calls of tools are not as they are written")


def _split_front(packed: bytes) -> tuple[int, int, bytes]:
    if packed[:1] != b"\x02":
        return 0, 0, packed
    if len(packed) < _FRONT.size:
        raise ValueError("the lengths of its chunks cannot be read")
    _, count, tokens = _FRONT.unpack_from(packed)
    if not tokens:
        raise ValueError("its reasoning is encoded differently")
    return count, tokens, packed[_FRONT.size :]


def _pack_lengths(lengths: Sequence[int]) -> bytes:
    # A chunk is the text of a token, so a byte is nearly always enough, and bytes() is one C call.
    try:
        return b"\x01" + bytes(lengths)
    except ValueError:
        return b"\x04" + struct.pack(f"<{len(lengths)}I", *lengths)


def _unpack_lengths(packed: bytes) -> Sequence[int]:
    if packed[0] == 1:
        return packed[1:]
    return _array("I", packed[1:])


def _check_lengths(packed: bytes, characters: int, tokens: int, *, reasoning: int) -> None:
    """Lengths of chunks for a text of so many characters, which has so many tokens.

    An engine emits no empty chunk, and at most one for each token, and the rest at the end; and
    one more where reasoning ends within a token.
    """
    short, rest = packed[:1] == b"\x01", len(packed) - 1
    if not short and (packed[:1] != b"\x04" or rest % 4):
        raise ValueError("the lengths of its chunks cannot be read")
    count = rest if short else rest // 4
    if reasoning > count:
        raise ValueError(f"{reasoning} of its {count} chunks are reasoning")
    if count > tokens + 1 + (reasoning > 0):
        raise ValueError(f"{count} chunks of {tokens} tokens")
    lengths = _unpack_lengths(packed)
    if 0 in lengths or sum(lengths) != characters:
        raise ValueError(f"its chunks do not divide its text of {characters} characters")
    if not short and max(lengths, default=0) < 256:
        raise ValueError("the lengths of its chunks are encoded differently")


def _array(code: str, packed: bytes) -> array[Any]:
    """Little-endian numbers, as compact in memory as they are in the file."""
    numbers = array(code)
    numbers.frombytes(packed)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


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


def _check_logprobs(packed: bytes, tokens: int) -> None:
    if len(packed) < _COUNTS.size:
        raise ValueError("its logprobs cannot be read")
    n, m = _COUNTS.unpack_from(packed)
    counts_at = _COUNTS.size
    ids_at = counts_at + 4 * n
    values_at = ids_at + 4 * (n + m)
    lengths_at = values_at + 8 * (n + m)
    texts_at = lengths_at + 4 * (n + m)
    if n > tokens or texts_at > len(packed):
        raise ValueError(f"logprobs of {n} tokens and {m} others, for {tokens} tokens")
    counts = _array("I", packed[counts_at:ids_at])
    if sum(counts) != m or max(counts, default=0) > MAX_LOGPROBS:
        raise ValueError(f"more than {MAX_LOGPROBS} likely tokens at a position")
    if min(_array("i", packed[ids_at:values_at]), default=0) < 0:
        raise ValueError("the logprob of a token that cannot be")
    if not all(map(math.isfinite, _array("d", packed[values_at:lengths_at]))):
        raise ValueError("a logprob is not a finite number")
    if sum(_array("I", packed[lengths_at:texts_at])) != len(packed) - texts_at:
        raise ValueError("its logprobs are of another size")


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
