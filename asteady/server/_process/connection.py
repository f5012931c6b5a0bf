"""Connections that are cut when their client keeps the server waiting."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

from uvicorn import Config
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.server import ServerState

from asteady.server._openai.errors import ApiError
from asteady.server._process.timeouts import Timeouts

# How often connections are looked at.
_LOOK_S = 0.5
# Of what comes before a request is there: far more than a head, as a part of a body may come along.
_MOST_BYTES_AHEAD = 2**20


class Connection(asyncio.Protocol):
    """uvicorn's protocol, and until when its client has to do something."""

    def __init__(
        self,
        connections: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        make: Any = AutoHTTPProtocol
        self._inner: asyncio.Protocol = make(
            config=config,
            server_state=server_state,
            # The one way to a connection from a request.
            app_state={**app_state, "connection": self},
            _loop=_loop,
        )
        self._connections = connections
        self._timeouts = connections.timeouts
        self._time = asyncio.get_running_loop().time
        self._deadline: float | None = None
        self._requests = 0
        self._ahead_bytes = 0
        self._misses_body = False
        self._full = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none of this class
        self._connections.add(self)
        self._deadline = self._time() + self._timeouts.head_s
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if not (self._requests or self._misses_body):
            if self._deadline is None:
                self._deadline = self._time() + self._timeouts.head_s
            self._ahead_bytes += len(data)
            if self._ahead_bytes > _MOST_BYTES_AHEAD:  # httptools has no limit of its own
                self._transport.abort()
                return
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._full = True
        self._deadline = self._time() + self._timeouts.send_s
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._full = False
        self._deadline = None
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._inner.connection_lost(exc)

    def begin(self, has_body: bool) -> None:
        """A request's head is there."""
        self._requests += 1
        self._ahead_bytes = 0
        self._misses_body = has_body
        self._deadline = self._time() + self._timeouts.body_s if has_body else None

    def has_body(self) -> None:
        """A request's body is there, too."""
        self._misses_body = False
        if not self._full:
            self._deadline = None

    def end(self) -> None:
        """A request is answered. The next one may have begun before.

        The rest of a body that was not read is discarded, in the time that it has: a client that
        is refused would not see the answer if it could not send all of it.
        """
        self._requests -= 1

    @property
    def waits_for_answer(self) -> bool:
        return self._requests > 0

    def cut_if_late(self, now: float) -> None:
        if self._deadline is None or now < self._deadline:
            return
        if self._requests and not self._full and not self._transport.is_closing():
            # Of its body some is missing, so it has not been answered yet.
            self._transport.write(_too_slow(self._timeouts.body_s))
            self._transport.close()
        else:
            self._transport.abort()

    def abort(self) -> None:
        self._transport.abort()


class Connections(set[Connection]):
    """All that are open."""

    def __init__(self, timeouts: Timeouts) -> None:
        super().__init__()
        self.timeouts = timeouts

    def abort(self) -> None:
        """Cut all of them."""
        for connection in tuple(self):
            connection.abort()

    async def watch(self) -> None:
        """Cut those that are late; until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_S)
            now = loop.time()
            for connection in tuple(self):
                connection.cut_if_late(now)


def _too_slow(limit_s: float) -> bytes:
    error = ApiError(
        f"the body did not come within {limit_s:g} s", status=408, code="request_timeout"
    )
    body = json.dumps({"error": error.body}).encode()
    return (
        b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\n"
        b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )
