"""What stands in for a store until its cache is open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from asteady._base.errors import SessionNotOpenError
from asteady._base.requests import Key
from asteady._cache.store.api import Entry, Holding, Operation, Order, Reading, Store
from asteady._cache.store.stored_request import Request

A = TypeVar("A")
T = TypeVar("T")

Opener: TypeAlias = Callable[[], Awaitable[object]]
"""Opens the cache, by opening the session that it belongs to."""


class UnopenedStore(Generic[A]):
    """Opens the cache at the first use, if it was told how, and passes the call on.

    So the manager of a default session can be had before the session has been opened.

    Raises:
        SessionNotOpenError: by every method, without an opener.
    """

    def __init__(self, opened: Callable[[], Store[A]], opener: Opener | None) -> None:
        self._opened = opened
        self._opener = opener

    async def open(self) -> None:
        raise AssertionError("the cache puts its own store here when it opens")

    async def aclose(self) -> None:
        pass

    def submit(self, operation: Operation[A]) -> asyncio.Future[Any]:
        async def submitted() -> Any:
            return await (await self._store()).submit(operation)

        return asyncio.ensure_future(submitted())

    async def read(self, key: Key) -> Reading[A]:
        return await (await self._store()).read(key)

    async def contains(self, key: Key) -> bool:
        return await (await self._store()).contains(key)

    async def keys(self) -> list[Key]:
        return await (await self._store()).keys()

    async def entries(
        self, limit: int, order_by: Order, namespace: str | None = None
    ) -> list[Entry]:
        return await (await self._store()).entries(limit, order_by, namespace)

    async def tagged(self, key: Key, namespace: str) -> bool:
        return await (await self._store()).tagged(key, namespace)

    async def holding(self, path: str) -> Holding:
        return await (await self._store()).holding(path)

    async def holdings(self) -> dict[str, Holding]:
        return await (await self._store()).holdings()

    async def request(self, key: Key) -> Request | None:
        return await (await self._store()).request(key)

    async def missing(self, keys: Sequence[Key]) -> tuple[int, list[Key]]:
        return await (await self._store()).missing(keys)

    async def removals(self) -> int:
        return await (await self._store()).removals()

    async def totals(self) -> dict[str, Any]:
        return await (await self._store()).totals()

    async def run(self, fn: Callable[[], T], /) -> T:
        return await (await self._store()).run(fn)

    async def _store(self) -> Store[A]:
        if self._opener is None:
            raise SessionNotOpenError(
                "the cache is not open yet: open the session first, with `async with Session() as"
                " session`, or await session.open()"
            )
        await self._opener()
        store = self._opened()
        if store is self:
            raise SessionNotOpenError("the cache is still opening")
        return store
