"""What `verify` asks, what it compares, and how a second process answers the same."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import attrs

from asteady._base.errors import AsteadyError, EngineError, InvalidRequestError
from asteady._base.requests import Kind
from asteady._base.settings import Settings

if TYPE_CHECKING:
    from asteady._session.generation import GenerationCalls
    from asteady._session.session import Session

VerifyRequest: TypeAlias = Mapping[str, Any]
"""The arguments of `Session.generate` (or, with a `text`, of `Session.embed`) by name."""

Evidence: TypeAlias = tuple[bytes, bytes]
"""What must not differ: the text and what comes with it, or the vector's bytes."""

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


def requests_for(
    kind: Kind, requests: int | Sequence[VerifyRequest], max_new_tokens: int
) -> list[VerifyRequest]:
    """So many requests of many kinds, always the same ones, or those given.

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


async def evidence_of(session: Session, kind: Kind, model: str, request: VerifyRequest) -> Evidence:
    """Have the session compute the answer, past the cache, and take what must not differ."""
    if kind == "embedding":
        embedding = await session.embedding(model=model, cache="bypass", **request)
        return b"", embedding.vector.tobytes()
    return await completion_evidence(session, model, request)


async def completion_evidence(
    asked: GenerationCalls, model: str, request: VerifyRequest
) -> Evidence:
    """The same of a completion."""
    # Log probabilities show a difference long before a token does.
    options = {"logprobs": 0, **request}
    answer = await asked.complete(model=model, cache="bypass", **options)
    tokens = b"".join(
        struct.pack("<id", token.token_id, token.logprob) for token in answer.logprobs or ()
    )
    return answer.text.encode(), answer.finish_reason.encode() + b"\0" + tokens


def first_difference(kind: Kind, expected: Evidence, found: Evidence) -> str:
    """Which byte differs first, in words."""
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
    """The first byte that differs, or where the shorter ends."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


# -- a second process ----------------------------------------------------------------------------


async def answer_in_process(
    settings: Settings, kind: Kind, model: str, requests: Sequence[VerifyRequest]
) -> list[Evidence]:
    """The answers of a new Python process with the same settings, eight at once.

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
    program = "from asteady.operate._verify_requests import answer; answer()"
    done = await anyio.run_process(
        [sys.executable, "-c", program], input=json.dumps(order).encode(), check=False
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise EngineError(f"the second process failed ({done.returncode}); it said: {said[-1]}")
    return [
        (bytes.fromhex(text), bytes.fromhex(details)) for text, details in json.loads(done.stdout)
    ]


def answer() -> None:
    """In the second process: requests as JSON on standard input, evidence on standard output."""
    import asyncio

    from asteady._base.tasks import map_concurrently
    from asteady._session.session import Session

    order = json.load(sys.stdin)

    async def every() -> list[Evidence]:
        # The cache takes no part, and another process has it open.
        async with Session(Settings(**{**order["settings"], "disable_cache": True})) as session:

            async def one(request: VerifyRequest) -> Evidence:
                return await evidence_of(
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


# -- a difference to show ------------------------------------------------------------------------

_PROGRAM = """\
import asyncio

from asteady import Session

REQUEST = {request!r}
BEFORE = {before!r}
BESIDE = {beside!r}


async def ask(session, request):
    {ask}


async def main():
    async with Session({settings}) as session:
        alone = await ask(session, REQUEST)
        for request in BEFORE:
            await ask(session, request)
        *_, again = await asyncio.gather(*(ask(session, r) for r in (*BESIDE, REQUEST)))
    print("the same" if again == alone else "different", alone, again, sep="\\n")


asyncio.run(main())
"""
_ASK: dict[Kind, str] = {
    "generation": (
        'answer = await session.complete(cache="bypass", **{"logprobs": 0, **request})\n'
        "    return answer.text, answer.finish_reason, answer.logprobs"
    ),
    "embedding": (
        'return (await session.embedding(cache="bypass", **request)).vector.tobytes().hex()'
    ),
}


def reproduction(
    kind: Kind,
    model: str,
    settings: Settings,
    request: VerifyRequest,
    before: Sequence[VerifyRequest],
    beside: Sequence[VerifyRequest],
) -> str:
    """A program that computes the answer alone and in company, and prints both."""
    arguments = {
        f"{kind}_model": model,
        "workers": settings.workers,
        "threads": settings.threads,
        "batch_width": settings.batch_width,
        "probe": settings.probe,
    }
    return _PROGRAM.format(
        request=dict(request),
        before=[dict(other) for other in before],
        beside=[dict(other) for other in beside],
        ask=_ASK[kind],
        settings=", ".join(f"{name}={value!r}" for name, value in arguments.items()),
    )
