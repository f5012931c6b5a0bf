"""Namespaces as one process knows them: which of them hold what is in memory, and what was asked.

That a namespace holds an entry is written once. From then on the memory tier knows it, and a hit
under the namespace looks in the same dictionary as any other. What is known is forgotten when
something was removed by another process, for that may have been a namespace's hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakValueDictionary

import attrs

from asteady._base.errors import StoreError
from asteady._base.requests import Key
from asteady._base.tasks import unattended
from asteady._cache.store.api import Tag, Untag

if TYPE_CHECKING:
    from asteady._cache.cache import Cache
    from asteady._cache.memory import Held

A = TypeVar("A", bound=Any)

# Known in memory for one entry, so that a loop that makes up new namespaces does not fill it; the
# others are read from the store.
TAGS_PER_ENTRY = 8
# Namespaces that are counted though nobody has them at hand; those asked for longest ago go first.
COUNTED = 10_000


def is_below(namespace: str, path: str) -> bool:
    """Whether `namespace` is `path` or below it, by whole names: "emails-old" is not "emails"."""
    return namespace == path or namespace.startswith(path + "/")


@attrs.define
class Asked:
    """What was asked under one namespace; each call is counted once: hit, miss or coalesced."""

    hits: int = 0
    misses: int = 0
    coalesced: int = 0


class Namespaces(Generic[A]):
    """The namespaces of one cache; lives as long as that."""

    def __init__(self, cache: Cache[A]) -> None:
        self._cache = cache
        self._asked: dict[str, Asked] = {}
        # Who has a namespace at hand goes on counting there, however many others came since.
        self._counted: MutableMapping[str, Asked] = WeakValueDictionary()
        self._holding: dict[tuple[Key, str], asyncio.Task[None]] = {}
        self._knows = False
        self._forgotten = 0

    def asked(self, namespace: str) -> Asked:
        """Where to count what is asked under this very namespace."""
        found = self._counted.get(namespace) or Asked()
        self._asked.pop(namespace, None)
        self._asked[namespace] = self._counted[namespace] = found
        if len(self._asked) > COUNTED:
            del self._asked[next(iter(self._asked))]
        return found

    def asked_below(self, path: str) -> Asked:
        """What was asked under this namespace and all below it."""
        below = [asked for name, asked in self._counted.items() if is_below(name, path)]
        return Asked(
            sum(asked.hits for asked in below),
            sum(asked.misses for asked in below),
            sum(asked.coalesced for asked in below),
        )

    async def hold(self, key: Key, namespace: str) -> None:
        """Have the namespace hold an entry, if it is there; returns when that is committed.

        Those who ask for the same at once share the look at the store, and the commit. A store that
        fails is logged and counted. Cancelling stops waiting; it is held all the same.
        """
        held = self._cache._keys.get(key)
        if held is not None and namespace in held.tags:
            return
        what = (key, namespace)
        task = self._holding.get(what)
        if task is None:
            task = unattended(
                asyncio.create_task(self._hold(key, namespace, held), name="asteady cache tag")
            )
            self._holding[what] = task
            task.add_done_callback(lambda task: self._landed(what, task))
        await asyncio.shield(task)

    def _landed(self, what: tuple[Key, str], task: asyncio.Task[None]) -> None:
        if self._holding.get(what) is task:
            del self._holding[what]

    async def _hold(self, key: Key, namespace: str, held: Held[A] | None) -> None:
        cache = self._cache
        what, forgotten = "read", self._forgotten
        try:
            # Most are held already, by an earlier process; reading costs a tenth of a commit.
            if await cache._store.tagged(key, namespace):
                # It may have been taken away since it was read.
                if held is not None and self._forgotten == forgotten:
                    self.know(held, namespace)
                return
            what = "write"
            await cache._store.submit(Tag(key, namespace))
        except StoreError as exc:
            cache._failed(what, exc)

    def committed(self, op: Tag | Untag, result: Any) -> None:
        """The store has done this operation."""
        if isinstance(op, Untag):
            self.forget()
            return
        held = self._cache._memory.by_key.get(op.key)
        if held is not None and result is True:
            self.know(held, op.namespace)

    def forget(self) -> None:
        """Somebody may have taken entries from namespaces: nothing is known any more."""
        self._forgotten += 1
        # What has looked already is of no use to those who ask from now on.
        self._holding.clear()
        if self._knows:
            self._knows = False
            for held in self._cache._memory.by_key.values():
                held.tags = ()

    def know(self, held: Held[A], *namespaces: str) -> None:
        """These are known to hold it, besides those that were known so far."""
        self._knows = True
        others = [path for path in held.tags if path not in namespaces]
        held.tags = (*others, *namespaces)[-TAGS_PER_ENTRY:]
