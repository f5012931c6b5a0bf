"""The promise: the same request gets the same bytes, whatever else runs and whatever ran before.

On the real built-in model, with the cache bypassed so that every answer is computed, and with
log probabilities, which would show a difference long before a token does. Some of the requests go
past 512 positions, where llama.cpp computes attention in another way.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asteady import Completion, Session

pytestmark = pytest.mark.anyio

LONG = " ".join(f"Line {number} of a long prompt about caches and queues." for number in range(60))

REQUESTS: list[dict[str, Any]] = [
    {"prompt": "Write a haiku about caching"},
    {"prompt": "Explain recursion in one sentence"},
    {"prompt": "Write a Python function that sorts a list", "seed": 7, "temperature": 0.8},
    {"prompt": "hello"},
    {"prompt": "hello", "temperature": 1.5, "seed": 1},
    {"prompt": "hello", "temperature": 1.5, "seed": 2},
    {"prompt": "Create a commit message", "temperature": 0.7, "top_k": 5},
    {"prompt": "Create a commit message", "temperature": 0.7, "top_p": 0.5},
    {"prompt": "Create a commit message", "temperature": 0.7, "min_p": 0.2},
    {"prompt": "Explain this error", "repeat_penalty": 1.3},
    {"prompt": "Générez des données de test: café, naïve, 東京, 🎉"},
    {"prompt": "def fibonacci(n):", "raw": True},
    {"prompt": "a", "raw": True, "temperature": 2.0},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}]},
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]},
    {"prompt": "Suggest improvements", "frequency_penalty": 0.5, "presence_penalty": 0.5},
    {"prompt": "Write unit tests", "stop": ["\n"]},
    {"prompt": "Generate test data", "logit_bias": {40: 5.0}},
    {"prompt": LONG, "raw": True, "max_new_tokens": 64},
    {"prompt": LONG[: len(LONG) // 2], "temperature": 1.0, "max_new_tokens": 256},
]


def evidence(answer: Completion) -> Any:
    """Everything that must not differ: the text, and each token's exact log probability."""
    assert answer.logprobs is not None
    return [
        answer.text,
        answer.finish_reason,
        [[token.token_id, token.logprob.hex()] for token in answer.logprobs],
    ]


async def ask(session: Session, request: dict[str, Any]) -> Any:
    options = {"max_new_tokens": 32, **request}
    return evidence(await session.complete(cache="bypass", logprobs=0, **options))


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def alone(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Each request answered alone, one after the other, by one worker.

    It names `anyio_backend` as a test that is not asynchronous may be the first to ask for it.
    """
    directory = tmp_path_factory.mktemp("alone")
    async with Session(workers=1, batch_width=1, cache_dir=directory) as session:
        return [await ask(session, request) for request in REQUESTS]


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    async with Session(workers=2) as session:
        yield session


async def test_the_requests_are_worth_comparing(alone: list[Any]) -> None:
    assert len(REQUESTS) == 20
    assert len({text for text, _, _ in alone}) >= 15
    async with Session() as session:
        lengths = [
            (await session.complete(**{"max_new_tokens": 1, **request})).prompt_tokens
            for request in REQUESTS[-2:]
        ]
    assert lengths[0] > 512
    assert lengths[1] + len(alone[-1][2]) > 300


async def test_in_reverse_order(session: Session, alone: list[Any]) -> None:
    answers = [await ask(session, request) for request in reversed(REQUESTS)]
    assert answers[::-1] == alone


async def test_with_eight_at_once(session: Session, alone: list[Any]) -> None:
    eight = asyncio.Semaphore(8)

    async def one(request: dict[str, Any]) -> Any:
        async with eight:
            return await ask(session, request)

    for _ in range(2):
        assert await asyncio.gather(*map(one, REQUESTS)) == alone


async def test_after_and_between_cancellations(session: Session, alone: list[Any]) -> None:
    for round_ in range(3):
        doomed = [
            asyncio.create_task(session.generate(f"{LONG} {n}", temperature=1.0, seed=round_))
            for n in range(6)
        ]
        kept = [asyncio.create_task(ask(session, request)) for request in REQUESTS[::2]]
        async with session.stream(LONG, raw=True, cache="bypass", temperature=1.0) as stream:
            await anext(stream)
        for task in doomed:
            task.cancel()
        assert await asyncio.gather(*kept) == alone[::2]
        await asyncio.gather(*doomed, return_exceptions=True)
    assert [await ask(session, request) for request in REQUESTS] == alone


@pytest.mark.parametrize("workers", [1, 3])
async def test_with_another_number_of_workers(workers: int, alone: list[Any]) -> None:
    async with Session(workers=workers) as session:
        answers = await asyncio.gather(*(ask(session, request) for request in REQUESTS))
    assert answers == alone


async def test_with_another_number_of_threads(alone: list[Any]) -> None:
    async with Session(workers=1, threads=2) as session:
        answers = [await ask(session, request) for request in REQUESTS]
    assert answers == alone


def test_in_a_second_process(alone: list[Any]) -> None:
    program = """
import asyncio, json
from asteady import Session
from tests.session.test_determinism import REQUESTS, ask
async def main():
    async with Session() as session:
        return await asyncio.gather(*(ask(session, request) for request in REQUESTS))
print(json.dumps(asyncio.run(main())))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == alone


async def test_embeddings_do_not_depend_on_company_either() -> None:
    texts = [request.get("prompt", "message")[:300] for request in REQUESTS]
    async with Session(workers=1) as session:
        alone = [await session.embed(text, cache="bypass") for text in texts]
    async with Session(workers=3) as session:
        for order in (texts, texts[::-1]):
            matrix = await session.embed(order, cache="bypass")
            rows = matrix if order is texts else matrix[::-1]
            assert all((row == vector).all() for row, vector in zip(rows, alone, strict=True))
