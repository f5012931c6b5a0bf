"""The shared tier of one cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from asteady._base.errors import StoreError
from asteady._base.requests import Key, Kind
from asteady._cache.counters import Counters
from asteady._cache.shared_entry import SharedEntry
from asteady._cache.store.codec import Codec
from asteady._cache.tier import SharedTierError

if TYPE_CHECKING:
    from asteady._cache.redis import RedisTier

A = TypeVar("A")


class SharedCache(Generic[A]):
    """The answers of one kind in the shared tier."""

    def __init__(self, tier: RedisTier, kind: Kind, codec: Codec[A], counters: Counters) -> None:
        self._tier = tier
        self._kind = kind
        self._codec = codec
        self._counters = counters

    def entry(
        self, key: Key, fingerprint: str, fits: Callable[[A], bool] | None = None
    ) -> SharedEntry[A]:
        """An entry, for one computation of its answer, which has to fit."""
        name = self._tier.name(self._kind, fingerprint, key)
        return SharedEntry(self._tier, name, key, self._codec, self._counters, fits)

    async def delete(self, key: Key) -> bool:
        """Remove the entry of this key, of whatever fingerprint.

        Raises:
            StoreError: the tier cannot be written.
        """
        with _removing():
            return await self._tier.delete(self._kind, key)

    async def clear(self) -> int:
        """Remove everything; returns the number.

        Raises:
            StoreError: the tier cannot be written.
        """
        with _removing():
            return await self._tier.clear(self._kind)

    async def clear_namespace(self, path: str) -> int:
        """As `CacheManager.clear_namespace`.

        Raises:
            StoreError: the tier cannot be written.
        """
        with _removing():
            return await self._tier.clear_namespace(self._kind, path)


@contextmanager
def _removing() -> Iterator[None]:
    try:
        yield
    except SharedTierError as exc:
        raise StoreError(
            f"{exc}; what is on this machine is removed, what is shared may be left"
        ) from exc
