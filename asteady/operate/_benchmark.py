"""Access streams and what they say: recorded, kept in files, replayed; and times cold and warm."""

from __future__ import annotations

import gzip
import heapq
import math
import os
import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack, get_args

import anyio.to_thread
import attrs

from asteady._base import validation
from asteady._base.errors import InvalidRequestError
from asteady._base.files import AnyPath, write_atomically
from asteady._base.options import GenerateOptions, shows_options_of
from asteady._base.public import public
from asteady._base.requests import KINDS, GenerateRequest, Key, Kind
from asteady._base.settings import KEEP_REQUESTS_BYTES, CachePolicy
from asteady._base.validation import shorten
from asteady._cache.policy import POLICIES, Budget, Row, State, remember, touch
from asteady._cache.store.codec import CompletionCodec, EmbeddingCodec
from asteady._cache.store.stored_request import to_json
from asteady._session.generation import context_of
from asteady._session.observe import Observed
from asteady._session.session import Session
from asteady.operate._resolve_session import opened_session, session_now

_PROMPT_CHARACTERS = 50
_UNLIMITED = 2**62


@public
@attrs.frozen(kw_only=True)
class Access:
    """One look-up: the key, what its entry takes of the byte budget, and the seconds that its
    answer takes to compute."""

    key: Key
    size_bytes: int
    cost_s: float


@public
@attrs.frozen(kw_only=True)
class PromptTiming:
    """Times of one prompt in seconds. `speedup` is cold over mean warm time."""

    prompt: str
    cold_time_s: float
    warm_avg_s: float
    warm_std_s: float
    warm_min_s: float
    speedup: float


@public
class CacheBenchmark:
    """Measures the cache of a session; default: the running loop's default session.

    It never clears anything. The last `limit` recorded accesses are in memory.
    """

    def __init__(
        self,
        session: Session | None = None,
        *,
        cache_type: Kind = "generation",
        limit: int = 100_000,
    ) -> None:
        self.cache_type: Kind = validation.one_of("cache_type", cache_type, KINDS)
        self._given = session
        self._keep_requests_bytes = KEEP_REQUESTS_BYTES
        self._log: deque[Access] = deque(maxlen=validation.whole_number("limit", limit, 1))

    def __repr__(self) -> str:
        return f"<CacheBenchmark {self.cache_type}: {len(self._log)} accesses>"

    @property
    def accesses(self) -> list[Access]:
        """The recorded accesses, oldest first."""
        return list(self._log)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the accesses of the whole session within the block."""
        session = session_now(self._given)
        self._keep_requests_bytes = session.settings.keep_requests_bytes
        with session.observe(self.observe, everywhere=True):
            yield

    def observe(self, call: Observed) -> None:
        """Record one call, as `recording` does with each."""
        access = access_of(call, self.cache_type, self._keep_requests_bytes)
        if access is not None:
            self._log.append(access)

    async def save_accesses(self, path: AnyPath) -> Path:
        """Write the recorded accesses, for ``asteady bench`` and ``asteady cache size``.

        The file is written atomically and readable only by its owner. Keys are digests, so it has
        no prompts in it.

        Raises:
            OSError: the file cannot be written.
        """
        data = write_accesses(self._log)
        return await anyio.to_thread.run_sync(write_atomically, path, data)

    @shows_options_of(GenerateRequest.of)
    async def benchmark_single_prompt(
        self,
        prompt: str,
        *,
        iterations: int = 10,
        model: AnyPath | None = None,
        **options: Unpack[GenerateOptions],
    ) -> PromptTiming:
        """Time a prompt once cold and ``iterations - 1`` times warm.

        The cold time is that of ``cache="refresh"``, which computes the same answer again and
        stores it; the model is loaded before. The prompt stays in the cache.

        Raises:
            InvalidRequestError: `iterations` is below 2.
            AsteadyError: as `Session.generate`.
        """
        validation.whole_number("iterations", iterations, 2)
        session = await opened_session(self._given)
        context = context_of(session)
        await context.models.pool("generation", context.model("generation", model))
        began_s = time.perf_counter()
        await session.generate(prompt, model=model, cache="refresh", **options)
        cold_s = time.perf_counter() - began_s
        warm_s: list[float] = []
        for _ in range(iterations - 1):
            began_s = time.perf_counter()
            await session.generate(prompt, model=model, **options)
            warm_s.append(time.perf_counter() - began_s)
        mean_s = statistics.mean(warm_s)
        return PromptTiming(
            prompt=shorten(prompt, _PROMPT_CHARACTERS),
            cold_time_s=cold_s,
            warm_avg_s=mean_s,
            warm_std_s=statistics.stdev(warm_s) if len(warm_s) > 1 else 0.0,
            warm_min_s=min(warm_s),
            speedup=cold_s / mean_s,
        )

    async def benchmark_cache_sizes(
        self,
        accesses: Sequence[Access] | Sequence[str] | None,
        cache_sizes: Sequence[int],
        *,
        max_bytes: int = _UNLIMITED,
        policy: CachePolicy = "tide",
    ) -> dict[int, Replayed]:
        """What caches of these capacities, in entries, would have done with the accesses.

        Replays them through the cache's own policy, in a thread; computes nothing and changes no
        cache.

        Args:
            accesses: `Access` records, or prompts, each of one byte and one second; None: the
                recorded ones.
            cache_sizes: capacities in entries.
            max_bytes: the byte budget; default: unlimited.
            policy: "tide", "lru" or "lfu".

        Raises:
            InvalidRequestError: an argument is not allowed, or nothing was recorded.
        """
        recorded = self._accesses(accesses)
        validation.check_list("cache_sizes", cache_sizes, "numbers of entries")
        validation.one_of("policy", policy, get_args(CachePolicy))
        results: dict[int, Replayed] = {}
        for index, size in enumerate(cache_sizes):
            validation.whole_number(f"cache_sizes[{index}]", size, 1)
            results[size] = await anyio.to_thread.run_sync(
                replay, recorded, Budget(size, max_bytes), policy
            )
        return results

    async def find_optimal_cache_size(
        self,
        accesses: Sequence[Access] | Sequence[str] | None = None,
        *,
        target: float = 0.95,
        policy: CachePolicy = "tide",
    ) -> int:
        """The smallest capacity that saves this share of what an unlimited cache would save.

        Binary search, with a replay for each size. 1 if no access is repeated.

        Raises:
            InvalidRequestError: `target` is not above 0 and at most 1, or as
                `benchmark_cache_sizes`.
        """
        validation.share("target", target)
        recorded = self._accesses(accesses)
        high = max(1, len({access.key for access in recorded}))
        best = await self.benchmark_cache_sizes(recorded, [high], policy=policy)
        enough = target * best[high].saved_rate
        low = 1
        while low < high:
            middle = (low + high) // 2
            replayed = await self.benchmark_cache_sizes(recorded, [middle], policy=policy)
            if replayed[middle].saved_rate >= enough - 1e-9:
                high = middle
            else:
                low = middle + 1
        return high

    def _accesses(self, accesses: Sequence[Access] | Sequence[str] | None) -> list[Access]:
        if accesses is None:
            if not self._log:
                raise InvalidRequestError(
                    "nothing was recorded yet: use `with benchmark.recording(): ...` first, or"
                    " give accesses or prompts"
                )
            return self.accesses
        validation.check_list("accesses", accesses, "accesses or prompts")
        return [
            Access(key=one, size_bytes=1, cost_s=1.0) if isinstance(one, str) else one
            for one in accesses
        ]


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
