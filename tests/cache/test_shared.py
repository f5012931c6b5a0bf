"""Several sessions with stores of their own, as on several machines, and one redis-server."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import anyio
import attrs
import pytest

from asteady import (
    CacheMissError,
    GenerateRequest,
    InvalidRequestError,
    Session,
    SettingsError,
    StoreError,
)
from asteady._base.requests import Kind
from asteady._engine.api import Engine
from asteady._session.models import engine_source_override
from asteady.testing import FakeEngine
from tests.cache.machines import counters, entries as entries_of, until
from tests.redis_server import EXECUTABLE, RedisServer
from tests.serving import reserved_port

pytestmark = pytest.mark.anyio


class Times(TypedDict, total=False):
    shared_cache_timeout_s: float
    shared_cache_lease_s: float


# A busy machine must not make the server seem slow.
PATIENT: Times = {"shared_cache_timeout_s": 60.0, "shared_cache_lease_s": 60.0}


class Machines:
    """Sessions that share nothing but the server, each with an engine of its own."""

    def __init__(self, server: RedisServer, directory: Path) -> None:
        self._server = server
        self._directory = directory
        self._sessions: list[Session] = []

    async def open(self, engine: FakeEngine | None = None, **settings: Any) -> Session:
        session = Session(
            engine=engine or FakeEngine(),
            shared_cache=self._server.url,
            cache_dir=self._directory / str(len(self._sessions)),
            **{**PATIENT, **settings},
        )
        self._sessions.append(session)
        return await session.open()

    async def close(self) -> None:
        for session in self._sessions:
            await session.aclose()


@pytest.fixture
async def machines(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Machines]:
    machines = Machines(redis_server, tmp_path)
    yield machines
    await machines.close()


async def counted(session: Session) -> dict[str, Any]:
    return (await session.cache.get_cache_stats())["generation"]


async def until_waiting(session: Session) -> None:
    """Wait until a flight of the session waits for another machine."""
    await until(lambda: counters(session).coalesced_across_machines)


async def put(server: RedisServer, count: int) -> set[str]:
    """Wait until so many entries are there; returns their names."""
    await until(lambda: len(entries(server)) == count)
    return set(entries(server))


def entries(server: RedisServer) -> list[str]:
    with server.client() as client:
        return sorted(name.decode() for name in entries_of(client))


async def test_an_answer_of_one_machine_is_found_by_another(
    machines: Machines, redis_server: RedisServer
) -> None:
    one, other = await machines.open(), await machines.open()
    computed = await one.complete("hi", logprobs=1)
    await until(lambda: entries(redis_server))
    found = await other.complete("hi", logprobs=1)
    assert found.cached
    assert not computed.cached
    assert attrs.evolve(found, cached=False) == attrs.evolve(computed, cached=False)
    counts = await counted(other)
    assert (counts["hits"], counts["misses"]) == (1, 0)
    assert (counts["shared_hits"], counts["shared_misses"], counts["shared_errors"]) == (1, 0, 0)
    # It is in the store of the other one now, so the server is not asked again.
    assert await other.complete("hi", logprobs=1) == found
    assert (await counted(other))["shared_hits"] == 1


async def test_vectors_are_shared_bit_for_bit(
    machines: Machines, redis_server: RedisServer
) -> None:
    one, other = await machines.open(), await machines.open()
    computed = await one.embed("hi")
    await until(lambda: entries(redis_server))
    found = await other.embed("hi")
    assert found.tobytes() == computed.tobytes()
    assert (await other.cache.get_cache_stats())["embedding"]["shared_hits"] == 1


async def test_two_machines_compute_an_answer_once(machines: Machines) -> None:
    engines = FakeEngine(), FakeEngine()
    engines[0].hold()
    one, other = await machines.open(engines[0]), await machines.open(engines[1])
    first = asyncio.create_task(one.generate("hi"))
    await engines[0].wait_computed(1)
    second = asyncio.create_task(other.complete("hi"))
    await until_waiting(other)
    engines[0].resume()
    assert (await second).text == await first
    assert (len(engines[0].computed), len(engines[1].computed)) == (1, 0)


@pytest.mark.parametrize("ends", ["fails", "is cancelled"])
async def test_a_machine_that_has_no_answer_hands_over(machines: Machines, ends: str) -> None:
    def refuse(request: GenerateRequest) -> str:
        raise InvalidRequestError("not this one")

    engines = FakeEngine(refuse), FakeEngine()
    engines[0].hold()
    one, other = await machines.open(engines[0]), await machines.open(engines[1])
    first = asyncio.create_task(one.generate("hi"))
    await engines[0].wait_computed(1)
    second = asyncio.create_task(other.generate("hi"))
    await until_waiting(other)
    if ends == "fails":
        engines[0].resume()
    else:
        first.cancel()
    # The lease would last for a minute.
    async with asyncio.timeout(50):
        assert await second == "You said: hi"
    with pytest.raises((InvalidRequestError, asyncio.CancelledError)):
        await first


async def test_a_machine_that_stops_waiting_leaves_nothing(
    machines: Machines, redis_server: RedisServer
) -> None:
    engines = FakeEngine(), FakeEngine()
    engines[0].hold()
    one, other = await machines.open(engines[0]), await machines.open(engines[1])
    first = asyncio.create_task(one.generate("hi"))
    await engines[0].wait_computed(1)
    second = asyncio.create_task(other.generate("hi"))
    await until_waiting(other)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    engines[0].resume()
    await first
    with redis_server.client() as client:
        await until(lambda: not client.keys("*:lease"))
    assert not engines[1].computed


async def test_a_lease_is_renewed_while_its_answer_is_computed(
    machines: Machines, redis_server: RedisServer
) -> None:
    engine = FakeEngine()
    engine.hold()
    session = await machines.open(engine, shared_cache_lease_s=3.0)
    task = asyncio.create_task(session.generate("hi"))
    await engine.wait_computed(1)
    with redis_server.client() as client:
        (name,) = client.keys("*:lease")
        # As if it had been won with more time: a renewal is what takes it back.
        client.pexpire(name, 100_000)
        await until(lambda: client.pttl(name) <= 3_000)
        assert client.exists(name)
    engine.resume()
    await task


async def test_a_stream_is_replayed_with_its_chunks(
    machines: Machines, redis_server: RedisServer
) -> None:
    one, other = await machines.open(), await machines.open()
    await one.generate("some words to say")
    await until(lambda: entries(redis_server))
    async with other.stream("some words to say") as stream:
        chunks = [chunk async for chunk in stream]
        assert stream.outcome == "shared"
    assert chunks == ["You ", "said: ", "some ", "words ", "to ", "say"]


async def test_the_modes_of_the_cache(machines: Machines, redis_server: RedisServer) -> None:
    one, other = await machines.open(), await machines.open()
    with pytest.raises(CacheMissError):
        await other.generate("hi", cache="only")
    await other.generate("hi", cache="bypass")
    assert not entries(redis_server)
    await one.generate("hi")
    await until(lambda: entries(redis_server))
    assert await other.is_cached("hi")
    assert not (await other.complete("hi", cache="bypass")).cached
    assert (await other.complete("hi", cache="only")).cached
    await other.generate("another", cache="refresh")
    await until(lambda: len(entries(redis_server)) == 2)
    assert (await one.complete("another", cache="only")).cached


async def test_another_fingerprint_shares_nothing(
    machines: Machines, redis_server: RedisServer
) -> None:
    one, other = await machines.open(), await machines.open(FakeEngine(fingerprint="other"))
    await one.generate("hi")
    await until(lambda: entries(redis_server))
    assert not await other.is_cached("hi")
    assert not (await other.complete("hi")).cached


async def test_clearing(machines: Machines, redis_server: RedisServer) -> None:
    one, other = await machines.open(), await machines.open()
    await one.generate("hi")
    await one.embed("hi")
    await until(lambda: len(entries(redis_server)) == 2)
    await one.cache.clear_all_caches(shared=False)
    assert len(entries(redis_server)) == 2
    assert (await one.complete("hi")).cached
    assert await one.cache.embedding.clear() == 0  # of this machine
    assert len(entries(redis_server)) == 1
    await one.cache.clear_all_caches()
    assert not entries(redis_server)
    assert not (await other.complete("hi")).cached


async def test_deleting_an_entry(machines: Machines, redis_server: RedisServer) -> None:
    one, other = await machines.open(), await machines.open()
    answers = [await one.complete(prompt) for prompt in ("hi", "ho")]
    await until(lambda: len(entries(redis_server)) == 2)
    key = (await one.cache.generation.keys())[0]
    assert await other.cache.generation.delete(key)
    assert not await other.cache.generation.delete(key)
    assert len(entries(redis_server)) == 1
    assert not entries(redis_server)[0].endswith(key)
    assert [(await one.complete(answer.text[10:])).cached for answer in answers] == [True, True]


async def test_an_answer_that_was_asked_for_before_clearing_is_not_shared(
    machines: Machines, redis_server: RedisServer
) -> None:
    engine = FakeEngine()
    engine.hold()
    session = await machines.open(engine)
    task = asyncio.create_task(session.generate("hi"))
    await engine.wait_computed(1)
    await session.cache.clear_all_caches()
    engine.resume()
    await task
    with redis_server.client() as client:
        await until(lambda: not client.keys("*"))


async def test_namespaces(machines: Machines, redis_server: RedisServer) -> None:
    one, other = await machines.open(), await machines.open()
    await one.namespace("a/b").generate("in a/b")
    (inside,) = await put(redis_server, 1)
    await one.generate("in none")
    (outside,) = await put(redis_server, 2) - {inside}
    await one.namespace("ab").generate("in ab, which is not below a")
    await put(redis_server, 3)
    # Tagged by one that found it, and by one that had it already.
    await other.namespace("c").generate("in a/b")
    await one.namespace("d").generate("in none")
    with redis_server.client() as client:
        await until(lambda: set(client.hkeys(inside)) == {b"v", b"t:a/b", b"t:c"})
        await until(lambda: set(client.hkeys(outside)) == {b"v", b"t:d"})
        await other.namespace("a").clear()
        assert set(client.hkeys(inside)) == {b"v", b"t:c"}
        await other.namespace("c").clear()
        assert not client.exists(inside)
    assert len(entries(redis_server)) == 2


async def test_a_tag_makes_no_entry(machines: Machines, redis_server: RedisServer) -> None:
    session = await machines.open()
    await session.generate("hi")
    await put(redis_server, 1)
    with redis_server.client() as client:
        client.flushall()
    await session.namespace("a").generate("hi")
    await session.aclose()  # which waits for what is done in the background
    assert not entries(redis_server)


async def test_what_the_server_says_of_itself(machines: Machines) -> None:
    session = await machines.open()
    found = await session.cache.shared_statistics()
    assert found is not None
    assert (found["keys"], found["policy"]) == (0, "noeviction")
    assert found["used_memory_bytes"] > found["evictions"] == found["max_memory_bytes"] == 0


async def test_without_a_server_there_are_no_statistics(tmp_path: Path) -> None:
    async with Session(engine=FakeEngine(), cache_dir=tmp_path) as session:
        assert await session.cache.shared_statistics() is None


async def test_a_disabled_cache_shares_nothing(
    machines: Machines, redis_server: RedisServer
) -> None:
    session = await machines.open(disable_cache=True)
    await session.generate("hi")
    await session.aclose()
    assert not entries(redis_server)


@pytest.mark.parametrize("password", ["right", "mistaken"])
async def test_a_password_is_used_and_not_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, password: str
) -> None:
    caplog.set_level("DEBUG", "asteady")
    with RedisServer(tmp_path, password="right") as server:
        url = server.url.replace("right", password)
        session = Session(engine=FakeEngine(), shared_cache=url, cache_dir=tmp_path, **PATIENT)
        async with session:
            assert await session.generate("hi") == "You said: hi"
            assert password not in repr(session.settings)
            assert ((await counted(session))["shared_errors"] > 0) == (password == "mistaken")
            if password == "mistaken":
                with pytest.raises(
                    StoreError, match=r"cannot be used now|invalid username"
                ) as caught:
                    await session.cache.clear_all_caches()
                assert password not in str(caught.value)
    assert password not in caplog.text
    assert ("is left alone until it can" in caplog.text) == (password == "mistaken")


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:6379", "http://localhost", "redis", 5),
        *("redis://localhost:port", "redis+sentinel://host", "redis+sentinel://host:x/name"),
        *("redis://localhost?no_option=1", "redis+cluster://localhost?no_option=1"),
        *("redis+sentinel://localhost/name?no_option=1", "redis+sentinel://a/name?protocol=3"),
        *("redis://localhost?decode_responses=yes", "redis+cluster://localhost?protocol=3"),
        *("redis+cluster://localhost?db=1", "rediss://localhost?ssl_ca_certs=/none.pem"),
    ],
)
async def test_a_url_that_is_none(tmp_path: Path, url: Any) -> None:
    with pytest.raises(SettingsError, match="shared_cache="):
        async with Session(engine=FakeEngine(), shared_cache=url, cache_dir=tmp_path):
            pass


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "valkey"])
async def test_an_unknown_option_is_named(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}://:secret@localhost?no_option=1"
    session = Session(engine=FakeEngine(), shared_cache=url, cache_dir=tmp_path)
    with pytest.raises(SettingsError, match="no option 'no_option' for a redis") as caught:
        await session.open()
    assert "secret" not in str(caught.value)


async def test_an_empty_url_switches_the_variable_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTEADY_SHARED_CACHE", "redis://localhost")
    assert Session().settings.shared_cache == "redis://localhost"
    assert Session(shared_cache="").settings.shared_cache is None


async def test_the_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    session = Session(engine=FakeEngine(), shared_cache="redis://localhost", cache_dir=tmp_path)
    with pytest.raises(SettingsError, match=r'pip install "asteady\[redis\]"'):
        await session.open()


@pytest.mark.parametrize("channels", [True, False], ids=["redis-py 8", "redis-py 5 to 7"])
async def test_a_cluster(channels: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not channels:
        monkeypatch.delattr("redis.asyncio.RedisCluster.pubsub", raising=False)
        monkeypatch.delattr("redis.commands.core.PubSubCommands.publish")
    with RedisServer(tmp_path, cluster_enabled="yes") as server:
        with server.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
            await until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        url = server.url.replace("redis://", "redis+cluster://").removesuffix("/0")
        await _works(url, tmp_path)


async def test_a_server_that_sentinels_know(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, reserved_port() as port:
        with sentinel(tmp_path, f"monitor the-service 127.0.0.1 {server.port} 1", f"port {port}"):
            await _works(f"redis+sentinel://127.0.0.1:{port}/the-service", tmp_path)
        assert not entries(server)


async def test_sentinels_with_tls_and_a_password_of_their_own(tmp_path: Path) -> None:
    certificate, key = await certificate_in(tmp_path)
    tls = {
        "tls_cert_file": certificate,
        "tls_key_file": key,
        "tls_ca_cert_file": certificate,
        "tls_auth_clients": "no",
    }
    with (
        reserved_port() as port,
        reserved_port() as sentinel_port,
        RedisServer(tmp_path, password="p#", tls_port=port, tls_replication="yes", **tls),
    ):
        options = [f"{name.replace('_', '-')} {value}" for name, value in tls.items()]
        with sentinel(
            tmp_path,
            f"monitor the-service 127.0.0.1 {port} 1",
            "sentinel auth-pass the-service p#",
            *("port 0", f"tls-port {sentinel_port}", "tls-replication yes", "requirepass other"),
            *options,
        ):
            url = f"rediss+sentinel://:p%23@127.0.0.1:{sentinel_port}/the-service/2"
            await _works(f"{url}?ssl_ca_certs={certificate}&sentinel_password=other", tmp_path)


async def test_sentinels_that_are_not_there_delay_nothing_and_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with reserved_port() as port:
        url = f"redis+sentinel://127.0.0.1:{port}/the-service?sentinel_password=secret"
        session = Session(engine=FakeEngine(), shared_cache=url, cache_dir=tmp_path, **PATIENT)
        async with session:
            await session.generate("hi")
    assert "No master found for 'the-service'" in caplog.text
    assert "<redis" not in caplog.text
    assert "secret" not in caplog.text


@contextmanager
def sentinel(directory: Path, monitor: str, *lines: str) -> Iterator[None]:
    """A sentinel with this configuration."""
    if EXECUTABLE is None:
        pytest.skip("there is no redis-server here")
    path, config = directory / "s", directory / "sentinel.conf"
    config.write_text(
        "\n".join([f"sentinel {monitor}", *lines, "bind 127.0.0.1", f"unixsocket {path}"]) + "\n"
    )
    with subprocess.Popen([EXECUTABLE, config, "--sentinel"], stdout=subprocess.DEVNULL) as it:
        try:
            while not path.exists():
                assert it.poll() is None, config.read_text()
                time.sleep(0.01)
            yield
        finally:
            it.kill()


async def certificate_in(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    await anyio.run_process(
        [
            *(openssl, "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ]
    )
    return certificate, key


async def test_tls(tmp_path: Path) -> None:
    certificate, key = await certificate_in(tmp_path)
    with (
        reserved_port() as port,
        RedisServer(
            tmp_path,
            tls_port=port,
            tls_cert_file=certificate,
            tls_key_file=key,
            tls_ca_cert_file=certificate,
            tls_auth_clients="no",
        ),
    ):
        await _works(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}", tmp_path)


async def test_a_user_with_the_rights_that_are_documented(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    page = (Path(__file__).parents[2] / "docs/shared.md").read_text()
    (rule,) = re.findall("^ACL SETUSER asteady .*$", page, re.MULTILINE)
    with redis_server.client() as client:
        client.execute_command(*rule.split())
    url = f"redis://asteady:PASSWORD@127.0.0.1:{redis_server.port}/0"
    await _works(url, redis_server.directory)
    directory = redis_server.directory / "p"
    async with Session(
        engine=FakeEngine(), shared_cache=url, cache_dir=directory, **PATIENT
    ) as session:
        await session.namespace("a").generate("hi")
        await session.cache.push_entries(url)
        assert (await session.cache.pull_entries(url))["generation"].entries == 1
        (key,) = await session.cache.generation.keys()
        assert await session.cache.generation.delete(key)
    assert "refused" not in caplog.text


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with RedisServer(tmp_path, unixsocket=path):
        await _works(f"unix://{path}?db=1", tmp_path)


async def _works(url: str, directory: Path) -> None:
    """Share, wait, tag, clear and ask for statistics."""
    engines = FakeEngine(), FakeEngine()
    one, other = (
        Session(engine=engine, shared_cache=url, cache_dir=directory / str(index), **PATIENT)
        for index, engine in enumerate(engines)
    )
    async with one, other:
        engines[0].hold()
        first = asyncio.create_task(one.namespace("a").generate("hi"))
        await engines[0].wait_computed(1)
        second = asyncio.create_task(other.generate("hi"))
        await until_waiting(other)
        engines[0].resume()
        assert await second == await first
        assert not engines[1].computed
        for session in (one, other):
            assert (await counted(session))["shared_errors"] == 0
        found = await one.cache.shared_statistics()
        assert found is not None
        assert found["keys"] >= 1
        await one.namespace("a").clear()
        assert not await one.is_cached("hi")
        await other.cache.clear_all_caches()


class OtherCpu:
    """A source of an engine whose fingerprint has a part that depends on the CPU."""

    def __init__(self, cpu: str) -> None:
        self._engine = FakeEngine(lambda request: f"computed on {cpu}", fingerprint=f"model {cpu}")

    def fingerprint(self, kind: Kind, reference: str) -> str:
        return self._engine.fingerprint

    def load(self, kind: Kind, reference: str) -> Engine:
        return self._engine

    def fingerprint_parts(self, kind: Kind, reference: str) -> dict[str, Any]:
        return {}

    def portable_fingerprint(self, fingerprint: str) -> str:
        return fingerprint.split()[0]


@pytest.mark.parametrize("any_cpu", [True, False])
async def test_machines_with_other_cpus(
    redis_server: RedisServer, tmp_path: Path, any_cpu: bool
) -> None:
    answers = []
    for cpu in ("avx2", "avx512"):
        with engine_source_override(lambda _, cpu=cpu: OtherCpu(cpu)):  # type: ignore[misc]
            session = Session(
                shared_cache=redis_server.url,
                shared_cache_any_cpu=any_cpu,
                cache_dir=tmp_path / cpu,
                **PATIENT,
            )
        async with session:
            answers.append(await session.complete("hi"))
            again = await session.complete("hi")
            assert attrs.evolve(again, cached=answers[-1].cached) == answers[-1]
        # Closing has waited for what was put.
        assert entries(redis_server)
    assert answers[0].fingerprint == "model avx2"
    # It says where it was computed.
    assert answers[1].fingerprint == ("model avx2" if any_cpu else "model avx512")
    assert answers[1].cached == any_cpu
