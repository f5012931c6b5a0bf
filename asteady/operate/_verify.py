"""Verification: the same requests alone and in company, compared byte for byte.

The requests are answered alone first. Then again in another order, at every concurrency up to twice
what the workers take at once, between cancellations, after other prompts, from stored states of
their prompts, and in a second process. Each answer is compared with the one given alone, down to
the bits of every token's log probability. The cache takes no part.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias, TypedDict

import anyio
import attrs

from asteady._base.errors import (
    AsteadyError,
    EngineError,
    InvalidRequestError,
    PromptTooLongError,
)
from asteady._base.public import public
from asteady._base.requests import KINDS, DeclaredPrefix, Kind
from asteady._base.settings import Settings
from asteady._base.tasks import map_concurrently
from asteady._base.validation import one_of
from asteady._session.generation import GenerationCalls, context_of
from asteady._session.session import Session

VerifyRequest: TypeAlias = Mapping[str, Any]
"""The arguments of `Session.generate` (or, with a `text`, of `Session.embed`) by name."""

_Evidence: TypeAlias = tuple[bytes, bytes]
"""The bytes that are compared: the text and the rest of the answer, or the vector."""

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
_SAMPLING: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.8},
    {},
    {"temperature": 1.5, "top_k": 40},
    {"temperature": 0.7, "top_p": 0.8, "repeat_penalty": 1.2},
)


@public
@attrs.frozen(kw_only=True)
class VerifyStep:
    """One way to answer the requests, and the number of answers compared."""

    name: str
    comparisons: int
    took_s: float


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
    """The result of `verify`. `skipped` requests have more tokens than the model's context."""

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


@public
class VerifyOptions(TypedDict, total=False):
    """The options of `verify`."""

    model: str | None
    """The model to verify; default: the session's."""
    kind: Kind
    """Whether to verify "generation" (the default) or "embedding"."""
    requests: int | Sequence[VerifyRequest]
    """How many requests, or your own, as mappings of the arguments of `generate` or of `embed`
    (with "text"). Default: 24."""
    max_new_tokens: int
    """For requests without their own. Default: 24."""
    second_process: bool
    """Whether to compute the answers in another process too. Default: True."""
    progress: Callable[[VerifyStep], None] | None
    """Called after each step."""


class _Differs(Exception):
    def __init__(
        self,
        index: int,
        found: _Evidence,
        before: Sequence[int] = (),
        beside: Sequence[int] = (),
    ) -> None:
        super().__init__(index)
        self.index = index
        self.found = found
        self.before = before
        self.beside = beside


@public
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
    """Answer the same requests alone and in all kinds of company, and compare every byte.

    Stops at the first difference. The arguments are those of `VerifyOptions`; see
    docs/determinism.md.

    Raises:
        InvalidRequestError: an argument is not allowed.
        PromptTooLongError: no request fits the model's context.
        ModelError, SessionError, QueueFullError: as in `Session.generate`.
        EngineError: the second process failed.
    """
    one_of("kind", kind, KINDS)
    wanted = _requests_for(kind, requests, max_new_tokens)
    reference = context_of(session).model(kind, model)
    verification = _Verification(session, reference, kind, progress)
    await verification.answer_alone(wanted)
    difference = None
    try:
        await verification.compare(second_process)
    except _Differs as found:
        difference = verification.difference(found)
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
    """One call of `verify`."""

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
        self._alone: list[_Evidence] = []
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
            await self._run("with prefixes declared", self._with_prefixes, every, together)
        if second_process:
            await self._run("in a second process", self._in_second_process, every)

    def difference(self, found: _Differs) -> VerifyDifference:
        return VerifyDifference(
            step=self._step,
            request=self.requests[found.index],
            before=tuple(self.requests[index] for index in found.before),
            beside=tuple(self.requests[index] for index in found.beside),
            where=_first_difference(self._kind, self._alone[found.index], found.found),
        )

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
        # The same beginning with another end: a reused prefix would change the answer.
        for index in order:
            with contextlib.suppress(PromptTooLongError):
                await self._ask(_longer(self.requests[index]))
            self._check(index, await self._ask(self.requests[index]))

    async def _with_prefixes(self, order: Sequence[int], together: int) -> None:
        whole = GenerationCalls(
            attrs.evolve(context_of(self._session), prefix=DeclaredPrefix(None))
        )

        async def one(index: int) -> None:
            self._check(index, await _completion_evidence(whole, self._model, self.requests[index]))

        # The first round stores the missing states; in the second all start from one.
        for _ in range(2):
            await map_concurrently(one, order, limit=together)

    async def _in_second_process(self, order: Sequence[int]) -> None:
        answers = await _answer_in_process(
            self._session.settings, self._kind, self._model, self.requests
        )
        for index in order:
            self._check(index, answers[index])

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

    async def _ask(self, request: VerifyRequest, *, cancelled: bool = False) -> _Evidence:
        if cancelled and self._kind == "generation":
            request = {**request, "temperature": 1.0, "seed": 1}
        return await _evidence_of(self._session, self._kind, self._model, request)

    def _check(
        self,
        index: int,
        found: _Evidence,
        before: Sequence[int] = (),
        beside: Sequence[int] = (),
    ) -> None:
        self._compared += 1
        if found != self._alone[index]:
            raise _Differs(index, found, before, beside)


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
    if not isinstance(requests, int):
        given = list(requests)
    elif requests > 0:
        given = [_request(kind, index) for index in range(requests)]
    else:
        given = []
    if not given:
        raise InvalidRequestError("at least one request is needed")
    if kind == "generation":
        return [{"max_new_tokens": max_new_tokens, **request} for request in given]
    return given


def _request(kind: Kind, index: int) -> VerifyRequest:
    topic = _TOPICS[index % len(_TOPICS)]
    prompt = _PROMPTS[index % len(_PROMPTS)].format(topic=topic)
    if index % 8 == 7:
        prompt = f"{_LONG} {prompt}"
    if index >= len(_TOPICS) * len(_PROMPTS):
        prompt += f" ({index})"
    if kind == "embedding":
        return {"text": prompt, "truncate": True}
    return {"prompt": prompt, "seed": index, **_SAMPLING[index % len(_SAMPLING)]}


async def _evidence_of(
    session: Session, kind: Kind, model: str, request: VerifyRequest
) -> _Evidence:
    """Compute the answer, bypassing the cache, and return the bytes that are compared."""
    if kind == "embedding":
        embedding = await session.embedding(model=model, cache="bypass", **request)
        return b"", embedding.vector.tobytes()
    return await _completion_evidence(session, model, request)


async def _completion_evidence(
    calls: GenerationCalls, model: str, request: VerifyRequest
) -> _Evidence:
    """`_evidence_of` a completion."""
    # A difference shows in the log probabilities long before it shows in a token.
    options = {"logprobs": 0, **request}
    answer = await calls.complete(model=model, cache="bypass", **options)
    tokens = b"".join(
        struct.pack("<id", token.token_id, token.logprob) for token in answer.logprobs or ()
    )
    return answer.text.encode(), answer.finish_reason.encode() + b"\0" + tokens


def _first_difference(kind: Kind, expected: _Evidence, found: _Evidence) -> str:
    """The first byte that differs, described."""
    (text, details), (other_text, other_details) = expected, found
    if text != other_text:
        at = first(text, other_text)
        return (
            f"byte {at} of the text: {text[at : at + 40]!r} alone, "
            f"{other_text[at : at + 40]!r} in company"
        )
    at = first(details, other_details)
    if kind == "embedding":
        return f"component {at // 4} of the vector (byte {at})"
    record = details.index(b"\0") + 1
    if at < record:
        return f"the finish reason: {details[: record - 1]!r} alone"
    return f"the log probability of token {(at - record) // 12} (the text is the same)"


def first(one: bytes, other: bytes) -> int:
    """The index of the first byte that differs, or the length of the shorter one."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


async def _answer_in_process(
    settings: Settings, kind: Kind, model: str, requests: Sequence[VerifyRequest]
) -> list[_Evidence]:
    """The answers of a new Python process with the same settings, eight at a time.

    Raises:
        EngineError: the process failed.
    """
    order = {
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in attrs.asdict(settings).items()
        },
        "kind": kind,
        "model": model,
        "requests": [_plain(request) for request in requests],
    }
    program = "from asteady.operate._verify import answer; answer()"
    done = await anyio.run_process(
        [sys.executable, "-c", program], input=json.dumps(order).encode(), check=False
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise EngineError(
            f"the second process failed ({done.returncode}); its last line: {said[-1]}"
        )
    return [
        (bytes.fromhex(text), bytes.fromhex(details)) for text, details in json.loads(done.stdout)
    ]


def answer() -> None:
    """In the second process: requests as JSON on standard input, evidence on standard output."""
    order = json.load(sys.stdin)

    async def every() -> list[_Evidence]:
        # The cache takes no part, and another process has it open.
        async with Session(Settings(**{**order["settings"], "disable_cache": True})) as session:

            async def one(request: VerifyRequest) -> _Evidence:
                return await _evidence_of(
                    session, order["kind"], order["model"], _from_plain(request)
                )

            return await map_concurrently(one, order["requests"], limit=8)

    try:
        answers = asyncio.run(every())
    except AsteadyError as exc:
        sys.exit(str(exc))
    print(json.dumps([[text.hex(), details.hex()] for text, details in answers]))


def _plain(request: VerifyRequest) -> dict[str, Any]:
    # JSON's keys are strings.
    plain = dict(request)
    if plain.get("logit_bias"):
        plain["logit_bias"] = list(plain["logit_bias"].items())
    return plain


def _from_plain(request: VerifyRequest) -> dict[str, Any]:
    plain = dict(request)
    if plain.get("logit_bias"):
        plain["logit_bias"] = dict(plain["logit_bias"])
    return plain


def report_as_json(report: VerifyReport) -> str:
    """The report as a JSON object."""
    record = attrs.asdict(report)
    record.update(ok=report.ok, comparisons=report.comparisons)
    return json.dumps(record, indent=2, ensure_ascii=False)
