"""A namespace of a session, without await."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from asteady._base.requests import Kind, namespace_path
from asteady.blocking._calls import Calls, WholeCalls
from asteady.blocking._portal import Portal

if TYPE_CHECKING:
    from asteady._cache.store.api import Entry, Order
    from asteady._session.namespace import Namespace as AsyncioNamespace
    from asteady._session.namespace import NamespaceStatistics
    from asteady._session.warm import WarmOptions, WarmReport


class Namespace(Calls):
    """A session's calls, whose entries this namespace holds; see `asteady.operate.Namespace`.

    Usable as long as the session is, by any thread.
    """

    def __init__(self, calls: WholeCalls, path: str) -> None:
        self.path = namespace_path(path)
        self._calls = calls

    def __repr__(self) -> str:
        return f"<blocking Namespace {self.path}>"

    def namespace(self, path: str) -> Namespace:
        """The one at this path below."""
        return Namespace(self._calls, f"{self.path}/{namespace_path(path)}")

    def preload(
        self, items: Iterable[Mapping[str, Any] | str], **options: Unpack[WarmOptions]
    ) -> WarmReport:
        """`warm`, with items as ``{"subcategory", "prompt", "seed", "kwargs"}``."""

        async def asked() -> WarmReport:
            return await (await self._session()).preload(items, **options)

        return self._portal().call(asked)

    def statistics(self) -> NamespaceStatistics:
        """What it holds, with all below it, and how the calls under it did."""

        async def asked() -> NamespaceStatistics:
            return await (await self._session()).statistics()

        return self._portal().call(asked)

    def entries(
        self, kind: Kind = "generation", *, limit: int = 100, order_by: Order = "priority"
    ) -> list[Entry]:
        """The first entries that it holds, or one below it; see `asteady.Cache.entries`."""

        async def asked() -> list[Entry]:
            return await (await self._session()).entries(kind, limit=limit, order_by=order_by)

        return self._portal().call(asked)

    def children(self) -> list[str]:
        """The paths directly below that hold something themselves or further below, sorted."""

        async def asked() -> list[str]:
            return await (await self._session()).children()

        return self._portal().call(asked)

    def clear(self, path: str | None = None) -> int:
        """Remove what no other namespace holds; see `asteady.operate.Namespace.clear`."""

        async def asked() -> int:
            return await (await self._session()).clear(path)

        return self._portal().call(asked)

    def _portal(self) -> Portal:
        return self._calls._portal()

    async def _session(self) -> AsyncioNamespace:
        session = await self._calls._session()
        whole = self._calls._recaller
        assert whole is not None
        recaller = self._recaller
        if recaller is None or recaller.session is not whole.session:
            self._namespace = session.namespace(self.path)
            self._recaller = whole.under(self._namespace)
        return self._namespace
