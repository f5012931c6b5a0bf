"""Access streams: recorded from a session, kept in files, replayed through the cache's policy."""

from __future__ import annotations

import gzip
import heapq
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from asteady._base.errors import InvalidRequestError
from asteady._base.files import AnyPath
from asteady._base.public import public
from asteady._base.requests import GenerateRequest, Key, Kind
from asteady._base.settings import KEEP_REQUESTS_BYTES
from asteady._cache.policy import POLICIES, Budget, Row, State, remember, touch
from asteady._cache.store.codec import CompletionCodec, EmbeddingCodec
from asteady._cache.store.stored_request import to_json
from asteady._session.observe import Observed
from asteady._session.session import Session


@public
@attrs.frozen(kw_only=True)
class Access:
    """One look-up: the key, what its entry takes of the byte budget, and the seconds that its
    answer takes to compute."""

    key: Key
    size_bytes: int
    cost_s: float


@public
class AccessLog:
    """The last `limit` accesses to one cache of a session, recorded within a block."""

    def __init__(self, cache_type: Kind = "generation", *, limit: int = 100_000) -> None:
        self.cache_type: Kind = cache_type
        self.accesses: deque[Access] = deque(maxlen=limit)
        self._keep_requests_bytes = KEEP_REQUESTS_BYTES

    @contextmanager
    def recording(self, session: Session) -> Iterator[None]:
        """Record the look-ups of the whole session."""
        self._keep_requests_bytes = session.settings.keep_requests_bytes
        with session.observe(self.observe, everywhere=True):
            yield

    def observe(self, call: Observed) -> None:
        """Record a call if it looked up this cache and got an answer."""
        access = access_of(call, self.cache_type, self._keep_requests_bytes)
        if access is not None:
            self.accesses.append(access)


def access_of(call: Observed, cache_type: Kind, keep_requests_bytes: int) -> Access | None:
    """The access that a call made; None if it used the other cache or got no answer."""
    generated = isinstance(call.request, GenerateRequest)
    if generated != (cache_type == "generation") or call.key is None or call.answer is None:
        return None
    # Only here: it imports sqlite3.
    from asteady._cache.store.transaction import entry_bytes

    codec: Any = CompletionCodec() if generated else EmbeddingCodec()
    request = to_json(call.request, keep_requests_bytes)
    size_bytes = entry_bytes(call.key, (*codec.encode(call.answer), request))
    return Access(key=call.key, size_bytes=size_bytes, cost_s=call.answer.cost_s)


def write_accesses(accesses: Iterable[Access]) -> bytes:
    """As text: one line per access with key, bytes and seconds, separated by tabs."""
    lines = (f"{access.key}\t{access.size_bytes}\t{access.cost_s!r}\n" for access in accesses)
    return "".join(lines).encode()


def read_accesses(path: AnyPath) -> list[Access]:
    """Read what `write_accesses` wrote, plain or gzipped. Blocks.

    Raises:
        OSError: the file cannot be read.
        InvalidRequestError: a line has another format; the message gives its number.
    """
    with open(path, "rb") as file:
        raw = file.read()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    accesses: list[Access] = []
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            key, size, cost = line.decode().split("\t")
            size_bytes, cost_s = int(size), float(cost)
        except ValueError:
            size_bytes, cost_s = -1, math.nan
        if size_bytes < 0 or not (math.isfinite(cost_s) and cost_s >= 0):
            raise InvalidRequestError(
                f"{os.fspath(path)}, line {number}: needs a key, a size in bytes and a cost in"
                " seconds, separated by tabs"
            )
        accesses.append(Access(key=key, size_bytes=size_bytes, cost_s=cost_s))
    return accesses


@public
@attrs.frozen(kw_only=True)
class Replayed:
    """What a cache of this capacity would have done. Rates are in percent.

    `compute_s` is the computing time of its misses, `saved_rate` the share of all computing time
    that its hits would have saved.
    """

    capacity: int
    accesses: int
    hits: int
    hit_rate: float
    saved_rate: float
    compute_s: float


def replay(accesses: Iterable[Access], budget: Budget, policy: str = "tide") -> Replayed:
    """Run the accesses through the store's own policy: look up each one, insert it if missing."""
    rules, index, state = POLICIES[policy], _MemoryEvictionIndex(), State()
    count = hits = 0
    saved_s = compute_s = 0.0
    for access in accesses:
        count += 1
        if touch(rules, index, state, budget, access.key, 1):
            hits += 1
            saved_s += access.cost_s
            continue
        compute_s += access.cost_s
        if access.size_bytes <= budget.max_bytes:
            remember(rules, index, state, budget, access.key, access.size_bytes, access.cost_s)
    total_s = saved_s + compute_s
    return Replayed(
        capacity=budget.max_entries,
        accesses=count,
        hits=hits,
        hit_rate=100 * hits / count if count else 0.0,
        saved_rate=100 * saved_s / total_s if total_s else 0.0,
        compute_s=compute_s,
    )


class _MemoryEvictionIndex:
    """A policy's `EvictionIndex` in memory: heaps whose stale items are skipped at the top."""

    def __init__(self) -> None:
        self._rows: dict[Key, Row] = {}
        self._live: list[tuple[float, Key]] = []
        self._ghosts: list[tuple[float, Key]] = []

    def find(self, key: Key) -> Row | None:
        return self._rows.get(key)

    def save(self, row: Row) -> None:
        self._rows[row.key] = row
        if row.live:
            heapq.heappush(self._live, (row.priority, row.key))
            # Rebuilt when most of it is stale, so that many touches of few keys stay bounded.
            if len(self._live) > 64 + 4 * len(self._rows):
                self._live = [(r.priority, r.key) for r in self._rows.values() if r.live]
                heapq.heapify(self._live)
        else:
            heapq.heappush(self._ghosts, (row.turn, row.key))

    def remove(self, row: Row) -> None:
        self._rows.pop(row.key, None)

    def lowest(self) -> Row | None:
        while self._live:
            priority, key = self._live[0]
            row = self._rows.get(key)
            if row is not None and row.live and row.priority == priority:
                return row
            heapq.heappop(self._live)
        return None

    def drop_oldest_ghost(self) -> int | None:
        while self._ghosts:
            turn, key = heapq.heappop(self._ghosts)
            row = self._rows.get(key)
            if row is not None and not row.live and row.turn == turn:
                del self._rows[key]
                return row.touches
        return None
