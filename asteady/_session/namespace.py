"""Namespaces: a session's calls for one purpose, and operations on their entries together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Unpack

import attrs

from asteady._base.errors import InvalidRequestError
from asteady._base.files import AnyPath
from asteady._base.options import shows_options_of
from asteady._base.public import public
from asteady._base.records import Record
from asteady._base.requests import KINDS, Kind, is_below, namespace_path
from asteady._base.validation import flag, one_of, refuse
from asteady._cache.counters import NamespaceLookups
from asteady._cache.store.api import Entry, Holding, Order
from asteady._session.calls import Calls
from asteady._session.generation import context_of
from asteady._session.pipeline import alias_of
from asteady._session.warm import WarmOptions, WarmReport, warm

# An alias with it equals none of a call from elsewhere, whatever the arguments of that call.
_ISOLATED = object()


@public
@attrs.frozen(kw_only=True)
class NamespaceCounts(Record):
    """A namespace in one cache, with all below it.

    `entries` and `size_bytes` are common to all processes; an entry with several namespaces counts
    in full in each of them. `hits`, `misses` and `coalesced` are calls under the namespace, in this
    session since it was opened.
    """

    entries: int
    size_bytes: int
    hits: int
    misses: int
    coalesced: int

    @property
    def hit_rate(self) -> float:
        """Hits of hits and misses, from 0 to 1."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0


@public
@attrs.frozen(kw_only=True)
class NamespaceStatistics(Record):
    """A namespace in both caches, with all below it."""

    path: str
    generation: NamespaceCounts
    embedding: NamespaceCounts

    @property
    def both(self) -> NamespaceCounts:
        """The sums over both caches."""
        one, other = attrs.asdict(self.generation), attrs.asdict(self.embedding)
        return NamespaceCounts(**{name: one[name] + other[name] for name in one})


@public
class Namespace(Calls):
    """A session's calls, with their entries tagged by this namespace; from `Session.namespace`.

    ::

        emails = session.namespace("emails/marketing")
        subject = await emails.generate("Write a subject line", seed=100)

    A call under it is the same request as without it, so there is one entry, and one computation,
    for all who ask. It costs nothing to construct, needs no closing, and can be used as long as its
    session is open. Two with one path are the same namespace.

    Calls in an isolated namespace, and in those made from it, are other requests than those from
    elsewhere: their answers are neither found nor shared outside. `isolation` is its path.
    """

    def __init__(self, session: Calls, path: str, isolation: str | None = None) -> None:
        self.path = namespace_path(path)
        self.isolation = isolation
        # Kept, so that a session that nobody else holds is not closed while this is in use.
        self._session = session
        context = attrs.evolve(context_of(session), namespace=self.path)
        if isolation is not None:

            def isolated_alias_of(
                subject: object, model: AnyPath | None, options: Mapping[str, Any]
            ) -> Hashable:
                return _ISOLATED, isolation, alias_of(subject, model, options)

            context = attrs.evolve(context, isolation=isolation, alias_of=isolated_alias_of)
        super().__init__(context)

    def __repr__(self) -> str:
        isolated = "" if self.isolation is None else f" (isolated in {self.isolation})"
        return f"<Namespace {self.path}{isolated} of {self._session!r}>"

    def namespace(self, path: str, *, isolated: bool = False) -> Namespace:
        """The one at this path below: ``session.namespace("emails").namespace("marketing")``.

        It is isolated as this one is; ``isolated=True`` isolates it by itself.

        Raises:
            InvalidRequestError: as `Session.namespace`.
        """
        path = f"{self.path}/{namespace_path(path)}"
        isolation = path if flag("isolated", isolated) else self.isolation
        return Namespace(self._session, path, isolation)

    @shows_options_of(warm)
    async def preload(
        self, items: Iterable[Mapping[str, Any] | str], **options: Unpack[WarmOptions]
    ) -> WarmReport:
        """`warm`, with items as ``{"subcategory", "prompt", "seed", "kwargs"}``.

        Only the prompt is needed. A subcategory is a path below this namespace; `kwargs` are
        options of `generate`. Whatever a prompt of `warm` may have is allowed too.

        Raises:
            InvalidRequestError: `items` is one str or no iterable.
            SessionError: the session is not open, or was closed meanwhile.
        """
        return await self.warm(prompts_of(items), **options)

    async def statistics(self) -> NamespaceStatistics:
        """What it holds, with all below it, and the outcomes of calls under it.

        Raises:
            SessionError: the session is not open yet, or is closed.
            StoreError: a database cannot be read.
        """
        self._context.tasks.check_open()
        cache = self._context.cache
        size = await cache.namespace_size(self.path)
        return NamespaceStatistics(
            path=self.path,
            generation=_counts(size.generation, cache.generation.namespace_lookups(self.path)),
            embedding=_counts(size.embedding, cache.embedding.namespace_lookups(self.path)),
        )

    async def entries(
        self, kind: Kind = "generation", *, limit: int = 100, order_by: Order = "priority"
    ) -> list[Entry]:
        """The first entries of it and of all below it; see `Cache.entries`.

        Raises:
            InvalidRequestError: `kind` is neither "generation" nor "embedding".
            ValueError: there is no such order.
            SessionError: the session is not open yet, or is closed.
            StoreError: the store cannot be read.
        """
        one_of("kind", kind, KINDS)
        self._context.tasks.check_open()
        cache = getattr(self._context.cache, kind)
        found: list[Entry] = await cache.entries(limit, order_by, namespace=self.path)
        return found

    async def children(self) -> list[str]:
        """The paths directly below with entries of their own or further below, sorted.

        Raises:
            SessionError: the session is not open yet, or is closed.
            StoreError: a database cannot be read.
        """
        self._context.tasks.check_open()
        depth = self.path.count("/") + 2
        paths = await self._context.cache.namespaces(self.path)
        below = {"/".join(path.split("/")[:depth]) for path in paths if path != self.path}
        return sorted(below)

    async def clear(self, path: str | None = None, *, shared: bool = True) -> int:
        """Remove this namespace and all below it from their entries, and the entries that have no
        other namespace, in every process's view within a second; returns the number removed.

        The entries of the shared tier are treated alike, and not counted, unless `shared` is False.

        Calls without a namespace do not keep an entry. `path` means another namespace, by its whole
        path, which lies above or below this one:
        ``session.namespace("emails/marketing").clear("emails")``.

        Raises:
            InvalidRequestError: `path` is not allowed.
            SessionError: the session is not open yet, or is closed.
            StoreError: a database cannot be written.
        """
        self._context.tasks.check_open()
        path = self.path if path is None else namespace_path(path)
        if not (is_below(path, self.path) or is_below(self.path, path)):
            raise InvalidRequestError(
                f"clear({path!r}) is not allowed: it is neither above nor below {self.path!r};"
                f" a whole path is needed, as {self.path + '/' + path!r}, or"
                f" session.namespace({path!r}).clear()"
            )
        return await self._context.cache.clear_namespace(path, shared=shared)


def prompts_of(items: object, default: str | None = None) -> Iterator[Any]:
    """The items as prompts for `warm`, which reports what is wrong with each of them."""
    if isinstance(items, str | Mapping) or not isinstance(items, Iterable):
        raise refuse("items", items, 'a list of {"subcategory", "prompt", "seed", "kwargs"}')
    return (_prompt(item, default) for item in items)


def _prompt(item: object, default: str | None) -> object:
    if isinstance(item, str):
        item = {"prompt": item}
    if not isinstance(item, Mapping):
        return item
    given = dict(item)
    below = given.pop("subcategory", default)
    options = given.pop("kwargs", {})
    if not isinstance(options, Mapping):
        return item  # refused, and named, by `warm`
    given = {**given, **options}
    return given if below is None else {**given, "namespace": below}


def _counts(holding: Holding, lookups: NamespaceLookups) -> NamespaceCounts:
    return NamespaceCounts(**attrs.asdict(holding), **attrs.asdict(lookups))
