"""The whole of the process: the session, the server, and the signals that end it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, suppress
from types import FrameType

from asteady._base.errors import SettingsError
from asteady._base.requests import Kind
from asteady._session.session import Session
from asteady.operate import PrometheusCollector
from asteady.server._process.app import Health, Served, build_app
from asteady.server._process.http_server import HttpServer
from asteady.server._process.listening import Listener
from asteady.server._process.timeouts import Timeouts

_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if sys.platform == "win32":
    _SIGNALS.append(signal.SIGBREAK)


async def run(
    session: Session,
    served: Served,
    listeners: Sequence[Listener],
    timeouts: Timeouts,
    *,
    preload: Sequence[tuple[Kind, str]],
    grace_s: float,
    listening: Callable[[], None],
    loading: AbstractAsyncContextManager[object],
    ready: Callable[[], None],
) -> None:
    """Serve until a signal ends it; what is in progress then has `grace_s` seconds.

    When requests and signals are taken, `listening` is called; then the models of `preload` are
    loaded, within `loading`, and `ready` is called.

    Raises:
        ModelError: a model cannot be loaded.
        SessionError, StoreError: the session cannot be opened.
    """
    async with AsyncExitStack() as stack:
        stopping = stack.enter_context(_stopped_by_signals(listeners))
        await stack.enter_async_context(session)
        collector: PrometheusCollector | None = None
        with suppress(SettingsError):  # prometheus-client is not there
            collector = await stack.enter_async_context(PrometheusCollector(session))
        health = Health(session)
        server = HttpServer(build_app(session, served, health, collector), timeouts)
        await server.start(listeners)
        try:
            listening()
            async with loading:
                health.ready = await _load(session, preload, stopping)
            if health.ready:
                ready()
                await stopping.wait()
        finally:
            await server.drain(grace_s if stopping.is_set() else 0.0, session.aclose)


async def _load(
    session: Session, models: Sequence[tuple[Kind, str]], stopping: asyncio.Event
) -> bool:
    """Load one after the other; False if the process is to end before."""

    async def load() -> None:
        for kind, model in models:
            await session.load(kind, model=model)

    loading, waiting = asyncio.create_task(load()), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((loading, waiting), return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return False
        loading.result()
        return True
    finally:
        loading.cancel()
        waiting.cancel()


@contextmanager
def _stopped_by_signals(listeners: Sequence[Listener]) -> Iterator[asyncio.Event]:
    """Within the block the first signal sets the event; the second one ends the process at once.

    What is stored survives that, as it survives a crash.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    signalled = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal signalled
        if signalled:
            for listener in listeners:
                listener.close()
            os._exit(128 + number)
        signalled = True
        loop.call_soon_threadsafe(stopping.set)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
