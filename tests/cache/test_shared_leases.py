"""One computation for all machines, also when one of them is killed, stopped or cut off."""

# ruff: noqa: ASYNC110  # it looks at a server, which tells nobody

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

from asteady._cache.notices import Notices
from asteady._cache.redis import RedisTier
from asteady._cache.tier import SharedTierError
from asteady.testing import FakeEngine
from tests.cache.helpers import Process
from tests.cache.machines import (
    BOUND_S,
    PATIENT_S,
    Machine,
    ask,
    ask_shared,
    counters,
    entries,
    leases,
    until,
)
from tests.redis_server import Proxy, RedisServer

if TYPE_CHECKING:
    import redis

pytestmark = pytest.mark.anyio

# Renewed after a third of it: a busy machine may be late for that by two thirds of it.
LEASE_S = 4.0

SESSION = """
import time
real_time, real_ns, ahead_s = time.time, time.time_ns, {ahead_s}
time.time = lambda: real_time() + ahead_s
time.time_ns = lambda: real_ns() + int(ahead_s * 10**9)
from asteady import Session
from asteady.testing import FakeEngine
engine = FakeEngine()
session = Session(
    engine=engine, cache_dir=directory, shared_cache={url!r},
    shared_cache_timeout_s={timeout_s}, shared_cache_lease_s={lease_s},
)
"""

# Computes until it is told to go on, and ends when it is told to.
HOLDER = """
engine.hold()
async with session:
    asking = asyncio.create_task(session.generate("prompt"))
    await engine.wait_computed(1)
    say("computing")
    await told()
    engine.resume()
    say(await asking)
    await told()
say("closed")
"""


@contextmanager
def process(
    directory: Path, url: str, body: str, *, lease_s: float = LEASE_S, ahead_s: float = 0.0
) -> Iterator[Process]:
    """A machine in a process of its own."""
    prelude = SESSION.format(url=url, timeout_s=PATIENT_S, lease_s=lease_s, ahead_s=ahead_s)
    with Process(directory, prelude + body) as started:
        yield started


async def hear(process: Process) -> str:
    """The process's next line; it is waited for without blocking the loop."""
    with anyio.fail_after(BOUND_S):
        return await anyio.to_thread.run_sync(process.hear, abandon_on_cancel=True)


def left_ms(client: redis.Redis) -> int:
    """How long the only lease lasts still; -2 if there is none."""
    found = leases(client)
    return client.pttl(found[0].decode()) if found else -2


async def renewed(client: redis.Redis) -> None:
    """Wait until the only lease, which ends within `LEASE_S`, is renewed."""
    (lease,) = leases(client)
    token = client.get(lease.decode())
    left = left_ms(client)
    assert 0 < left <= LEASE_S * 1000
    await until(lambda: left_ms(client) < left - 100)
    shorter = left_ms(client)
    await until(lambda: left_ms(client) > shorter)
    assert client.get(lease.decode()) == token


async def test_two_hundred_equal_requests_in_each_of_three_processes_are_one_computation(
    tmp_path: Path, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    rounds = 5
    body = f"""
async with session:
    say("ready")
    for number in range({rounds}):
        await told()
        prompt = f"prompt {{number}}"
        answers = await asyncio.gather(*(session.generate(prompt) for _ in range(200)))
        assert set(answers) == {{f"You said: {{prompt}}"}}
        say("answered")
say(len(engine.computed))
"""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(process(tmp_path / f"{number}", redis_server.url, body))
            for number in range(3)
        ]
        for each in processes:
            assert await hear(each) == "ready"
        for _ in range(rounds):
            for each in processes:
                each.tell()
            for each in processes:
                assert await hear(each) == "answered"
        computed = [int(await hear(each)) for each in processes]
    assert sum(computed) == rounds
    assert len(entries(redis_client)) == rounds
    assert leases(redis_client) == []


async def test_a_machine_takes_over_from_one_that_is_killed_within_the_lease(
    tmp_path: Path, machine: Machine, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    engine = FakeEngine()
    with process(tmp_path / "a", redis_server.url, HOLDER) as holder:
        assert await hear(holder) == "computing"
        async with machine("b", engine, shared_cache_lease_s=LEASE_S) as b:
            asking = asyncio.create_task(ask(b, "prompt"))
            await until(lambda: counters(b).coalesced_across_machines)
            # It is renewed while its holder lives.
            await renewed(redis_client)
            assert engine.computed == []
            holder.kill()
            left_s = left_ms(redis_client) / 1000
            killed_s = asyncio.get_running_loop().time()
            assert 0 < left_s <= LEASE_S
            await asking
            # Nobody tells it, so it looks, once a second.
            taken_s = asyncio.get_running_loop().time() - killed_s
            assert taken_s < left_s + 1 + PATIENT_S / 3
            assert len(engine.computed) == 1


async def test_a_machine_whose_lease_ends_while_it_is_stopped_does_no_harm(
    tmp_path: Path, machine: Machine, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    engine = FakeEngine()
    engine.hold()
    with process(tmp_path / "a", redis_server.url, HOLDER, lease_s=1.0) as holder:
        assert await hear(holder) == "computing"
        holder.signal(signal.SIGSTOP)
        async with machine("b", engine, shared_cache_lease_s=BOUND_S) as b:
            asking = asyncio.create_task(ask(b, "prompt"))
            with anyio.fail_after(BOUND_S):
                await engine.wait_computed(1)
            (lease,) = leases(redis_client)
            token = redis_client.get(lease.decode())
            holder.signal(signal.SIGCONT)
            holder.tell()
            assert await hear(holder) == "You said: prompt"
            holder.tell()
            # What it does in the background is done when it is closed.
            assert await hear(holder) == "closed"
            # The lease of the other is the other's still, and what it stored is right.
            assert redis_client.get(lease.decode()) == token
            async with machine("c", FakeEngine()) as c:
                await ask(c, "prompt")
                assert counters(c).shared_hits == 1
            assert not asking.done()
            engine.resume()
            await asking
    await until(lambda: leases(redis_client) == [])
    async with machine("d", FakeEngine()) as d:
        await ask(d, "prompt")
        assert counters(d).shared_hits == 1


async def test_a_machine_that_is_cut_off_while_it_computes_does_no_harm(
    machine: Machine, redis_server: RedisServer, redis_proxy: Proxy, redis_client: redis.Redis
) -> None:
    engines = FakeEngine(), FakeEngine()
    for engine in engines:
        engine.hold()
    url = redis_server.url_at(redis_proxy.port)
    async with (
        machine("a", engines[0], shared_cache=url, shared_cache_lease_s=1.0) as a,
        machine("b", engines[1], shared_cache_lease_s=BOUND_S) as b,
        asyncio.TaskGroup() as group,
    ):
        first = group.create_task(ask(a, "prompt"))
        await engines[0].wait_computed(1)
        (lease,) = leases(redis_client)
        redis_proxy.partition()
        # From now on it does not wait long, and finds out.
        assert a.cache._tier is not None
        a.cache._tier.timeout_s = 0.2
        group.create_task(ask(b, "prompt"))
        with anyio.fail_after(BOUND_S):
            await engines[1].wait_computed(1)
        token = redis_client.get(lease.decode())
        redis_proxy.heal()
        engines[0].resume()
        await first
        # It is back when its answers are shared again.
        with anyio.fail_after(BOUND_S):
            number = 0
            while not entries(redis_client):
                await ask(a, f"again {number}")
                number += 1
        assert redis_client.get(lease.decode()) == token
        engines[1].resume()


async def test_an_answer_is_found_though_the_notice_of_it_is_lost(
    machine: Machine, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def subscribe(self: Notices, channel: str) -> None:
        """Hears of nothing."""

    monkeypatch.setattr(Notices, "subscribe", subscribe)
    engines = FakeEngine(), FakeEngine()
    async with machine("a", engines[0]) as a, machine("b", engines[1]) as b:
        engines[0].hold()
        async with asyncio.TaskGroup() as group:
            group.create_task(ask(a, "prompt"))
            await engines[0].wait_computed(1)
            group.create_task(ask(b, "prompt"))
            await until(lambda: counters(b).coalesced_across_machines)
            engines[0].resume()
        assert engines[1].computed == []


async def test_a_cancelled_computation_is_taken_over_at_once(
    machine: Machine, redis_client: redis.Redis
) -> None:
    engines = FakeEngine(), FakeEngine()
    async with (
        machine("a", engines[0], shared_cache_lease_s=10 * BOUND_S) as a,
        machine("b", engines[1]) as b,
    ):
        engines[0].hold()
        cancelled = asyncio.create_task(ask(a, "prompt"))
        await engines[0].wait_computed(1)
        asking = asyncio.create_task(ask(b, "prompt"))
        await until(lambda: counters(b).coalesced_across_machines)
        cancelled.cancel()
        await asking
        assert len(engines[1].computed) == 1
        engines[0].resume()
    assert leases(redis_client) == []


async def test_a_lease_that_is_won_when_nobody_waits_for_it_is_given_back(
    redis_server: RedisServer, redis_proxy: Proxy, redis_client: redis.Redis
) -> None:
    url = redis_server.url_at(redis_proxy.port)
    tier = RedisTier(url, timeout_s=PATIENT_S, lease_s=10 * BOUND_S)
    assert await tier.get("asteady:1:x:g:key", PATIENT_S) is None
    redis_proxy.delay_s = 0.5
    with pytest.raises(SharedTierError):
        await tier.lease("asteady:1:x:g:key", 0.01)
    await until(lambda: leases(redis_client))
    await until(lambda: not leases(redis_client))
    cancelled = asyncio.create_task(tier.lease("asteady:1:x:g:key", PATIENT_S))
    await until(lambda: leases(redis_client))
    cancelled.cancel()
    await until(lambda: not leases(redis_client))
    # And at each turn of the loop after it has been won.
    redis_proxy.delay_s = 0
    for turns in range(12):
        name = f"asteady:1:x:g:{turns}"
        cancelled = asyncio.create_task(tier.lease(name, PATIENT_S))
        while not redis_client.exists(f"{name}:lease"):
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        if not cancelled.cancelled():
            await tier.release(cancelled.result())
    await until(lambda: not leases(redis_client))
    await tier.aclose()


# -- clocks ----------------------------------------------------------------------------------------

YEARS_S = 10 * 365 * 86_400
OTHER_CLOCK = """
async with session:
    say(await session.generate("earlier"), len(engine.computed))
    engine.hold()
    asking = asyncio.create_task(session.generate("prompt"))
    await engine.wait_computed(1)
    # It may be set to another time at any moment.
    ahead_s = -ahead_s
    say("computing")
    await told()
    engine.resume()
    say(await asking)
    await told()
    await session.cache.generation.clear()
    say("cleared")
    await told()
    say(await session.generate("later"), len(engine.computed))
"""


@pytest.mark.parametrize("ahead_s", [-YEARS_S, YEARS_S], ids=["behind", "ahead"])
async def test_machines_whose_clocks_differ_by_ten_years_share(
    ahead_s: float,
    tmp_path: Path,
    machine: Machine,
    redis_server: RedisServer,
    redis_client: redis.Redis,
) -> None:
    engine = FakeEngine()
    async with machine("here", engine) as here:
        await ask_shared(here, "earlier", redis_client)
        with process(tmp_path / "there", redis_server.url, OTHER_CLOCK, ahead_s=ahead_s) as there:
            assert await hear(there) == "You said: earlier 0"
            assert await hear(there) == "computing"
            asking = asyncio.create_task(ask(here, "prompt"))
            await until(lambda: counters(here).coalesced_across_machines)
            await renewed(redis_client)
            there.tell()
            assert await hear(there) == "You said: prompt"
            await asking
            assert len(engine.computed) == 1
            # What is asked for after a clear is shared, whoever's clock is behind.
            there.tell()
            assert await hear(there) == "cleared"
            assert entries(redis_client) == []
            await ask_shared(here, "later", redis_client)
            there.tell()
            assert await hear(there) == "You said: later 1"
