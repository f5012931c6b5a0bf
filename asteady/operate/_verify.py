"""Proof that company does not change an answer: the same requests in all kinds of company.

The requests are answered alone first. Then again in another order, at every concurrency up to
twice what the workers take at once, between cancellations, after other prompts, from states kept of
their prompts, and in a second process; each answer is compared, byte for byte, with the one given
alone, down to the exact bits of every token's log probability. The cache takes no part.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypedDict

import attrs

from asteady._base.errors import InvalidRequestError, PromptTooLongError
from asteady._base.requests import DeclaredPrefix, Kind
from asteady._base.tasks import map_concurrently
from asteady._session.generation import GenerationCalls, context_of
from asteady.operate._verify_company import smallest_company
from asteady.operate._verify_requests import (
    Evidence,
    VerifyRequest,
    answer_in_process,
    completion_evidence,
    evidence_of,
    first_difference,
    reproduction,
    requests_for,
)

if TYPE_CHECKING:
    from asteady._session.session import Session

# How often a difference is looked for again, in ever smaller company, to make it easy to reproduce.
_SHRINKING_TRIES = 24


@attrs.frozen(kw_only=True)
class VerifyStep:
    """One way to answer the requests, and how many answers were compared."""

    name: str
    comparisons: int
    took_s: float


@attrs.frozen(kw_only=True)
class VerifyDifference:
    """The first answer that differed from the one given alone.

    `before` were answered before it and `beside` at the same time; `where` says which byte differs;
    `program` is Python that shows the difference, where it can be shown again.
    """

    step: str
    request: VerifyRequest
    before: tuple[VerifyRequest, ...]
    beside: tuple[VerifyRequest, ...]
    where: str
    program: str


@attrs.frozen(kw_only=True)
class VerifyReport:
    """What `verify` found. `skipped` requests have more tokens than the model's context."""

    model: str
    kind: Kind
    fingerprint: str
    requests: int
    skipped: int
    steps: tuple[VerifyStep, ...]
    difference: VerifyDifference | None

    @property
    def comparisons(self) -> int:
        return sum(step.comparisons for step in self.steps)

    @property
    def ok(self) -> bool:
        """Whether all answers were the same."""
        return self.difference is None


class VerifyOptions(TypedDict, total=False):
    """The options of `Session.verify`."""

    model: str | None
    """The model to verify; default: the session's."""
    kind: Kind
    """Whether to verify "generation" (the default) or "embedding"."""
    requests: int | Sequence[VerifyRequest]
    """How many requests, or your own, as mappings of the arguments of `generate` or of `embed`
    (with "text"). Default: 24."""
    max_new_tokens: int
    """For requests that do not say. Default: 24."""
    second_process: bool
    """Whether to compute the answers in another process too. Default: True."""
    progress: Callable[[VerifyStep], None] | None
    """Called after each step."""


class _Differs(Exception):
    def __init__(
        self,
        index: int,
        found: Evidence,
        before: Sequence[int] = (),
        beside: Sequence[int] = (),
    ) -> None:
        super().__init__(index)
        self.index = index
        self.found = found
        self.before = before
        self.beside = beside


async def verify(
    session: Session,
    *,
    model: str | None = None,
    kind: Kind = "generation",
    requests: int | Sequence[VerifyRequest] = 24,
    max_new_tokens: int = 24,
    second_process: bool = True,
    progress: Callable[[VerifyStep], None] | None = None,
) -> VerifyReport:
    """Answer requests alone and in company, and compare; see `Session.verify`.

    Raises:
        InvalidRequestError: an argument is not allowed.
        PromptTooLongError: no request fits the model's context.
        ModelError, SessionError, QueueFullError: as in `Session.generate`.
        EngineError: the second process failed.
    """
    if kind not in ("generation", "embedding"):
        raise InvalidRequestError(f'kind={kind!r} is not allowed: "generation" or "embedding"')
    wanted = requests_for(kind, requests, max_new_tokens)
    reference = context_of(session).model(kind, model)
    verification = _Verification(session, reference, kind, progress)
    await verification.answer_alone(wanted)
    difference = None
    try:
        await verification.compare(second_process)
    except _Differs as found:
        difference = await verification.explain(found)
    return VerifyReport(
        model=reference,
        kind=kind,
        fingerprint=await context_of(session).models.fingerprint(kind, reference),
        requests=len(verification.requests),
        skipped=len(wanted) - len(verification.requests),
        steps=tuple(verification.steps),
        difference=difference,
    )


class _Verification:
    def __init__(
        self,
        session: Session,
        model: str,
        kind: Kind,
        progress: Callable[[VerifyStep], None] | None,
    ) -> None:
        self.requests: list[VerifyRequest] = []
        self.steps: list[VerifyStep] = []
        self._session = session
        self._model = model
        self._kind: Kind = kind
        self._progress = progress
        self._alone: list[Evidence] = []
        self._step = ""
        self._compared = 0

    async def answer_alone(self, wanted: Sequence[VerifyRequest]) -> None:
        """The answers that all others are compared with."""
        for request in wanted:
            with contextlib.suppress(PromptTooLongError):
                self._alone.append(await self._ask(request))
                self.requests.append(request)
        if not self.requests:
            raise PromptTooLongError(
                f"no request fits the context of {self._model}: give shorter ones"
            )

    async def compare(self, second_process: bool) -> None:
        every = list(range(len(self.requests)))
        shuffled = random.Random(0).sample(every, len(every))
        pool = await context_of(self._session).models.pool(self._kind, self._model)
        numbers = pool.statistics()
        together = numbers.workers * numbers.width
        await self._run("alone, in reverse order", self._in_order, every[::-1])
        await self._run("alone, shuffled", self._in_order, shuffled)
        for count in range(2, 2 * together + 1):
            await self._run(f"{count} at once", self._at_once, every, count)
        await self._run("after cancellations", self._after_cancellations, every, together)
        await self._run("after other prompts", self._after_others, every)
        if self._kind == "generation" and pool.prefix_statistics() is not None:
            await self._run("with prefixes declared", self._declared, every, together)
        if second_process:
            await self._run("in a second process", self._elsewhere, every)

    async def explain(self, found: _Differs) -> VerifyDifference:
        """Look for a small company in which the answer still differs."""

        async def differs(beside: list[int]) -> bool:
            return await self._differs(found.index, beside)

        beside = await smallest_company(found.beside, differs, _SHRINKING_TRIES)
        request = self.requests[found.index]
        before = tuple(self.requests[index] for index in found.before)
        company = tuple(self.requests[index] for index in beside)
        return VerifyDifference(
            step=self._step,
            request=request,
            before=before,
            beside=company,
            where=first_difference(self._kind, self._alone[found.index], found.found),
            program=reproduction(
                self._kind, self._model, self._session.settings, request, before, company
            ),
        )

    # -- the ways to answer ------------------------------------------------------------------------

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
        doomed = [
            asyncio.create_task(self._ask(self.requests[index], cancelled=True))
            for index in (*order, *order[: 2 * together])
        ]
        kept = asyncio.create_task(self._at_once(order, 2 * together))
        try:
            # By the first answer every worker has begun; the rest is cut off wherever it is.
            await asyncio.wait(doomed, return_when=asyncio.FIRST_COMPLETED)
            for task in doomed:
                task.cancel()
            await kept
        finally:
            kept.cancel()
            for task in doomed:
                task.cancel()
            await asyncio.gather(kept, *doomed, return_exceptions=True)
        await self._in_order(order)

    async def _after_others(self, order: Sequence[int]) -> None:
        # The same beginning, another end: what a reused prefix would spoil.
        for index in order:
            with contextlib.suppress(PromptTooLongError):
                await self._ask(_longer(self.requests[index]))
            self._check(index, await self._ask(self.requests[index]))

    async def _declared(self, order: Sequence[int], together: int) -> None:
        whole = GenerationCalls(
            attrs.evolve(context_of(self._session), prefix=DeclaredPrefix(None))
        )

        async def one(index: int) -> None:
            self._check(index, await completion_evidence(whole, self._model, self.requests[index]))

        # The first time states are made, where there are none; the second, all begin with one.
        for _ in range(2):
            await map_concurrently(one, order, limit=together)

    async def _elsewhere(self, order: Sequence[int]) -> None:
        answers = await answer_in_process(
            self._session.settings, self._kind, self._model, self.requests
        )
        for index in order:
            self._check(index, answers[index])

    # -- within ------------------------------------------------------------------------------------

    async def _run(self, name: str, way: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        self._step, self._compared = name, 0
        began = perf_counter()
        try:
            await way(*arguments)
        finally:
            step = VerifyStep(name=name, comparisons=self._compared, took_s=perf_counter() - began)
            self.steps.append(step)
            if self._progress is not None:
                self._progress(step)

    async def _ask(self, request: VerifyRequest, *, cancelled: bool = False) -> Evidence:
        if cancelled and self._kind == "generation":
            request = {**request, "temperature": 1.0, "seed": 1}
        return await evidence_of(self._session, self._kind, self._model, request)

    def _check(
        self,
        index: int,
        found: Evidence,
        before: Sequence[int] = (),
        beside: Sequence[int] = (),
    ) -> None:
        self._compared += 1
        if found != self._alone[index]:
            raise _Differs(index, found, before, beside)

    async def _differs(self, index: int, beside: Sequence[int]) -> bool:
        # The company first: a request that is asked before it may be answered before it begins.
        *_, found = await asyncio.gather(*(self._ask(self.requests[i]) for i in (*beside, index)))
        return found != self._alone[index]


def _longer(request: VerifyRequest) -> Mapping[str, Any]:
    if "text" in request:
        return {**request, "text": request["text"] + " and so on"}
    if "messages" in request:
        return {**request, "messages": [*request["messages"], {"role": "user", "content": "Go on"}]}
    return {**request, "prompt": request["prompt"] + " and so on"}


def report_as_json(report: VerifyReport) -> str:
    """The report as a JSON object."""
    record = attrs.asdict(report)
    record.update(ok=report.ok, comparisons=report.comparisons)
    return json.dumps(record, indent=2, ensure_ascii=False)
