"""An app behind a real server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn


class _Server(uvicorn.Server):
    started_or_failed: asyncio.Event

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Ctrl-C is pytest's.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.started_or_failed.set()


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of the loopback interface for a server in another process; within the block nobody
    else is given it. The server must set SO_REUSEADDR, as most do."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@asynccontextmanager
async def serving(app: Any, *, port: int = 0, **options: Any) -> AsyncIterator[str]:
    """The app behind uvicorn on the loopback interface, in this event loop; yields its address."""
    # Without its protocol a socket gets no TCP_NODELAY, and each answer takes 40 ms more.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        # For a port that was used a moment ago.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        server = _Server(uvicorn.Config(app, log_config=None, log_level="warning", **options))
        server.started_or_failed = asyncio.Event()
        running = asyncio.create_task(server.serve([listening]))
        await server.started_or_failed.wait()
        assert server.started
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await running
