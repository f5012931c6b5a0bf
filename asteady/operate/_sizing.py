"""How large the cache should be, from its own access stream."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

import anyio.to_thread
import attrs

from asteady._base.checks import CacheType, check_cache_type, check_count, check_share
from asteady._base.errors import InvalidRequestError
from asteady._base.files import write_atomically
from asteady._base.requests import GenerateRequest
from asteady._base.settings import MEBIBYTE, Settings
from asteady._cache.store.stored_request import prompt_of
from asteady._session.observe import Observed
from asteady._session.session import Session
from asteady._session.warm_jobs import shown
from asteady.operate._accesses import Access, access_of
from asteady.operate._shards import Curve, Shards
from asteady.operate._uses import CachePriority, Uses
from asteady.operate._which import opened_session, session_now

logger = logging.getLogger("asteady")

SizeGoal: TypeAlias = Literal["seconds", "hits"]

_VERSION = 1
# Keeps the largest error under 1 point on every trace that was measured (docs/operate/sizing.md),
# in some megabytes of memory.
_MAX_KEYS = 8192
# As often as this, a prompt counts as frequently used.
_FREQUENT = 5


@attrs.frozen(kw_only=True)
class SizeRecommendation:
    """How large the cache should be. Rates are in percent: of accesses if `by` is "hits", of
    compute time if it is "seconds".

    `entries` and `size_bytes` are the smallest that reach `target` of `best_rate`, which is what an
    unlimited cache would give; both are 0 if nothing was asked for twice. `rate` is that at
    `entries`.
    """

    by: SizeGoal
    target: float
    entries: int
    size_bytes: int
    rate: float
    best_rate: float
    current_entries: int
    current_size_bytes: int
    current_rate: float
    accesses: int
    total_unique: int
    frequently_used: int

    @property
    def recommended_size(self) -> int:
        """The same as `entries`."""
        return self.entries

    def __str__(self) -> str:
        if not self.accesses:
            return "no accesses were seen yet, so there is nothing to recommend"
        if not self.entries:
            return (
                f"nothing was asked for twice in {self.accesses:,} accesses: no size of the cache"
                " would give hits"
            )
        return (
            f"{self.entries:,} entries and {_megabytes(self.size_bytes)} reach"
            f" {self.rate:.1f} % of {self.best_rate:.1f} % ({self.by}); the cache now has room for"
            f" {self.current_entries:,} entries and {_megabytes(self.current_size_bytes)},"
            f" which gives {self.current_rate:.1f} %"
        )


class CacheOptimizer:
    """Learns, from the accesses to one cache, what every size of it would give.

    Attached to a session within its block, it sees the accesses of the whole session::

        async with CacheOptimizer(session) as optimizer:
            ...  # the program works
        print(optimizer.recommend())

    What it has learnt is kept in the cache's directory, read at the beginning of the block and
    written at its end and by `save`, so it adds up over runs, and ``asteady cache size`` shows it.
    Of two processes with one directory, the last one to write wins.

    Args:
        session: default: the running loop's default session.
        cache_type: "generation" or "embedding".
        max_keys: how many keys to track; beyond, keys are sampled.
        remember: whether to read and write the file.
        settings: which sizes are "current", without a session.
    """

    def __init__(
        self,
        session: Session | None = None,
        *,
        cache_type: CacheType = "generation",
        max_keys: int = _MAX_KEYS,
        remember: bool = True,
        settings: Settings | None = None,
    ) -> None:
        check_cache_type(cache_type)
        check_count("max_keys", max_keys)
        self.cache_type = cache_type
        self._given = session
        self._settings = settings or (session_now(session).settings if session else None)
        self._remember = remember
        self._shards = Shards(max_keys)
        self._uses = Uses()
        self._observing: AbstractContextManager[None] | None = None

    def __repr__(self) -> str:
        return f"<CacheOptimizer {self.cache_type}: {self._shards.accesses} accesses>"

    async def __aenter__(self) -> CacheOptimizer:
        session = await opened_session(self._given)
        self._settings = session.settings
        self._remember = self._remember and not session.settings.disable_cache
        if self._remember and not self._shards.accesses:
            await anyio.to_thread.run_sync(self.load, state_path(session.settings, self.cache_type))
        self._observing = session.observe(self._observe, everywhere=True)
        self._observing.__enter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        observing, self._observing = self._observing, None
        if observing is not None:
            observing.__exit__(None, None, None)
        if self._remember:
            with anyio.CancelScope(shield=True):
                try:
                    await self.save()
                except OSError as failure:
                    logger.warning("what the CacheOptimizer learnt was not written: %s", failure)

    def record(self, access: Access, *, prompt: str = "", seed: int | None = None) -> None:
        """Take one access into account."""
        self._shards.add(access)
        self._uses.add(access, shown(prompt) if prompt else "", seed)

    def track_usage(
        self, prompt: str, seed: int, generation_time: float, size_bytes: int = 1
    ) -> None:
        """Take one use of a prompt into account, by hand; `generation_time` is in seconds.

        Not needed within the block, where every call of the session is seen.
        """
        key = hashlib.sha256(repr((prompt, seed)).encode()).hexdigest()
        self.record(Access(key, size_bytes, generation_time), prompt=prompt, seed=seed)

    def curve(self) -> Curve:
        """What every capacity in entries would give."""
        return self._shards.by_entries()

    def curve_by_bytes(self) -> Curve:
        """What every capacity in bytes would give."""
        return self._shards.by_bytes()

    def recommend(self, target: float = 0.95, *, by: SizeGoal = "seconds") -> SizeRecommendation:
        """The smallest capacity that reaches this share of the best possible.

        Args:
            target: above 0, at most 1.
            by: "seconds" of computation saved, or "hits".

        Raises:
            InvalidRequestError: an argument is not allowed.
        """
        check_share("target", target)
        if by not in ("seconds", "hits"):
            raise InvalidRequestError(f'by={by!r} is not allowed: "seconds" or "hits"')
        entries, sizes = self.curve(), self.curve_by_bytes()
        settings = self._settings or Settings()
        if self.cache_type == "generation":
            capacity = settings.generation_cache_capacity
            max_bytes = int(settings.generation_cache_max_size_mb * MEBIBYTE)
        else:
            capacity = settings.embedding_cache_capacity
            max_bytes = int(settings.embedding_cache_max_size_mb * MEBIBYTE)

        def rates(curve: Curve) -> tuple[float, ...]:
            return curve.saved if by == "seconds" else curve.hits

        def rate(curve: Curve, size: int) -> float:
            return 100 * (curve.saved_rate(size) if by == "seconds" else curve.hit_rate(size))

        found = entries.smallest(target, rates(entries))
        return SizeRecommendation(
            by=by,
            target=target,
            entries=found,
            size_bytes=sizes.smallest(target, rates(sizes)),
            rate=rate(entries, found),
            best_rate=100 * rates(entries)[-1] if rates(entries) else 0.0,
            current_entries=capacity,
            current_size_bytes=max_bytes,
            # Both budgets hold, so the scarcer one decides.
            current_rate=min(rate(entries, capacity), rate(sizes, max_bytes)),
            accesses=self._shards.accesses,
            total_unique=round(self._shards.unique),
            frequently_used=self._uses.often(_FREQUENT),
        )

    recommend_cache_size = recommend

    def get_cache_priorities(self, top_n: int = 20) -> list[CachePriority]:
        """The prompts whose entries save most by being kept, best first."""
        return self._uses.top(top_n)

    async def save(self) -> None:
        """Write what was learnt into the cache's directory.

        Raises:
            OSError: it cannot be written.
        """
        path = state_path(self._settings or Settings.from_environment(), self.cache_type)
        state = {"version": _VERSION, "shards": self._shards.state(), "uses": self._uses.state()}
        await anyio.to_thread.run_sync(_write, path, state)

    def load(self, path: str | os.PathLike[str]) -> bool:
        """Go on from what was written; False if there is nothing that can be read. Blocks."""
        try:
            with open(path, "rb") as file:
                state = json.load(file)
            if state["version"] != _VERSION:
                raise ValueError(f"version {state['version']!r} is not known")
            shards, uses = Shards.restored(state["shards"]), Uses()
            uses.restore(state["uses"])
        except FileNotFoundError:
            return False
        except (OSError, ValueError, TypeError, KeyError) as exc:
            logger.warning("%s cannot be used, and is begun anew: %r", os.fspath(path), exc)
            return False
        self._shards, self._uses = shards, uses
        return True

    def _observe(self, call: Observed) -> None:
        settings = self._settings or Settings()
        access = access_of(call, self.cache_type, settings.keep_requests_bytes)
        if access is not None:
            request = call.request
            seed = request.seed if isinstance(request, GenerateRequest) else None
            self.record(access, prompt=prompt_of(request), seed=seed)


def _megabytes(size_bytes: int) -> str:
    megabytes = size_bytes / MEBIBYTE
    return f"{megabytes:,.1f} MB" if megabytes >= 1 else f"{megabytes:.2g} MB"


def state_path(settings: Settings, cache_type: CacheType) -> Path:
    """Where what was learnt of a cache is kept."""
    return settings.cache_dir / f"{cache_type}_accesses.json"


def _write(path: Path, state: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(state).encode())
