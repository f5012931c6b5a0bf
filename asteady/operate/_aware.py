"""Generating by what is cached: fallback prompts, and batches with the cached prompts first."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import anyio
import attrs

from asteady._base.errors import AsteadyError, CacheMissError
from asteady._base.files import AnyPath
from asteady._base.options import GenerateOptions, TypedOptions, check_options, shows_options_of
from asteady._base.public import public
from asteady._base.requests import DEFAULT_SEED, GenerateRequest
from asteady._base.tasks import map_concurrently
from asteady._base.validation import check_list, seconds, whole_number
from asteady._session.generation import context_of
from asteady._session.observe import Observed
from asteady._session.session import Session
from asteady.operate._resolve_session import opened_session

logger = logging.getLogger("asteady")


_OPTIONS = TypedOptions.__annotations__.keys()
_FALLBACK_OPTIONS = _OPTIONS | {"model", "background", "timeout_s"}
_BATCH_OPTIONS = _OPTIONS | {"model", "concurrency"}


@public
class WithFallback(NamedTuple):
    """The text, and whether it is that of the fallback prompt."""

    text: str
    used_fallback: bool


@public
@attrs.frozen(kw_only=True)
class BatchStatistics:
    """The statistics of a batch. `total` counts all prompts, the other fields unique ones.

    `cache_rate` is in percent of the unique prompts. `uncached` were computed, by this batch or by
    another call at the same time. The mean time of no prompts is 0.
    """

    total: int
    unique: int
    cached: int
    uncached: int
    cache_rate: float
    avg_cached_time_s: float
    avg_uncached_time_s: float


@public
class BatchResult(NamedTuple):
    """The texts in the order of the prompts, and the statistics."""

    results: list[str]
    stats: BatchStatistics


@public
class CacheAwareGenerator:
    """Generates by what is cached, with a session; default: the running loop's default session.

    Needs no closing. Computations in the background belong to the session, and end with it.
    """

    def __init__(self, session: Session | None = None) -> None:
        self._given = session
        self._background: set[object] = set()
        self._idle = anyio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"<CacheAwareGenerator: {self.background} in the background>"

    @property
    def background(self) -> int:
        """The number of computations in progress in the background."""
        return len(self._background)

    async def wait_background(self) -> None:
        """Wait until nothing is computed in the background."""
        await self._idle.wait()

    @shows_options_of(GenerateRequest.of)
    async def is_cached(
        self,
        prompt: str | None = None,
        *,
        model: AnyPath | None = None,
        **options: Unpack[TypedOptions],
    ) -> bool:
        """`Session.is_cached`: exact, for just these options."""
        return await (await opened_session(self._given)).is_cached(prompt, model=model, **options)

    @shows_options_of(GenerateRequest.of)
    async def is_likely_cached(
        self,
        prompt: str | None = None,
        seed: int = DEFAULT_SEED,
        *,
        model: AnyPath | None = None,
        **options: Any,
    ) -> bool:
        """As `is_cached`, with the seed second as in the caching guide; exact all the same."""
        return await self.is_cached(prompt, model=model, seed=seed, **options)

    @shows_options_of(GenerateRequest.of)
    async def generate_with_fallback(
        self,
        primary_prompt: str,
        fallback_prompt: str | None = None,
        *,
        background: bool = False,
        timeout_s: float | None = None,
        model: AnyPath | None = None,
        **options: Unpack[GenerateOptions],
    ) -> WithFallback:
        """The primary prompt's text if it is cached; else the fallback's if that is; else the
        primary's, computed.

        Args:
            primary_prompt: the prompt to answer.
            fallback_prompt: used instead if only its answer is cached.
            background: compute the primary prompt in the background when the caller got the
                fallback, or timed out, so that it is cached the next time. A failure is logged.
            timeout_s: the time limit for computing the primary prompt.
            model, options: as in `generate`, for both prompts.

        Raises:
            TimeoutError: neither was cached, and the primary took longer than `timeout_s`.
            AsteadyError: as `generate`.
        """
        check_options("generate_with_fallback", options, _FALLBACK_OPTIONS)
        if timeout_s is not None:
            seconds("timeout_s", timeout_s)
        session = await opened_session(self._given)
        if fallback_prompt is not None and not await session.is_cached(
            primary_prompt, model=model, **options
        ):
            # It may be evicted between the two calls.
            with contextlib.suppress(CacheMissError):
                if await session.is_cached(fallback_prompt, model=model, **options):
                    text = await session.generate(
                        fallback_prompt, model=model, cache="only", **options
                    )
                    if background:
                        self._compute_in_background(session, primary_prompt, model, options)
                    return WithFallback(text, True)
        if background and timeout_s is not None:
            # It shares the flight of the call below, and keeps it when that one times out.
            self._compute_in_background(session, primary_prompt, model, options)
        with anyio.move_on_after(timeout_s):
            text = await session.generate(primary_prompt, model=model, **options)
            return WithFallback(text, False)
        raise TimeoutError(
            f"neither prompt was cached, and the primary one was not answered in {timeout_s:g} s"
        )

    @shows_options_of(GenerateRequest.of)
    async def batch_generate_optimized(
        self,
        prompts: Sequence[str],
        *,
        concurrency: int = 4,
        model: AnyPath | None = None,
        **options: Unpack[GenerateOptions],
    ) -> BatchResult:
        """The texts in the order of the prompts; those that are cached are fetched first.

        Repeated prompts are asked for once. At most `concurrency` are computed at once.
        The first error cancels the others and is raised.

        Raises:
            InvalidRequestError: `prompts` is no list, or `concurrency` is below 1.
            AsteadyError: as `generate`.
        """
        check_options("batch_generate_optimized", options, _BATCH_OPTIONS)
        check_list("prompts", prompts, "prompts")
        whole_number("concurrency", concurrency, 1)
        session = await opened_session(self._given)
        unique = list(dict.fromkeys(prompts))
        texts: dict[str, str] = {}
        calls: list[Observed] = []

        async def one(prompt: str) -> None:
            with session.observe(calls.append):
                texts[prompt] = await session.generate(prompt, model=model, **options)

        later: list[str] = []
        for prompt in unique:
            if await session.is_cached(prompt, model=model, **options):
                await one(prompt)
            else:
                later.append(prompt)
        await map_concurrently(one, later, limit=concurrency, name="prompts")
        return BatchResult([texts[prompt] for prompt in prompts], _statistics(prompts, calls))

    def _compute_in_background(
        self, session: Session, prompt: str, model: AnyPath | None, options: GenerateOptions
    ) -> None:
        computation = (prompt, model, repr(sorted(options.items())))
        if computation in self._background:
            return

        async def compute() -> None:
            try:
                await session.generate(prompt, model=model, **options)
            except AsteadyError as exc:
                logger.warning("computing a primary prompt in the background failed: %s", exc)
            except Exception:
                # An exception in the session's task group would close the session.
                logger.exception("computing a primary prompt in the background failed")
            finally:
                self._background.discard(computation)
                if not self._background:
                    self._idle.set()

        self._background.add(computation)
        if self._idle.is_set():
            self._idle = anyio.Event()
        context_of(session).tasks.spawn(compute)


def _statistics(prompts: Sequence[str], calls: Sequence[Observed]) -> BatchStatistics:
    hits = [call.duration_s for call in calls if call.hit]
    others = [call.duration_s for call in calls if not call.hit]
    return BatchStatistics(
        total=len(prompts),
        unique=len(calls),
        cached=len(hits),
        uncached=len(others),
        cache_rate=100 * len(hits) / max(1, len(calls)),
        avg_cached_time_s=sum(hits) / max(1, len(hits)),
        avg_uncached_time_s=sum(others) / max(1, len(others)),
    )
