"""Warming: compute and remember answers before anybody asks for them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import anyio
import anyio.to_thread
import attrs

from asteady._base.checks import check_count, check_seconds
from asteady._base.errors import InvalidRequestError, SessionError, StoreError
from asteady._base.requests import GenerateOptions, GenerateRequest, Key, check_options
from asteady._session.warm_jobs import (
    PRIORITIES,
    Job,
    Priority,
    WarmSource,
    check_seeds,
    jobs_of,
    jobs_of_lines,
)

if TYPE_CHECKING:
    from asteady._session.session import Asking

logger = logging.getLogger("asteady")

WarmOutcome: TypeAlias = Literal["warmed", "already_cached", "failed"]


class WarmerOptions(GenerateOptions, total=False):
    """Options of whatever warms: those of `generate`, for prompts without their own, and:"""

    model: str | None
    """The model; default: the session's."""
    budget_s: float | None
    """Stop after so many seconds; what is under way then is cancelled. Default: no limit."""
    on_progress: Callable[[WarmProgress], object] | None
    """Called on the event loop with each prompt that is done."""


class WarmOptions(WarmerOptions, total=False):
    """The options of `Session.warm`."""

    seeds: Sequence[int] | None
    """Warm each prompt with each of these; default: [42]."""
    concurrency: int
    """How many are under way at once; default: 4."""


@attrs.frozen(kw_only=True)
class WarmProgress:
    """One prompt is done. `total` is None while it is not known: for an async iterator."""

    done: int
    total: int | None
    prompt: str
    seed: int | None
    outcome: WarmOutcome
    error: Exception | None = None


@attrs.frozen(kw_only=True)
class WarmFailure:
    """A prompt that could not be warmed. `where` is its line or index, `prompt` its beginning."""

    where: str
    prompt: str
    seed: int | None
    error: Exception

    @property
    def reason(self) -> str:
        return f"{type(self.error).__name__}: {self.error}"

    def __str__(self) -> str:
        return f"{self.where} ({self.prompt}): {self.reason}"


@attrs.frozen(kw_only=True)
class WarmReport:
    """What became of each prompt and seed. `duplicates` were named before and are no others.

    `skipped` were not done within the budget (of an async iterator, those that it had given).
    `by_priority` has those that were warmed.
    """

    warmed: int
    already_cached: int
    failed: tuple[WarmFailure, ...]
    skipped: int
    duplicates: int
    seconds: float
    by_priority: dict[Priority, int]

    def __str__(self) -> str:
        return (
            f"warmed {self.warmed}, already cached {self.already_cached}, failed"
            f" {len(self.failed)}, skipped for time {self.skipped}, in {self.seconds:.1f} s"
        )


async def warm(
    session: Asking,
    prompts: WarmSource,
    *,
    model: str | None = None,
    seeds: Sequence[int] | None = None,
    concurrency: int = 4,
    budget_s: float | None = None,
    on_progress: Callable[[WarmProgress], object] | None = None,
    lines: bytes | None = None,
    **options: Any,
) -> WarmReport:
    """See `Session.warm`. `lines` is the contents of a JSON Lines file, in place of `prompts`."""
    check_count("concurrency", concurrency)
    if budget_s is not None:
        check_seconds("budget_s", budget_s)
    if on_progress is not None and not callable(on_progress):
        raise InvalidRequestError(f"on_progress={on_progress!r} is not allowed: a function")
    session._core.check_open()
    session._core.model("generation", model)
    warming = _Warming(session, on_progress)
    given = check_seeds(seeds)
    # What is wrong for every prompt is no failure of each.
    check_options("warm", options, WarmOptions.__annotations__.keys() - {"seed"})
    defaults = GenerateOptions(**options)  # type: ignore[typeddict-item]  # its names are checked
    for seed in given:
        GenerateRequest.of("any", **{**defaults, "seed": seed})
    if lines is None and isinstance(prompts, os.PathLike):
        lines = await anyio.to_thread.run_sync(_read, os.fspath(prompts))
    drawn: list[_Draw]
    if lines is not None:
        drawn = warming.plan(jobs_of_lines(lines, given, defaults, model))
    elif isinstance(prompts, (str, bytes, Mapping)):
        raise InvalidRequestError(
            f"prompts is one {type(prompts).__name__}: give a list of prompts, or the Path of a"
            " JSON Lines file"
        )
    elif isinstance(prompts, AsyncIterable):
        drawn = [_Stream(prompts, lambda at, item: jobs_of(at, item, given, defaults, model))]
    elif isinstance(prompts, Iterable):
        drawn = warming.plan(
            job
            for index, item in enumerate(prompts)
            for job in jobs_of(f"prompts[{index}]", item, given, defaults, model)
        )
    else:
        raise InvalidRequestError(
            f"prompts={prompts!r} is not allowed: a list, an async iterator, or a Path"
        )
    return await warming.run(drawn, concurrency, budget_s)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


class _Draw(Protocol):
    """Where workers get their jobs from."""

    async def next(self) -> Job | None: ...

    def left(self) -> int: ...


class _Listed:
    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._next = 0

    async def next(self) -> Job | None:
        if self._next == len(self._jobs):
            return None
        self._next += 1
        return self._jobs[self._next - 1]

    def left(self) -> int:
        return len(self._jobs) - self._next


class _Stream:
    """Jobs of an async iterator, which is asked for one item at a time, and never ahead."""

    def __init__(
        self, items: AsyncIterable[Any], jobs: Callable[[str, Any], Iterator[Job]]
    ) -> None:
        self._items: AsyncIterator[Any] | None = aiter(items)
        self._jobs_of = jobs
        self._jobs: list[Job] = []
        self._count = 0
        self._lock = anyio.Lock()

    async def next(self) -> Job | None:
        async with self._lock:
            while not self._jobs:
                if self._items is None:
                    return None
                where = f"prompts[{self._count}]"
                try:
                    item = await anext(self._items)
                except StopAsyncIteration:
                    self._items = None
                except Exception as exc:
                    self._items = None
                    return Job(where=where, prompt="the iterator failed", error=exc)
                else:
                    self._count += 1
                    self._jobs = list(self._jobs_of(where, item))
            return self._jobs.pop(0)

    def left(self) -> int:
        return len(self._jobs)


class _Warming:
    """One call of `warm`, from its first job to its report."""

    def __init__(
        self, session: Asking, on_progress: Callable[[WarmProgress], object] | None
    ) -> None:
        self._session = session
        self._core = session._core
        self._on_progress = on_progress
        self._total: int | None = None
        self._met: set[tuple[str | None, Key]] = set()
        self._failed: list[WarmFailure] = []
        self._by_priority: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)
        self._cached = self._skipped = self._duplicates = 0
        self._closed: SessionError | None = None

    def plan(self, jobs: Iterable[Job]) -> list[_Draw]:
        """The jobs of each priority apart: a lower one begins when the higher ones have ended."""
        listed = list(jobs)
        self._total = len(listed)
        return [_Listed([job for job in listed if job.priority == p]) for p in PRIORITIES]

    async def run(
        self, drawn: Sequence[_Draw], concurrency: int, budget_s: float | None
    ) -> WarmReport:
        began_s = time.perf_counter()
        with anyio.move_on_after(budget_s):
            for draw in drawn:
                async with anyio.create_task_group() as group:
                    for _ in range(concurrency):
                        group.start_soon(self._work, draw, group.cancel_scope)
                if self._closed is not None:
                    raise self._closed
        return WarmReport(
            warmed=sum(self._by_priority.values()),
            already_cached=self._cached,
            failed=tuple(self._failed),
            skipped=self._skipped + sum(draw.left() for draw in drawn),
            duplicates=self._duplicates,
            seconds=time.perf_counter() - began_s,
            by_priority=self._by_priority,
        )

    async def _work(self, draw: _Draw, scope: anyio.CancelScope) -> None:
        while (job := await draw.next()) is not None:
            try:
                if job.error is not None or job.request is None:
                    self._fail(job, job.error or InvalidRequestError("nothing to warm"))
                else:
                    await self._one(job, job.request)
            except SessionError as exc:
                # The session has closed: nothing more can be done, and to say so is no failure
                # of this prompt.
                self._closed = exc
                scope.cancel()
                return
            except Exception as exc:
                self._fail(job, exc)
            except BaseException:
                self._skipped += 1
                raise

    async def _one(self, job: Job, request: GenerateRequest) -> None:
        self._core.check_open()
        if self._core.settings.disable_cache:
            raise StoreError("the cache is disabled (disable_cache, ASTEADY_DISABLE_CACHE)")
        session = self._session
        # A path below the session's own, if that is a namespace.
        generation = (session.namespace(job.namespace) if job.namespace else session)._generation
        model = self._core.model("generation", job.model)
        key = await generation.key(request, model)
        if (job.namespace, key) in self._met:
            self._duplicates += 1
            return
        self._met.add((job.namespace, key))
        if await generation.secure(request, model=model):
            self._cached += 1
            self._tell(job, "already_cached")
            return
        await generation.answer(request, model=model, mode="use")
        # Not every answer is kept: it may be larger than the budget, or the store may fail.
        if not await generation.contains(request, model=model):
            raise StoreError("the answer was computed, but the cache has not kept it")
        self._by_priority[job.priority] += 1
        self._tell(job, "warmed")

    def _fail(self, job: Job, error: Exception) -> None:
        self._failed.append(
            WarmFailure(where=job.where, prompt=job.prompt, seed=job.seed, error=error)
        )
        self._tell(job, "failed", error)

    def _tell(self, job: Job, outcome: WarmOutcome, error: Exception | None = None) -> None:
        if self._on_progress is None:
            return
        done = sum(self._by_priority.values()) + self._cached + len(self._failed)
        total = None if self._total is None else self._total - self._duplicates
        progress = WarmProgress(
            done=done,
            total=total,
            prompt=job.prompt,
            seed=job.seed,
            outcome=outcome,
            error=error,
        )
        try:
            self._on_progress(progress)
        except Exception:
            logger.exception("the function that is told of the warming's progress failed")
