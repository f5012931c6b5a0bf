"""The server of HTTP: from listening to the last reply."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from asteady.server._process.connection import Connection, Connections
from asteady.server._process.listening import Listener
from asteady.server._process.timeouts import Timeouts

_log = logging.getLogger("asteady")

# How long replies may take that say that there will be no answer.
_LAST_REPLIES_S = 2.0


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, which is faster, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class _Uvicorn(uvicorn.Server):
    """Without its handling of signals, which ends the process by the signal."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class HttpServer:
    """Serves an application, from `start` to `drain`, in tasks of its own."""

    def __init__(self, app: ASGIApp, timeouts: Timeouts) -> None:
        self._connections = Connections(timeouts)
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                app,
                http=cast("type[asyncio.Protocol]", partial(Connection, self._connections)),
                ws="none",
                lifespan="off",
                interface="asgi3",
                proxy_headers=False,
                server_header=False,
                access_log=False,
                log_config=None,
                timeout_keep_alive=timeouts.idle_s,
            )
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, listeners: Sequence[Listener]) -> None:
        """Returns when requests are answered."""
        sockets = [listener.socket for listener in listeners]
        self._tasks = [
            asyncio.create_task(self._uvicorn.serve(sockets)),
            asyncio.create_task(self._connections.watch()),
        ]
        await self._uvicorn.listening.wait()

    async def drain(self, grace_s: float, end: Callable[[], Awaitable[None]]) -> None:
        """Take no more requests, and return when those in progress are answered.

        After `grace_s` seconds `end` is called, which ends what they wait for, so that their
        clients are told; who does not take that is cut off.
        """
        self._uvicorn.should_exit = True
        if not await self._ended(grace_s):
            waiting = sum(connection.waits_for_answer for connection in self._connections)
            if waiting:
                _log.warning(
                    "%d connections still wait for answers after %g s, and are told that there will"
                    " be none",
                    waiting,
                    grace_s,
                )
            await end()
            if not await self._ended(_LAST_REPLIES_S):
                self._connections.abort()
                await self._ended(_LAST_REPLIES_S)
        for task in self._tasks:
            task.cancel()

    async def _ended(self, limit_s: float) -> bool:
        done, _ = await asyncio.wait(self._tasks[:1], timeout=limit_s)
        return bool(done)
