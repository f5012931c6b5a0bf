"""Two hundred callers at once, on the real built-in model, whatever becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
import llama_cpp
import pytest

from asteady import Session
from asteady._engine.pool import PoolStatistics
from tests.waiting import until

pytestmark = pytest.mark.anyio

PROMPT = "Write a haiku about caching"


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    async with Session(workers=2) as session:
        await session.load("generation")
        yield session


def pool(session: Session) -> PoolStatistics:
    return session.statistics().pools["generation:builtin"]


async def ask(session: Session) -> str:
    return await session.generate(PROMPT, temperature=1.0, max_new_tokens=48)


async def expected() -> str:
    async with Session(workers=1, disable_cache=True) as session:
        return await ask(session)


async def test_two_hundred_callers_cause_one_computation(session: Session) -> None:
    answers = await asyncio.gather(*(ask(session) for _ in range(200)))
    assert answers == [await expected()] * 200
    assert pool(session).started == 1
    counted = (await session.cache.get_cache_stats())["generation"]
    assert (counted["misses"], counted["coalesced"], counted["hits"]) == (1, 199, 0)


async def leaves_by_task(session: Session, moment_s: float) -> None:
    task = asyncio.ensure_future(ask(session))
    asyncio.get_running_loop().call_later(moment_s, task.cancel)
    await asyncio.gather(task, return_exceptions=True)


async def leaves_by_wait_for(session: Session, moment_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ask(session), moment_s)


async def leaves_by_scope(session: Session, moment_s: float) -> None:
    with anyio.move_on_after(moment_s):
        await ask(session)


LEAVING = [leaves_by_task, leaves_by_wait_for, leaves_by_scope]


@pytest.mark.parametrize("draw", [random.Random(seed) for seed in range(3)])
async def test_one_of_two_hundred_stays(session: Session, draw: random.Random) -> None:
    async with asyncio.TaskGroup() as group:
        staying = group.create_task(ask(session))
        for _ in range(199):
            leave = draw.choice(LEAVING)
            group.create_task(leave(session, draw.uniform(0, 0.05)))
    assert staying.result() == await expected()
    assert pool(session).started == 1
    assert pool(session).cancelled == 0


class HeldDecode:
    """Stands in for ``llama_decode``: from the third call on it waits until it is let go, so that
    nothing is finished before, however slow the event loop is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        self.calls = 0
        self._decode = llama_cpp.llama_decode
        monkeypatch.setattr(llama_cpp, "llama_decode", self)

    def has_begun(self, calls: int) -> bool:
        return self.calls >= calls

    def __call__(self, context: Any, batch: Any) -> int:
        self.calls += 1
        if self.calls > 2:
            assert self.go_on.wait(60)
        code: int = self._decode(context, batch)
        return code


@pytest.mark.parametrize("draw", [random.Random(seed) for seed in range(3)])
async def test_all_leave_and_a_new_caller_gets_the_right_answer(
    session: Session, draw: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldDecode(monkeypatch)
    long = {"max_new_tokens": 1500, "temperature": 5.0}

    async def leave() -> None:
        with anyio.move_on_after(draw.uniform(0, 0.03)):
            await session.generate(PROMPT, **long)  # type: ignore[call-overload]  # a dict of options

    async with asyncio.TaskGroup() as group:
        for _ in range(200):
            group.create_task(leave())
    held.go_on.set()
    assert await ask(session) == await expected()
    assert pool(session).finished == 1
    await until(lambda: not pool(session).running)


async def test_prompts_cancelled_while_they_are_read_leave_nothing_behind(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "caches and queues " * 300
    for number in range(5):
        with monkeypatch.context() as patch:
            held = HeldDecode(patch)
            task = asyncio.create_task(session.generate(long, raw=True, max_new_tokens=1))
            await until(partial(held.has_begun, 3))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            held.go_on.set()
        await until(lambda: not pool(session).running)
        assert pool(session).cancelled == number + 1
    assert await ask(session) == await expected()
