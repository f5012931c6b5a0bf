"""What holds a session's parts: how it is constructed, opened and closed, and what it tells."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from asteady._base.errors import InvalidRequestError, SettingsError
from asteady._base.settings import Settings
from asteady._session.core import Core, SessionStatistics
from asteady._session.lifetime import State
from asteady._session.models import Kind
from asteady._session.observe import Observer

if TYPE_CHECKING:
    from asteady._cache.unopened import Opener
    from asteady._engine.api import Engine


class SessionHandle:
    """Everything of a `Session` but what it is asked for; see there."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        engine: Engine | None = None,
        _opener: Opener | None = None,
        **arguments: Any,
    ) -> None:
        if settings is not None and arguments:
            raise SettingsError(
                f"give either settings=... or {', '.join(arguments)}, not both; "
                "attrs.evolve(settings, ...) changes single ones"
            )
        self.settings = settings or Settings.from_environment(**arguments)
        self._core = Core(self.settings, engine, _opener)
        self.cache = self._core.cache
        # A session that is opened on demand is closed with its loop, and nobody is warned of it.
        self._closes_with_loop = _opener is not None
        self._observers = self._core.observers
        self._generation = self._core.generation
        self._embedding = self._core.embedding
        # Bound once: the way of a warm hit is paid in tens of nanoseconds.
        self._recall_completion = self.cache.generation.recall
        self._recall_embedding = self.cache.embedding.recall

    async def open(self) -> Self:
        """Open the cache and be ready for requests. Loads no model yet.

        Raises:
            SessionError: the session was opened before.
            StoreError: the cache's directory or database cannot be used.
        """
        await self._core.open()
        return self

    async def aclose(self) -> None:
        """Stop taking requests, end the flights, join the workers, flush and close the cache.

        Callers that still wait get `SessionClosedError`. Each step has a time limit. Closing
        twice is allowed. Cancelling does not cut it short.
        """
        await self._core.aclose()

    def abandon(self) -> None:
        """For a session whose loop is closed: nothing can be awaited there any more.

        Its threads are daemons, and end with the process.
        """
        self._core.tasks.stop_soon()

    @property
    def is_open(self) -> bool:
        return self._core.state is State.OPEN

    @property
    def is_closed(self) -> bool:
        return self._core.state is State.CLOSED

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        core: Core | None = getattr(self, "_core", None)
        if core is not None and core.tasks.left_open and not self._closes_with_loop:
            core.tasks.stop_soon()
            warnings.warn(
                f"{self!r} was never closed; use `async with`, or await aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def __repr__(self) -> str:
        now = self._core.statistics()
        models = ", ".join(now.pools) or "no model loaded"
        return f"<{type(self).__name__} {now.state}: {now.flights} flights, {models}>"

    async def load(self, *kinds: Kind) -> None:
        """Load the models now rather than at the first request; both, or those of `kinds`.

        Raises:
            ModelError: a model cannot be had.
        """
        self._core.check_open()
        for kind in kinds or ("generation", "embedding"):
            if kind not in ("generation", "embedding"):
                raise InvalidRequestError(f'{kind!r} is not allowed: "generation" or "embedding"')
            await self._core.engines.pool(kind, self._core.model(kind, None))

    def statistics(self) -> SessionStatistics:
        """What the session is doing now; see `cache` for the statistics of the caches."""
        return self._core.statistics()

    def observe(
        self, observer: Observer, *, everywhere: bool = False
    ) -> AbstractContextManager[None]:
        """Have `observer` called with an `Observed` for each call that ends within the block.

        By default it sees the calls made in this context: in this task, and in tasks that are
        started within the block. With ``everywhere=True`` it sees all calls of the session. It is
        called on the event loop, so it should be quick. While anybody observes, a warm hit takes
        some microseconds more.
        """
        return self._core.observers.observe(observer, everywhere=everywhere)
