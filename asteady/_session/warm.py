"""Warming: computes and remembers answers before anybody asks for them."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from typing import Any, Literal, TypeAlias

import anyio
import attrs

from asteady._base.errors import AsteadyError, InvalidRequestError, SessionError, StoreError
from asteady._base.files import AnyPath
from asteady._base.options import TypedOptions, check_options, shows_options_of
from asteady._base.public import public
from asteady._base.requests import DEFAULT_SEED, GenerateRequest, Key, namespace_path
from asteady._base.validation import one_of, refuse, seconds, shorten, whole_number
from asteady._session.pipeline import Call, CallContext

logger = logging.getLogger("asteady")

WarmOutcome: TypeAlias = Literal["warmed", "already_cached", "failed"]

Priority: TypeAlias = Literal["high", "medium", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "medium", "low")

WarmPrompt: TypeAlias = str | Mapping[str, Any]
"""A prompt, or a mapping with "prompt" or "messages" and optionally "seed" or "seeds",
"priority" ("high", "medium", "low"), "model", "namespace" and any of `TypedOptions`."""

WarmSource: TypeAlias = Iterable[WarmPrompt] | AsyncIterable[WarmPrompt] | os.PathLike[str]
"""Prompts, or the path of a JSON Lines file with one of them on each line."""

_OPTIONS = frozenset(TypedOptions.__annotations__)
# A prompt that has one of them has no other.
_FORMS = frozenset({"schema", "choices", "regex", "grammar"})
_SHOWN = 60


@public
@attrs.frozen(kw_only=True)
class WarmProgress:
    """One prompt is done. `total` is None while it is not known: for an async iterator."""

    done: int
    total: int | None
    prompt: str
    seed: int | None
    outcome: WarmOutcome
    error: Exception | None = None


@public
class WarmerOptions(TypedOptions, total=False):
    """Options of all that warm: those of `generate`, for prompts without their own, and these."""

    model: AnyPath | None
    """The model; default: the session's."""
    budget_s: float | None
    """Stop after so many seconds; computations in progress are cancelled. Default: no limit."""
    on_progress: Callable[[WarmProgress], object] | None
    """Called on the event loop with each prompt that is done."""


@public
class WarmOptions(WarmerOptions, total=False):
    """The options of `Session.warm`."""

    seeds: Sequence[int] | None
    """Warm each prompt with each of these; default: [42]."""
    concurrency: int
    """The number computed at once; default: 4."""


@public
@attrs.frozen(kw_only=True)
class WarmFailure:
    """A prompt that could not be warmed. `where` is its line or index, `prompt` its beginning."""

    where: str
    prompt: str
    seed: int | None
    error: Exception

    @property
    def reason(self) -> str:
        if isinstance(self.error, AsteadyError):
            return str(self.error)
        return f"{type(self.error).__name__}: {self.error}"

    def __str__(self) -> str:
        return f"{self.where} ({self.prompt}): {self.reason}"


@public
@attrs.frozen(kw_only=True)
class WarmReport:
    """The outcomes, by prompt and seed. `duplicates` repeat an earlier one and count only here.

    `skipped` were not done within the budget; of an async iterator only those that it had given.
    `by_priority` counts those that were warmed.
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


@attrs.frozen
class JsonLines:
    """The contents of a JSON Lines file of prompts."""

    raw: bytes


@attrs.frozen(kw_only=True)
class WarmJob:
    """One answer to be warmed, or the reason why it cannot be."""

    where: str
    prompt: str
    seed: int | None = None
    priority: Priority = "medium"
    model: AnyPath | None = None
    namespace: str | None = None
    arguments: Mapping[str, Any] = {}
    error: Exception | None = None


@shows_options_of(GenerateRequest.of)
async def warm(
    context: CallContext,
    prompts: WarmSource | JsonLines,
    *,
    model: AnyPath | None = None,
    seeds: Sequence[int] | None = None,
    concurrency: int = 4,
    budget_s: float | None = None,
    on_progress: Callable[[WarmProgress], object] | None = None,
    **options: Any,
) -> WarmReport:
    """See `Session.warm`."""
    reader = _Reader(context, model, seeds, options)
    warming = _Warming(context, concurrency, budget_s, on_progress)
    if isinstance(prompts, os.PathLike):
        prompts = JsonLines(await anyio.Path(prompts).read_bytes())
    if isinstance(prompts, JsonLines):
        return await warming.run_all(reader.jobs_of_lines(prompts.raw))
    if isinstance(prompts, (str, bytes, Mapping)):
        raise InvalidRequestError(
            f"prompts is one {type(prompts).__name__}: give a list of prompts, or the Path of a"
            " JSON Lines file"
        )
    if isinstance(prompts, AsyncIterable):
        async with aclosing(reader.jobs_of_each(prompts)) as jobs:
            return await warming.run([_Queue((), jobs)])
    if isinstance(prompts, Iterable):
        return await warming.run_all(
            job
            for index, item in enumerate(prompts)
            for job in reader.jobs_of(f"prompts[{index}]", item)
        )
    raise refuse("prompts", prompts, "a list, an async iterator, or a Path")


class _Reader:
    """Turns prompts into jobs; what applies to all of them is checked at once."""

    def __init__(
        self,
        context: CallContext,
        model: AnyPath | None,
        seeds: Sequence[int] | None,
        options: dict[str, Any],
    ) -> None:
        context.tasks.check_open()
        context.model("generation", model)
        self._model = model
        self._seeds = _check_seeds(seeds)
        check_options("warm", options, WarmOptions.__annotations__.keys() - {"seed"})
        self._options = options
        for seed in self._seeds:
            GenerateRequest.of("any", **{**options, "seed": seed})

    def jobs_of(self, where: str, value: object) -> Iterator[WarmJob]:
        """The jobs of one prompt, one for each seed; never raises."""
        prompt = shown(value)
        try:
            item: dict[str, Any] = {"prompt": value} if isinstance(value, str) else _mapping(value)
            priority = one_of("priority", item.pop("priority", "medium"), PRIORITIES)
            model = item.pop("model", self._model)
            namespace = item.pop("namespace", None)
            namespace = None if namespace is None else namespace_path(namespace)
            if "seed" in item and "seeds" in item:
                raise InvalidRequestError("give either seed or seeds, not both")
            seeds = [item.pop("seed")] if "seed" in item else item.pop("seeds", self._seeds)
            seeds = _check_seeds(seeds)
            text = item.pop("prompt", None)
            check_options("warm", item, _OPTIONS)
        except InvalidRequestError as exc:
            yield WarmJob(where=where, prompt=prompt, error=exc)
            return
        options = self._options
        if not _FORMS.isdisjoint(item):
            options = {name: options[name] for name in options.keys() - _FORMS}
        for seed in seeds:
            yield WarmJob(
                where=where,
                prompt=prompt,
                seed=seed,
                priority=priority,
                model=model,
                namespace=namespace,
                arguments={"prompt": text, **options, **item, "seed": seed},
            )

    async def jobs_of_each(self, values: AsyncIterable[object]) -> AsyncGenerator[list[WarmJob]]:
        """The jobs of each prompt; an iterator that fails ends with a job that fails."""
        count = 0
        try:
            async for value in values:
                yield list(self.jobs_of(f"prompts[{count}]", value))
                count += 1
        except Exception as exc:
            yield [WarmJob(where=f"prompts[{count}]", prompt="the iterator failed", error=exc)]

    def jobs_of_lines(self, raw: bytes) -> Iterator[WarmJob]:
        """The jobs of a JSON Lines file; a line that cannot be read is a job that fails."""
        for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            if not line.strip():
                continue
            where = f"line {number}"
            try:
                value = json.loads(line.decode())
            except ValueError as exc:
                error = InvalidRequestError(
                    f"not JSON: {exc}; a plain prompt needs quotes around it"
                )
                prompt = shown(line.decode(errors="replace"))
                yield WarmJob(where=where, prompt=prompt, error=error)
                continue
            yield from self.jobs_of(where, value)


def _check_seeds(seeds: Sequence[int] | None) -> list[int]:
    if seeds is None:
        return [DEFAULT_SEED]
    if isinstance(seeds, str) or not isinstance(seeds, Iterable) or not (given := list(seeds)):
        raise refuse("seeds", seeds, "a list of at least one number")
    return given


def shown(value: object) -> str:
    if isinstance(value, Mapping):
        value = value.get("prompt") or value.get("messages") or value
    return shorten(value if isinstance(value, str) else repr(value), _SHOWN)


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequestError(
            f"{shown(value)} is not allowed: a prompt is a str, or a mapping with one"
        )
    return dict(value)


class _Queue:
    """Jobs that are known, then those of an iterator, which is never read ahead."""

    def __init__(
        self, jobs: Iterable[WarmJob], more: AsyncIterator[list[WarmJob]] | None = None
    ) -> None:
        self.jobs = deque(jobs)
        self._more = more
        self._lock = anyio.Lock()

    async def next(self) -> WarmJob | None:
        async with self._lock:
            while not self.jobs and self._more is not None:
                found = await anext(self._more, None)
                if found is None:
                    self._more = None
                else:
                    self.jobs.extend(found)
            return self.jobs.popleft() if self.jobs else None


class _Warming:
    """One call of `warm`, from its first job to its report."""

    def __init__(
        self,
        context: CallContext,
        concurrency: int,
        budget_s: float | None,
        on_progress: Callable[[WarmProgress], object] | None,
    ) -> None:
        self._context = context
        self._concurrency = whole_number("concurrency", concurrency, 1)
        self._budget_s = None if budget_s is None else seconds("budget_s", budget_s)
        if on_progress is not None and not callable(on_progress):
            raise refuse("on_progress", on_progress, "a function")
        self._on_progress = on_progress
        self._total: int | None = None
        self._seen: set[tuple[str | None, Key]] = set()
        self._failed: list[WarmFailure] = []
        self._by_priority: dict[Priority, int] = dict.fromkeys(PRIORITIES, 0)
        self._cached = self._skipped = self._duplicates = 0
        self._closed: SessionError | None = None

    async def run_all(self, jobs: Iterable[WarmJob]) -> WarmReport:
        """Run jobs that are all known; a lower priority begins when the higher ones have ended."""
        every = list(jobs)
        self._total = len(every)
        return await self.run(
            [_Queue(job for job in every if job.priority == p) for p in PRIORITIES]
        )

    async def run(self, queues: Sequence[_Queue]) -> WarmReport:
        began_s = time.perf_counter()
        with anyio.move_on_after(self._budget_s):
            for queue in queues:
                async with anyio.create_task_group() as group:
                    for _ in range(self._concurrency):
                        group.start_soon(self._work, queue, group.cancel_scope)
                if self._closed is not None:
                    raise self._closed
        return WarmReport(
            warmed=sum(self._by_priority.values()),
            already_cached=self._cached,
            failed=tuple(self._failed),
            skipped=self._skipped + sum(len(queue.jobs) for queue in queues),
            duplicates=self._duplicates,
            seconds=time.perf_counter() - began_s,
            by_priority=self._by_priority,
        )

    async def _work(self, queue: _Queue, scope: anyio.CancelScope) -> None:
        while (job := await queue.next()) is not None:
            try:
                if job.error is None:
                    await self._one(job)
                else:
                    self._fail(job, job.error)
            except SessionError as exc:
                # Nothing more can be done, and it is no failure of this prompt.
                self._closed = exc
                scope.cancel()
                return
            except Exception as exc:
                self._fail(job, exc)
            except BaseException:
                self._skipped += 1
                raise

    async def _one(self, job: WarmJob) -> None:
        context = self._context
        request = context.request(job.arguments)
        context.tasks.check_open()
        if context.settings.disable_cache:
            raise StoreError("the cache is disabled (disable_cache, ASTEADY_DISABLE_CACHE)")
        # A job's namespace is a path below the one that the call is made under.
        namespace = "/".join(path for path in (context.namespace, job.namespace) if path) or None
        call = Call(
            request=context.isolated(request),
            model=context.model("generation", job.model),
            namespace=None if namespace is None else namespace_path(namespace),
        )
        pipeline = context.generation
        key = await pipeline.key(call)
        if (namespace, key) in self._seen:
            self._duplicates += 1
            return
        self._seen.add((namespace, key))
        if await pipeline.ensure_tagged(call):
            self._cached += 1
            self._report(job, "already_cached")
            return
        await pipeline.answer(call)
        # An answer may be larger than the budget, or the store may fail.
        if not await pipeline.contains(call):
            raise StoreError("the answer was computed, but the cache has not stored it")
        self._by_priority[job.priority] += 1
        self._report(job, "warmed")

    def _fail(self, job: WarmJob, error: Exception) -> None:
        self._failed.append(
            WarmFailure(where=job.where, prompt=job.prompt, seed=job.seed, error=error)
        )
        self._report(job, "failed", error)

    def _report(self, job: WarmJob, outcome: WarmOutcome, error: Exception | None = None) -> None:
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
            logger.exception("the on_progress callback raised")
