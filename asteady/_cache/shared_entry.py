"""What one computation does with the shared tier: look, lease, put."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Generic, TypeVar

from asteady._base.requests import Key
from asteady._base.tasks import unattended
from asteady._cache.counters import Counters
from asteady._cache.packed import pack, unpack
from asteady._cache.store.codec import Codec, DamagedError
from asteady._cache.tier import Lease, SharedTierError

if TYPE_CHECKING:
    from asteady._cache.redis import RedisTier

log = logging.getLogger("asteady")

A = TypeVar("A")
T = TypeVar("T")

# How often a machine that waits looks for itself: at first, and at last.
_LOOK_FIRST_S = 0.05
_LOOK_LAST_S = 1.0


class SharedEntry(Generic[A]):
    """One entry of the shared tier, for one computation of its answer. Nothing here raises.

    All that it asks of the server before there is an answer takes at most `timeout_s` together,
    the wait for another machine that computes the answer not counted.
    """

    def __init__(
        self,
        tier: RedisTier,
        name: str,
        key: Key,
        codec: Codec[A],
        counters: Counters,
        fits: Callable[[A], bool] | None,
    ) -> None:
        self._tier = tier
        self._name = name
        self._key = key
        self._codec = codec
        self._counters = counters
        self._fits = fits
        self._left_s = tier.timeout_s
        self._damaged: bytes | None = None
        self._putting: asyncio.Task[None] | None = None

    async def get(self) -> A | None:
        """The answer; counts a hit or a miss. A damaged value is a miss."""
        try:
            answer = await self._look()
        except SharedTierError:
            answer = None
        if answer is None:
            self._counters.shared_misses += 1
        else:
            self._counters.shared_hits += 1
        return answer

    @asynccontextmanager
    async def computing(self) -> AsyncIterator[A | None]:
        """Keep other machines from computing the answer meanwhile; yields it, if it is there now.

        A machine that has the lease is waited for; if it dies, the lease ends within `lease_s`.
        A failing server, or lease, keeps nobody from computing. The lease is given back in the
        background, when what was `put` is stored.
        """
        answer, lease, renewing = None, None, None
        try:
            with suppress(SharedTierError):
                answer, lease = await self._acquire()
            if lease is not None:
                renewing = unattended(asyncio.create_task(self._renew(lease), name="asteady lease"))
            yield answer
        finally:
            if renewing is not None:
                renewing.cancel()
            if lease is not None:
                self._tier.spawn(partial(self._hand_over, lease))

    def put(self, answer: A, cost_s: float, namespaces: tuple[str, ...]) -> None:
        """Have the answer stored in the background."""
        try:
            value = pack(self._codec, self._key, answer, cost_s)
        except ValueError as exc:
            self._counters.shared_errors += 1
            log.warning("an answer cannot be put into the shared cache: %s", exc)
        else:
            self._putting = self._tier.spawn(partial(self._put, value, namespaces))

    async def contains(self) -> bool:
        """Whether it is there; False if the tier fails."""
        with suppress(SharedTierError):
            return await self._tier.contains(self._name)
        return False

    def tag(self, namespaces: Collection[str]) -> None:
        """Tag it with namespaces, in the background, if it is there."""
        for path in namespaces:
            self._tier.spawn(partial(self._tag, path))

    async def _tag(self, path: str) -> None:
        with suppress(SharedTierError):
            await self._tier.tag(self._name, path)

    async def _acquire(self) -> tuple[A | None, Lease | None]:
        """The lease, and the answer if there is one by now; or only the answer.

        Raises:
            SharedTierError: there is neither.
        """
        lease = await self._ask(lambda limit_s: self._tier.lease(self._name, limit_s))
        if lease is None:
            return await self._wait()
        # Another machine may have stored it since the lookup.
        return await self._look_holding(lease), lease

    async def _wait(self) -> tuple[A | None, Lease | None]:
        """As `_acquire`, while another machine computes."""
        self._counters.coalesced_across_machines += 1
        look_s = _LOOK_FIRST_S
        async with self._tier.released(self._name) as released:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(look_s):
                        await released.wait()
                released.clear()
                look_s = min(2 * look_s, _LOOK_LAST_S)
                # Waiting was no delay of the server's.
                self._left_s = self._tier.timeout_s
                answer = await self._look()
                if answer is not None:
                    return answer, None
                lease = await self._ask(lambda limit_s: self._tier.lease(self._name, limit_s))
                if lease is not None:
                    return await self._look_holding(lease), lease

    async def _look_holding(self, lease: Lease) -> A | None:
        try:
            return await self._look()
        except SharedTierError:
            return None
        except BaseException:
            self._tier.spawn(partial(self._tier.release, lease))
            raise

    async def _look(self) -> A | None:
        value = await self._ask(lambda limit_s: self._tier.get(self._name, limit_s))
        if value is None:
            return None
        try:
            answer = unpack(self._codec, self._key, value)
            if self._fits is not None and not self._fits(answer):
                raise DamagedError(f"the value of {self._key} is of another size")
        except DamagedError as exc:
            # It is replaced by the answer that is computed now; until then it is seen again.
            if value != self._damaged:
                self._damaged = value
                self._counters.damaged += 1
                log.error("a value in the shared cache is damaged: %s", exc)
            return None
        return answer

    async def _ask(self, command: Callable[[float], Awaitable[T]]) -> T:
        """The result of a command, in the time that is left for them.

        Raises:
            SharedTierError: it failed, or no time is left.
        """
        began_s = perf_counter()
        try:
            if self._left_s <= 0:
                raise SharedTierError("the shared cache has taken all the time that it may take")
            return await command(self._left_s)
        except SharedTierError:
            self._counters.shared_errors += 1
            raise
        finally:
            self._left_s -= perf_counter() - began_s

    async def _renew(self, lease: Lease) -> None:
        renewed = True
        while renewed:
            await asyncio.sleep(self._tier.lease_s / 3)
            try:
                renewed = await self._tier.renew(lease)
            except SharedTierError:
                # The server may be back before the lease ends.
                self._counters.shared_errors += 1

    async def _put(self, value: bytes, namespaces: tuple[str, ...]) -> None:
        try:
            await self._tier.put(self._name, value, namespaces)
        except SharedTierError:
            self._counters.shared_errors += 1

    async def _hand_over(self, lease: Lease) -> None:
        if self._putting is not None:
            await asyncio.wait([self._putting])
        await self._tier.release(lease)
