"""The store's seam: what a cache asks of whatever remembers beyond this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

import attrs

from asteady._base.requests import Key
from asteady._cache.store.stored_request import Request

A = TypeVar("A")
T = TypeVar("T")

Order: TypeAlias = Literal["priority", "cost", "size", "touches", "last_used"]
ORDERS: tuple[Order, ...] = ("priority", "cost", "size", "touches", "last_used")


@attrs.frozen(kw_only=True)
class Entry:
    """What is known of one entry, without its answer.

    `size_bytes` is what the entry takes of the byte budget (docs/performance.md says how it is
    counted); times are in seconds since the epoch; `last_used_s` may lag by a second. `prompt` is
    the beginning of what was asked, None where the entry does not keep its request.
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


@attrs.frozen
class Put(Generic[A]):
    """Store an answer. Result: whether it is in the store after this commit."""

    key: Key
    answer: A
    cost_s: float
    aliases: tuple[Any, ...] = ()
    namespaces: tuple[str, ...] = ()
    """These hold it from now on, besides those that hold it already."""
    request: Request | None = None
    """To be kept beside the answer, if it is short enough."""


@attrs.frozen
class Delete:
    """Remove an entry. Result: whether it was there."""

    key: Key
    if_damaged: bool = False
    """Only when it still cannot be read: another process may have stored it anew."""


@attrs.frozen
class Clear:
    """Remove everything, ghosts included. Result: how many entries there were."""


@attrs.frozen
class Touch:
    """Uses of entries since the last one, and what else was counted meanwhile. Result: None."""

    touches: Sequence[tuple[Key, int]]
    counts: dict[str, float]


@attrs.frozen
class Tag:
    """Have a namespace hold an entry. Result: whether it does; False if there is no such entry."""

    key: Key
    namespace: str


@attrs.frozen
class Untag:
    """Have a namespace, and all below it, hold nothing, and remove what nobody else holds.

    Result: how many entries were removed.
    """

    namespace: str


@attrs.frozen
class Holding:
    """What a namespace holds in one cache: how many entries, and their size."""

    entries: int = 0
    size_bytes: int = 0


@attrs.frozen
class NamespaceSize:
    """What a namespace holds in each cache."""

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
    """An entry from elsewhere, without its answer. `size_bytes` is what it takes of a budget here.

    `standing` is how many touches' worth it was above the other cache's tide.
    """

    key: Key
    size_bytes: int
    cost_s: float
    touches: int
    standing: float
    created_s: float
    used_s: float
    namespaces: tuple[str, ...] = ()
    """These held it there, and hold it here from now on; `size_bytes` is with their tags."""


@attrs.frozen
class Merge:
    """Take over entries from elsewhere, all in this transaction. Result: `Merged`.

    `values` gives the checksum, the values and the request of an entry's row; it is called on the
    writer's thread. What it raises must be no `sqlite3.Error`, which would be taken for this
    store's own.
    """

    entries: Sequence[Incoming]
    values: Callable[[Key], tuple[Any, ...]]


@attrs.frozen(kw_only=True)
class Merged:
    """What became of the entries of an import, for one cache.

    Of `entries`, `known` were here already, `added` are here now, `declined` are worth less than
    what fills the cache, and `oversized` are larger than all of it. `evicted` others went for them.
    """

    entries: int
    added: int
    known: int
    declined: int
    oversized: int
    evicted: int


@attrs.frozen(kw_only=True)
class Exported:
    """What was written: how many entries of each cache, and the size of the file."""

    path: Path
    generation: int
    embedding: int
    size_bytes: int


Operation: TypeAlias = Put[A] | Delete | Clear | Touch | Tag | Untag | Merge


@attrs.define
class Outcome:
    """What one commit did.

    `removals` counts, over all processes and for ever, entries that went. `before` is its value
    when the transaction began: another process removed something if it is not what was last seen.
    """

    results: list[Any]
    gone: set[Key] = attrs.field(factory=set)
    stored: set[Key] = attrs.field(factory=set)
    evictions: int = 0
    before: int = 0
    removals: int = 0


@attrs.frozen
class Reading(Generic[A]):
    """A point read: the answer if it is there and sound. A damaged one is to be deleted."""

    answer: A | None
    damaged: bool
    removals: int


class OversizedError(ValueError):
    """An entry larger than the whole budget. Never leaves the cache."""


class Store(Protocol[A]):
    """Remembers answers beyond this process. One event loop uses it; see `SqliteStore`.

    Whatever reads raises `StoreError` if the store cannot be read.
    """

    async def open(self) -> None: ...

    async def aclose(self) -> None: ...

    def submit(self, operation: Operation[A]) -> asyncio.Future[Any]:
        """Queue an operation for the next commit; the future resolves when it is committed.

        Cancelling the future does not take the operation back.
        """
        ...

    async def read(self, key: Key) -> Reading[A]: ...

    async def contains(self, key: Key) -> bool: ...

    async def keys(self) -> list[Key]: ...

    async def entries(
        self, limit: int, order_by: Order, namespace: str | None = None
    ) -> list[Entry]: ...

    async def tagged(self, key: Key, namespace: str) -> bool:
        """Whether this very namespace holds the entry."""
        ...

    async def holding(self, path: str) -> Holding:
        """What the namespace and all below it hold, each entry counted once."""
        ...

    async def holdings(self) -> dict[str, Holding]:
        """What each namespace holds itself."""
        ...

    async def request(self, key: Key) -> Request | None:
        """The request that the entry keeps, if it is there and leads to its key."""
        ...

    async def missing(self, keys: Sequence[Key]) -> tuple[int, list[Key]]:
        """The count of removals, and which of these keys are not in the store."""
        ...

    async def removals(self) -> int: ...

    async def totals(self) -> dict[str, Any]:
        """The row of counters and of the policy's state."""
        ...

    async def run(self, fn: Callable[[], T], /) -> T:
        """A quick blocking function on the thread that reads, also if cancelled."""
        ...


Committed: TypeAlias = Callable[[Sequence[Any], Outcome], None]
"""Called on the loop after each commit, before any caller is answered: (operations, outcome)."""


class NullStore(Generic[A]):
    """Remembers nothing; stands in for the store when the cache is disabled."""

    async def open(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def submit(self, operation: Operation[A]) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        future.set_result(0 if isinstance(operation, Clear | Untag) else None)
        return future

    async def read(self, key: Key) -> Reading[A]:
        return Reading(None, False, 0)

    async def contains(self, key: Key) -> bool:
        return False

    async def keys(self) -> list[Key]:
        return []

    async def entries(
        self, limit: int, order_by: Order, namespace: str | None = None
    ) -> list[Entry]:
        return []

    async def tagged(self, key: Key, namespace: str) -> bool:
        return False

    async def holding(self, path: str) -> Holding:
        return Holding()

    async def holdings(self) -> dict[str, Holding]:
        return {}

    async def request(self, key: Key) -> Request | None:
        return None

    async def missing(self, keys: Sequence[Key]) -> tuple[int, list[Key]]:
        return 0, list(keys)

    async def removals(self) -> int:
        return 0

    async def totals(self) -> dict[str, Any]:
        return {}

    async def run(self, fn: Callable[[], T], /) -> T:
        return fn()
