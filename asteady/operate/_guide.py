"""The classes and functions of the caching guide: warmers, and categories as namespaces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

from asteady._base.files import AnyPath
from asteady._base.options import check_options, shows_options_of
from asteady._base.public import public
from asteady._base.requests import DEFAULT_SEED, GenerateRequest
from asteady._base.validation import check_list, one_of, seconds, whole_number
from asteady._cache.store.api import NamespaceSize
from asteady._session.namespace import Namespace, NamespaceStatistics, prompts_of
from asteady._session.pipeline import CacheMode
from asteady._session.session import Session
from asteady._session.warm import (
    PRIORITIES,
    Priority,
    WarmerOptions,
    WarmOptions,
    WarmPrompt,
    WarmReport,
    WarmSource,
    warm,
)
from asteady.operate._resolve_session import opened_session

# The guide's default; that of `generate` and `Session.warm` is 512.
_MAX_NEW_TOKENS = 100
_NOT_OPTIONS = {"seed", "budget_s"}


@public
@shows_options_of(warm)
async def warm_cache_sequential(
    prompts: WarmSource,
    seeds: Sequence[int] | None = None,
    *,
    session: Session | None = None,
    **options: Unpack[WarmerOptions],
) -> WarmReport:
    """`Session.warm`, one prompt after the other, with ``max_new_tokens=100``.

    Without a session: the running loop's default one. Raises as `Session.warm`.
    """
    return await _warm(session, "warm_cache_sequential", prompts, seeds, 1, options)


@public
@shows_options_of(warm)
async def warm_cache_parallel(
    prompts: WarmSource,
    seeds: Sequence[int] | None = None,
    max_workers: int = 4,
    *,
    session: Session | None = None,
    **options: Unpack[WarmerOptions],
) -> WarmReport:
    """`Session.warm`, `max_workers` prompts at once, with ``max_new_tokens=100``."""
    whole_number("max_workers", max_workers, 1)
    return await _warm(session, "warm_cache_parallel", prompts, seeds, max_workers, options)


async def _warm(
    session: Session | None,
    call: str,
    prompts: WarmSource,
    seeds: Sequence[int] | None,
    concurrency: int,
    options: WarmerOptions,
) -> WarmReport:
    check_options(call, options, WarmerOptions.__annotations__.keys() - {"seed"})
    merged: dict[str, Any] = {"max_new_tokens": _MAX_NEW_TOKENS, **options}
    merged |= {"seeds": seeds, "concurrency": concurrency}
    return await (await opened_session(session)).warm(prompts, **merged)


@public
class StrategicCacheWarmer:
    """Collects prompts by priority, and warms the high ones first. Needs no closing."""

    def __init__(self, session: Session | None = None) -> None:
        self._given = session
        self.priority_prompts: dict[Priority, list[WarmPrompt]] = {
            priority: [] for priority in PRIORITIES
        }

    def __repr__(self) -> str:
        waiting = ", ".join(f"{len(p)} {name}" for name, p in self.priority_prompts.items())
        return f"<StrategicCacheWarmer: {waiting}>"

    def add_prompts(self, prompts: Iterable[WarmPrompt], priority: Priority = "medium") -> None:
        """Add prompts to one priority: "high", "medium" or "low".

        Raises:
            InvalidRequestError: there is no such priority, or `prompts` is no list of them.
        """
        check_list("prompts", prompts, "prompts")
        one_of("priority", priority, PRIORITIES)
        self.priority_prompts[priority].extend(prompts)

    @shows_options_of(warm)
    async def warm_cache(
        self, available_time: float | None = 30.0, **options: Unpack[WarmOptions]
    ) -> WarmReport:
        """Warm as much as `available_time` seconds allow; None is no limit.

        No medium prompt begins before the high ones have ended, and no low one before the medium
        ones. Cached prompts are skipped, so a second call continues where the first one stopped.

        Raises:
            InvalidRequestError: an argument is not allowed.
        """
        if available_time is not None:
            seconds("available_time", available_time)
        check_options("warm_cache", options, WarmOptions.__annotations__.keys() - _NOT_OPTIONS)
        prompts: list[WarmPrompt] = []
        for priority, given in self.priority_prompts.items():
            prompts += [
                {"prompt": prompt, "priority": priority}
                if isinstance(prompt, str)
                else {**prompt, "priority": priority}
                for prompt in given
            ]
        merged: dict[str, Any] = {"max_new_tokens": _MAX_NEW_TOKENS, **options}
        merged["budget_s"] = available_time
        return await (await opened_session(self._given)).warm(prompts, **merged)


@public
class HierarchicalCache:
    """Categories of entries, as namespaces of a session; default: the loop's default session.

    All share one cache: ``session.namespace("emails/marketing")`` is the shorter way to write the
    same. Needs no closing.
    """

    def __init__(self, session: Session | None = None) -> None:
        self._given = session

    def __repr__(self) -> str:
        return f"<HierarchicalCache of {self._given or 'the default session'!s}>"

    async def namespace(self, path: str) -> Namespace:
        """`Session.namespace`."""
        return (await opened_session(self._given)).namespace(path)

    @shows_options_of(GenerateRequest.of)
    async def get_or_generate(
        self,
        category: str,
        subcategory: str,
        prompt: str | None = None,
        seed: int = DEFAULT_SEED,
        *,
        model: AnyPath | None = None,
        cache: CacheMode = "use",
        **options: Any,
    ) -> str:
        """`Session.generate` under the namespace ``category/subcategory``; options as there."""
        namespace = await self.namespace(f"{category}/{subcategory}")
        options["seed"] = seed
        text: str = await namespace.generate(prompt, model=model, cache=cache, **options)
        return text

    @shows_options_of(warm)
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
        """The size of each namespace itself; see `CacheManager.namespaces`."""
        return await (await opened_session(self._given)).cache.namespaces(below)
