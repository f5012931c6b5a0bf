"""One cache: a memory tier in front of a store, and the counters of both.

The memory tier is synchronised with the store: touches are written with each commit, at least once
a second, and entries that another process removed are dropped. A background task sees to both while
the cache is in use. When it
has not been used for a second the memory tier is inactive, and the next lookup goes to the store,
which tells whether memory is still valid.

A namespace is a tag on an entry. A tag that the memory tier knows costs a warm hit nothing; what is
known is forgotten when another process removes something, for that may have been a tag.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Hashable,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import asynccontextmanager, nullcontext
from operator import attrgetter
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, Protocol, TypeAlias, TypeVar
from weakref import WeakValueDictionary

import attrs

from asteady._base.errors import SessionError, SessionNotOpenError, StoreError
from asteady._base.files import AnyPath
from asteady._base.forks import FORKED, disown_in_child
from asteady._base.public import public
from asteady._base.requests import Key, Kind, is_below, namespace_path
from asteady._base.tasks import check_loop, unattended
from asteady._cache.counters import Counters, NamespaceLookups
from asteady._cache.late import LatePuts
from asteady._cache.memory import Held, Memory, as_cached
from asteady._cache.policy import Budget
from asteady._cache.shared import SharedCache
from asteady._cache.store.api import (
    ORDERS,
    STORE_TIMEOUT_S,
    Clear,
    CommitResult,
    Delete,
    Entry,
    Order,
    OversizedError,
    Put,
    Store,
    Tag,
    Touch,
    Untag,
    Write,
)
from asteady._cache.store.locks import Locks
from asteady._cache.store.stored_request import Request

log = logging.getLogger("asteady")

Opener: TypeAlias = Callable[[], Awaitable[object]]
"""Opens the cache, by opening the session that it belongs to."""

AliasOf: TypeAlias = Callable[[object, AnyPath | None, Mapping[str, Any]], Hashable]
"""Makes an alias of a call's raw arguments: prompt or text, model, options."""


Use: TypeAlias = tuple[Key, int, float]
"""A key, how often it was used, and the seconds that computing its answer takes."""


class HasActive(Protocol):
    active: bool


class Answer(Protocol):
    """What a cache remembers: a frozen record with the cost of computing it."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def cost_s(self) -> float: ...

    @property
    def cached(self) -> bool: ...


A = TypeVar("A", bound=Answer)
T = TypeVar("T")

RECENT = 1000
# How often a cache in use looks whether another process removed something; touches are written
# every other time, so that both happen within a second.
TICK_S = 0.5
_TICKS_PER_FLUSH = 2
_BY_USE = attrgetter("used")
# Tags known in memory for one entry; the others are read from the store.
TAGS_PER_ENTRY = 8
# Namespaces with counters that no `Namespace` object keeps alive; the least recent ones go first.
MAX_COUNTED_NAMESPACES = 10_000

INACTIVE: dict[Any, Any] = {}
# What the store sums over all processes and runs.
SUMMED = ("hits", "misses", "coalesced", "saved_s")


class _LateError(StoreError):
    """A write takes longer than its caller waits."""


@public
class Cache(Generic[A]):
    """Remembers answers of one kind. Lives from `open` to `aclose`, on one event loop.

    Its manager opens and closes it. Used before, it calls `opener`, if it has one. A failing store
    never fails a lookup or a `put`: it is a miss, or not stored, logged, and counted as an error.
    """

    def __init__(
        self,
        kind: Kind,
        memory: Memory[A],
        budget: Budget,
        opener: Opener | None = None,
        *,
        tick_s: float = TICK_S,
        timeout_s: float = STORE_TIMEOUT_S,
    ) -> None:
        self.kind = kind
        self.memory = memory
        self.budget = budget
        self.counters = Counters()
        self.clears = 0
        """How often something was cleared here: what was asked for before is not stored after it,
        so whoever asks from then on computes anew."""
        self._opener = opener
        self._tick_s = tick_s
        self._timeout_s = timeout_s
        self._store: Store[A] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._locks: Locks | None = None
        self.shared: SharedCache[A] | None = None
        """The part of the shared tier for answers of this kind, if there is such a tier."""
        # The number and total duration of reads and writes, waiting included.
        self._operations = {"read": 0, "write": 0}
        self._durations_s = {"read": 0.0, "write": 0.0}
        # Failures that were logged, and the operation that failed.
        self._complaints: dict[str, str] = {}
        self._late: LatePuts[A] = LatePuts()
        # The hot path reads these: the memory tier's dictionaries, or empty ones.
        self._aliases: dict[Hashable, Held[A]] = INACTIVE
        self._keys: dict[Key, Held[A]] = INACTIVE
        # Reads in progress, and which of their entries were removed meanwhile.
        self._reads: dict[Key, int] = {}
        self._removed: set[Key] = set()
        self._misses_at: deque[int] = deque(maxlen=RECENT)
        # Synchronisation: entries with unwritten touches, the last count of removals seen, and the
        # counters that have been written.
        self._dirty: list[Held[A]] = []
        self.hit_counters: set[Callable[[], None]] = set()
        """Called before touches are written: they count hits that other threads peeked."""
        self.use_listeners: set[Callable[[Sequence[Use]], None]] = set()
        """Called on the loop with what was used: answers when they are put, hits when their touches
        are taken, up to a second late. They must be quick, and not raise."""
        self._in_use = asyncio.Event()
        self._removals = -1
        self._task: asyncio.Task[None] | None = None
        self._forked = False
        self._flushed = Counters()
        # Counters of namespaces; the recent ones are kept even if nobody else references them.
        self._lookups: MutableMapping[str, NamespaceLookups] = WeakValueDictionary()
        self._recent_lookups: dict[str, NamespaceLookups] = {}
        self._tagging: dict[tuple[Key, str], asyncio.Task[None]] = {}
        self._tags_known = False
        self._tags_forgotten = 0

    def __repr__(self) -> str:
        counters = self.counters
        return (
            f"<Cache {self.kind}: {len(self.memory)} in memory, "
            f"{counters.hits} hits, {counters.misses} misses>"
        )

    async def open(self, store: Store[A], locks: Path | None) -> None:
        """Open the store; see `CacheManager.open`. `locks` is a directory for them."""
        await store.open()
        self._store = store
        if store.failure is not None:
            self._failed("opening", store.failure)
        self._loop = asyncio.get_running_loop()
        disown_in_child(self)
        if locks is not None:
            self._locks = Locks(locks, store.run, self._failed)
        name = f"asteady {self.kind} cache synchronizer"
        self._task = unattended(asyncio.create_task(self._synchronize(), name=name))

    async def aclose(self) -> None:
        """Write what is not written yet, and close the store. Idempotent."""
        self._aliases = self._keys = INACTIVE
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            self.flush()
        if self._store is not None:
            await self._store.aclose()

    def abandon(self) -> None:
        """See `CacheManager.abandon`."""
        self._aliases = self._keys = INACTIVE
        if self._store is not None:
            self._store.abandon()

    def disown(self) -> None:
        """In a forked child: leave the database to the parent."""
        self._aliases = self._keys = INACTIVE
        self._task = self._store = self._locks = self.shared = None
        self._forked = True

    async def ready(self) -> Store[A]:
        """The store; opened first, if the cache belongs to a default session.

        Raises:
            SessionNotOpenError: the cache is not open, and has no opener.
            SessionError: it is open on another event loop, or this process was forked since.
        """
        if self._forked:
            raise SessionError(FORKED)
        if self._store is None:
            if self._opener is None:
                raise SessionNotOpenError(
                    "the cache is not open yet: open the session first, with `async with Session()"
                    " as session`, or await session.open()"
                )
            await self._opener()
            if self._store is None:
                raise SessionNotOpenError("the cache is still opening")
        check_loop(self._loop)
        return self._store

    # -- lookups ----------------------------------------------------------------------------------

    def recaller(
        self, alias_of: AliasOf, observers: HasActive, namespace: str | None = None
    ) -> Callable[[object, AnyPath | None, Mapping[str, Any]], A | None]:
        """The warm path: a function that answers a call's raw arguments from memory.

        It counts a hit, or nothing, and always returns None while anybody observes. Under a
        namespace it answers only if the entry is known to be tagged with it. It raises what
        `alias_of` raises, and `TypeError` for arguments that cannot be hashed.

        A closure, since at a microsecond a call each attribute of `self` counts.
        """
        counters, note = self.counters, self._note
        if namespace is None:

            def recall(
                subject: object, model: AnyPath | None, options: Mapping[str, Any]
            ) -> A | None:
                if observers.active:
                    return None
                held = self._aliases.get(alias_of(subject, model, options))
                if held is None:
                    return None
                if held.touches:
                    held.touches += 1
                else:
                    note(held)
                counters.hits = held.used = counters.hits + 1
                return held.answer

            return recall
        lookups = self.lookups_of(namespace)

        def recall_tagged(
            subject: object, model: AnyPath | None, options: Mapping[str, Any]
        ) -> A | None:
            if observers.active:
                return None
            held = self._aliases.get(alias_of(subject, model, options))
            if held is None or namespace not in held.tags:
                return None
            if held.touches:
                held.touches += 1
            else:
                note(held)
            lookups.hits += 1
            counters.hits = held.used = counters.hits + 1
            return held.answer

        return recall_tagged

    def recall(self, alias: Hashable) -> A | None:
        """The answer that is in memory under this alias; counts a hit, or nothing.

        Raises:
            TypeError: the alias cannot be hashed.
        """
        held = self._aliases.get(alias)
        return None if held is None else self._hit(held)

    def peek_alias(self, alias: Hashable, namespace: str | None = None) -> Held[A] | None:
        """What `recall` would answer with; counts nothing, so any thread may ask."""
        held = self._aliases.get(alias)
        if held is None or (namespace is not None and namespace not in held.tags):
            return None
        return held

    def count_hit(self, held: Held[A], namespace: str | None = None) -> None:
        """Count a hit that `peek_alias` found; on the event loop."""
        if namespace is not None:
            self.lookups_of(namespace).hits += 1
        self._hit(held)

    def recall_key(self, key: Key, *, alias: Hashable = None) -> A | None:
        """The answer that is in memory under this key; counts a hit, or nothing.

        If there is one, `recall` finds it by this alias too.
        """
        held = self._keys.get(key)
        if held is None:
            return None
        if alias is not None:
            self.memory.alias(alias, held)
        return self._hit(held)

    async def get(
        self, key: Key, *, alias: Hashable = None, fits: Callable[[A], bool] | None = None
    ) -> A | None:
        """The answer from memory or the store; counts a hit or a miss.

        Otherwise as `find`.
        """
        try:
            found = await self.find(key, alias=alias, fits=fits)
        except BaseException:
            self.missed()
            raise
        if found is None:
            self.missed()
        return found

    async def find(
        self, key: Key, *, alias: Hashable = None, fits: Callable[[A], bool] | None = None
    ) -> A | None:
        """The answer from memory or the store; counts a hit, or nothing.

        A damaged value is removed and is a miss. One from the store that does not fit is damaged
        too, and stays until it is stored again. So is a store that fails, or takes longer than
        `store_timeout_s`, if the answer is not in memory. Cancelling stops waiting.
        """
        found = self.recall_key(key, alias=alias)
        if found is not None:
            return found
        late = self._late.find(key)
        if late is not None:
            return self._hit(Held(key, as_cached(late), late.cost_s, 0))
        store = await self.ready()
        self._reads[key] = self._reads.get(key, 0) + 1
        start_s = perf_counter()
        try:
            reading = await store.read(key)
            self._done("read", start_s)
        except StoreError as exc:
            self._failed("read", exc)
            held = self.memory.by_key.get(key)
            if held is not None and self._task is not None:
                return self._hit(held)
            return None
        finally:
            removed = key in self._removed
            self._reads[key] -= 1
            if not self._reads[key]:
                del self._reads[key]
                self._removed.discard(key)
        self._compare_removals(reading.removals)
        answer = reading.answer
        if answer is not None and fits is not None and not fits(answer):
            log.error("a value in the %s cache is damaged: %s is of another size", self.kind, key)
            self.counters.damaged += 1
            return None
        if answer is None:
            if reading.damaged:
                self.counters.damaged += 1
                try:
                    await self._wait_for(store.submit(Delete(key, if_damaged=True)))
                except StoreError as exc:
                    self._failed("write", exc)
            return None
        held = self.memory.by_key.get(key)
        if held is None and not removed:
            held = self.memory.add(key, answer, answer.cost_s)
        if held is not None and alias is not None:
            self.memory.alias(alias, held)
        # An answer that memory does not take is touched in the store all the same.
        return self._hit(held or Held(key, answer, answer.cost_s, 0))

    async def peek(self, key: Key, *, fits: Callable[[A], bool] | None = None) -> A | None:
        """As `get`, for a call that is counted already; touches and counts nothing."""
        try:
            answer = (await (await self.ready()).read(key)).answer
        except StoreError as exc:
            self._failed("read", exc)
            return None
        return answer if answer is None or fits is None or fits(answer) else None

    async def contains(self, key: Key) -> bool:
        """Whether `get` would find an answer now; counts and touches nothing.

        Raises:
            StoreError: the store cannot be read.
        """
        if self._late.find(key) is not None:
            return True
        _, missing = await (await self.ready()).missing([key])
        return not missing

    # -- changes ----------------------------------------------------------------------------------

    async def put(
        self,
        key: Key,
        answer: A,
        *,
        alias: Hashable = None,
        request: Request | None = None,
        namespaces: tuple[str, ...] = (),
        asked_s: float = math.inf,
    ) -> bool:
        """Store an answer; True once the commit that holds it is done. Never raises.

        The `request` is stored with it, unless it is longer than `keep_requests_bytes`.

        False if the store failed, or if it is larger than the whole budget, or is worth less than
        all that would have to be evicted for it, or if it was asked for, at `asked_s` (seconds
        since the epoch), before any process cleared it. False too if that takes longer than
        `store_timeout_s`: then it is stored later, and found in memory. Cancelling stops waiting;
        it is stored all the same.
        """
        aliases = () if alias is None else (alias,)
        start_s = perf_counter()
        put = Put(key, answer, answer.cost_s, aliases, namespaces, request, asked_s)
        self._tell_uses((key, 1, answer.cost_s))
        try:
            store = await self.ready()
            if not self._late.has_room(key, answer):
                raise StoreError(f"{len(self._late)} answers wait to be stored already")
            future = store.submit(put)
            try:
                stored = await self._wait_for(future)
            except _LateError:
                self._put_late(put, future)
                raise
            self._done("write", start_s)
            if stored is False:
                self.counters.declined += 1
            return bool(stored)
        except OversizedError as exc:
            self.counters.oversized += 1
            log.info("an answer is not stored in the %s cache: %s", self.kind, exc)
        except StoreError as exc:
            self._failed("write", exc)
            # Memory serves it at least.
            if self._task is not None:
                self._hold(put)
                self._activate()
        except Exception as exc:
            self._failed("write", exc)
        return False

    async def _wait_for(self, write: asyncio.Future[T]) -> T:
        """The result of a write.

        Raises:
            _LateError: it takes longer than `store_timeout_s`, or others do; it goes on.
            StoreError: the store cannot be written.
        """
        if not write.done():
            waits = not self._late and self._store is not None and self._store.failure is None
            await asyncio.wait([write], timeout=self._timeout_s if waits else 0)
        if not write.done():
            failure = None if self._store is None else self._store.failure
            raise _LateError(
                str(failure)
                if failure
                else f"the database takes longer than {self._timeout_s:g} s (store_timeout_s);"
                " another process may have it locked"
            )
        return write.result()

    def _put_late(self, put: Put[A], write: asyncio.Future[Any]) -> None:
        """The answer is delivered before it is stored."""
        self.counters.delayed += 1
        self._late.add(put)

        def done(write: asyncio.Future[Any]) -> None:
            self._late.discard(put)
            if write.cancelled():
                return
            error = write.exception()
            if isinstance(error, StoreError):
                self._failed("write", error)
            elif error is None:
                self._works("write")
                if write.result() is None:  # it was cleared meanwhile
                    self.memory.discard(put.key)

        write.add_done_callback(done)

    async def delete(self, key: Key, *, shared: bool = True) -> bool:
        """Remove an entry, in every process's view within a second; False if it was not there.

        As with `clear`, an answer that was asked for before is not stored after it, and the shared
        tier's entry is removed too, unless `shared` is False.

        Raises:
            StoreError: the store, or the shared tier, cannot be written.
        """
        there = bool(await (await self.ready()).submit(Delete(key)))
        if shared and self.shared is not None:
            there |= await self.shared.delete(key)
        return there

    async def clear(self, *, shared: bool = True) -> int:
        """Remove everything, in every process's view within a second; returns the number.

        What was asked for before is not stored after it, whichever process computes it: those who
        wait get their answer, and whoever asks from now on has it computed anew.

        The entries of the shared tier are removed too, and not counted, unless `shared` is False;
        those in the stores of other machines stay.

        Raises:
            StoreError: the store, or the shared tier, cannot be written.
        """
        removed = int(await (await self.ready()).submit(Clear()))
        if shared and self.shared is not None:
            await self.shared.clear()
        return removed

    async def keys(self) -> list[Key]:
        """The keys of all entries, sorted.

        Raises:
            StoreError: the store cannot be read.
        """
        return await (await self.ready()).keys()

    async def entries(
        self, limit: int = 100, order_by: Order = "priority", *, namespace: str | None = None
    ) -> list[Entry]:
        """The first entries in this order, largest or latest first; without their answers.

        `limit` of -1 means all of them; with a `namespace`, those tagged with it or one below it.

        Raises:
            ValueError: there is no such order.
            InvalidRequestError: `namespace` is no path of a namespace.
            StoreError: the store cannot be read.
        """
        if order_by not in ORDERS:
            raise ValueError(f"order_by={order_by!r} is not allowed: one of {', '.join(ORDERS)}")
        path = None if namespace is None else namespace_path(namespace)
        return await (await self.ready()).entries(limit, order_by, path)

    async def request(self, key: Key) -> Request | None:
        """The request of an entry; None if there is no such entry, or its request is not stored.

        Raises:
            StoreError: the store cannot be read.
        """
        return await (await self.ready()).request(key)

    # -- computing --------------------------------------------------------------------------------

    @asynccontextmanager
    async def computing(self, key: Key) -> AsyncIterator[bool]:
        """Keep other processes from computing this key meanwhile.

        Yields True when another process had it: its answer may be in the store now. A failing lock
        raises nothing; two processes may then compute the same.
        """
        locks = self._locks
        async with nullcontext(False) if locks is None else locks.computing(key) as waited:
            self.counters.coalesced_across_processes += waited
            yield waited

    # -- namespaces -------------------------------------------------------------------------------

    async def tag(self, key: Key, namespace: str) -> bool:
        """Tag an entry with a namespace, if it is there; returns when that is committed.

        False if it was known to be tagged. Concurrent callers share one read and one commit. A
        failing store is logged and counted. Cancelling stops waiting; the entry is tagged all the
        same.
        """
        held = self._keys.get(key)
        if held is not None and namespace in held.tags:
            return False
        tagging = (key, namespace)
        task = self._tagging.get(tagging)
        if task is None:
            store = await self.ready()
            task = unattended(
                asyncio.create_task(self._tag(store, key, namespace, held), name="asteady tag")
            )
            self._tagging[tagging] = task

            def tagged(task: asyncio.Task[None]) -> None:
                if self._tagging.get(tagging) is task:
                    del self._tagging[tagging]

            # Not at the end of the task itself: it may be closed when the loop is closed already.
            task.add_done_callback(tagged)
        await asyncio.shield(task)
        return True

    @property
    def pending_tags(self) -> int:
        """The number of tags that are being written."""
        return len(self._tagging)

    def lookups_of(self, namespace: str) -> NamespaceLookups:
        """The counters of one namespace. They live as long as a caller references the record."""
        recent = self._recent_lookups
        found = recent.pop(namespace, None) or self._lookups.get(namespace) or NamespaceLookups()
        recent[namespace] = self._lookups[namespace] = found
        if len(recent) > MAX_COUNTED_NAMESPACES:
            del recent[next(iter(recent))]
        return found

    def namespace_lookups(self, path: str) -> NamespaceLookups:
        """The sum of the calls under a namespace and all below it."""
        below = [counted for name, counted in self._lookups.items() if is_below(name, path)]
        return NamespaceLookups(
            sum(counted.hits for counted in below),
            sum(counted.misses for counted in below),
            sum(counted.coalesced for counted in below),
        )

    async def _tag(self, store: Store[A], key: Key, namespace: str, held: Held[A] | None) -> None:
        operation, forgotten = "read", self._tags_forgotten
        try:
            # Most are tagged already, by an earlier process; reading costs a tenth of a commit.
            if await store.tagged(key, namespace):
                # The tag may have been removed since it was read.
                if held is not None and self._tags_forgotten == forgotten:
                    self._know_tags(held, namespace)
                return
            operation = "write"
            await self._wait_for(store.submit(Tag(key, namespace)))
        except StoreError as exc:
            self._failed(operation, exc)

    def _know_tags(self, held: Held[A], *namespaces: str) -> None:
        self._tags_known = True
        others = [path for path in held.tags if path not in namespaces]
        held.tags = (*others, *namespaces)[-TAGS_PER_ENTRY:]

    def forget_tags(self) -> None:
        """Read tags from the store again: another process may have removed some."""
        self._tags_forgotten += 1
        # A read in progress is of no use to those who ask from now on.
        self._tagging.clear()
        if self._tags_known:
            self._tags_known = False
            for held in self.memory.by_key.values():
                held.tags = ()

    # -- statistics -------------------------------------------------------------------------------

    async def statistics(self) -> dict[str, Any]:
        """See `CacheManager.get_cache_stats`."""
        try:
            totals = await (await self.ready()).totals()
        except StoreError as exc:
            self._failed("read", exc)
            totals = {}
        now = attrs.asdict(self.counters)
        now["saved_s"] += sum(held.touches * held.cost_s for held in self._dirty)
        sums = {
            name: totals.get(name, 0) + now[name] - getattr(self._flushed, name) for name in SUMMED
        }
        seconds_saved, all_seconds_saved = now.pop("saved_s"), sums.pop("saved_s")
        lookups = now["hits"] + now["misses"]
        recent = min(lookups, RECENT)
        recent_misses = sum(1 for at in self._misses_at if at > lookups - recent)
        return {
            "size": totals.get("entries", 0),
            "capacity": self.budget.max_entries,
            **now,
            "total_size_bytes": totals.get("size_bytes", 0),
            "max_size_bytes": self.budget.max_bytes,
            "hit_rate": now["hits"] / lookups if lookups else 0.0,
            "recent_hit_rate": 1.0 - recent_misses / recent if recent else 0.0,
            "seconds_saved": seconds_saved,
            "policy": totals.get("policy", ""),
            "phi": totals.get("phi", 0.0),
            "tide_level": totals.get("level", 0.0),
            "ghosts": totals.get("ghosts_once", 0) + totals.get("ghosts_more", 0),
            **{f"all_{name}": value for name, value in sums.items()},
            "all_evictions": totals.get("evictions", 0),
            "all_seconds_saved": all_seconds_saved,
            "pending_writes": len(self._late),
            "memory_size": len(self.memory),
            "memory_size_bytes": self.memory.size_bytes,
            **{
                f"{operation}_latency_s": self._durations_s[operation] / count if count else 0.0
                for operation, count in self._operations.items()
            },
        }

    def _hit(self, held: Held[A]) -> A:
        counters = self.counters
        if held.touches:
            held.touches += 1
        else:
            self._note(held)
        counters.hits = held.used = counters.hits + 1
        return held.answer

    def found_elsewhere(self, key: Key, answer: A) -> None:
        """Count a hit of an answer that was not here, and has been `put` since."""
        self._hit(self.memory.by_key.get(key) or Held(key, answer, answer.cost_s, 0))

    def missed(self) -> None:
        """Count a miss: of a lookup that ended, in whatever way, without an answer."""
        counters = self.counters
        counters.misses += 1
        self._misses_at.append(counters.hits + counters.misses)
        self._in_use.set()

    def _failed(self, operation: str, error: Exception) -> None:
        self.counters.errors += 1
        # Once until it works again: a full disk fails every write.
        if str(error) not in self._complaints:
            self._complaints[str(error)] = operation
            what = "the opening" if operation == "opening" else f"a {operation}"
            log.warning("%s of the %s cache failed: %s", what, self.kind, error)

    def _done(self, operation: str, start_s: float) -> None:
        self._operations[operation] += 1
        self._durations_s[operation] += perf_counter() - start_s
        if self._complaints:
            self._works(operation)

    def _works(self, operation: str) -> None:
        for complaint, failed in list(self._complaints.items()):
            if failed in (operation, "opening"):
                del self._complaints[complaint]
                log.info("%ss of the %s cache work again", operation, self.kind)

    # -- synchronisation --------------------------------------------------------------------------

    def committed(self, writes: Sequence[Write[A]], result: CommitResult) -> None:
        """Called by the store after each commit, before any caller is answered."""
        memory = self.memory
        # Removals first, so that additions do not push out more.
        if any(isinstance(op, Clear) for op in writes):
            memory.clear()
        for key in result.gone:
            memory.discard(key)
            if key in self._reads:
                # It was read before it was removed, and the reader has not resumed yet.
                self._removed.add(key)
        for op, value in zip(writes, result.results, strict=True):
            if isinstance(op, Put) and value is True and op.key in result.stored:
                self._hold(op)
            elif isinstance(op, Untag):
                self.forget_tags()
            elif isinstance(op, Tag):
                held = memory.by_key.get(op.key)
                if held is not None and value is True:
                    self._know_tags(held, op.namespace)
            if isinstance(op, Clear | Untag) or (isinstance(op, Delete) and not op.if_damaged):
                self.clears += 1
        self.counters.evictions += result.evictions
        self.counters.damaged += result.damaged
        self._compare_removals(result.before, result.removals)

    def _hold(self, put: Put[A]) -> None:
        """Hold an answer in memory, by its aliases and with its tags too."""
        answer = put.answer if put.answer.cached else as_cached(put.answer)
        held = self.memory.add(put.key, answer, put.cost_s)
        if held is not None:
            if put.namespaces:
                self._know_tags(held, *put.namespaces)
            for alias in put.aliases:
                self.memory.alias(alias, held)

    def flush(self) -> None:
        """Have touches and counts written, if nothing else is: every commit takes them along."""
        if self._store is not None:
            self._store.flush()

    def take_touches(self) -> Touch | None:
        """Called by the store for each commit: the touches and counts since the last one.

        So an entry is evicted only after every hit that came before.
        """
        for count_hits in self.hit_counters:
            count_hits()
        dirty, self._dirty = self._dirty, []
        now, flushed = self.counters, self._flushed
        now.saved_s += sum(held.touches * held.cost_s for held in dirty)
        counts = {name: getattr(now, name) - getattr(flushed, name) for name in SUMMED}
        if not any(counts.values()):
            return None
        self._flushed = attrs.evolve(now)
        # The one used longest ago first: policies that go by recency get them in that order.
        dirty.sort(key=_BY_USE)
        touches = [(held.key, held.touches) for held in dirty]
        if self.use_listeners:
            self._tell_uses(*((held.key, held.touches, held.cost_s) for held in dirty))
        for held in dirty:
            held.touches = 0
        return Touch(touches, counts)

    def _tell_uses(self, *uses: Use) -> None:
        for listener in self.use_listeners:
            listener(uses)

    def _note(self, held: Held[A]) -> None:
        """Count the first touch since the last flush.

        Raises:
            SessionError: the cache is open on another event loop. Looking at every hit would make
                it slower by a third; a foreign caller meets it at its first hit of an entry, unless
                the own loop has used that entry within the last second.
        """
        check_loop(self._loop)
        held.touches = 1
        self._dirty.append(held)
        if len(self._dirty) == 1:
            self._in_use.set()

    def _compare_removals(self, removals: int, after: int | None = None) -> None:
        """Compare the store's count of removals with the last one seen.

        `after` is the count after our own commit, when `removals` is that before it.
        """
        # Reading and writing is using it, too: an answer that was just stored is found in memory.
        self._in_use.set()
        if removals > self._removals >= 0 and len(self.memory):
            # Another process removed something since. The synchronizer compares both tiers, at once
            # if the memory tier was inactive and else within half a second.
            return
        self._removals = max(removals, self._removals) if after is None else after
        self._activate()

    def _activate(self) -> None:
        if self._task is not None and self._keys is INACTIVE:
            self._aliases, self._keys = self.memory.by_alias, self.memory.by_key
            self._in_use.set()

    async def _synchronize(self) -> None:
        ticks = 0
        while True:
            await self._in_use.wait()
            if self._keys is INACTIVE:
                await self._drop_removed()
            while self._in_use.is_set():
                self._in_use.clear()
                await asyncio.sleep(self._tick_s)
                ticks += 1
                if ticks % _TICKS_PER_FLUSH == 0:
                    self.flush()
                elif self._dirty:
                    self._in_use.set()
                await self._drop_removed()
            self.flush()
            self._aliases = self._keys = INACTIVE

    async def _drop_removed(self) -> None:
        """Drop from memory what other processes removed from the store."""
        store = self._store
        if store is None:
            return  # a forked child goes on with its parent's loop
        try:
            removals = await store.removals()
            if removals > self._removals:
                removals, gone = await store.missing(list(self.memory.by_key))
                for key in gone:
                    self.memory.discard(key)
                self.forget_tags()
                self._removals = max(removals, self._removals)
            self._activate()
        except StoreError as exc:
            self._failed("read", exc)
            # Answers are never stale: without the store, memory is served all the same.
            self._activate()
