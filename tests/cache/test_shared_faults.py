"""A shared cache whose server, network or values are faulty: answers come as without it.

All on a real redis-server. Leases, and machines that fail, are in test_shared_leases.py.
"""

# ruff: noqa: ASYNC110  # it looks at a server, which tells nobody

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import pytest
from redis.exceptions import ClusterDownError, RedisClusterException, RedisError

from asteady import Session
from asteady._cache.redis import RedisTier
from asteady._cache.tier import SharedTierError
from asteady.testing import FakeEngine
from tests.cache.machines import (
    BOUND_S,
    PATIENT_S,
    Machine,
    ask,
    ask_shared,
    counters,
    entries,
    leases,
    prompts_of,
    shares_again,
    until,
    warnings,
)
from tests.redis_server import Proxy, RedisServer

if TYPE_CHECKING:
    import redis

pytestmark = pytest.mark.anyio


# -- the server is gone ---------------------------------------------------------------------------


async def test_kill_9_in_mid_load_and_the_return_of_the_server(
    machine: Machine,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engines = FakeEngine(), FakeEngine()
    answered = 0
    done = False

    async def load(session: Session, numbers: Iterator[int]) -> None:
        nonlocal answered
        while not done:
            await ask(session, f"prompt {next(numbers)}")
            answered += 1

    async with machine("a", engines[0]) as a, machine("b", engines[1]) as b:
        async with asyncio.TaskGroup() as group:
            for session in (a, b):
                # Four callers on each machine, and the same prompts on both.
                numbers = itertools.count()
                for _ in range(4):
                    group.create_task(load(session, numbers))
            for _ in range(2):
                await until(lambda: len(entries(redis_client)) > 20)
                redis_server.kill()
                at = answered
                await until(lambda at=at: answered > at + 40)  # type: ignore[misc]
                redis_server.start()
                await until(lambda: entries(redis_client))
            done = True
        for engine in engines:
            prompts = prompts_of(engine)
            assert len(set(prompts)) == len(prompts)
        last = await shares_again(a, redis_client)
        engine = FakeEngine()
        async with machine("c", engine) as c:
            await ask(c, last)
        assert engine.computed == []
        assert counters(a).shared_errors > 0
    # Once for each machine and time.
    assert len(warnings(caplog)) == 4
    assert all("left alone" in message for message in warnings(caplog))


async def test_connections_that_the_server_has_closed_are_no_failure(
    machine: Machine,
    redis_server: RedisServer,
    redis_proxy: Proxy,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with machine("a", FakeEngine()) as a:
        for prompt in ("one", "two"):
            await ask_shared(a, prompt, redis_client)
    engine, url = FakeEngine(), redis_server.url_at(redis_proxy.port)
    async with machine("b", engine, shared_cache=url) as b:
        for prompt in ("one", "two"):
            await ask(b, prompt)
            redis_proxy.cut()
    assert engine.computed == []
    assert warnings(caplog) == []


async def test_a_server_that_ends_while_a_machine_waits_for_another(
    machine: Machine, redis_server: RedisServer
) -> None:
    engines = FakeEngine(), FakeEngine()
    async with machine("a", engines[0]) as a, machine("b", engines[1]) as b:
        engines[0].hold()
        async with asyncio.TaskGroup() as group:
            group.create_task(ask(a, "prompt"))
            await engines[0].wait_computed(1)
            group.create_task(ask(b, "prompt"))
            await until(lambda: counters(b).coalesced_across_machines)
            assert engines[1].computed == []
            redis_server.kill()
            # It is on its own now.
            with anyio.fail_after(BOUND_S):
                await engines[1].wait_computed(1)
            engines[0].resume()


async def test_an_error_that_redis_py_does_not_mean_to_raise_costs_no_answer(
    machine: Machine, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It does so if the connection is lost at that moment.
    async def broken(self: object, *channels: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'writelines'")

    monkeypatch.setattr("redis.asyncio.client.PubSub.subscribe", broken)
    engines = FakeEngine(), FakeEngine()
    async with machine("a", engines[0]) as a, machine("b", engines[1]) as b:
        engines[0].hold()
        async with asyncio.TaskGroup() as group:
            group.create_task(ask(a, "prompt"))
            await engines[0].wait_computed(1)
            group.create_task(ask(b, "prompt"))
            await until(lambda: counters(b).coalesced_across_machines)
            engines[0].resume()


async def test_a_server_that_is_started_again_while_a_machine_computes(
    machine: Machine, redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    engine = FakeEngine()
    engine.hold()
    async with machine("a", engine) as a, asyncio.TaskGroup() as group:
        group.create_task(ask(a, "prompt"))
        await engine.wait_computed(1)
        assert len(leases(redis_client)) == 1
        redis_server.kill()
        redis_server.start()
        engine.resume()
    async with machine("b", engine) as b:
        await ask(b, "prompt")
    assert len(engine.computed) == 1
    assert leases(redis_client) == []


@contextmanager
def refusing(directory: Path) -> Iterator[str]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def silent(directory: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def talking_http(directory: Path) -> Iterator[str]:
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server,
        ThreadPoolExecutor(1) as executor,
    ):
        executor.submit(server.serve_forever)
        yield f"redis://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def without_password(directory: Path) -> Iterator[str]:
    with RedisServer(directory, password="right") as server:
        yield f"redis://127.0.0.1:{server.port}"


@contextmanager
def wrong_password(directory: Path) -> Iterator[str]:
    with RedisServer(directory, password="right") as server:
        yield f"redis://:wrong-one@127.0.0.1:{server.port}"


@contextmanager
def no_tls(directory: Path) -> Iterator[str]:
    with RedisServer(directory) as server:
        yield f"rediss://127.0.0.1:{server.port}"


@contextmanager
def no_cluster(directory: Path) -> Iterator[str]:
    with RedisServer(directory) as server:
        yield f"redis+cluster://127.0.0.1:{server.port}"


@contextmanager
def refusing_cluster(directory: Path) -> Iterator[str]:
    with refusing(directory) as url:
        yield url.replace("redis://", "redis+cluster://")


@contextmanager
def full_of_clients(directory: Path) -> Iterator[str]:
    with (
        RedisServer(directory, maxclients=1) as server,
        socket.create_connection(("127.0.0.1", server.port)) as held,
    ):
        held.sendall(b"PING\r\n")
        assert held.recv(100) == b"+PONG\r\n"
        yield f"redis://127.0.0.1:{server.port}"


@pytest.mark.parametrize(
    "server",
    [
        refusing,
        silent,
        talking_http,
        without_password,
        wrong_password,
        no_tls,
        no_cluster,
        refusing_cluster,
        full_of_clients,
    ],
)
async def test_what_is_no_server_for_us_costs_no_answer(
    server: Callable[[Path], AbstractContextManager[str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = FakeEngine()
    with server(tmp_path) as url:
        async with Session(engine=engine, shared_cache=url) as session:
            for number in range(5):
                await ask(session, f"prompt {number}")
            assert counters(session).shared_errors >= 5
            assert counters(session).errors == 0
            await ask(session, "prompt 0")
    assert len(engine.computed) == 5
    # How often it fails anew, when it is tried again in the background, is a matter of time.
    assert 1 <= len(warnings(caplog)) <= 2
    assert "wrong-one" not in caplog.text


# -- its memory is full ---------------------------------------------------------------------------


async def test_a_full_memory_without_eviction_takes_nothing_and_gives_what_it_has(
    machine: Machine,
    redis_server: RedisServer,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engines = FakeEngine(), FakeEngine()
    async with machine("a", engines[0]) as a, machine("b", engines[1]) as b:
        await ask_shared(a, "old", redis_client)
        redis_client.config_set("maxmemory-policy", "noeviction")
        redis_client.config_set("maxmemory", 1)
        for number in range(20):
            await ask(a, f"new {number}")
        await until(lambda: counters(a).shared_errors >= 20)
        assert len(entries(redis_client)) == 1
        await ask(b, "new 0")
        await ask(b, "old")
        assert prompts_of(engines[1]) == ["new 0"]
        assert counters(b).shared_hits == 1
        # Once on each machine.
        assert len(warnings(caplog)) == 2
        redis_client.config_set("maxmemory", 0)
        last = await shares_again(a, redis_client)
        await ask(b, last)
        assert prompts_of(engines[1]) == ["new 0"]


async def test_a_full_memory_evicts_and_refuses_nothing(
    machine: Machine, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine(lambda request: cast(str, request.prompt)[-1] * 100_000)
    redis_client.config_set("maxmemory-policy", "allkeys-lfu")
    redis_client.config_set("maxmemory", "3mb")
    async with machine("a", engine) as a, machine("b", engine) as b:
        for number in range(60):
            assert await a.generate(f"prompt {number}") == str(number)[-1] * 100_000
        with anyio.fail_after(BOUND_S):
            while redis_client.info("stats")["evicted_keys"] == 0:
                await anyio.sleep(0.01)
        assert counters(a).shared_errors == 0
        assert 0 < len(entries(redis_client)) < 40
        # What is left is found, and what is gone is computed again.
        for number in range(60):
            assert await b.generate(f"prompt {number}") == str(number)[-1] * 100_000
        assert counters(b).shared_hits + counters(b).shared_misses == 60
        assert counters(b).shared_misses > 0
        assert len(engine.computed) == 60 + counters(b).shared_misses
    assert warnings(caplog) == []


async def test_a_server_that_became_a_replica_is_read(
    machine: Machine,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engines = FakeEngine(), FakeEngine()
    async with machine("a", engines[0]) as a, machine("b", engines[1]) as b:
        await ask_shared(a, "old", redis_client)
        redis_client.replicaof("127.0.0.1", 1)  # nothing listens there
        for number in range(5):
            await ask(a, f"new {number}")
        await ask(b, "new 0")
        await ask(b, "old")
        assert prompts_of(engines[1]) == ["new 0"]
        await until(lambda: counters(a).shared_errors >= 5)
        # On each machine once, or twice, as a script and a command are refused in other words.
        assert 2 <= len(warnings(caplog)) <= 4
        redis_client.replicaof("NO", "ONE")
        await shares_again(a, redis_client)


@contextmanager
def cluster(directory: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """Two masters, each to have half of the slots."""
    with ExitStack() as stack:
        servers = []
        for name in ("one", "other"):
            (directory / name).mkdir()
            # On a busy machine they must not take each other for dead.
            server = RedisServer(
                directory / name, cluster_enabled="yes", cluster_node_timeout=60_000
            )
            servers.append(stack.enter_context(server))
        yield servers[0], servers[1]


def cluster_state(server: RedisServer) -> str:
    with server.client() as client:
        state: str = client.execute_command("CLUSTER INFO")["cluster_state"]
    return state


async def test_a_cluster_without_one_of_its_masters_is_left_alone_until_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with cluster(tmp_path) as (one, other):
        with one.client() as first, other.client() as second:
            first.execute_command("CLUSTER ADDSLOTSRANGE", 0, 8191)
            second.execute_command("CLUSTER ADDSLOTSRANGE", 8192, 16383)
            first.execute_command("CLUSTER MEET", "127.0.0.1", other.port)
        await until(lambda: cluster_state(one) == cluster_state(other) == "ok")
        url = one.url.replace("redis://", "redis+cluster://").removesuffix("/0")
        tier = RedisTier(url, timeout_s=PATIENT_S, lease_s=PATIENT_S)
        for number in range(20):
            await tier.put(f"name {number}", b"value", ())
        assert (await tier.statistics())["keys"] == 20
        await tier.aclose()
        session = Session(
            engine=FakeEngine(),
            shared_cache=url,
            shared_cache_timeout_s=PATIENT_S,
            cache_dir=tmp_path / "cache",
        )
        async with session:
            await ask(session, "hi")
            other.kill()
            for number in itertools.count():
                await ask(session, f"hi {number}")
                if warnings(caplog):
                    break
            assert session.cache._tier is not None
            tier = session.cache._tier
            # What is left does not pass for the whole.
            with pytest.raises((RedisError, RedisClusterException)):
                await tier._ping()
            assert not tier.available
            other.start()
            await until(lambda: tier.available)
        assert len(warnings(caplog)) == 1


async def test_a_cluster_that_is_down_is_not_asked_by_each_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def down(*_: object) -> None:
        raise ClusterDownError("The cluster is down")

    tier = RedisTier("redis+cluster://127.0.0.1:1", timeout_s=PATIENT_S, lease_s=PATIENT_S)
    monkeypatch.setattr(tier._client, "hget", down)
    with pytest.raises(SharedTierError, match="failed to get: The cluster is down"):
        await tier.get("name", PATIENT_S)
    assert not tier.available
    await tier.aclose()


# -- the network is slow, or cut off ---------------------------------------------------------------


@contextmanager
def slow(server: RedisServer, proxy: Proxy) -> Iterator[None]:
    proxy.delay_s = 5.0
    yield
    proxy.delay_s = 0.0


@contextmanager
def partitioned(server: RedisServer, proxy: Proxy) -> Iterator[None]:
    proxy.partition()
    yield
    proxy.heal()


@contextmanager
def frozen(server: RedisServer, proxy: Proxy) -> Iterator[None]:
    server.freeze()
    yield
    server.thaw()


FAULTS = [slow, partitioned, frozen]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "not connected"])
async def test_no_answer_is_later_than_the_configured_time(
    fault: Callable[[RedisServer, Proxy], AbstractContextManager[None]],
    connected: bool,
    machine: Machine,
    redis_server: RedisServer,
    redis_proxy: Proxy,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = redis_server.url_at(redis_proxy.port)
    # Half a second more than an answer may be late is for everything else. On a machine that is too
    # busy for that, it is tried again.
    limit_s, all_else_s = 0.5, 0.5
    for attempt in range(5):
        engine = FakeEngine()
        async with machine(
            f"a{attempt}", engine, shared_cache=url, shared_cache_timeout_s=limit_s
        ) as session:
            if connected:
                await ask_shared(session, "before", redis_client)
            with fault(redis_server, redis_proxy):
                times_s = []
                for number in range(10):
                    began_s = time.monotonic()
                    await ask(session, f"prompt {number}")
                    times_s.append(time.monotonic() - began_s)
                assert counters(session).shared_errors >= 10
                # Said when it has not answered once more.
                await until(lambda: warnings(caplog))
            last = await shares_again(session, redis_client)
        if max(times_s) < limit_s + all_else_s and sum(times_s) < 2 * (limit_s + all_else_s):
            break
        redis_client.flushall()
    else:
        raise AssertionError(f"answers took {times_s} s")
    # The late answers of old connections are taken for no others.
    assert counters(session).damaged == 0
    engine = FakeEngine()
    async with machine("b", engine) as b:
        await ask(b, last)
    assert engine.computed == []
    assert len(warnings(caplog)) >= 1


@pytest.mark.parametrize("fault", FAULTS)
async def test_closing_does_not_wait_for_a_server_that_is_not_there(
    fault: Callable[[RedisServer, Proxy], AbstractContextManager[None]],
    machine: Machine,
    redis_server: RedisServer,
    redis_proxy: Proxy,
) -> None:
    url = redis_server.url_at(redis_proxy.port)
    engine = FakeEngine()
    session = machine("a", engine, shared_cache=url)
    await session.open()
    await ask(session, "prompt")
    engine.hold()
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(session.generate("in progress"))
        await engine.wait_computed(2)
        with fault(redis_server, redis_proxy):
            engine.resume()
            await asking
            # The tier's commands would wait for PATIENT_S.
            with anyio.fail_after(PATIENT_S / 2):
                await session.aclose()


async def test_more_requests_than_can_be_answered_in_time_are_no_failure_of_the_server(
    machine: Machine,
    redis_server: RedisServer,
    redis_proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = redis_server.url_at(redis_proxy.port)
    engine = FakeEngine()
    async with machine("a", engine, shared_cache=url, shared_cache_timeout_s=2.0) as a:
        await ask(a, "before")
        redis_proxy.delay_s = 0.5
        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(ask(a, f"prompt {number}"))
        assert counters(a).shared_errors > 0
    assert warnings(caplog) == []


async def test_calls_cancelled_at_every_stage_leave_nothing_behind(
    machine: Machine,
    redis_server: RedisServer,
    redis_proxy: Proxy,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    draw = random.Random(1)
    engines = FakeEngine(), FakeEngine()
    url = redis_server.url_at(redis_proxy.port)
    before = asyncio.all_tasks()
    async with (
        machine("a", engines[0], shared_cache=url) as a,
        machine("b", engines[1], shared_cache=url) as b,
    ):
        redis_proxy.delay_s = 0.02
        for number in range(40):
            # Both machines want the same, and one of them gives up while it looks, waits for the
            # other, computes, or stores.
            cancelled = asyncio.create_task(ask(a, f"prompt {number}"))
            stays = asyncio.create_task(ask(b, f"prompt {number}"))
            await asyncio.sleep(draw.uniform(0, 0.15))
            cancelled.cancel()
            await asyncio.wait([cancelled])
            await stays
        assert counters(a).shared_errors == counters(b).shared_errors == 0
    assert leases(redis_client) == []
    assert len(entries(redis_client)) == 40
    await until(lambda: redis_proxy.open == 0)
    assert asyncio.all_tasks() == before
    assert warnings(caplog) == []


def test_the_last_answer_of_a_program_is_shared(
    machine: Machine, redis_server: RedisServer, redis_proxy: Proxy, redis_client: redis.Redis
) -> None:
    async def main() -> None:
        url = redis_server.url_at(redis_proxy.port)
        session = await machine("a", FakeEngine(), shared_cache=url).open()
        await ask(session, "first")
        # The program is over before the server has answered.
        redis_proxy.delay_s = 0.2
        await ask(session, "last")

    with pytest.warns(ResourceWarning, match="was never closed"):
        asyncio.run(main())
    assert len(entries(redis_client)) == 2
    assert leases(redis_client) == []


FORKING = """
import os
import asteady.blocking as asteady

asteady.generate("before", max_new_tokens=2)
pid = os.fork()
who = "parent" if pid else "child"
for number in range(10):
    asteady.generate(f"{who} {number}", max_new_tokens=2)
if pid:
    assert os.waitpid(pid, 0)[1] == 0
    asteady.generate("after", max_new_tokens=2)
statistics = asteady.get_cache_manager().get_cache_stats()["generation"]
assert statistics["shared_errors"] == statistics["damaged"] == 0, statistics
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
async def test_parent_and_child_of_a_fork_each_have_connections_of_their_own(
    redis_server: RedisServer, redis_client: redis.Redis
) -> None:
    done = await anyio.run_process(
        [sys.executable, "-c", FORKING],
        env={
            **os.environ,
            "ASTEADY_SHARED_CACHE": redis_server.url,
            "ASTEADY_SHARED_CACHE_TIMEOUT_S": str(PATIENT_S),
        },
        check=False,
    )
    assert done.stderr == b""
    assert done.returncode == 0
    # Before, ten of each, and after. What is asked for while the database is opened anew, as a fork
    # may need it, is not shared.
    assert 20 <= len(entries(redis_client)) <= 22
