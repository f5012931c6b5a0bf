"""The caching guide's categories and subcategories, as namespaces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from asteady._base.requests import DEFAULT_SEED
from asteady._cache.store.api import NamespaceSize
from asteady._session.namespace import Namespace, NamespaceStatistics, prompts_of
from asteady._session.pipeline import CacheMode
from asteady._session.session import Session
from asteady._session.warm import WarmOptions, WarmReport
from asteady.operate._which import opened_session


class HierarchicalCache:
    """Categories of entries, as namespaces of a session; default: the loop's default session.

    The caching guide's class, on the one cache there is: ``session.namespace("emails/marketing")``
    is the short way to say the same. It holds nothing that must be closed.
    """

    def __init__(self, session: Session | None = None) -> None:
        self._given = session

    def __repr__(self) -> str:
        return f"<HierarchicalCache of {self._given or 'the default session'!s}>"

    async def namespace(self, path: str) -> Namespace:
        """`Session.namespace`."""
        return (await opened_session(self._given)).namespace(path)

    async def get_or_generate(
        self,
        category: str,
        subcategory: str,
        prompt: str | None = None,
        seed: int = DEFAULT_SEED,
        *,
        model: str | None = None,
        cache: CacheMode = "use",
        **options: Any,
    ) -> str:
        """`Session.generate` under the namespace ``category/subcategory``; options as there."""
        namespace = await self.namespace(f"{category}/{subcategory}")
        return await namespace.generate(prompt, model=model, cache=cache, seed=seed, **options)

    async def preload_category(
        self,
        category: str,
        items: Iterable[Mapping[str, Any] | str],
        **options: Unpack[WarmOptions],
    ) -> WarmReport:
        """`Namespace.preload`; items without a subcategory go to "default"."""
        namespace = await self.namespace(category)
        return await namespace.warm(prompts_of(items, "default"), **options)

    async def clear_category(self, category: str) -> int:
        """`Namespace.clear`, of the category and all below it."""
        return await (await self.namespace(category)).clear()

    clear = clear_category

    async def statistics(self, category: str) -> NamespaceStatistics:
        """`Namespace.statistics`, of the category and all below it."""
        return await (await self.namespace(category)).statistics()

    async def namespaces(self, below: str | None = None) -> dict[str, NamespaceSize]:
        """What each namespace holds itself; see `CacheManager.namespaces`."""
        return await (await opened_session(self._given)).cache.namespaces(below)
