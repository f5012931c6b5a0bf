"""Many look-ups at once on a real redis-server: they travel together, and fail one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias, cast

import anyio
import pytest
from redis.exceptions import ClusterDownError

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
    prompts_of,
    until,
    warnings,
)
from tests.redis_server import Proxy, RedisServer

if TYPE_CHECKING:
    import redis

pytestmark = pytest.mark.anyio

Values: TypeAlias = dict[str, bytes]


@asynccontextmanager
async def tier_at(url: str) -> AsyncIterator[RedisTier]:
    tier = RedisTier(url, timeout_s=PATIENT_S, lease_s=PATIENT_S)
    try:
        yield tier
    finally:
        await tier.aclose()


async def filled(tier: RedisTier, count: int) -> Values:
    """What is stored there now, by name."""
    values = {f"asteady:1:f:g:{number}": b"value of %d" % number for number in range(count)}
    await tier.put_all({name: (value, ()) for name, value in values.items()})
    return values


async def get_all(tier: RedisTier, names: Iterable[str]) -> list[bytes | BaseException | None]:
    """Each by a look-up of its own, all in one turn."""
    with anyio.fail_after(BOUND_S):
        return await asyncio.gather(
            *(tier.get(name, PATIENT_S) for name in names), return_exceptions=True
        )


def gets(client: redis.Redis) -> int:
    """How many commands have looked something up."""
    return cast(int, client.info("commandstats").get("cmdstat_hget", {"calls": 0})["calls"])


@pytest.fixture(scope="module", params=["", "cluster"], ids=["one server", "cluster"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    """Started once, as a cluster takes two seconds; what is on it stays."""
    enabled = "yes" if request.param else "no"
    with RedisServer(tmp_path_factory.mktemp("redis"), cluster_enabled=enabled) as server:
        if request.param:
            with server.client() as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
                while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                    time.sleep(0.01)
        yield server


@pytest.fixture
async def tier(server: RedisServer, request: pytest.FixtureRequest) -> AsyncIterator[RedisTier]:
    url = server.url
    if "cluster" in request.node.name:
        url = url.replace("redis://", "redis+cluster://").removesuffix("/0")
    async with tier_at(url) as tier:
        yield tier


async def test_two_thousand_look_ups_at_once_are_five_messages(
    tier: RedisTier, server: RedisServer
) -> None:
    values = await filled(tier, 2000)
    # Makes as many connections as are needed, each of which asks about the server.
    assert await get_all(tier, values) == list(values.values())
    with server.client() as client:
        client.config_resetstat()
        assert await get_all(tier, [*values, "nothing"]) == [*values.values(), None]
        assert gets(client) == 2001
        # A message of five hundred look-ups arrives in parts of 16 kB, or smaller ones.
        assert client.info("stats")["total_reads_processed"] < 200


async def test_connections_that_the_server_has_closed_lose_no_look_up(
    tier: RedisTier, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    values = await filled(tier, 150)
    with server.client() as client:
        assert client.client_kill_filter(_type="normal", skipme=True) > 0
    assert await get_all(tier, values) == list(values.values())
    assert tier.available
    assert warnings(caplog) == []


async def test_what_is_no_entry_fails_alone(
    tier: RedisTier, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    values = await filled(tier, 50)
    wrong = "asteady:1:f:g:no entry"
    names = [*values, wrong]
    with server.client() as client:
        client.set(wrong, "a string, where a hash belongs")
    *found, error = await get_all(tier, names)
    assert found == list(values.values())
    assert isinstance(error, SharedTierError)
    assert "failed to get: WRONGTYPE" in str(error)
    assert tier.available
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("server", ["cluster"], indirect=True)
async def test_a_cluster_that_is_down_is_not_asked_for_each_of_many_once_more(
    tier: RedisTier, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = await filled(tier, 50)
    asked = []

    async def down(name: str, field: str) -> None:
        asked.append(name)
        raise ClusterDownError("The cluster is down")

    # One of several masters cannot be taken from a cluster as fast.
    monkeypatch.setattr(tier._client, "hget", down)
    with server.client() as client:
        client.execute_command("CLUSTER DELSLOTS", 0)
        try:
            await until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "fail")
            found = await get_all(tier, values)
            assert all(isinstance(error, SharedTierError) for error in found)
            assert not tier.available
            assert asked == list(values)[:1]
        finally:
            client.execute_command("CLUSTER ADDSLOTS", 0)
            await until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")


async def test_a_cancelled_one_among_many(redis_server: RedisServer, redis_proxy: Proxy) -> None:
    with redis_server.client() as client:
        async with tier_at(redis_server.url_at(redis_proxy.port)) as tier:
            values = await filled(tier, 50)
            names = list(values)
            await tier.get(names[0], PATIENT_S)
            client.config_resetstat()
            redis_proxy.partition()
            before = redis_proxy.sent
            looking = [asyncio.create_task(tier.get(name, PATIENT_S)) for name in names]
            await until(lambda: redis_proxy.sent > before)
            looking[7].cancel()
            await asyncio.wait([looking[7]])
            redis_proxy.heal()
            with anyio.fail_after(BOUND_S):
                found = await asyncio.gather(*looking, return_exceptions=True)
            assert isinstance(found.pop(7), asyncio.CancelledError)
            del values[names[7]]
            assert found == list(values.values())
            assert gets(client) == 50


async def test_a_server_that_dies_in_the_middle_of_many_look_ups(
    machine: Machine,
    redis_server: RedisServer,
    redis_proxy: Proxy,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prompts = [f"prompt {number}" for number in range(50)]
    engine = FakeEngine()
    url = redis_server.url_at(redis_proxy.port)
    async with machine("b", engine, shared_cache=url) as b:
        await ask_shared(b, "before", redis_client)
        redis_server.freeze()
        before = redis_proxy.sent
        async with asyncio.TaskGroup() as group:
            for prompt in prompts:
                group.create_task(ask(b, prompt))
            await until(lambda: redis_proxy.sent > before)
            redis_server.kill()
        assert sorted(prompts_of(engine)[1:]) == sorted(prompts)
        assert counters(b).shared_misses == 51
        assert counters(b).shared_errors >= 50
    assert len(warnings(caplog)) == 1


async def test_one_damaged_value_among_many_is_one_miss(
    machine: Machine, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = [f"prompt {number}" for number in range(30)]
    engines = FakeEngine(), FakeEngine()
    async with machine("a", engines[0]) as a, machine("b", engines[1]) as b:
        names = [(await ask_shared(a, prompt, redis_client)).decode() for prompt in prompts]
        right = cast(bytes, redis_client.hget(names[7], "v"))
        redis_client.hset(names[7], "v", right[:-1])
        async with asyncio.TaskGroup() as group:
            for prompt in prompts:
                group.create_task(ask(b, prompt))
        assert prompts_of(engines[1]) == ["prompt 7"]
        assert (counters(b).shared_hits, counters(b).shared_misses) == (29, 1)
        assert (counters(b).damaged, counters(b).shared_errors) == (1, 0)
        await until(lambda: redis_client.hget(names[7], "v") != right[:-1])
    assert len(warnings(caplog)) == 1


async def test_many_answers_of_another_machine_in_the_time_that_is_the_default(
    machine: Machine, redis_client: redis.Redis
) -> None:
    prompts = [f"prompt {number}" for number in range(200)]
    engines = FakeEngine(), FakeEngine()
    default_s = Session().settings.shared_cache_timeout_s
    async with (
        machine("a", engines[0]) as a,
        machine("b", engines[1], shared_cache_timeout_s=default_s) as b,
    ):
        await asyncio.gather(*(ask(a, prompt) for prompt in prompts))
        await until(lambda: len(entries(redis_client)) == 200)
        redis_client.config_resetstat()
        await asyncio.gather(*(ask(b, prompt) for prompt in prompts))
        counted = counters(b)
        # All are there. A machine that is too busy may have no time for some, which are errors.
        assert counted.shared_hits + counted.shared_misses == 200
        assert len(engines[1].computed) <= counted.shared_misses <= counted.shared_errors
        assert counted.shared_hits <= gets(redis_client) <= 200 + counted.shared_misses
        assert counted.damaged == 0
