"""One cache: a memory tier before a store, and the counters of both."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

import attrs

from asteady._base.errors import StoreError
from asteady._base.requests import Key, namespace_path
from asteady._cache.keeper import ASLEEP, Keeper
from asteady._cache.memory import Held, Memory, as_cached
from asteady._cache.namespaces import Asked, Namespaces
from asteady._cache.policy import Budget
from asteady._cache.statistics import Counters, Latency, described
from asteady._cache.store.api import (
    ORDERS,
    Clear,
    Delete,
    Entry,
    Operation,
    Order,
    Outcome,
    OversizedError,
    Put,
    Store,
    Tag,
    Untag,
)
from asteady._cache.store.locks import Locks
from asteady._cache.store.stored_request import Request
from asteady._cache.unopened import Opener, UnopenedStore

log = logging.getLogger("asteady")


class Answer(Protocol):
    """What a cache remembers: a frozen record that knows what it cost."""

    @property
    def cost_s(self) -> float: ...

    @property
    def cached(self) -> bool: ...


A = TypeVar("A", bound=Answer)

RECENT = 1000


class Cache(Generic[A]):
    """Remembers answers of one kind. Lives from `open` to `aclose`, on one event loop.

    Its manager opens and closes it. A failing store never fails a lookup or a `put`: it is a miss,
    or not stored, logged, and counted under `errors`.
    """

    def __init__(
        self, kind: str, memory: Memory[A], budget: Budget, opener: Opener | None = None
    ) -> None:
        self.kind = kind
        self.counters = Counters()
        self._memory = memory
        self._budget = budget
        self._store: Store[A] = UnopenedStore(lambda: self._store, opener)
        self._locks: Locks | None = None
        self._latencies = {"read": Latency(), "write": Latency()}
        self._complaint = ""
        # The hot path looks here: the memory tier, or nothing while nobody looks after it.
        self._aliases: dict[Hashable, Held[A]] = ASLEEP
        self._keys: dict[Key, Held[A]] = ASLEEP
        self._reads: dict[Key, int] = {}
        self._spoiled: set[Key] = set()
        self._misses_at: deque[int] = deque(maxlen=RECENT)
        self._namespaces = Namespaces(self)
        self._keeper = Keeper(self)

    def __repr__(self) -> str:
        counters = self.counters
        return (
            f"<Cache {self.kind}: {len(self._memory)} in memory, "
            f"{counters.hits} hits, {counters.misses} misses>"
        )

    async def open(self, store: Store[A], locks: Path | None) -> None:
        """Open the store; see `CacheManager.open`. `locks` is a directory for them."""
        await store.open()
        self._store = store
        if locks is not None:
            self._locks = Locks(locks, store.run, self._failed)
        self._keeper.start()

    async def aclose(self) -> None:
        """Write what is to be told, and close the store. Idempotent."""
        self._keeper.stop()
        await self._store.aclose()

    # -- lookups ----------------------------------------------------------------------------------

    def recall(self, alias: Hashable, namespace: str | None = None) -> A | None:
        """The answer that is in memory under the caller's own arguments; counts a hit, or nothing.

        Under a namespace, only if the entry is known to be tagged with it.

        Raises:
            TypeError: the alias cannot be hashed.
        """
        held = self._aliases.get(alias)
        if held is None:
            return None
        if namespace is not None:
            if namespace not in held.tags:
                return None
            self._namespaces.asked(namespace).hits += 1
        self.counters.hits += 1
        held.used = True
        held.touches += 1
        if held.touches == 1:
            self._keeper.note(held)
        return held.answer

    def peek_alias(self, alias: Hashable, namespace: str | None = None) -> Held[A] | None:
        """What `recall` would answer with; counts nothing, so any thread may ask."""
        held = self._aliases.get(alias)
        return None if held is None or (namespace and namespace not in held.tags) else held

    def count_hit(self, held: Held[A], namespace: str | None = None) -> None:
        """Count a hit that `peek_alias` found; on the event loop."""
        if namespace is not None:
            self._namespaces.asked(namespace).hits += 1
        self._hit(held)

    def recall_key(self, key: Key) -> A | None:
        """The answer that is in memory under this key; counts a hit, or nothing."""
        held = self._keys.get(key)
        return None if held is None else self._hit(held)

    async def get(self, key: Key, *, alias: Hashable = None) -> A | None:
        """The answer from memory or the store; counts a hit or a miss.

        A damaged value is removed and is a miss; so is a store that fails. Cancelling stops
        waiting.
        """
        held = self._keys.get(key)
        if held is not None:
            if alias is not None:
                self._memory.alias(alias, held)
            return self._hit(held)
        self._reads[key] = self._reads.get(key, 0) + 1
        start_s = perf_counter()
        try:
            reading = await self._store.read(key)
            self._done("read", start_s)
        except StoreError as exc:
            self._failed("read", exc)
            self._missed()
            return None
        finally:
            spoiled = key in self._spoiled
            self._reads[key] -= 1
            if not self._reads[key]:
                del self._reads[key]
                self._spoiled.discard(key)
        self._keeper.seen(reading.removals)
        answer = reading.answer
        if answer is None:
            self._missed()
            if reading.damaged:
                self.counters.damaged += 1
                try:
                    await self._store.submit(Delete(key, if_damaged=True))
                except StoreError as exc:
                    self._failed("write", exc)
            return None
        held = self._memory.by_key.get(key)
        if held is None and not spoiled:
            held = self._memory.add(key, answer, answer.cost_s)
        if held is not None and alias is not None:
            self._memory.alias(alias, held)
        # What memory does not take is told to the store all the same.
        return self._hit(held or Held(key, answer, answer.cost_s, 0))

    async def peek(self, key: Key) -> A | None:
        """As `get`, for a call that was counted already; touches and counts nothing."""
        try:
            return (await self._store.read(key)).answer
        except StoreError as exc:
            self._failed("read", exc)
            return None

    async def contains(self, key: Key) -> bool:
        """Whether `get` would find an answer now; counts and touches nothing.

        Raises:
            StoreError: the store cannot be read.
        """
        return await self._store.contains(key)

    def remember_alias(self, alias: Hashable, key: Key) -> None:
        """Let `recall` find this key's answer by this alias too, if it is in memory."""
        held = self._keys.get(key)
        if held is not None:
            self._memory.alias(alias, held)

    # -- changes ----------------------------------------------------------------------------------

    async def put(
        self,
        key: Key,
        answer: A,
        *,
        alias: Hashable = None,
        request: Request | None = None,
        namespaces: tuple[str, ...] = (),
    ) -> bool:
        """Store an answer; True once the commit that holds it is done. Never raises.

        The `request` is kept beside it, unless it is longer than `keep_requests_bytes`.

        False if the store failed, or if it is larger than the whole budget, or is worth less than
        all that would have to go for it. Cancelling stops waiting; it is stored all the same.
        """
        aliases = () if alias is None else (alias,)
        start_s = perf_counter()
        try:
            put = Put(key, answer, answer.cost_s, aliases, namespaces, request)
            stored = await self._store.submit(put)
            self._done("write", start_s)
            if stored is False:
                self.counters.declined += 1
            return bool(stored)
        except OversizedError as exc:
            self.counters.oversized += 1
            log.info("an answer is not kept in the %s cache: %s", self.kind, exc)
        except Exception as exc:
            self._failed("write", exc)
        return False

    async def delete(self, key: Key) -> bool:
        """Remove an entry, from every process's view within a second; False if it was not there.

        Raises:
            StoreError: the store cannot be written.
        """
        return bool(await self._store.submit(Delete(key)))

    async def clear(self) -> int:
        """Remove everything, from every process's view within a second; returns how many.

        Raises:
            StoreError: the store cannot be written.
        """
        return int(await self._store.submit(Clear()))

    async def keys(self) -> list[Key]:
        """The keys of all entries, sorted.

        Raises:
            StoreError: the store cannot be read.
        """
        return await self._store.keys()

    async def entries(
        self, limit: int = 100, order_by: Order = "priority", *, namespace: str | None = None
    ) -> list[Entry]:
        """The first entries in this order, largest or latest first; without their answers.

        `limit` of -1 means all of them; with a `namespace`, those that it holds, or one below it.

        Raises:
            ValueError: there is no such order.
            InvalidRequestError: `namespace` is no path of a namespace.
            StoreError: the store cannot be read.
        """
        if order_by not in ORDERS:
            raise ValueError(f"order_by={order_by!r} is not allowed: one of {', '.join(ORDERS)}")
        path = None if namespace is None else namespace_path(namespace)
        return await self._store.entries(limit, order_by, path)

    async def request(self, key: Key) -> Request | None:
        """What was asked; None if there is no such entry, or it does not keep its request.

        Raises:
            StoreError: the store cannot be read.
        """
        return await self._store.request(key)

    # -- computing --------------------------------------------------------------------------------

    @asynccontextmanager
    async def computing(self, key: Key) -> AsyncIterator[bool]:
        """Keep other processes from computing this key meanwhile.

        Yields True when another process had it: its answer may be in the store now. Trouble with
        the lock raises nothing; two processes may then compute the same.
        """
        if self._locks is None:
            yield False
            return
        async with self._locks.computing(key) as waited:
            if waited:
                self.counters.coalesced_across_processes += 1
            yield waited

    def count_coalesced(self, n: int = 1) -> None:
        """Count calls that got the answer of a computation in progress."""
        self.counters.coalesced += n

    async def tag(self, key: Key, namespace: str) -> None:
        """Tag an entry with a namespace, if it is there; see `Namespaces.hold`."""
        await self._namespaces.hold(key, namespace)

    def count_namespace(self, namespace: str, outcome: str) -> None:
        """Count the outcome of a call under a namespace."""
        asked = self._namespaces.asked(namespace)
        if outcome == "coalesced":
            asked.coalesced += 1
        elif outcome == "computed":
            asked.misses += 1
        else:
            asked.hits += 1

    def namespace_lookups(self, path: str) -> Asked:
        """The outcomes of calls under a namespace and all below it."""
        return self._namespaces.asked_below(path)

    # -- statistics -------------------------------------------------------------------------------

    async def statistics(self) -> dict[str, Any]:
        """See `CacheManager.get_cache_stats`."""
        try:
            totals = await self._store.totals()
        except StoreError as exc:
            self._failed("read", exc)
            totals = {}
        now = attrs.evolve(self.counters, saved_s=self.counters.saved_s + self._keeper.pending_s)
        return {
            **described(now, self._keeper.told, totals, self._budget),
            "recent_hit_rate": self._recent_hit_rate(),
            "memory_size": len(self._memory),
            "memory_size_bytes": self._memory.size_bytes,
            "read_latency_s": self._latencies["read"].mean_s,
            "write_latency_s": self._latencies["write"].mean_s,
        }

    def _recent_hit_rate(self) -> float:
        lookups = self.counters.hits + self.counters.misses
        recent = min(lookups, RECENT)
        misses = sum(1 for at in self._misses_at if at > lookups - recent)
        return 1.0 - misses / recent if recent else 0.0

    # -- within -----------------------------------------------------------------------------------

    def _hit(self, held: Held[A]) -> A:
        self.counters.hits += 1
        held.used = True
        held.touches += 1
        if held.touches == 1:
            self._keeper.note(held)
        return held.answer

    def _missed(self) -> None:
        counters = self.counters
        counters.misses += 1
        self._misses_at.append(counters.hits + counters.misses)
        self._keeper.use()

    def _failed(self, what: str, error: Exception) -> None:
        self.counters.errors += 1
        # Once until it works again: a full disk fails every write.
        complaint = f"{what}: {error}"
        if complaint != self._complaint:
            self._complaint = complaint
            log.warning("a %s of the %s cache failed: %s", what, self.kind, error)

    def _done(self, what: str, start_s: float) -> None:
        latency = self._latencies[what]
        latency.count += 1
        latency.total_s += perf_counter() - start_s
        if self._complaint.startswith(what):
            self._complaint = ""
            log.info("%ss of the %s cache work again", what, self.kind)

    def committed(self, operations: Sequence[Operation[A]], outcome: Outcome) -> None:
        """What the store has done, told before any caller is answered."""
        memory = self._memory
        # First what went, so that what came does not push out more.
        if any(isinstance(op, Clear) for op in operations):
            memory.clear()
        for key in outcome.gone:
            memory.discard(key)
            if key in self._reads:
                # It was read before it went, and the reader has not been told yet.
                self._spoiled.add(key)
        for op, result in zip(operations, outcome.results, strict=True):
            if isinstance(op, Put) and result is True and op.key in outcome.stored:
                answer = op.answer if op.answer.cached else as_cached(op.answer)
                held = memory.add(op.key, answer, op.cost_s)
                if held is not None:
                    if op.namespaces:
                        self._namespaces.know(held, *op.namespaces)
                    for alias in op.aliases:
                        memory.alias(alias, held)
            elif isinstance(op, Tag | Untag):
                self._namespaces.committed(op, result)
        self.counters.evictions += outcome.evictions
        self._keeper.seen(outcome.before, outcome.removals)
