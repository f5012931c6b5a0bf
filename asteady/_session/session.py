"""The session: owns the models, the workers, the flights and the cache, from open to close."""

from __future__ import annotations

import asyncio
import inspect
import logging
import warnings
from contextlib import AbstractContextManager
from functools import partial
from typing import Self, Unpack

import attrs

from asteady._base.activity import Activity
from asteady._base.errors import (
    InvalidRequestError,
    SessionClosedError,
    SessionError,
    SettingsError,
)
from asteady._base.files import AnyPath
from asteady._base.options import SettingsOptions, shows_options_of
from asteady._base.public import public
from asteady._base.records import Record
from asteady._base.requests import KINDS, Kind
from asteady._base.settings import Settings
from asteady._base.validation import flag, one_of
from asteady._cache.cache import Opener
from asteady._cache.manager import CacheManager
from asteady._engine.api import Engine, MachineStatistics, PrefixStatistics
from asteady._engine.pool import PoolStatistics
from asteady._session.calls import Calls
from asteady._session.flight import Flights, FlightStatistics
from asteady._session.lifetime import OwnedTasks, State
from asteady._session.models import Models, engine_source
from asteady._session.namespace import Namespace
from asteady._session.observe import Observer, Observers
from asteady._session.pipeline import CallContext, Pipeline

logger = logging.getLogger("asteady")

# Time limits of the steps of closing, in seconds: a step that takes longer is left behind, logged.
_FLIGHTS_END_S = 10.0
_POOLS_END_S = 30.0
_CACHE_ENDS_S = 30.0


@public
@attrs.frozen(kw_only=True)
class SessionStatistics(Record):
    """What a session is doing now.

    `flights` is the number of computations in progress. `pools` and `prefixes` are by model, as
    "generation:builtin". `pools` count the tokens of prompts that were reused of earlier ones;
    `prefixes` is what `Session.prefix` has saved. `activities` are what requests wait for just now,
    as loading a model: for a progress bar, or the page that says whether an application is ready.
    `machine` is what the models share, None before the first one is loaded, and for engines of
    others.
    """

    state: str
    flights: int
    pools: dict[str, PoolStatistics]
    prefixes: dict[str, PrefixStatistics]
    activities: tuple[Activity, ...]
    machine: MachineStatistics | None


@public
class Session(Calls):
    """Generates and embeds; owns the models, the workers, the flights and the cache.

    Open it with ``async with``, or with `open` and `aclose`, also from two different tasks (an
    ASGI lifespan, a fixture). It opens only once. Models are loaded when they are first needed, or
    by `load`.

    It belongs to the event loop that opened it: on another one, whatever is awaited raises
    `SessionError`, but for `aclose`. `statistics` and the properties may be read on any thread.

    Args:
        settings: all settings; without it they come from the arguments, then from the
            ``ASTEADY_*`` variables, then from the defaults.
        engine: serves every request in place of llama.cpp, for tests.
        arguments: single settings, named as the fields of `Settings`, and `profile`.

    Raises:
        SettingsError: a setting is not allowed.
    """

    @shows_options_of(
        Settings, inspect.Parameter("profile", inspect.Parameter.KEYWORD_ONLY, default=None)
    )
    def __init__(
        self,
        settings: Settings | None = None,
        *,
        engine: Engine | None = None,
        **arguments: Unpack[SettingsOptions],
    ) -> None:
        if settings is not None and arguments:
            raise SettingsError(
                f"give either settings=... or {', '.join(arguments)}, not both; "
                "attrs.evolve(settings, ...) changes single ones"
            )
        self._set_up(settings or Settings.from_environment(**arguments), engine, None)

    def _set_up(self, settings: Settings, engine: Engine | None, opener: Opener | None) -> None:
        self.settings = settings
        self.cache = cache = CacheManager(settings, opener=opener)
        self._tasks = tasks = OwnedTasks()
        self._flights = flights = Flights(tasks.spawn)

        def switched(kind: Kind, before: str, now: str) -> None:
            cached = cache.generation if kind == "generation" else cache.embedding
            cached.memory.switch(before, now)

        self._models = models = Models(engine_source(settings, engine), settings, flights, switched)
        # A session that is opened on demand is closed with its loop, without a warning.
        self._warns = opener is None
        observers = Observers()
        pipeline = partial(
            Pipeline,
            models=models,
            flights=flights,
            observers=observers,
            any_cpu=settings.shared_cache_any_cpu,
        )
        super().__init__(
            CallContext(
                settings=settings,
                cache=cache,
                models=models,
                flights=flights,
                generation=pipeline("generation", cache.generation),
                embedding=pipeline("embedding", cache.embedding),
                observers=observers,
                tasks=tasks,
            )
        )

    @classmethod
    def opened_by(cls, opener: Opener) -> Session:
        """A default session: settings from the environment; using its cache calls `opener`."""
        session = cls.__new__(cls)
        session._set_up(Settings.from_environment(), None, opener)
        return session

    async def open(self) -> Self:
        """Open the cache and be ready for requests. Loads no model yet.

        Raises:
            SessionError: the session was opened before.
            StoreError: a database in the cache's directory is another application's, or a newer
                version's. One that cannot be opened is opened later, in the background.
        """
        if self._tasks.state is not State.UNOPENED:
            raise SessionError(
                f"the session is {self.state}, and opens only once; construct a new one"
            )
        try:
            # Not a method: the tasks must not keep a session alive that was dropped.
            parts = (self._models, self.cache)
            self._tasks.start(
                partial(_tear_down, self._flights, *parts), partial(_tear_down_elsewhere, *parts)
            )
            await self.cache.open()
        except BaseException:
            await self.aclose()
            raise
        if not self._tasks.opened():
            await self.cache.aclose()
            raise SessionClosedError("the session was closed while it opened; open a new one")
        return self

    async def aclose(self) -> None:
        """Stop taking requests, end the flights, join the workers, flush and close the cache.

        Callers that still wait get `SessionClosedError`. Each step has a time limit. Closing
        twice is allowed. Cancelling does not cut it short.

        It may be called on any event loop. On another one than the session's it waits for that one
        to close the session; if that no longer runs, it ends the threads and frees the models
        itself. There cancelling stops waiting, and closing goes on.
        """
        await self._tasks.stop()

    def abandon(self) -> None:
        """Close soon, without waiting and without a warning; from any thread.

        For a session whose event loop is closed, where nothing can be awaited.
        """
        self._warns = False
        self._tasks.stop_soon()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        tasks: OwnedTasks | None = getattr(self, "_tasks", None)
        if tasks is not None and tasks.left_open and self._warns:
            tasks.stop_soon()
            # Without its repr, which needs locks of the pools: a thread that has one may be the one
            # that collects garbage.
            warnings.warn(
                "a session was never closed; use `async with`, or await aclose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def __repr__(self) -> str:
        now = self.statistics()
        models = ", ".join(now.pools) or "no model loaded"
        return f"<{type(self).__name__} {now.state}: {now.flights} flights, {models}>"

    @property
    def state(self) -> str:
        """ "unopened", "opening", "open", "closing" or "closed"."""
        return self._tasks.state.value

    @property
    def is_open(self) -> bool:
        return self._tasks.state is State.OPEN

    @property
    def is_closed(self) -> bool:
        return self._tasks.state is State.CLOSED

    def check_open(self) -> None:
        """Raise unless the session can be used here and now.

        Raises:
            SessionNotOpenError: it is not open yet.
            SessionClosedError: it is closed, or closing.
            SessionError: it is open on another event loop.
        """
        self._tasks.check_open()

    def namespace(self, path: str, *, isolated: bool = False) -> Namespace:
        """The same calls, with entries tagged by the namespace: ``namespace("emails/marketing")``.

        An answer is stored once, however many namespaces tag it. `Namespace` has what can be done
        with its entries together: statistics, listing, preloading, and clearing. See
        docs/operate/namespaces.md.

        With ``isolated=True`` the path is part of every key: nothing is shared with calls from
        elsewhere, so nobody can tell by the speed of an answer what was asked in the namespace.

        Raises:
            InvalidRequestError: `path` is not names with single slashes between them.
        """
        return Namespace(self, path, path if flag("isolated", isolated) else None)

    async def load(self, *kinds: Kind, model: AnyPath | None = None) -> None:
        """Load the models now rather than at the first request; both, or those of `kinds`.

        `model` is loaded in place of the session's: ``load("generation", model="smollm2")``.

        Raises:
            InvalidRequestError: a `model` without its kind.
            ModelError: a model is unavailable.
        """
        self.check_open()
        if model is not None and len(kinds) != 1:
            raise InvalidRequestError(
                f'load(model={model!r}) needs its kind: load("generation", model=...), or '
                '"embedding"'
            )
        for kind in kinds or KINDS:
            one_of("kind", kind, KINDS)
            await self._models.pool(kind, self._context.model(kind, model))

    async def unload(self, model: AnyPath | None = None) -> None:
        """Free the weights of a model now; without `model`, of all models that are loaded.

        What is being computed is finished first, and what is asked for meanwhile or later loads
        the model again. A model that is not loaded, or not yet, is left alone: wait for `load` to
        free one that is being loaded. The model is gone from ``statistics().pools``. Cancelling
        stops waiting; the model is freed all the same. See also the setting `idle_unload_s`.

        Raises:
            ModelNotFoundError: `model` is no known name, no file, and nothing that was loaded.
            SessionError: the session is not open, or was closed meanwhile.
        """
        self.check_open()
        if model is None:
            await self._models.unload(None)
        else:
            await self._models.unload({self._context.model(kind, model) for kind in KINDS})

    def statistics(self) -> SessionStatistics:
        """What the session is doing now; see `cache` for the statistics of the caches."""
        return SessionStatistics(
            state=self.state,
            flights=len(self._flights),
            pools=self._models.statistics(),
            prefixes=self._models.prefixes(),
            activities=self._models.activities.now(),
            machine=self._models.machine(),
        )

    def flights(self) -> tuple[FlightStatistics, ...]:
        """The answers that are being computed now, or looked up on disk; the oldest first.

        `SessionStatistics.flights` also counts what is done for no single call, as loading a model.
        """
        return self._flights.statistics()

    def observe(
        self, observer: Observer, *, everywhere: bool = False
    ) -> AbstractContextManager[None]:
        """Have `observer` called with an `Observed` for each call that ends within the block.

        By default it sees the calls made in this context: in this task, and in tasks that are
        started within the block. With ``everywhere=True`` it sees all calls of the session. It is
        called on the event loop, so it should be quick. While anybody observes, a warm hit takes
        some microseconds more.
        """
        return self._context.observers.observe(observer, everywhere=everywhere)


def _tear_down_elsewhere(models: Models, cache: CacheManager) -> None:
    """Free what can be freed without the session's event loop, which no longer runs."""
    cache.abandon()
    asyncio.run(models.aclose())


async def _tear_down(flights: Flights, models: Models, cache: CacheManager) -> None:
    if not await flights.close(_FLIGHTS_END_S):
        logger.error("ending the computations took more than %g s; left behind", _FLIGHTS_END_S)
    for name, limit_s, step in (
        ("workers", _POOLS_END_S, models.aclose),
        ("cache", _CACHE_ENDS_S, cache.aclose),
    ):
        try:
            async with asyncio.timeout(limit_s) as limit:
                await step()
        except Exception:
            if limit.expired():
                logger.error("closing the %s took more than %g s; left behind", name, limit_s)
            else:
                logger.exception("closing the %s failed", name)
