"""Event loops that only this package runs code on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

from asteady._base.tasks import run_in_daemon

T = TypeVar("T")


class PrivateLoop(asyncio.SelectorEventLoop):
    """An event loop of a thread of ours; asyncio's own, whatever the program has installed."""

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        """In a daemon thread: Python would wait at exit for those of asyncio's executor."""
        return await run_in_daemon(
            "asteady-resolve", lambda: socket.getaddrinfo(host, port, **options)
        )


def run_privately(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, on an event loop of its own; blocks."""
    loop = PrivateLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
