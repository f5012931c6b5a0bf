"""Any order of calls, cancellations, clears and restarts leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import numpy  # noqa: F401  # hypothesis fails if a worker thread is just importing it
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from asteady import Session
from asteady.testing import FakeEngine
from tests.faults.campaign import rounds

PROMPTS = st.sampled_from(["one", "two words", "three words here"])
TURNS = st.integers(0, 12)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0


class Machine(RuleBasedStateMachine):
    """One session after the other on one cache, and callers that come and go."""

    @initialize(width=st.integers(1, 3))
    def begin(self, width: int) -> None:
        self.directory = TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.runner.get_loop()
        self.threads, self.descriptors = set(threading.enumerate()), descriptors()
        self.width = width
        self.calls = 0
        self.waiting: list[asyncio.Task[Any]] = []
        self.run(self._open())

    def run(self, what: Coroutine[Any, Any, None]) -> None:
        self.runner.run(what)

    async def _open(self) -> None:
        self.engine = FakeEngine(width=self.width)
        self.engine.hold()
        self.session = Session(
            engine=self.engine,
            workers=2,
            cache_dir=Path(self.directory.name),
            generation_cache_capacity=2,
        )
        self.calls = 0
        await self.session.open()

    async def _ask(self, how: str, prompt: str) -> None:
        namespace = self.session.namespace("here")
        if how == "generate":
            assert await self.session.generate(prompt) == f"You said: {prompt}"
        elif how == "tagged":
            assert await namespace.generate(prompt) == f"You said: {prompt}"
        elif how == "stream":
            async with self.session.stream(prompt) as stream:
                assert [chunk async for chunk in stream] == list(stream.answer.chunks)
        else:
            await self.session.embed(prompt)

    @rule(
        how=st.sampled_from(["generate", "tagged", "stream", "embed"]), prompt=PROMPTS, turns=TURNS
    )
    def ask(self, how: str, prompt: str, turns: int) -> None:
        async def start() -> None:
            self.waiting.append(asyncio.create_task(self._ask(how, prompt)))
            await turn(1 + turns)

        self.calls += how != "embed"
        self.run(start())

    @rule(prompt=PROMPTS, means=st.sampled_from(["wait_for", "scope", "group"]), turns=TURNS)
    def ask_and_give_up(self, prompt: str, means: str, turns: int) -> None:
        async def start() -> None:
            await turn(1)
            asking = self._ask("generate", prompt)
            await GIVE_UP[means](asking, turns)

        self.calls += 1
        self.run(start())

    @precondition(lambda self: self.waiting)
    @rule(number=st.integers(0, 9), turns=TURNS)
    def cancel(self, number: int, turns: int) -> None:
        async def cancel() -> None:
            self.waiting[number % len(self.waiting)].cancel()
            await turn(turns)

        self.run(cancel())

    @rule(steps=st.integers(1, 8), turns=TURNS)
    def compute(self, steps: int, turns: int) -> None:
        async def step() -> None:
            self.engine.step(steps)
            await turn(turns)

        self.run(step())

    @rule(namespace=st.booleans())
    def clear(self, namespace: bool) -> None:
        async def clear() -> None:
            if namespace:
                await self.session.namespace("here").clear()
            else:
                await self.session.cache.clear_all_caches()

        self.run(clear())

    @rule()
    def finish(self) -> None:
        self.run(self._finish())

    async def _finish(self) -> None:
        self.engine.resume()
        await asyncio.gather(*self.waiting, return_exceptions=True)
        for task in self.waiting:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        self.waiting.clear()
        await self.engine.wait_idle()
        counters = self.session.cache.generation.counters
        assert counters.hits + counters.misses + counters.coalesced == self.calls
        # A model that is being loaded is loaded to its end, even if its callers have left; and the
        # pool counts a job as running until its worker's thread has said that it is released.
        with anyio.fail_after(60):
            while self._busy():
                await turn(1)
        self.engine.hold()

    def _busy(self) -> int:
        statistics = self.session.statistics()
        pools = statistics.pools.values()
        return statistics.flights + sum(pool.running + pool.pending for pool in pools)

    @rule(busy=st.booleans())
    def reopen(self, busy: bool) -> None:
        async def reopen() -> None:
            if not busy:
                await self._finish()
            closing = asyncio.create_task(self.session.aclose())
            await turn(2)
            self.engine.resume()
            await closing
            # Those who still waited were told that the session closed.
            await asyncio.gather(*self.waiting, return_exceptions=True)
            self.waiting.clear()
            await self._open()

        self.run(reopen())

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return

        async def end() -> None:
            await self._finish()
            await self.session.aclose()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        self.run(end())
        for thread in set(threading.enumerate()) - self.threads:
            # A thread that anyio keeps for the next call ends with the loop.
            if not thread.name.startswith("AnyIO"):
                thread.join(60)
                assert not thread.is_alive(), thread
        assert descriptors() <= self.descriptors
        self.runner.close()
        self.directory.cleanup()


async def turn(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def _wait_for(asking: Coroutine[Any, Any, None], turns: int) -> None:
    task = asyncio.create_task(asking)
    await turn(1 + turns)
    with suppress(TimeoutError):
        await asyncio.wait_for(task, 0)


async def _scope(asking: Coroutine[Any, Any, None], turns: int) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: asking)
            await turn(1 + turns)
            scope.cancel()


async def _group(asking: Coroutine[Any, Any, None], turns: int) -> None:
    class Left(Exception):
        pass

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(asking)
            await turn(1 + turns)
            raise Left
    except* Left:
        pass


GIVE_UP: dict[str, Any] = {"wait_for": _wait_for, "scope": _scope, "group": _group}


def test_any_order_of_calls_cancellations_clears_and_restarts() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            database=None,
            max_examples=rounds(15, 1000),
            stateful_step_count=rounds(20, 60),
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
