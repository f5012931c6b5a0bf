"""The shared tier: answers on a server of Redis or Valkey, for several machines.

An entry is a hash, ``asteady:1:<digest of the fingerprint>:<kind>:<key>``, with the packed answer
in the field ``v`` and an empty field ``t:<path>`` for each namespace. ``<entry>:lease`` is there
while a machine computes the answer, and the channel of the same name tells when it is done. Every
command is about one key, so that a cluster serves them too. No command depends on a clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qs, unquote

import redis.asyncio
from redis import exceptions
from redis.asyncio.connection import parse_url
from redis.asyncio.lock import Lock
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import LockError, RedisError

from asteady._base.errors import SettingsError
from asteady._base.redis_url import RedisUrl, hidden_password, host_of
from asteady._base.requests import Key, Kind
from asteady._base.tasks import unattended
from asteady._cache.breaker import CircuitBreaker
from asteady._cache.lookups import Found, Lookups
from asteady._cache.notices import Notices
from asteady._cache.tier import Lease, SharedTierError

log = logging.getLogger("asteady")

T = TypeVar("T")

# redis-py's clients differ in type, not in the commands that are used here.
Client: TypeAlias = Any

_PREFIX = "asteady:1:"
# Commands at the same time; one takes a tenth of a millisecond, so a few carry thousands a second.
_COMMANDS = 8
# Notices, probes, and commands that have been given up have connections too.
_CONNECTIONS = 4 * _COMMANDS
# What is written when a session closes has so long.
_CLOSING_S = 2.0
# After so long, or `timeout_s` if that is more, a connection that says nothing is given up.
_SILENCE_S = 5.0
# A time limit is waited for in so many parts.
_PARTS = 8
# Entries that are looked at, or removed, at a time, and how long that may take.
_BATCH = 1000
_BATCH_S = 10.0
# Options that are paths; redis-py reads them when it connects.
_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
# Begins the options that are for sentinels.
_SENTINEL = "sentinel_"

# A tag on an entry that is there; nothing is made of one that is not.
_TAG = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return redis.call('HSET', KEYS[1], ARGV[1], '')
"""
# Takes a namespace, and all below it, from an entry, which goes if it has no other.
_UNTAG = """
local had, others = false, false
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if field == ARGV[1] or string.sub(field, 1, #ARGV[1] + 1) == ARGV[1] .. '/' then
        redis.call('HDEL', KEYS[1], field)
        had = true
    elseif string.sub(field, 1, 2) == 't:' then
        others = true
    end
end
if had and not others then return redis.call('DEL', KEYS[1]) end
return 0
"""


class RedisTier:
    """A client of the server, and what a cache does with it. Used on one event loop.

    While the server does not answer, each call fails at once. Every failure is a `SharedTierError`,
    is logged once at `log_level` until it works again, and counted by the caller.
    """

    def __init__(
        self, url: str, *, timeout_s: float, lease_s: float, log_level: int = logging.WARNING
    ) -> None:
        self.url = hidden_password(url)
        self.timeout_s = timeout_s
        self.lease_s = lease_s
        # For commands that delay no answer.
        self._later_s = max(timeout_s, _SILENCE_S)
        self._log_level = log_level
        self._client: Client = _client(url, timeout_s)
        # The server of a cluster that the URL names.
        manager = getattr(self._client, "nodes_manager", None)
        self._first_nodes = {} if manager is None else dict(manager.startup_nodes)
        self._breaker = CircuitBreaker(self._probe, self._changed)
        self._notices = Notices(getattr(self._client, "pubsub", None))
        self._tag = self._client.register_script(_TAG)
        self._untag = self._client.register_script(_UNTAG)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._slots = asyncio.Semaphore(_COMMANDS)
        self._lookups = Lookups(self._get, self._begin, self._slots)
        # When a command was last answered.
        self._answered_s = -math.inf
        # What is refused, and why.
        self._refused: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<RedisTier {self.url}: {'available' if self.available else 'unavailable'}>"

    @property
    def available(self) -> bool:
        """Whether the last call that had to do with the connection succeeded."""
        return self._breaker.closed

    def name(self, kind: Kind, fingerprint: str, key: Key) -> str:
        """The name of an entry on the server."""
        digest = hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
        return f"{_PREFIX}{digest}:{kind[0]}:{key}"

    async def get(self, name: str, limit_s: float) -> bytes | None:
        """The packed answer, or None."""

        async def look() -> bytes | None:
            looking = self._lookups.get(name)
            try:
                found = await _wait(looking, limit_s)
            finally:
                looking.cancel()
            if isinstance(found, Exception):
                raise found
            return found

        return await self._checked("get", look)

    async def _get(self, names: Sequence[str]) -> Sequence[Found]:
        if len(names) == 1:
            found = [await self._get_alone(names[0])]
        else:
            async with self._client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.hget(name, "v")
                found = await pipe.execute(raise_on_error=False)
            for index, name in enumerate(names):
                # redis-py looks for the new node of a part of a cluster only for a single command.
                if isinstance(found[index], Exception):
                    found[index] = await self._get_alone(name)
        self._answered_s = perf_counter()
        return found

    async def _get_alone(self, name: str) -> Found:
        try:
            found: Found = await self._client.hget(name, "v")
        except exceptions.ClusterDownError:
            raise  # so would be the others, each tried again for a while
        except exceptions.ResponseError as exc:
            return exc
        return found

    async def contains(self, name: str) -> bool:
        found = await self._run("get", lambda: self._client.hexists(name, "v"), self.timeout_s)
        return bool(found)

    async def put(self, name: str, value: bytes, namespaces: tuple[str, ...]) -> None:
        fields = _fields(value, namespaces)
        await self._run("put", lambda: self._client.hset(name, mapping=fields), self._later_s)

    async def tag(self, name: str, namespace: str) -> None:
        """Tag an entry with a namespace, if it is there."""
        await self._run("tag", lambda: self._tag([name], [f"t:{namespace}"]), self._later_s)

    # -- leases -----------------------------------------------------------------------------------

    async def lease(self, name: str, limit_s: float) -> Lease | None:
        """The lease of an entry, or None while another machine has it.

        It ends by itself if it is not renewed. One that is won when the caller has given up, for
        whatever reason, is given back.
        """
        lock = Lock(self._client, f"{name}:lease", timeout=self.lease_s, thread_local=False)
        acquired = given_up = False

        async def acquire() -> bool:
            nonlocal acquired
            acquired = bool(await lock.acquire(blocking=False))
            if acquired and given_up:
                await self._give_back(lock)
            return acquired

        try:
            return lock if await self._run("lease", acquire, limit_s) else None
        except BaseException:
            given_up = True
            if acquired:
                self.spawn(partial(self.release, lock))
            raise

    async def renew(self, lease: Lease) -> bool:
        """Have the lease last for its whole time again; False if it has ended."""
        try:
            return bool(await self._run("lease", lease.reacquire, self._later_s))
        except LockError:
            return False

    async def release(self, lease: Lease) -> None:
        """End the lease, if it has not ended, and tell those that wait. Never raises."""
        with suppress(LockError, SharedTierError):
            await self._run("release", lambda: self._give_back(lease), self._later_s)

    async def _give_back(self, lease: Lease) -> None:
        await lease.release()
        # Before version 8, redis-py's client of a cluster has no channels: those who wait look.
        if hasattr(self._client, "publish"):
            await self._client.publish(lease.name, b"")

    @asynccontextmanager
    async def released(self, name: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set when the lease may have ended; but see `Notices`."""
        channel = f"{name}:lease"
        with self._notices.waiting(channel) as event:
            with suppress(SharedTierError):
                await self._run(
                    "subscribe", lambda: self._notices.subscribe(channel), self.timeout_s
                )
            yield event
        self.spawn(partial(self._unsubscribe, channel))

    # -- all entries ------------------------------------------------------------------------------

    async def names(
        self, kind: Kind, key: Key = "*", fingerprint: str | None = None
    ) -> AsyncIterator[list[str]]:
        """The names of all entries of a kind, or of one key or fingerprint, in batches; one may
        come twice.

        Raises:
            SharedTierError: the server failed meanwhile.
        """
        batch: list[str] = []
        pattern = f"{_PREFIX}*:{kind[0]}:{key}"
        if fingerprint is not None:
            pattern = self.name(kind, fingerprint, key)
        try:
            async for name in self._client.scan_iter(pattern, count=_BATCH):
                if not name.endswith(b":lease"):
                    batch.append(name.decode())
                if len(batch) == _BATCH:
                    yield batch
                    batch = []
        except Exception as exc:
            raise self._error("list entries", exc) from exc
        if batch:
            yield batch

    async def delete(self, kind: Kind, key: Key) -> bool:
        """Remove the entries of a key, of whatever fingerprint; looks at the names of all.

        Raises:
            SharedTierError: the server failed.
        """
        return await self._remove(self.names(kind, key)) > 0

    async def clear(self, kind: Kind) -> int:
        """Remove all entries of a kind, of whatever fingerprint; returns their number.

        Raises:
            SharedTierError: the server failed; some may be removed.
        """
        return await self._remove(self.names(kind))

    async def _remove(self, batches: AsyncIterator[list[str]]) -> int:
        removed = 0
        async for names in batches:
            removed += await self._run("remove", partial(self._client.unlink, *names), _BATCH_S)
        return removed

    async def clear_namespace(self, kind: Kind, path: str) -> int:
        """As `CacheManager.clear_namespace`, of the entries of a kind on the server.

        Raises:
            SharedTierError: the server failed; some may be removed.
        """
        removed = 0
        async for names in self.names(kind):
            for name in names:
                removed += await self._run(
                    "remove", partial(self._untag, [name], [f"t:{path}"]), self.timeout_s
                )
        return removed

    async def tags(self, names: Sequence[str]) -> list[set[str] | None]:
        """The namespaces of each of these entries; None where there is no answer.

        Raises:
            SharedTierError: the server failed; so do the next two.
        """
        found = await self._pipelined("get", lambda pipe: [pipe.hkeys(name) for name in names])
        return [
            {field[2:].decode(errors="replace") for field in fields if field.startswith(b"t:")}
            if b"v" in fields
            else None
            for fields in found
        ]

    async def sizes(self, names: Sequence[str]) -> list[int]:
        """The bytes of each of these packed answers; 0 where there is none."""
        return await self._pipelined(
            "get", lambda pipe: [pipe.hstrlen(name, "v") for name in names]
        )

    async def get_all(self, names: Sequence[str]) -> list[bytes | None]:
        return await self._pipelined("get", lambda pipe: [pipe.hget(name, "v") for name in names])

    async def put_all(self, entries: Mapping[str, tuple[bytes, tuple[str, ...]]]) -> None:
        """Store packed answers with their namespaces, by the names of the entries."""
        await self._pipelined(
            "put",
            lambda pipe: [
                pipe.hset(name, mapping=_fields(value, namespaces))
                for name, (value, namespaces) in entries.items()
            ],
        )

    async def _pipelined(self, what: str, queue: Callable[[Any], object]) -> list[Any]:
        """The results of several commands, each about one key."""

        async def run() -> list[Any]:
            async with self._client.pipeline(transaction=False) as pipe:
                queue(pipe)
                results: list[Any] = await pipe.execute()
                return results

        return await self._run(what, run, _BATCH_S)

    async def statistics(self) -> dict[str, Any]:
        """What the server says of itself: its version, memory and keys, also those of others.

        Raises:
            SharedTierError: it does not answer.
        """
        nodes, keys = await self._run("answer", self._counted, self.timeout_s)
        return {
            "version": nodes[0].get("valkey_version", nodes[0]["redis_version"]),
            "keys": keys,
            "used_memory_bytes": sum(node["used_memory"] for node in nodes),
            "max_memory_bytes": sum(node["maxmemory"] for node in nodes),
            "policy": nodes[0]["maxmemory_policy"],
            "evictions": sum(node["evicted_keys"] for node in nodes),
        }

    # -- calls ------------------------------------------------------------------------------------

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run something that nobody waits for; `aclose` waits for its end, for some seconds.

        The end of an event loop, at which ``asyncio.run`` cancels all tasks, has it run again: the
        last answer of a program is stored too. It must do no harm twice.
        """

        async def run() -> None:
            try:
                await work()
            except asyncio.CancelledError:
                if self._closed:
                    raise
                await work()

        return self._begin(run())

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = unattended(asyncio.create_task(work, name="asteady shared tier"))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def aclose(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSING_S)
        self._closed = True
        for task in self._tasks:
            task.cancel()
        self._breaker.stop()
        await self._notices.aclose()
        for client in (self._client, *_sentinels(self._client)):
            with suppress(Exception):
                await client.aclose()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # The caller has it, or it was logged.
            log.debug("%r failed", task, exc_info=task.exception())

    async def _run(self, what: str, command: Callable[[], Awaitable[T]], limit_s: float) -> T:
        """As `_checked`, of a command that takes one of the slots, in at most so long."""
        return await self._checked(what, lambda: self._within(limit_s, command, self._slots))

    async def _checked(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """The result of a call of the server; `what` it is for, in a word.

        Raises:
            SharedTierError: the server does not answer in time, or refuses it.
            LockError: of a lease that has ended.
        """
        if not self._breaker.closed:
            raise SharedTierError(f"the shared cache {self.url} cannot be used now")
        try:
            result = await call()
        except LockError:
            raise
        except TimeoutError as exc:
            if perf_counter() - self._answered_s < self.timeout_s:
                # Others are answered: there are more than can be answered in time.
                raise SharedTierError(f"the shared cache {self.url} has no time to {what}") from exc
            raise self._error(what, exc) from exc
        except Exception as exc:
            # Those of clusters are no RedisError, nor is that of a subscription whose connection is
            # lost at that moment.
            raise self._error(what, exc) from exc
        self._refused.pop(what, None)
        return result

    async def _within(
        self,
        limit_s: float,
        command: Callable[[], Awaitable[T]],
        slots: AbstractAsyncContextManager[object],
    ) -> T:
        """The result of a command, in one of the slots; raises TimeoutError if it takes longer.

        A client of redis-py that is cancelled may lose a connection, so a command is left to end by
        itself.
        """
        begun = False

        async def run() -> T:
            nonlocal begun
            async with slots:
                begun = True
                result = await command()
                self._answered_s = perf_counter()
                return result

        task = self._begin(run())
        try:
            return await _wait(task, limit_s)
        finally:
            if not begun:
                task.cancel()

    async def _unsubscribe(self, channel: str) -> None:
        with suppress(SharedTierError):
            await self._run("subscribe", lambda: self._notices.unsubscribe(channel), self.timeout_s)

    def _error(self, what: str, exc: Exception) -> SharedTierError:
        """What a failure of the server is for the caller; logs it, and opens the breaker."""
        text = _text_of(exc).rstrip(".") or type(exc).__name__
        refused = isinstance(exc, exceptions.ResponseError)
        if refused and not isinstance(exc, exceptions.ClusterDownError):
            # It answers, and other commands may work: if its memory is full, reading does.
            self._answered_s = perf_counter()
            if text not in self._refused.values():
                message = "the shared cache %s refused to %s: %s"
                log.log(self._log_level, message, self.url, what, text)
            self._refused[what] = text
        else:
            # No answer in time may be for want of time here.
            self._breaker.fail(exc, certain=not isinstance(exc, TimeoutError))
        return SharedTierError(f"the shared cache {self.url} failed to {what}: {text}")

    async def _probe(self) -> None:
        await self._within(self.timeout_s, self._ping, nullcontext())

    async def _ping(self) -> None:
        if isinstance(self._client, redis.asyncio.RedisCluster):
            # Before version 8, redis-py forgets a server that failed, and in the end knows none.
            manager = self._client.nodes_manager
            manager.startup_nodes = {**self._first_nodes, **manager.startup_nodes}
            # Each master has a part of the entries, so that others answer while one is away; and
            # where all servers answer, the cluster may be down.
            for node in await self._masters():
                await self._client.ping(target_nodes=[node])
            await self._client.hexists(f"{_PREFIX}probe", "v")
        else:
            await self._client.ping()

    async def _counted(self) -> tuple[list[dict[str, Any]], int]:
        """What the server, or each master of a cluster, says of itself; and the number of keys."""
        if not isinstance(self._client, redis.asyncio.RedisCluster):
            return [await self._client.info()], await self._client.dbsize()
        nodes = [await self._client.info(target_nodes=[node]) for node in await self._masters()]
        return nodes, sum(node.get("db0", {}).get("keys", 0) for node in nodes)

    async def _masters(self) -> list[Any]:
        """The nodes of the cluster that have entries. By name, as all versions of redis-py take
        `target_nodes`, but not all the flags for groups of them."""
        await self._client.initialize()
        return list(self._client.get_primaries())

    def _changed(self, error: Exception | None) -> None:
        if error is None:
            log.info("the shared cache %s works again", self.url)
            return
        reason = _text_of(error) or f"no answer in {self.timeout_s:g} s"
        log.log(
            self._log_level,
            "the shared cache %s cannot be used, and is left alone until it can: %s",
            self.url,
            reason,
        )


async def _wait(future: asyncio.Future[T], limit_s: float) -> T:
    """The result of a future, which is left to itself; raises TimeoutError if it takes longer.

    The time is waited for in parts: while other work blocks the event loop, which is no fault of
    the server's, one part passes and not all.
    """
    for _ in range(_PARTS):
        done, _ = await asyncio.wait([future], timeout=limit_s / _PARTS)
        if done:
            return future.result()
    raise TimeoutError


def _fields(value: bytes, namespaces: tuple[str, ...]) -> dict[str, bytes]:
    return {"v": value, **{f"t:{path}": b"" for path in namespaces}}


def _text_of(error: Exception) -> str:
    # An error of sentinels has all settings of their clients.
    return hidden_password(re.sub(r"<redis\.asyncio\.client.*?\)>\)>\)> - ", "", str(error)))


def _client(url: str, timeout_s: float) -> Client:
    """redis-py's client for a URL; connects nowhere yet.

    Raises:
        SettingsError: redis-py does not take it.
    """
    options: dict[str, Any] = {
        "socket_timeout": max(timeout_s, _SILENCE_S),
        "socket_connect_timeout": max(timeout_s, _SILENCE_S),
        # One more attempt, at once: a server that was started again has closed its connections.
        "retry": Retry(NoBackoff(), 1),
        # Before version 6, redis-py knows no errors after which it tries. From Python 3.12 on, what
        # is written to a transport that is closed is a TypeError.
        "retry_on_error": [exceptions.ConnectionError, TypeError],
        "protocol": 2,
    }
    scheme, _, rest = url.partition("://")
    scheme = scheme.replace("valkey", "redis", 1)
    try:
        _check_options(url)
        if scheme.endswith("+cluster"):
            plain = f"{scheme.removesuffix('+cluster')}://{rest}"
            return redis.asyncio.RedisCluster.from_url(
                plain, max_connections=_CONNECTIONS, **options
            )
        if scheme.endswith("+sentinel"):
            return _sentinel_client(f"{scheme}://{rest}", options)
        pool: Any = redis.asyncio.BlockingConnectionPool.from_url(
            f"{scheme}://{rest}", max_connections=_CONNECTIONS, timeout=None, **options
        )
        pool.make_connection()  # refuses unknown options; connects nowhere
    except (ValueError, TypeError, RedisError, exceptions.RedisClusterException) as exc:
        reason = _text_of(exc)
        if unknown := re.search(r"unexpected keyword argument '(\w+)'", reason):
            reason = f"redis-py has no option {unknown[1]!r} for a {scheme}:// URL"
        raise SettingsError(
            f"shared_cache={hidden_password(url)!r} is not allowed: {reason}"
        ) from None
    return redis.asyncio.Redis.from_pool(pool)


def _check_options(url: str) -> None:
    for name, values in parse_qs(RedisUrl.of(url).query, keep_blank_values=True).items():
        if name in ("decode_responses", "protocol"):
            raise ValueError(f"{name} cannot be chosen: leave it out")
        if name.removeprefix(_SENTINEL) in _FILES and not os.path.exists(values[-1]):
            raise ValueError(f"{name}={values[-1]!r} is not there")


def _sentinels(client: Client) -> Sequence[Client]:
    """The clients of sentinels that a client has, which does not close them."""
    pool = getattr(client, "connection_pool", None)
    return getattr(getattr(pool, "sentinel_manager", None), "sentinels", ())


def _sentinel_client(url: str, options: dict[str, Any]) -> Client:
    """``redis+sentinel://[user:password@]host[:port][,host[:port]...]/service[/database]``

    Options in the query are for the server, and those that begin with ``sentinel_`` for the
    sentinels in their place.
    """
    parts = RedisUrl.of(url)
    service, _, database = parts.path.strip("/").partition("/")
    user, _, password = map(unquote, (parts.credentials or "").partition(":"))
    login = {"username": user or None, "password": password or None} if parts.credentials else {}
    given = {**parse_url(f"redis://?{parts.query}")}
    own = {name: given.pop(name) for name in list(given) if name.startswith(_SENTINEL)}
    both = {**options, "ssl": parts.scheme.startswith("rediss")}
    tls = {name: value for name, value in given.items() if name.startswith("ssl_")}
    of_sentinels = {name.removeprefix(_SENTINEL): value for name, value in own.items()}
    addresses = [host_of(host, 26379) for host in parts.hosts.split(",")]
    sentinel: Any = redis.asyncio.Sentinel
    client = sentinel(
        addresses,
        sentinel_kwargs={**both, **tls, **of_sentinels},
        **{**both, "db": int(database or 0), **given, **login},
    ).master_for(service)
    client.connection_pool.make_connection()
    return client
