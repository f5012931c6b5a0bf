"""The protocol between a cache and its persistent store: writes, results and records."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar, get_args

import attrs

from asteady._base.errors import StoreError
from asteady._base.public import public
from asteady._base.records import Record
from asteady._base.requests import Key
from asteady._cache.store.stored_request import Request

A = TypeVar("A")
T = TypeVar("T")

Order: TypeAlias = Literal["priority", "cost", "size", "touches", "last_used", "saved"]
ORDERS: tuple[Order, ...] = get_args(Order)

# While another process holds the database locked, SQLite waits this long, and the writer tries
# again for that long.
BUSY_TIMEOUT_S = 1.0
BUSY_RETRY_S = 30.0
# A call waits this long for the store, by default.
STORE_TIMEOUT_S = 2.0
# Of an export that is imported, by default.
MAX_FILE_BYTES = 4 * 1024**3


@public
@attrs.frozen(kw_only=True)
class Entry(Record):
    """One entry of a cache, without its answer.

    `size_bytes` is its size in the byte budget (docs/performance.md says how it is counted); times
    are in seconds since the epoch; `last_used_s` may lag by a second. `prompt` is the beginning of
    the prompt, None where the entry does not keep its request.
    """

    key: Key
    size_bytes: int
    cost_s: float
    touches: int
    priority: float
    created_s: float
    last_used_s: float
    model: str
    fingerprint: str
    prompt: str | None

    @property
    def saved_s(self) -> float:
        """About how many seconds of computing it has saved: its cost for each use after the first.

        An entry that came back after an eviction counts as used some times more.
        """
        return self.cost_s * max(0, self.touches - 1)


@attrs.frozen
class Put(Generic[A]):
    """Store an answer that was asked for at `asked_s`, in seconds since the epoch.

    Result: whether it is in the store after this commit; None if the key, one of the namespaces, or
    the whole cache was cleared since it was asked for, so that it must not be stored.
    """

    key: Key
    answer: A
    cost_s: float
    aliases: tuple[Any, ...] = ()
    namespaces: tuple[str, ...] = ()
    """Tags to add to those that the entry has."""
    request: Request | None = None
    """Stored beside the answer, if it is short enough."""
    asked_s: float = math.inf


@attrs.frozen
class Delete:
    """Remove an entry. Result: whether it was there."""

    key: Key
    if_damaged: bool = False
    """Only if it is still unreadable: another process may have stored it again."""


@attrs.frozen
class Clear:
    """Remove everything, ghosts included. Result: how many entries there were."""


@attrs.frozen
class Cleared:
    """Everything was removed at this time, with the database itself. Result: None."""

    at_s: float


@attrs.frozen
class Touch:
    """Uses of entries, and counts of lookups, since the last `Touch`. Result: None.

    The store takes it from the cache for each commit, and does it before all other writes. The
    entry used longest ago comes first.
    """

    touches: Sequence[tuple[Key, int]]
    counts: dict[str, float]


@attrs.frozen
class Tag:
    """Tag an entry with a namespace. Result: whether it has the tag; False without the entry."""

    key: Key
    namespace: str


@attrs.frozen
class Untag:
    """Remove the tags of a namespace and all below it, and the entries left without a tag.

    Result: how many entries were removed.
    """

    namespace: str


@public
@attrs.frozen(kw_only=True)
class Holding(Record):
    """The entries of a namespace in one cache: their number and size."""

    entries: int = 0
    size_bytes: int = 0


@public
@attrs.frozen(kw_only=True)
class NamespaceSize(Record):
    """The entries of a namespace in each cache."""

    generation: Holding
    embedding: Holding

    @property
    def entries(self) -> int:
        return self.generation.entries + self.embedding.entries

    @property
    def size_bytes(self) -> int:
        return self.generation.size_bytes + self.embedding.size_bytes


@attrs.frozen(kw_only=True)
class Incoming:
    """An entry of another cache, without its answer.

    `size_bytes` is its size in the byte budget here, with its tags. `relative_priority` is how many
    touches' worth it was above the level of the other cache.
    """

    key: Key
    size_bytes: int
    cost_s: float
    touches: int
    relative_priority: float
    created_s: float
    used_s: float
    namespaces: tuple[str, ...] = ()


@attrs.frozen
class Merge:
    """Add entries of another cache, all in one transaction. Result: `Merged`.

    `values` returns the checksum, the values and the request of an entry's row; it is called on the
    writer's thread. It must not raise `sqlite3.Error`, which would count as an error of this store.
    """

    entries: Sequence[Incoming]
    values: Callable[[Key], tuple[Any, ...]]


@public
@attrs.frozen(kw_only=True)
class Merged:
    """The result of an import, for one cache.

    Of `entries`, `known` were stored already, `added` are new, `declined` were worth less than what
    fills the cache, and `oversized` are larger than its budget. `evicted` others made room.
    """

    entries: int
    added: int
    known: int
    declined: int
    oversized: int
    evicted: int


@public
@attrs.frozen(kw_only=True)
class Exported:
    """The result of an export: the number of entries of each cache, and the size of the file."""

    path: Path
    generation: int
    embedding: int
    size_bytes: int


@public
@attrs.frozen(kw_only=True)
class Moved:
    """The result of a push to a shared cache, or of a pull from it, for one cache.

    Of `entries`, `known` were there already, and `added` are new there. Of a pull, `full` did not
    fit into what the budgets had left. `damaged` ones are no answers, and left out.
    """

    entries: int = 0
    added: int = 0
    known: int = 0
    full: int = 0
    damaged: int = 0


@attrs.frozen
class Tagged:
    """An entry without its answer: its key, its tags, and the fingerprint of its engine."""

    key: Key
    namespaces: tuple[str, ...]
    fingerprint: str = ""


Write: TypeAlias = Put[A] | Delete | Clear | Cleared | Touch | Tag | Untag | Merge


@attrs.define(kw_only=True)
class CommitResult:
    """What one commit did: the results of its writes, and the keys removed and stored by it.

    `removals` counts the entries ever removed, by all processes. `before` is its value when the
    transaction began: if it is not the value seen last, another process removed something.
    """

    results: list[Any] = attrs.field(factory=list)
    gone: set[Key] = attrs.field(factory=set)
    stored: set[Key] = attrs.field(factory=set)
    evictions: int = 0
    before: int = 0
    removals: int = 0
    damaged: int = 0
    """Databases that were set aside."""


@attrs.frozen
class Reading(Generic[A]):
    """The result of `Store.read`: the answer if it is there and undamaged."""

    answer: A | None
    damaged: bool
    removals: int


class OversizedError(ValueError):
    """An entry is larger than the whole budget. Never leaves the cache."""


TakeTouches: TypeAlias = Callable[[], Touch | None]
"""Called on the loop before each commit."""
Committed: TypeAlias = Callable[[Sequence[Any], CommitResult], None]
"""Called on the loop after each commit, before any caller is answered: (writes, result)."""


class Store(Generic[A]):
    """A store of answers, used on one event loop. `SqliteStore` is the persistent one.

    This class itself stores nothing and finds nothing: it is the store of a disabled cache. Reading
    methods raise `StoreError` if the store cannot be read.
    """

    failure: StoreError | None = None
    """Why it is not open, while it is not: every call raises this, and it tries to open again."""

    async def open(self) -> None:
        """Open the store, or create it."""

    async def aclose(self) -> None:
        """Commit what was submitted, then close. Idempotent."""

    def abandon(self) -> None:
        """End the threads without the event loop, which no longer runs. What was not committed is
        lost."""

    def submit(self, write: Write[A]) -> asyncio.Future[Any]:
        """Queue a write for the next commit; the future resolves when it is committed.

        Cancelling the future does not cancel the write.
        """
        future = asyncio.get_running_loop().create_future()
        future.set_result(0 if isinstance(write, Clear | Untag) else None)
        return future

    def flush(self) -> None:
        """Commit the touches that there are, even if nothing else is submitted."""

    async def read(self, key: Key) -> Reading[A]:
        return Reading(None, False, 0)

    async def keys(self) -> list[Key]:
        """All keys, sorted."""
        return []

    async def entries(
        self, limit: int, order_by: Order, namespace: str | None = None
    ) -> list[Entry]:
        return []

    async def page(
        self, after: Key, limit: int, namespace: str | None, fingerprint: str | None
    ) -> list[Tagged]:
        """The entries with the first `limit` keys above `after`; only those of a namespace and all
        below it, or of one engine."""
        return []

    async def dimensions(self) -> dict[str, int]:
        """How long the whole vectors of each model are, by fingerprint; of embeddings only."""
        return {}

    async def tagged(self, key: Key, namespace: str) -> bool:
        """Whether the entry has this tag itself; tags below it do not count."""
        return False

    async def holding(self, path: str) -> Holding:
        """The size of the namespace and all below it, each entry counted once."""
        return Holding()

    async def holdings(self) -> dict[str, Holding]:
        """The size of each namespace itself, by path, in order."""
        return {}

    async def request(self, key: Key) -> Request | None:
        """The request stored with the entry, if it hashes to the key."""
        return None

    async def missing(self, keys: Sequence[Key]) -> tuple[int, list[Key]]:
        """The count of removals, and those of these keys that are not in the store."""
        return 0, list(keys)

    async def removals(self) -> int:
        return 0

    async def totals(self) -> dict[str, Any]:
        """The counters and the state of the policy."""
        return {}

    async def run(self, fn: Callable[[], T], /) -> T:
        """Run a quick blocking function on the reading thread, even if cancelled."""
        return fn()
