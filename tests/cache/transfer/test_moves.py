"""Entries go to a shared cache on a real server and back, each of them once."""

from __future__ import annotations

import asyncio
import json
import logging
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import asteady
from asteady import Session
from asteady._base.errors import InvalidRequestError, SettingsError, StoreError
from asteady._cache import moves as _moves
from asteady._cache.manager import CacheManager
from asteady._cache.packed import pack
from asteady._cache.redis import RedisTier
from asteady._cache.store.api import Moved
from asteady._cache.store.codec import CompletionCodec
from asteady.cli import main
from asteady.testing import FakeEngine
from tests.cache.helpers import change, completion, embedding, fill, key_of, opened
from tests.cache.machines import entries, until
from tests.redis_server import RedisServer

pytestmark = pytest.mark.anyio


# One embedding, new and known.
ADDED = Moved(entries=1, added=1)
KNOWN = Moved(entries=1, known=1)


async def test_all_that_was_pushed_is_there_after_a_pull(
    manager: CacheManager, redis_server: RedisServer, tmp_path: Path
) -> None:
    told = completion(
        "ünï\ncode",
        chunks=("ünï", "\n", "code"),
        reasoning="I séé",
        reasoning_chunks=("I", " séé"),
        reasoning_tokens=3,
    )
    url = redis_server.url
    async with opened(tmp_path / "other") as other:
        await other.generation.put(key_of("told"), told, namespaces=("mail/größe", "chat"))
        await other.generation.put(key_of("empty"), completion(""))
        await other.embedding.put(key_of("v"), embedding(0.6, 0.8))
        first = await other.push_entries(url)
        assert first == {
            "generation": Moved(entries=2, added=2),
            "embedding": ADDED,
        }
        again = await other.push_entries(url)
    assert again == {
        "generation": Moved(entries=2, known=2),
        "embedding": KNOWN,
    }

    assert await manager.pull_entries(url) == first
    assert await manager.pull_entries(url) == again
    found = await manager.generation.get(key_of("told"))
    assert found is not None
    assert (found.text, found.chunks, found.cost_s) == (told.text, told.chunks, told.cost_s)
    assert (found.reasoning, found.reasoning_chunks) == (told.reasoning, told.reasoning_chunks)
    vector = await manager.embedding.get(key_of("v"))
    assert vector is not None
    assert vector.vector.tobytes() == embedding(0.6, 0.8).vector.tobytes()
    assert list(await manager.namespaces()) == ["chat", "mail/größe"]
    # What came from there goes nowhere.
    assert await manager.push_entries(url) == again


async def test_only_what_was_selected_is_moved(
    manager: CacheManager, redis_server: RedisServer, tmp_path: Path
) -> None:
    url = redis_server.url
    async with opened(tmp_path / "other") as other:
        for n, path in enumerate(("a", "a/b", "ab", "")):
            tags = (path,) if path else ()
            await other.generation.put(key_of(n), completion(), namespaces=tags)
        await other.generation.put(key_of("x"), completion(fingerprint="x"), namespaces=("a",))
        await other.embedding.put(key_of("v"), embedding(0.6, 0.8))
        assert await other.push_entries(url, kind="embedding") == {"embedding": ADDED}
        done = await other.push_entries(url, namespace="a", fingerprint="f" * 64)
        assert done["generation"] == Moved(entries=2, added=2)
        assert done["embedding"] == Moved()
        done = await other.push_entries(url, kind="generation", namespace="a")
        assert done == {"generation": Moved(entries=3, added=1, known=2)}
        await other.push_entries(url)

    assert await manager.pull_entries(url, kind="generation", fingerprint="x") == {
        "generation": ADDED
    }
    done = await manager.pull_entries(url, namespace="a")
    assert done == {"generation": Moved(entries=3, added=2, known=1), "embedding": Moved()}
    assert list(await manager.namespaces()) == ["a", "a/b"]
    assert sorted(await manager.generation.keys()) == sorted(map(key_of, (0, 1, "x")))


async def test_entries_that_are_there_get_the_namespaces(
    manager: CacheManager, redis_server: RedisServer, tmp_path: Path
) -> None:
    url = redis_server.url
    async with opened(tmp_path / "other") as other:
        await other.generation.put(key_of(0), completion(), namespaces=("a",))
        await manager.generation.put(key_of(0), completion(), namespaces=("b",))
        await other.push_entries(url)
        await manager.push_entries(url)
        await other.pull_entries(url)
        assert list(await other.namespaces()) == ["a", "b"]
        # It is the entry that has both, and not a new one.
        assert await other.generation.keys() == [key_of(0)]
    assert list(await manager.namespaces()) == ["b"]


async def test_a_pull_evicts_nothing(redis_server: RedisServer, tmp_path: Path) -> None:
    url = redis_server.url
    async with opened(tmp_path / "other") as other:
        await fill(other, range(5), cost_s=9.0)
        await other.push_entries(url)
    async with opened(tmp_path / "caches", generation_cache_capacity=3) as manager:
        await fill(manager, range(10, 12), cost_s=0.001)
        done = await manager.pull_entries(url)
        assert done["generation"] == Moved(entries=5, added=1, full=4)
        keys = await manager.generation.keys()
        assert {key_of(10), key_of(11)} < set(keys)
        done = await manager.pull_entries(url)
        assert done["generation"] == Moved(entries=5, known=1, full=4)
        assert await manager.generation.keys() == keys


async def test_a_pull_takes_no_more_bytes_than_there_is_room_for(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    url = redis_server.url
    sizes = (60_000, 100, 60_000, 100, 60_000)
    async with opened(tmp_path / "other") as other:
        for n, size in enumerate(sizes):
            text = str(n) * size
            await other.generation.put(key_of(n), completion(text, chunks=(text,)))
        await other.push_entries(url)
    async with opened(tmp_path / "caches", generation_cache_max_size_mb=0.1) as manager:
        await fill(manager, range(10, 11), cost_s=0.001)
        done = (await manager.pull_entries(url))["generation"]
        # Of the large ones, each of which takes 90 kB of 105, there is room for one.
        assert done.entries == 5
        assert done.added + done.full == 5
        assert 1 <= done.added <= 3
        assert key_of(10) in await manager.generation.keys()
        totals = (await manager.get_cache_stats())["generation"]
        assert totals["all_evictions"] == 0
        assert totals["total_size_bytes"] <= totals["max_size_bytes"]
        assert (await manager.pull_entries(url))["generation"].added == 0


async def test_damaged_values_are_left_out(
    manager: CacheManager,
    redis_server: RedisServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = redis_server.url
    tier = RedisTier(url, timeout_s=60, lease_s=60)
    async with opened(tmp_path / "other") as other:
        await fill(other, range(5))
        await other.push_entries(url)
    names = [tier.name("generation", "f" * 64, key_of(n)) for n in range(5)]
    await tier.aclose()
    with redis_server.client() as client:
        value = client.hget(names[0], "v")
        assert isinstance(value, bytes)
        client.hset(names[0], "v", value[:-1] + bytes([value[-1] ^ 1]))
        client.hset(names[1], "v", value)
        # As machines with other CPUs have put it there for all.
        other_one = pack(CompletionCodec(), key_of(2), completion(fingerprint="other"), 0.5)
        client.hset(names[2], "v", other_one)
        client.hset(names[3], b"t:not//a path\xff", "")
        # Tags without an answer, and what is of no form that is known.
        client.hdel(names[4], "v")
        client.hset(names[4], "t:a", "")
        client.hset("asteady:1:0:g:nonsense", "v", "x")
    assert (await manager.pull_entries(url))["generation"] == Moved(entries=3, added=1, damaged=2)
    assert await manager.generation.keys() == [key_of(3)]
    assert await manager.namespaces() == {}
    assert "checksum" in caplog.text
    assert "a namespace in the shared cache is left out" in caplog.text


async def test_damaged_entries_are_not_pushed(
    manager: CacheManager, directory: Path, redis_server: RedisServer
) -> None:
    await fill(manager, range(3))
    change(
        directory / "generation_cache.db",
        "UPDATE answer SET text = X'00' WHERE slot = (SELECT slot FROM entry WHERE key = ?)",
        parameters=(key_of(1),),
    )
    done = await manager.push_entries(redis_server.url)
    assert done["generation"] == Moved(entries=3, added=2, damaged=1)


async def test_many_entries_go_page_by_page(
    manager: CacheManager,
    redis_server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_moves, "PAGE", 4)
    monkeypatch.setattr(_moves, "GROUP_BYTES", 1000)
    counts: list[int] = []
    async with opened(tmp_path / "other") as other:
        await fill(other, range(10))
        await other.embedding.put(key_of("v"), embedding(0.6, 0.8))
        done = await other.push_entries(redis_server.url, progress=counts.append)
    assert counts == [4, 8, 10, 11]
    assert done["generation"] == Moved(entries=10, added=10)
    done = await manager.pull_entries(redis_server.url, progress=counts.append)
    assert counts[4:] == [4, 8, 10, 11]
    assert done["generation"] == Moved(entries=10, added=10)


async def test_memory_does_not_grow_with_the_entries(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    url = redis_server.url

    async def peak_of(move: Any) -> float:
        tracemalloc.start()
        try:
            await move
            return tracemalloc.get_traced_memory()[1] / 2**20
        finally:
            tracemalloc.stop()

    size = {"memory_max_size_mb": 1.0, "generation_cache_max_size_mb": 200.0}
    async with opened(tmp_path / "other", **size) as other:
        text = "x" * 2**20
        for n in range(60):
            await other.generation.put(key_of(n), completion(text, chunks=(text,)))
        assert await peak_of(other.push_entries(url)) < 30
    async with opened(tmp_path / "caches", **size) as manager:
        assert await peak_of(manager.pull_entries(url)) < 30
        assert len(await manager.generation.keys()) == 60


async def test_a_server_that_is_down_is_an_error_and_the_next_call_goes_on(
    manager: CacheManager, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await fill(manager, range(2))
    redis_server.kill()
    for move in (manager.push_entries, manager.pull_entries):
        with pytest.raises(StoreError, match=r"the same call, made again, goes on from there$"):
            await move(redis_server.url)
    # The error says it.
    assert "shared cache" not in caplog.text
    redis_server.start()
    assert (await manager.push_entries(redis_server.url))["generation"].added == 2


async def test_a_full_server_is_an_error(manager: CacheManager, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    with RedisServer(tmp_path / "full", maxmemory="100kb", maxmemory_policy="noeviction") as server:
        await fill(manager, range(2))
        with pytest.raises(StoreError, match="maxmemory"):
            await manager.push_entries(server.url)


async def test_the_url_of_the_settings_counts_unless_another_is_given(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with opened(tmp_path / "a", shared_cache=redis_server.url) as manager:
        await fill(manager, range(1))
        assert (await manager.push_entries())["generation"].added == 1
    async with opened(tmp_path / "b") as manager:
        with pytest.raises(InvalidRequestError, match="there is no shared cache: give its URL"):
            await manager.pull_entries()
        with pytest.raises(SettingsError, match="shared_cache='http://x'"):
            await manager.pull_entries("http://x")
        with pytest.raises(InvalidRequestError, match="kind='image'"):
            await manager.pull_entries(redis_server.url, kind="image")  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError, match="namespace"):
            await manager.pull_entries(redis_server.url, namespace="/")
    async with opened(tmp_path / "c", disable_cache=True) as manager:
        with pytest.raises(StoreError, match="nothing to move"):
            await manager.push_entries(redis_server.url)


async def test_a_cluster_has_the_entries_in_all_of_its_slots(
    manager: CacheManager, tmp_path: Path
) -> None:
    (tmp_path / "cluster").mkdir()
    with RedisServer(tmp_path / "cluster", cluster_enabled="yes") as server:
        with server.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            await until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        url = server.url.replace("redis://", "redis+cluster://").removesuffix("/0")
        async with opened(tmp_path / "other") as other:
            await fill(other, range(20))
            pushed = await other.push_entries(url, kind="generation")
            assert pushed == {"generation": Moved(entries=20, added=20)}
        assert await manager.pull_entries(url, kind="generation") == pushed


async def test_machines_that_share_across_cpus_look_for_other_keys(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async with opened(tmp_path / "a", shared_cache_any_cpu=True) as manager:
        with pytest.raises(StoreError, match="shared_cache_any_cpu is set"):
            await manager.push_entries(redis_server.url)
        assert (await manager.pull_entries(redis_server.url))["generation"] == Moved()


async def test_a_pulled_answer_is_a_hit(redis_server: RedisServer, tmp_path: Path) -> None:
    async with Session(engine=FakeEngine(), cache_dir=tmp_path / "a") as session:
        told = await session.generate("hello")
        await session.cache.push_entries(redis_server.url)
    async with Session(engine=FakeEngine(), cache_dir=tmp_path / "b") as session:
        await session.cache.pull_entries(redis_server.url)
        assert await session.generate("hello", cache="only") == told
    # One that was pushed is found without a pull.
    shared = {"shared_cache": redis_server.url, "shared_cache_timeout_s": 60.0}
    async with Session(engine=FakeEngine(), cache_dir=tmp_path / "c", **shared) as session:  # type: ignore[arg-type]
        assert await session.generate("hello", cache="only") == told


def test_the_commands(
    redis_server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def use() -> None:
        async with Session(engine=FakeEngine()) as session:
            await session.namespace("a").generate("one")
            await session.generate("two")
        # As if the built-in model had computed it.
        async with Session() as session:
            await session.embed("three")

    asyncio.run(use())
    monkeypatch.setenv("ASTEADY_SHARED_CACHE", redis_server.url)
    assert main(["cache", "push", "--namespace", "a"]) == 0
    assert capsys.readouterr().out == (
        "generation: 1 here, 1 added, 0 already there, 0 damaged\n"
        "embedding: 0 here, 0 added, 0 already there, 0 damaged\n"
    )
    assert main(["cache", "push"]) == 0
    monkeypatch.setenv("ASTEADY_CACHE_DIR", str(tmp_path / "other"))
    monkeypatch.delenv("ASTEADY_SHARED_CACHE")
    capsys.readouterr()
    assert main(["cache", "pull", redis_server.url, "--model", "builtin", "--json"]) == 0
    nothing = {"entries": 0, "added": 0, "known": 0, "full": 0, "damaged": 0}
    assert json.loads(capsys.readouterr().out) == {
        "generation": nothing,
        "embedding": {**nothing, "entries": 1, "added": 1},
    }
    assert main(["cache", "pull", redis_server.url, "--kind", "generation"]) == 0
    assert capsys.readouterr().out == (
        "generation: 2 there, 2 added, 0 already here, 0 without room, 0 damaged\n"
    )
    model = str(Path(asteady.__file__).parent / "models" / "embed.gguf")
    assert main(["cache", "push", redis_server.url, "--model", model, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["embedding"]
    assert main(["cache", "push", "--model", model, "--kind", "generation"]) == 1
    assert "is an embedding model" in capsys.readouterr().err
    assert main(["cache", "pull"]) == 1
    assert "there is no shared cache" in capsys.readouterr().err


def test_this_machine_is_cleared_while_the_server_is_away(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def use() -> None:
        async with Session(engine=FakeEngine()) as session:
            await session.generate("one")
            await session.embed("two")

    asyncio.run(use())
    redis_server.kill()
    monkeypatch.setenv("ASTEADY_SHARED_CACHE", redis_server.url)
    assert main(["cache", "clear"]) == 1
    assert "what is on this machine is removed" in capsys.readouterr().err
    assert main(["cache", "clear", "--local"]) == 0
    assert capsys.readouterr().out == "removed 0 entries\n"


def test_clearing_by_command(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def use() -> str:
        async with Session(engine=FakeEngine()) as session:
            await session.generate("one")
            [key] = await session.cache.generation.keys()
            await session.namespace("a").generate("two")
            await session.generate("three")
            return key

    def numbers(*arguments: str) -> tuple[str, int]:
        capsys.readouterr()
        assert main(["cache", *arguments]) == 0
        with redis_server.client() as client:
            return capsys.readouterr().out, len(entries(client))

    key = asyncio.run(use())
    monkeypatch.setenv("ASTEADY_SHARED_CACHE", redis_server.url)
    monkeypatch.setenv("ASTEADY_SHARED_CACHE_TIMEOUT_S", "60")
    assert numbers("push")[1] == 3
    assert numbers("delete", key, "--local")[1] == 3
    assert numbers("clear", "--namespace", "a", "--local") == ("removed 1 entry\n", 3)
    assert numbers("clear", "--local") == ("removed 1 entry\n", 3)
    assert main(["cache", "delete", key, "--local"]) == 1
    assert main(["cache", "delete", key[:63]]) == 1
    assert numbers("delete", key) == (f"removed {key}\n", 2)
    there = "removed 0 entries here, and those of the shared cache\n"
    assert numbers("clear", "--namespace", "a") == (there, 1)
    assert numbers("clear") == (there, 0)
