"""What the cache is worth: cold and warm times, and hit rates by capacity."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack

import anyio.to_thread
import attrs

from asteady._base.checks import (
    CacheType,
    check_cache_type,
    check_count,
    check_list,
    check_share,
)
from asteady._base.errors import InvalidRequestError
from asteady._base.files import write_atomically
from asteady._base.requests import GenerateOptions
from asteady._base.settings import CachePolicy
from asteady._cache.policy import POLICIES, Budget
from asteady._session.observe import Observed
from asteady._session.session import Session
from asteady.operate._accesses import Access, AccessLog, write_accesses
from asteady.operate._replay import Replayed, replay
from asteady.operate._which import opened_session, session_now

_SHOWN = 50
_UNLIMITED = 2**62


@attrs.frozen(kw_only=True)
class PromptTiming:
    """The times of one prompt, in seconds. `speedup` is the cold one over the mean of the warm."""

    prompt: str
    cold_time_s: float
    warm_avg_s: float
    warm_std_s: float
    warm_min_s: float
    speedup: float


class CacheBenchmark:
    """Measures the cache of a session; default: the running loop's default session.

    It never clears anything. Accesses that it records are kept in memory, the last `limit`.
    """

    def __init__(
        self,
        session: Session | None = None,
        *,
        cache_type: CacheType = "generation",
        limit: int = 100_000,
    ) -> None:
        check_cache_type(cache_type)
        check_count("limit", limit)
        self._given = session
        self._log = AccessLog(cache_type, limit=limit)

    def __repr__(self) -> str:
        return f"<CacheBenchmark {self._log.cache_type}: {len(self._log.accesses)} accesses>"

    @property
    def accesses(self) -> list[Access]:
        """What was recorded, oldest first."""
        return list(self._log.accesses)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the session's accesses within a block, to be replayed afterwards."""
        with session_now(self._given).observe(self.observe, everywhere=True):
            yield

    def observe(self, call: Observed) -> None:
        """Record one call; what `recording` does with each."""
        self._log.observe(call)

    async def save_accesses(self, path: str | os.PathLike[str]) -> Path:
        """Write what was recorded, for ``asteady bench`` and ``asteady cache size --accesses``.

        Keys are digests, so the file has no prompts in it. It appears whole, and only its owner
        can read it.

        Raises:
            OSError: the file cannot be written.
        """
        data = write_accesses(self._log.accesses)
        return await anyio.to_thread.run_sync(write_atomically, path, data)

    async def benchmark_single_prompt(
        self,
        prompt: str,
        *,
        iterations: int = 10,
        model: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> PromptTiming:
        """Time a prompt once cold and ``iterations - 1`` times warm.

        The cold time is that of ``cache="refresh"``, which computes and stores the same answer
        anew, after the model has been loaded. So the prompt is in the cache afterwards.

        Raises:
            InvalidRequestError: `iterations` is below 2.
            AsteadyError: as `Session.generate`.
        """
        check_count("iterations", iterations, least=2)
        session = await opened_session(self._given)
        await session._core.engines.pool("generation", session._core.model("generation", model))
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
            prompt=prompt if len(prompt) <= _SHOWN else prompt[:_SHOWN] + "...",
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

        They are replayed through the cache's own policy, in a thread: nothing is computed, and no
        cache is touched.

        Args:
            accesses: recorded ones, or prompts, of which each counts one byte and one second; None
                takes what `recording` recorded.
            cache_sizes: most entries.
            max_bytes: the byte budget; default: none.
            policy: "tide", "lru" or "lfu".

        Raises:
            InvalidRequestError: an argument is not allowed, or nothing was recorded.
        """
        recorded = self._accesses(accesses)
        check_list("cache_sizes", cache_sizes, "numbers of entries")
        if policy not in POLICIES:
            raise InvalidRequestError(
                f"policy={policy!r} is not allowed: {', '.join(map(repr, POLICIES))}"
            )
        results: dict[int, Replayed] = {}
        for index, size in enumerate(cache_sizes):
            check_count(f"cache_sizes[{index}]", size)
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

        Found by replaying at the sizes of a binary search. Without any repetition nothing can be
        saved, and 1 is enough.

        Raises:
            InvalidRequestError: `target` is not above 0 and at most 1, or as
                `benchmark_cache_sizes`.
        """
        check_share("target", target)
        recorded = self._accesses(accesses)
        high = max(1, len({access.key for access in recorded}))
        best = await self.benchmark_cache_sizes(recorded, [high], policy=policy)
        enough = target * best[high].saved_rate
        low = 1
        while low < high:
            middle = (low + high) // 2
            told = await self.benchmark_cache_sizes(recorded, [middle], policy=policy)
            if told[middle].saved_rate >= enough - 1e-9:
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
        check_list("accesses", accesses, "accesses or prompts")
        return [Access(one, 1, 1.0) if isinstance(one, str) else one for one in accesses]
