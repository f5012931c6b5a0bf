"""The circuit breaker: what it lets through, when it tries again, and what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from asteady._cache.breaker import CircuitBreaker

pytestmark = pytest.mark.anyio

FAILURE = OSError("it does not answer")


class Server:
    """Fails so many probes, and notes what the breaker tells."""

    def __init__(self, failures: float) -> None:
        self.failures = failures
        self.probes = 0
        self.told: list[Exception | None] = []

    async def probe(self) -> None:
        self.probes += 1
        if self.probes <= self.failures:
            raise FAILURE


@asynccontextmanager
async def breaker(server: Server) -> AsyncIterator[CircuitBreaker]:
    made = CircuitBreaker(server.probe, server.told.append, first_s=0.001, last_s=0.004)
    yield made
    made.stop()


async def closes(breaker: CircuitBreaker) -> None:
    while not breaker.closed:  # noqa: ASYNC110  # it tells nobody
        await asyncio.sleep(0.001)


async def test_a_failure_opens_it_until_a_probe_succeeds() -> None:
    server = Server(failures=5)
    async with breaker(server) as made:
        assert made.closed
        made.fail(FAILURE)
        made.fail(OSError("another"))
        assert not made.closed
        assert server.told == [FAILURE]
        await closes(made)
        assert server.probes == 6
        assert server.told == [FAILURE, None]
        made.fail(FAILURE)
        assert not made.closed


async def test_a_failure_that_is_not_certain_is_told_if_a_probe_fails_too() -> None:
    server = Server(failures=3)
    async with breaker(server) as made:
        made.fail(FAILURE, certain=False)
        assert not made.closed
        assert server.told == []
        await closes(made)
        assert server.probes == 4
        assert server.told == [FAILURE, None]


async def test_a_failure_that_was_none_is_not_told() -> None:
    server = Server(failures=0)
    async with breaker(server) as made:
        made.fail(FAILURE, certain=False)
        assert not made.closed
        await closes(made)
        assert server.probes == 1
        assert server.told == []
        # And not with the next one either.
        made.fail(FAILURE)
        await closes(made)
        assert server.told == [FAILURE, None]


@pytest.mark.parametrize("certain", [True, False])
async def test_stopping_it_tells_what_is_not_certain_yet(certain: bool) -> None:
    server = Server(failures=float("inf"))
    async with breaker(server) as made:
        made.fail(FAILURE, certain=certain)
    assert server.told == [FAILURE]
    assert server.probes == 0
