"""What a session consists of, and how it opens and closes."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import anyio
import attrs

from asteady._base.errors import (
    InvalidRequestError,
    SessionClosedError,
    SessionError,
    SessionNotOpenError,
)
from asteady._base.requests import Completion, Embedding
from asteady._base.settings import Settings
from asteady._session.flight import Flights
from asteady._session.lifetime import OwnedTasks, State
from asteady._session.models import Engines, EngineSource, GivenEngine, Kind, sources
from asteady._session.observe import Observers
from asteady._session.pipeline import Answering

if TYPE_CHECKING:
    from asteady._cache.unopened import Opener
    from asteady._engine.api import Engine
    from asteady._engine.pool import PoolStatistics
    from asteady._engine.prefix_cache import PrefixStatistics

logger = logging.getLogger("asteady")

# Time limits of the steps of closing, in seconds: a step that takes longer is left behind, logged.
_FLIGHTS_END_S = 10.0
_POOLS_END_S = 30.0
_CACHE_ENDS_S = 30.0


@attrs.frozen(kw_only=True)
class SessionStatistics:
    """What a session is doing now. `pools` and `prefixes` are by model, as "generation:builtin";
    `prefixes` is what `Session.prefix` has saved."""

    state: str
    flights: int
    pools: dict[str, PoolStatistics]
    prefixes: dict[str, PrefixStatistics]


class Core:
    """The parts of one session, from `open` to `aclose`.

    It does not know its `Session`, so that a session that is dropped without being closed can be
    collected, can warn, and is closed after all.
    """

    def __init__(self, settings: Settings, engine: Engine | None, opener: Opener | None) -> None:
        # Imported here: see asteady/__init__.py.
        from asteady._cache.manager import CacheManager

        self.settings = settings
        self.tasks = OwnedTasks()
        self.cache = CacheManager(settings, opener=opener)
        self.observers = Observers()
        self.flights = Flights(self.tasks.spawn)
        source: EngineSource = sources[-1](settings) if engine is None else GivenEngine(engine)
        self.engines = Engines(source, settings, self.flights)
        self.generation: Answering[Completion] = Answering(
            "generation", self.cache.generation, self.engines, self.flights, self.observers
        )
        self.embedding: Answering[Embedding] = Answering(
            "embedding", self.cache.embedding, self.engines, self.flights, self.observers
        )

    @property
    def state(self) -> State:
        return self.tasks.state

    async def open(self) -> None:
        """See `Session.open`."""
        if self.state is not State.UNOPENED:
            raise SessionError(
                f"the session is {self.state.value}, and opens only once; construct a new one"
            )
        try:
            self.tasks.start(self._teardown)
            await self.cache.open()
        except BaseException:
            await self.aclose()
            raise
        if not self.tasks.opened():
            await self.cache.aclose()
            raise SessionClosedError("the session was closed while it opened; open a new one")

    async def aclose(self) -> None:
        """See `Session.aclose`."""
        await self.tasks.stop()

    def check_open(self) -> None:
        if self.state is State.OPEN:
            if self.tasks.loop is not asyncio.get_running_loop():
                raise SessionError(
                    "the session belongs to another event loop, the one that opened it; open one"
                    " in each loop, or use asteady.blocking from threads"
                )
            return
        if self.state in (State.UNOPENED, State.OPENING):
            raise SessionNotOpenError(
                "the session is not open yet: use `async with Session() as session`, or await"
                " session.open()"
            )
        raise SessionClosedError("the session is closed; open a new one")

    def model(self, kind: Kind, model: str | None) -> str:
        """The reference that a call means: its own, or the session's for this kind."""
        if model is None:
            settings = self.settings
            return settings.generation_model if kind == "generation" else settings.embedding_model
        if not isinstance(model, str) or not model:
            raise InvalidRequestError(
                f'model={model!r} is not allowed: "builtin", the path of a .gguf file, or hf:...'
            )
        return model

    def statistics(self) -> SessionStatistics:
        return SessionStatistics(
            state=self.state.value,
            flights=len(self.flights),
            pools=self.engines.statistics(),
            prefixes=self.engines.prefixes(),
        )

    async def _teardown(self) -> None:
        await self.flights.close(_FLIGHTS_END_S)
        for name, limit_s, step in (
            ("workers", _POOLS_END_S, self.engines.aclose),
            ("cache", _CACHE_ENDS_S, self.cache.aclose),
        ):
            with anyio.move_on_after(limit_s) as scope:
                try:
                    await step()
                except Exception:
                    logger.exception("closing the %s failed", name)
            if scope.cancelled_caught:
                logger.error("closing the %s took more than %g s; left behind", name, limit_s)
