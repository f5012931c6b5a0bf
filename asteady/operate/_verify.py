"""Verification: answers computed in company, and stored ones, compared with answers computed again.

`verify` answers requests alone first, each with its whole prompt computed. Then again in another
order, at every concurrency up to twice what the workers take at once, between cancellations, after
other prompts, from stored states of their prompts, and in a second process. There, what prompts
share at their beginning is reused; the cache takes no part. `verify_cache` computes a
sample of the stored answers again. Both compare all that an answer says, down to the bits of every
token's log probability.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import pickle
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias

import anyio
import attrs

from asteady._base.errors import (
    AsteadyError,
    EngineError,
    InvalidRequestError,
    PromptTooLongError,
    StoreError,
)
from asteady._base.files import AnyPath
from asteady._base.public import public
from asteady._base.requests import KINDS, Completion, DeclaredPrefix, Embedding, Key, Kind
from asteady._base.settings import Settings
from asteady._base.tasks import map_concurrently, run_in_daemon
from asteady._base.validation import one_of, seconds, shorten, whole_number
from asteady._cache.cache import Cache
from asteady._cache.store.api import Entry
from asteady._cache.store.stored_request import Request, arguments
from asteady._session.generation import GenerationCalls, context_of
from asteady._session.pipeline import Call
from asteady._session.session import Session

VerifyRequest: TypeAlias = Mapping[str, Any]
"""The arguments of `Session.generate` (or, with a `text`, of `Session.embed`) by name."""

Answer: TypeAlias = Completion | Embedding

_PROMPTS = (
    "Write a haiku about {topic}",
    "Explain {topic} in one sentence",
    "Write a Python function for {topic}",
    "{topic}",
    "Create a commit message about {topic}",
    "Générez des données de test: {topic}, café, 東京, 🎉",
)
_TOPICS = ("caching", "recursion", "sorting a list", "rain", "queues", "a login form", "the moon")
# Past 512 positions llama.cpp may compute attention in another way.
_LONG = " ".join(f"Line {number} is about caches and queues." for number in range(48))
# Chats with the same instructions, in which each has one more turn than the one before.
_INSTRUCTIONS = " ".join(f"Rule {number}: be kind to queues." for number in range(16))
_TURN = (
    "\nQuestion {number}: tell me about {topic}, and about what it costs."
    "\nAnswer {number}: whoever looks at {topic} for long finds a cache and a queue, one that "
    "remembers and one that waits; the rest is arithmetic, which costs time, and memory, which "
    "costs patience."
)
_MOST_TURNS = 6
# Of the time, so much is for the answers that the others are compared with, and at least for these.
_ALONE_SHARE = 0.1
_LEAST_REQUESTS = 4
# Where even these take longer, their answers are shortened, to so many tokens at least.
_LEAST_NEW_TOKENS = 4
_SAMPLING: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.8},
    {},
    {"temperature": 1.5, "top_k": 40},
    {"temperature": 0.7, "top_p": 0.8, "repeat_penalty": 1.2},
    # Forms that are complete wherever `max_new_tokens` cuts them.
    {"regex": r"[^\n]+"},
    {"temperature": 0.9, "regex": "[^aeiou]+"},
)


@public
@attrs.frozen(kw_only=True)
class VerifyStep:
    """One way to answer the requests, and the number of answers compared.

    `reused` of them began with tokens that a worker had computed for an earlier prompt.
    """

    name: str
    comparisons: int
    took_s: float
    reused: int = 0


@public
@attrs.frozen(kw_only=True)
class VerifyPlan:
    """What `verify` is about to do, known when requests were answered alone.

    `requests` are answered in so many `steps`, which takes about `seconds`, by how long the answers
    given alone took. All of them in all steps would take about `all_seconds`. On a slow model the
    answers are cut to `most_new_tokens`, which is None where they are not.
    """

    requests: int
    steps: int
    seconds: float
    all_requests: int
    all_steps: int
    all_seconds: float
    most_new_tokens: int | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left out."""
        everything = (self.all_requests, self.all_steps, None)
        return (self.requests, self.steps, self.most_new_tokens) == everything


@public
@attrs.frozen(kw_only=True)
class VerifyDifference:
    """The first answer that differed from the one given alone.

    `before` were answered before it and `beside` at the same time; `where` says which byte differs.
    """

    step: str
    request: VerifyRequest
    before: tuple[VerifyRequest, ...]
    beside: tuple[VerifyRequest, ...]
    where: str


@public
@attrs.frozen(kw_only=True)
class VerifyReport:
    """The result of `verify`. `skipped` requests have more tokens than the model's context.

    `reused` of the compared answers began with tokens of an earlier prompt. `plan` says what a
    limit of time left out; `steps` are fewer than planned if the time was up before.
    """

    model: str
    kind: Kind
    fingerprint: str
    requests: int
    skipped: int
    plan: VerifyPlan
    steps: tuple[VerifyStep, ...]
    difference: VerifyDifference | None

    @property
    def comparisons(self) -> int:
        return sum(step.comparisons for step in self.steps)

    @property
    def reused(self) -> int:
        return sum(step.reused for step in self.steps)

    @property
    def complete(self) -> bool:
        """Whether all requests were answered in all steps: nothing was left out for lack of time,
        and no difference ended it."""
        return self.plan.complete and len(self.steps) == self.plan.all_steps and self.ok

    @property
    def ok(self) -> bool:
        """Whether all answers were the same."""
        return self.difference is None


class _Differs(Exception):
    def __init__(self, difference: VerifyDifference) -> None:
        super().__init__(difference)
        self.difference = difference


@public
async def verify(
    session: Session,
    *,
    model: AnyPath | None = None,
    kind: Kind = "generation",
    requests: int | Sequence[VerifyRequest] = 24,
    max_new_tokens: int = 24,
    second_process: bool = True,
    budget_s: float | None = None,
    planned: Callable[[VerifyPlan], None] | None = None,
    progress: Callable[[VerifyStep], None] | None = None,
) -> VerifyReport:
    """Answer the same requests alone and in all kinds of company, and compare every byte.

    Stops at the first difference; see docs/determinism.md.

    Args:
        session: the session whose workers answer.
        model: the model to verify; default: the session's.
        kind: "generation" or "embedding".
        requests: how many requests, or your own, as mappings of the arguments of `generate` or of
            `embed` (with "text").
        max_new_tokens: for requests without their own.
        second_process: whether to compute the answers in another process too.
        budget_s: leave out requests and steps, and on a slow model the ends of answers, so that it
            takes about so many seconds, loading the model not included; None for all of it.
        planned: called when the first answers are there, with what will be done and how long it
            takes.
        progress: called after each step.

    Raises:
        InvalidRequestError: an argument is not allowed.
        PromptTooLongError: no request fits the model's context.
        ModelError, SessionError, QueueFullError: as in `Session.generate`.
        EngineError: the second process failed.
    """
    one_of("kind", kind, KINDS)
    budget = math.inf if budget_s is None else seconds("budget_s", budget_s, above=True)
    wanted = _requests_for(kind, requests, max_new_tokens)
    reference = context_of(session).model(kind, model)
    verification = _Verification(session, reference, kind, progress)
    answered_s = await verification.answer_alone(wanted, budget * _ALONE_SHARE)
    began = perf_counter()
    ways = await verification.ways(second_process)  # which may have to measure the width first
    budget -= perf_counter() - began + verification.too_long_s
    chosen, plan = _planned(
        ways,
        answered_s,
        budget,
        len(verification.requests),
        len(wanted),
        verification.most_new_tokens,
        verification.shortened_s,
    )
    if planned is not None:
        planned(plan)
    if budget_s is not None:
        chosen.sort(key=lambda way: way.rank)  # so that the time is up for what matters least
    found = None
    ends_s = perf_counter() + budget - answered_s
    try:
        for way in chosen:
            # Steps may take longer than those before them promised.
            if not verification.steps or perf_counter() < ends_s:
                await verification.run(way)
    except _Differs as differs:
        found = differs.difference
    return VerifyReport(
        model=reference,
        kind=kind,
        fingerprint=await context_of(session).models.fingerprint(kind, reference),
        requests=len(verification.requests),
        skipped=verification.skipped,
        plan=plan,
        steps=tuple(verification.steps),
        difference=found,
    )


@attrs.frozen
class _Way:
    """One way to answer all requests. It takes about as long as `passes` times all of them alone;
    the ways with the least `rank` matter most."""

    name: str
    passes: float
    rank: int
    run: Callable[[], Awaitable[None]]


def _planned(
    ways: Sequence[_Way],
    answered_s: float,
    budget_s: float,
    answered: int,
    wanted: int,
    most_new_tokens: int | None = None,
    shortened_s: float = 0,
) -> tuple[list[_Way], VerifyPlan]:
    """The ways for which there is time, in order: those that matter most, and at least one."""
    left_s = budget_s - answered_s
    chosen: list[_Way] = []
    by_rank = sorted(ways, key=lambda way: way.rank)
    for way in by_rank:
        cost_s = way.passes * answered_s
        if cost_s <= left_s:
            chosen.append(way)
            left_s -= cost_s
    if not chosen:
        chosen = [next(way for way in by_rank if way.passes <= 1)]
    plan = VerifyPlan(
        requests=answered,
        steps=len(chosen),
        seconds=sum(way.passes for way in chosen) * answered_s,
        all_requests=wanted,
        all_steps=len(ways),
        all_seconds=(1 + sum(way.passes for way in ways))
        * (answered_s / answered + shortened_s)
        * wanted,
        most_new_tokens=most_new_tokens,
    )
    return [way for way in ways if way in chosen], plan


@attrs.define
class _Verification:
    """One call of `verify`."""

    _session: Session
    _model: str
    _kind: Kind
    _progress: Callable[[VerifyStep], None] | None
    requests: list[VerifyRequest] = attrs.field(factory=list)
    skipped: int = 0
    steps: list[VerifyStep] = attrs.field(factory=list)
    most_new_tokens: int | None = None
    # What the first answer took that was too long, and how much longer than shortened.
    too_long_s: float = 0
    shortened_s: float = 0
    _alone: list[Answer] = attrs.field(factory=list)
    _step: str = ""
    _compared: int = 0
    _reused: int = 0

    async def answer_alone(self, wanted: Sequence[VerifyRequest], budget_s: float) -> float:
        """The answers that all others are compared with, as many as there is time for; returns the
        seconds that they took."""
        models = context_of(self._session).models
        await models.pool(self._kind, self._model)
        each_s, answered_s = budget_s / _LEAST_REQUESTS, 0.0
        for request in wanted:
            if len(self.requests) >= _LEAST_REQUESTS and answered_s > budget_s:
                break
            try:
                request, answer, took_s = await self._answer_alone(request)
                if not self.requests and took_s > 2 * each_s and isinstance(answer, Completion):
                    count = int(answer.completion_tokens * each_s / took_s)
                    self.most_new_tokens = max(_LEAST_NEW_TOKENS, count)
                    self.too_long_s = took_s
                    request, answer, took_s = await self._answer_alone(request)
                    self.shortened_s = max(0.0, self.too_long_s - took_s)
            except PromptTooLongError:
                self.skipped += 1
                continue
            self._alone.append(answer)
            self.requests.append(request)
            answered_s += took_s
        if not self.requests:
            raise PromptTooLongError(
                f"no request fits the context of {self._model}: give shorter ones"
            )
        return answered_s

    async def _answer_alone(self, request: VerifyRequest) -> tuple[VerifyRequest, Answer, float]:
        """The request as it is asked, its answer, with its whole prompt computed, and how long it
        took."""
        if self.most_new_tokens is not None:
            most = min(self.most_new_tokens, request["max_new_tokens"])
            request = {**request, "max_new_tokens": most}
        began = perf_counter()
        pool = await context_of(self._session).models.pool(self._kind, self._model)
        # Freeing the memory of contexts takes milliseconds.
        await run_in_daemon("asteady-verify", pool.forget_prompts)
        return request, await self._ask(request), perf_counter() - began

    async def ways(self, second_process: bool) -> list[_Way]:
        """All ways to answer them, once the workers' width is known."""
        every = list(range(len(self.requests)))
        shuffled = random.Random(0).sample(every, len(every))
        pool = await context_of(self._session).models.pool(self._kind, self._model)
        await pool.widen()
        numbers = pool.statistics()
        together = numbers.workers * numbers.width
        ways = [
            _Way("alone, in reverse order", 0.9, 20, partial(self._in_order, every[::-1])),
            _Way("alone, shuffled", 0.9, 1, partial(self._in_order, shuffled)),
        ]
        # The more at once the more can differ; of the numbers between, the powers of two first.
        for count in range(2, 2 * together + 1):
            rank = {2: 4, 2 * together: 6, together: 0}.get(
                count, 10 + 20 * bool(count & count - 1)
            )
            at_once = partial(self._at_once, every, count)
            # Some are asked twice, and reuse their prompts, where they are fewer than workers take.
            passes = 0.6 + 0.3 * max(0, count / len(every) - 1)
            ways.append(_Way(f"{count} at once", passes, rank, at_once))
        cancelling = partial(self._after_cancellations, every, together)
        ways += [
            _Way("after cancellations", 2.5, 5, cancelling),
            _Way("after other prompts", 1.7, 3, partial(self._after_others, every)),
        ]
        if self._kind == "generation" and pool.prefix_statistics() is not None:
            with_prefixes = partial(self._with_prefixes, every, together)
            ways.append(_Way("with prefixes declared", 1.4, 7, with_prefixes))
        if second_process:
            ways.append(_Way("in a second process", 1, 2, partial(self._in_second_process, every)))
        return ways

    async def _in_order(self, order: Sequence[int]) -> None:
        for place, index in enumerate(order):
            self._check(index, await self._ask(self.requests[index]), before=order[:place])

    async def _at_once(self, order: Sequence[int], count: int) -> None:
        running: dict[int, set[int]] = {}

        async def one(place: int) -> None:
            index = order[place % len(order)]
            for others in running.values():
                others.add(index)
            beside = running[place] = {order[other % len(order)] for other in running}
            found = await self._ask(self.requests[index])
            del running[place]
            self._check(index, found, beside=sorted(beside))

        places = range(max(len(order), count))
        await map_concurrently(one, places, limit=count)

    async def _after_cancellations(self, order: Sequence[int], together: int) -> None:
        cancelled_tasks = [
            asyncio.create_task(self._ask(self.requests[index], cancelled=True))
            for index in (*order, *order[: 2 * together])
        ]
        concurrent = asyncio.create_task(self._at_once(order, 2 * together))
        try:
            # At the first answer every worker is busy. Each other is cancelled at its own stage.
            await asyncio.wait(cancelled_tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in cancelled_tasks:
                task.cancel()
            await concurrent
        finally:
            concurrent.cancel()
            for task in cancelled_tasks:
                task.cancel()
            await asyncio.gather(concurrent, *cancelled_tasks, return_exceptions=True)
        await self._in_order(order)

    async def _after_others(self, order: Sequence[int]) -> None:
        # The same beginning with another end, from which nothing but whole pieces may be reused.
        for index in order:
            with contextlib.suppress(PromptTooLongError):
                await self._ask(_longer(self.requests[index]))
            self._check(index, await self._ask(self.requests[index]))

    async def _with_prefixes(self, order: Sequence[int], together: int) -> None:
        whole = GenerationCalls(
            attrs.evolve(context_of(self._session), prefix=DeclaredPrefix(None))
        )

        async def one(index: int) -> None:
            self._check(index, await _complete(whole, self._model, self.requests[index]))

        # The first round stores the missing states; in the second all start from one.
        for _ in range(2):
            await map_concurrently(one, order, limit=together)

    async def _in_second_process(self, order: Sequence[int]) -> None:
        answers = await _answer_in_process(
            self._session.settings, self._kind, self._model, self.requests
        )
        for index in order:
            self._check(index, answers[index])

    async def run(self, way: _Way) -> None:
        self._step, self._compared, self._reused = way.name, 0, 0
        began = perf_counter()
        try:
            await way.run()
        finally:
            step = VerifyStep(
                name=way.name,
                comparisons=self._compared,
                took_s=perf_counter() - began,
                reused=self._reused,
            )
            self.steps.append(step)
            if self._progress is not None:
                self._progress(step)

    async def _ask(self, request: VerifyRequest, *, cancelled: bool = False) -> Answer:
        if cancelled and self._kind == "generation":
            request = {**request, "temperature": 1.0, "seed": 1}
        return await _computed(self._session, self._kind, self._model, request)

    def _check(
        self, index: int, found: Answer, before: Sequence[int] = (), beside: Sequence[int] = ()
    ) -> None:
        self._compared += 1
        self._reused += isinstance(found, Completion) and found.reused_tokens > 0
        where = difference(self._alone[index], found, ("alone", "in company"))
        if where is not None:
            raise _Differs(
                VerifyDifference(
                    step=self._step,
                    request=self.requests[index],
                    before=tuple(self.requests[other] for other in before),
                    beside=tuple(self.requests[other] for other in beside),
                    where=where,
                )
            )


def _longer(request: VerifyRequest) -> Mapping[str, Any]:
    if "text" in request:
        return {**request, "text": request["text"] + " and so on"}
    if "messages" in request:
        return {**request, "messages": [*request["messages"], {"role": "user", "content": "Go on"}]}
    return {**request, "prompt": request["prompt"] + " and so on"}


def _requests_for(
    kind: Kind, requests: int | Sequence[VerifyRequest], max_new_tokens: int
) -> list[VerifyRequest]:
    """The given requests, or that many of many kinds, always the same ones.

    Raises:
        InvalidRequestError: none are given.
    """
    if isinstance(requests, int):
        given = [_request(kind, index) for index in range(requests)]
    else:
        given = list(requests)
    if not given:
        raise InvalidRequestError("at least one request is needed")
    if kind == "generation":
        return [{"max_new_tokens": max_new_tokens, **request} for request in given]
    return given


def _request(kind: Kind, index: int) -> VerifyRequest:
    topic = _TOPICS[index % len(_TOPICS)]
    prompt = _PROMPTS[index % len(_PROMPTS)].format(topic=topic)
    if index % 8 == 7:
        # One that is longer than the windows of models that have one, with the same beginning.
        prompt = " ".join([*[_LONG] * (3 if index % 16 == 15 else 1), prompt])
    elif index % 4 == 1:
        turns = 1 + index // 4 % _MOST_TURNS
        prompt = _INSTRUCTIONS + "".join(
            _TURN.format(number=number, topic=_TOPICS[number]) for number in range(turns)
        )
    if index >= len(_TOPICS) * len(_PROMPTS):
        prompt += f" ({index})"
    if kind == "embedding":
        return {"text": prompt, "truncate": True}
    return {"prompt": prompt, "seed": index, **_SAMPLING[index % len(_SAMPLING)]}


async def _computed(session: Session, kind: Kind, model: str, request: VerifyRequest) -> Answer:
    """Compute the answer, bypassing the cache."""
    if kind == "embedding":
        return await session.embedding(model=model, cache="bypass", **request)
    return await _complete(session, model, request)


async def _complete(calls: GenerationCalls, model: str, request: VerifyRequest) -> Completion:
    # A difference shows in the log probabilities long before it shows in a token.
    options: Any = {"logprobs": 0, **request}
    answer: Completion = await calls.complete(model=model, cache="bypass", **options)
    return answer


async def _answer_in_process(
    settings: Settings, kind: Kind, model: str, requests: Sequence[VerifyRequest]
) -> list[Answer]:
    """The answers of a new Python process with the same settings, eight at a time.

    Raises:
        EngineError: the process failed.
    """
    program = "from asteady.operate._verify import answer; answer()"
    done = await anyio.run_process(
        [sys.executable, "-c", program],
        input=pickle.dumps((settings, kind, model, [dict(request) for request in requests])),
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise EngineError(
            f"the second process failed ({done.returncode}); its last line: {said[-1]}"
        )
    # From a process that this one has started, on a pipe of its own.
    answers: list[Answer] = pickle.loads(done.stdout)
    return answers


def answer() -> None:
    """In the second process: pickled requests on standard input, answers on standard output."""
    settings, kind, model, requests = pickle.load(sys.stdin.buffer)

    async def every() -> list[Answer]:
        # The cache takes no part, and another process has it open.
        async with Session(attrs.evolve(settings, disable_cache=True)) as session:
            return await map_concurrently(
                lambda request: _computed(session, kind, model, request), requests, limit=8
            )

    try:
        answers = asyncio.run(every())
    except AsteadyError as exc:
        sys.exit(str(exc))
    sys.stdout.buffer.write(pickle.dumps(answers))


@public
@attrs.frozen(kw_only=True)
class VerifyCacheDifference:
    """An entry that differs from what is computed for its request.

    `request` has the arguments of `Session.generate` or `Session.embed`; `where` is the first
    difference, as stored and as computed.
    """

    key: Key
    request: Mapping[str, Any]
    where: str


@public
@attrs.frozen(kw_only=True)
class VerifyCacheReport:
    """The result of `verify_cache`.

    Of `entries` in the cache, `same` were computed again without a difference, `differences` with
    one; `skipped` counts the others by the reason.
    """

    model: str
    kind: Kind
    fingerprint: str
    entries: int
    same: int
    differences: tuple[VerifyCacheDifference, ...]
    skipped: Mapping[str, int]
    keep_requests_bytes: int

    @property
    def compared(self) -> int:
        """The number of entries that were computed again."""
        return self.same + len(self.differences)

    @property
    def ok(self) -> bool:
        """Whether no entry differs; True also when none could be compared, see `remedy`."""
        return not self.differences

    @property
    def remedy(self) -> str | None:
        """If nothing was compared: why, and what to do."""
        if self.compared:
            return None
        if not self.entries:
            return f"the {self.kind} cache is empty: there is nothing to compare"
        if self.skipped.get("keeps no request") == self.entries:
            return (
                f"none of the {self.entries} entries keeps its request, so none can be computed"
                " again: set ASTEADY_KEEP_REQUESTS_BYTES to more than your prompts have bytes (it"
                f" is {self.keep_requests_bytes}), and ask again with cache='refresh'"
            )
        return (
            f"none of the {self.entries} entries could be compared; those that keep their request"
            f" are not of {self.model} as it is computed here, or cannot be read"
        )


@public
async def verify_cache(
    session: Session,
    *,
    model: AnyPath | None = None,
    kind: Kind = "generation",
    requests: int = 24,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> VerifyCacheReport:
    """Compute a sample of the stored answers again, and compare every byte.

    Only entries that keep their request, see `Settings.keep_requests_bytes`, and that are of this
    model, build and CPU. Nothing is stored, touched, or counted as a lookup; see
    docs/determinism.md.

    Args:
        session: the session whose cache is verified.
        model: whose entries to verify; default: the session's model.
        kind: which cache: "generation" or "embedding".
        requests: how many entries to compute again at most.
        seed: which of them: the same seed draws the same ones from the same cache.
        progress: called after each comparison with the number so far.

    Raises:
        InvalidRequestError: an argument is not allowed.
        StoreError: the cache is disabled, or cannot be read.
        ModelError, SessionError, QueueFullError: as in `Session.generate`.
    """
    context = context_of(session)
    session.check_open()
    one_of("kind", kind, KINDS)
    whole_number("requests", requests, 1)
    whole_number("seed", seed, 0)
    if session.settings.disable_cache:
        raise StoreError("the cache is disabled (disable_cache), so there is nothing to compare")
    reference = context.model(kind, model)
    fingerprint = await context.models.fingerprint(kind, reference)
    cache: Cache[Any] = getattr(context.cache, kind)
    entries = await cache.entries(-1, "last_used")
    skipped: Counter[str] = Counter()
    sample = await _draw(cache, _eligible(entries, fingerprint, skipped), requests, seed, skipped)
    pipeline: Any = getattr(context, kind)
    compared = 0

    async def one(drawn: tuple[Key, Request, Answer]) -> VerifyCacheDifference | None:
        nonlocal compared
        key, request, stored = drawn
        try:
            computed = await pipeline.answer(Call(request=request, model=reference, mode="bypass"))
        except PromptTooLongError:
            skipped["its request does not fit the model"] += 1
            return None
        where = difference(stored, computed)
        compared += 1
        if progress is not None:
            progress(compared)
        if where is None:
            return None
        return VerifyCacheDifference(key=key, request=arguments(request), where=where)

    found: list[VerifyCacheDifference | None] = []
    if sample:
        numbers = (await context.models.pool(kind, reference)).statistics()
        found = await map_concurrently(one, sample, limit=numbers.workers * numbers.width)
    differences = tuple(each for each in found if each is not None)
    return VerifyCacheReport(
        model=reference,
        kind=kind,
        fingerprint=fingerprint,
        entries=len(entries),
        same=compared - len(differences),
        differences=differences,
        skipped=dict(skipped),
        keep_requests_bytes=session.settings.keep_requests_bytes,
    )


def _eligible(entries: Sequence[Entry], fingerprint: str, skipped: Counter[str]) -> list[Key]:
    keys = []
    for entry in entries:
        if entry.prompt is None:
            skipped["keeps no request"] += 1
        elif entry.fingerprint != fingerprint:
            skipped["of another model, build or CPU"] += 1
        else:
            keys.append(entry.key)
    # The same seed draws the same entries, however they were used since.
    return sorted(keys)


async def _draw(
    cache: Cache[Any], keys: list[Key], count: int, seed: int, skipped: Counter[str]
) -> list[tuple[Key, Request, Answer]]:
    random.Random(seed).shuffle(keys)
    sample: list[tuple[Key, Request, Answer]] = []
    for at, key in enumerate(keys):
        if len(sample) == count:
            skipped["not in the sample"] += len(keys) - at
            break
        # Not `Cache.get`, which would touch the entry.
        reading = await (await cache.ready()).read(key)
        request = await cache.request(key)
        if reading.answer is None:
            skipped["damaged" if reading.damaged else "removed meanwhile"] += 1
        elif request is None:
            skipped["keeps the request of another key"] += 1
        else:
            sample.append((key, request, reading.answer))
    return sample


def difference(
    one: Answer, other: Answer, names: tuple[str, str] = ("stored", "computed")
) -> str | None:
    """The first difference between two answers of one kind, described; None if there is none."""
    parts: tuple[str, ...]
    if isinstance(one, Completion) and isinstance(other, Completion):
        texts = one.text.encode(), other.text.encode()
        if texts[0] != texts[1]:
            at = _first(*texts)
            shown = [repr(text[max(0, at - 20) : at + 20]) for text in texts]
            return f"byte {at} of the text: {_sides(names, shown)}"
        parts = (
            "reasoning",
            "chunks",
            "reasoning_chunks",
            "tool_calls",
            "finish_reason",
            "prompt_tokens",
            "completion_tokens",
            "reasoning_tokens",
            "logprobs",
        )
    elif isinstance(one, Embedding) and isinstance(other, Embedding):
        vectors = one.vector.tobytes(), other.vector.tobytes()
        if vectors[0] != vectors[1]:
            at = _first(*vectors) // 4
            shown = [str(answer.vector[at : at + 1].tolist()) for answer in (one, other)]
            return f"component {at} of the vector: {_sides(names, shown)}"
        parts = ("tokens", "truncated")
    else:
        raise TypeError(f"{one!r} and {other!r} are of two kinds")
    for part in parts:
        values = getattr(one, part), getattr(other, part)
        # repr tells floats apart to the last bit, and zeros by their sign.
        if repr(values[0]) != repr(values[1]):
            if isinstance(values[0], tuple) and values[1] and len(values[0]) == len(values[1]):
                pairs = list(zip(*values, strict=True))
                at = next(at for at, (a, b) in enumerate(pairs) if repr(a) != repr(b))
                part, values = f"{part}[{at}]", pairs[at]
            return f"{part}: {_sides(names, [shorten(repr(value), 80) for value in values])}"
    return None


def _sides(names: tuple[str, str], shown: Sequence[str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(names, shown, strict=True))


def _first(one: bytes, other: bytes) -> int:
    """The index of the first byte that differs, or the length of the shorter one."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def report_as_record(report: VerifyReport | VerifyCacheReport) -> dict[str, Any]:
    """The report, its properties included, ready for JSON."""
    properties = [name for name, value in vars(type(report)).items() if isinstance(value, property)]
    return attrs.asdict(report) | {name: getattr(report, name) for name in properties}
