"""Answers as one string of bytes, for a server: what a row of the store has, with its checksum.

4 bytes     magic number and version of this form
4 bytes     checksum over the key, the cost and the values
4 bytes     length of the header
header      JSON: the cost in seconds, and the values, for a blob its length
blobs       one after another
"""

from __future__ import annotations

import json
import struct
from typing import Any, TypeVar

from asteady._base.requests import Key
from asteady._cache.store.codec import Codec, DamagedError, checksum, read_back

A = TypeVar("A")

_MAGIC = b"ast\x01"
_FRONT = struct.Struct("<4sII")


def pack(codec: Codec[A], key: Key, answer: A, cost_s: float) -> bytes:
    """Raises ValueError for an answer that could not be read back equal."""
    values = codec.encode(answer)
    blobs = [value for value in values if type(value) is bytes]
    plain = [len(value) if type(value) is bytes else value for value in values]
    header = json.dumps([cost_s, plain], separators=(",", ":")).encode()
    crc = checksum(key, cost_s, values)
    return b"".join((_FRONT.pack(_MAGIC, crc, len(header)), header, *blobs))


def unpack(codec: Codec[A], key: Key, data: bytes) -> A:
    """The answer that was packed under this key.

    Raises:
        DamagedError: the bytes are not those of an answer, or of one under another key.
    """
    try:
        magic, crc, size = _FRONT.unpack_from(data)
        if magic != _MAGIC:
            raise ValueError(f"it begins with {magic!r}")
        at = _FRONT.size + size
        cost_s, plain = json.loads(data[_FRONT.size : at])
        values: list[Any] = []
        for (_, type_), value in zip(codec.columns, plain, strict=True):
            if type_ == "BLOB" and value is not None:
                values.append(data[at : at + value])
                at += value
            else:
                values.append(value)
        if at != len(data):
            raise ValueError(f"it has {len(data)} bytes, not {at}")
    except (ValueError, TypeError, RecursionError, struct.error) as exc:
        raise DamagedError(f"the value of {key} cannot be read: {exc}") from exc
    return read_back(codec, key, cost_s, crc, values)
