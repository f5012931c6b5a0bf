"""Benchmarks of the cache: cold and warm times, and hit rates by capacity."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack, get_args

import anyio.to_thread
import attrs

from asteady._base import validation
from asteady._base.errors import InvalidRequestError
from asteady._base.files import AnyPath, write_atomically
from asteady._base.options import GenerateOptions, shows_options_of
from asteady._base.public import public
from asteady._base.requests import KINDS, GenerateRequest, Kind
from asteady._base.settings import CachePolicy
from asteady._base.validation import shorten
from asteady._cache.policy import Budget
from asteady._session.generation import context_of
from asteady._session.observe import Observed
from asteady._session.session import Session
from asteady.operate._accesses import Access, AccessLog, Replayed, replay, write_accesses
from asteady.operate._resolve_session import opened_session, session_now

_PROMPT_CHARACTERS = 50
_UNLIMITED = 2**62


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
        validation.one_of("cache_type", cache_type, KINDS)
        validation.whole_number("limit", limit, 1)
        self._given = session
        self._log = AccessLog(cache_type, limit=limit)

    def __repr__(self) -> str:
        return f"<CacheBenchmark {self._log.cache_type}: {len(self._log.accesses)} accesses>"

    @property
    def accesses(self) -> list[Access]:
        """The recorded accesses, oldest first."""
        return list(self._log.accesses)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the accesses of the whole session within the block."""
        with self._log.recording(session_now(self._given)):
            yield

    def observe(self, call: Observed) -> None:
        """Record one call, as `recording` does with each."""
        self._log.observe(call)

    async def save_accesses(self, path: AnyPath) -> Path:
        """Write the recorded accesses, for ``asteady bench`` and ``asteady cache size``.

        The file is written atomically and readable only by its owner. Keys are digests, so it has
        no prompts in it.

        Raises:
            OSError: the file cannot be written.
        """
        data = write_accesses(self._log.accesses)
        return await anyio.to_thread.run_sync(write_atomically, path, data)

    @shows_options_of(GenerateRequest.of)
    async def benchmark_single_prompt(
        self,
        prompt: str,
        *,
        iterations: int = 10,
        model: str | None = None,
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
            if not self._log.accesses:
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
