"""The access stream of a cache: which keys were asked for, in order, at which size and cost."""

from __future__ import annotations

import gzip
import math
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from asteady._base.checks import CacheType
from asteady._base.errors import InvalidRequestError
from asteady._base.requests import GenerateRequest, Key
from asteady._base.settings import KEEP_REQUESTS_BYTES
from asteady._session.observe import Observed
from asteady._session.session import Session


@attrs.frozen
class Access:
    """One look-up. `size_bytes` is what the entry takes of the byte budget, `cost_s` what its
    answer costs to compute."""

    key: Key
    size_bytes: int
    cost_s: float


class AccessLog:
    """The last `limit` accesses to one cache of a session, recorded within a block."""

    def __init__(self, cache_type: CacheType = "generation", *, limit: int = 100_000) -> None:
        self.cache_type = cache_type
        self.accesses: deque[Access] = deque(maxlen=limit)
        self._keep_requests_bytes = KEEP_REQUESTS_BYTES

    @contextmanager
    def recording(self, session: Session) -> Iterator[None]:
        """Record the look-ups of the whole session."""
        self._keep_requests_bytes = session.settings.keep_requests_bytes
        with session.observe(self.observe, everywhere=True):
            yield

    def observe(self, call: Observed) -> None:
        """Take a call down, if it looked up this cache and got an answer."""
        access = access_of(call, self.cache_type, self._keep_requests_bytes)
        if access is not None:
            self.accesses.append(access)


def access_of(call: Observed, cache_type: CacheType, keep_requests_bytes: int) -> Access | None:
    """The access that a call was; None for the other cache's, and for calls without an answer."""
    generated = isinstance(call.request, GenerateRequest)
    if generated != (cache_type == "generation") or call.key is None or call.answer is None:
        return None
    from asteady._cache.store.codec import CompletionCodec, EmbeddingCodec
    from asteady._cache.store.stored_request import kept_text
    from asteady._cache.store.transaction import entry_bytes

    codec: Any = CompletionCodec() if generated else EmbeddingCodec()
    request = kept_text(call.request, keep_requests_bytes)
    size_bytes = entry_bytes(call.key, (*codec.encode(call.answer), request))
    return Access(call.key, size_bytes, call.answer.cost_s)


def write_accesses(accesses: Iterator[Access] | deque[Access] | list[Access]) -> bytes:
    """As text: on each line key, bytes and seconds, with tabs between them. Keys are digests."""
    lines = (f"{access.key}\t{access.size_bytes}\t{access.cost_s!r}\n" for access in accesses)
    return "".join(lines).encode()


def read_accesses(path: str | os.PathLike[str]) -> list[Access]:
    """Read what `write_accesses` wrote, plain or gzipped. Blocks.

    Raises:
        OSError: the file cannot be read.
        InvalidRequestError: a line is something else; the message says which.
    """
    with open(path, "rb") as file:
        raw = file.read()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    accesses: list[Access] = []
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            key, size_bytes, cost_s = line.decode().split("\t")
            access = Access(key, int(size_bytes), float(cost_s))
        except ValueError:
            access = Access("", -1, -1.0)
        if access.size_bytes < 0 or not (math.isfinite(access.cost_s) and access.cost_s >= 0):
            raise InvalidRequestError(
                f"{os.fspath(path)}, line {number}: a key, a size in bytes and a cost in seconds"
                " are needed, with tabs between them"
            )
        accesses.append(access)
    return accesses
