"""Clients that keep the server waiting are cut off; others are not."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import httpx
import pytest
from starlette.types import Receive, Scope, Send

from asteady.server._process.guard import Guard
from asteady.server._process.http_server import HttpServer
from asteady.server._process.listening import listen_tcp, listen_unix
from asteady.server._process.timeouts import Timeouts

pytestmark = pytest.mark.anyio

LONG = Timeouts(head_s=600, body_s=600, send_s=600, idle_s=600)
SOON_S = 0.1
POST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n"


class App:
    """Reads a body, and answers it with itself; `/held` waits for `go_on` before the end, and
    `/large` sends without end."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left.set()
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/held":
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            await self.go_on.wait()
        while scope["path"] == "/large" and not self.left.is_set():
            await send({"type": "http.response.body", "body": b"x" * 2**16, "more_body": True})
            watching = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            if watching.done():
                self.left.set()
            watching.cancel()
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(app: App, timeouts: Timeouts, unix: Path | None = None) -> AsyncIterator[int]:
    listeners = listen_tcp("127.0.0.1", 0) if unix is None else [listen_unix(str(unix))]
    guarded = Guard(app, keys=(), hosts=(), origins=(), max_streams=9)
    server = HttpServer(guarded, timeouts)
    await server.start(listeners)

    async def end() -> None:
        app.go_on.set()

    try:
        yield listeners[0].socket.getsockname()[1]
    finally:
        await server.drain(10, end)
        for listener in listeners:
            listener.close()


async def drip(port: int, beginning: bytes) -> bytes:
    """Send this and then a byte at a time, until it is cut off; returns what came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(beginning)
    answer = asyncio.create_task(read_all(reader))
    while not answer.done():
        writer.write(b"a")
        await asyncio.wait((answer,), timeout=SOON_S / 10)
    writer.close()
    return await answer


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """What comes before the end, which may be a reset."""
    found = b""
    with suppress(ConnectionError):
        while part := await reader.read(2**16):
            found += part
    return found


@pytest.mark.parametrize(
    "beginning", [b"GET /", b"GET / HTTP/1.1\r\nx-", b"GET / HTTP/1.1\r\nhost: "]
)
async def test_a_head_that_drips_is_cut(beginning: bytes) -> None:
    async with serving(App(), attrs.evolve(LONG, head_s=SOON_S)) as port:
        assert await drip(port, beginning) == b""


async def test_a_connection_that_says_nothing_is_cut() -> None:
    async with serving(App(), attrs.evolve(LONG, head_s=SOON_S)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await read_all(reader) == b""
        writer.close()


async def test_a_second_head_that_drips_is_cut() -> None:
    request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with serving(App(), attrs.evolve(LONG, head_s=SOON_S)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(request)
            assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200")
        answer = asyncio.create_task(read_all(reader))
        while not answer.done():
            writer.write(b"G")
            await asyncio.wait((answer,), timeout=SOON_S / 10)
        writer.close()
        assert b"200" not in await answer


async def test_a_body_that_drips_is_told_so_and_cut() -> None:
    app = App()
    async with serving(app, attrs.evolve(LONG, body_s=SOON_S)) as port:
        answer = await drip(port, POST)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert json.loads(body)["error"]["code"] == "request_timeout"
        await app.left.wait()


async def test_a_client_that_takes_no_data_is_cut(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("no unix sockets, whose buffers are small")
    app, path = App(), tmp_path / "x.sock"
    async with serving(app, attrs.evolve(LONG, send_s=SOON_S), path):
        _, writer = await asyncio.open_unix_connection(path, limit=1)
        writer.write(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await app.left.wait()
        writer.close()


async def test_an_idle_connection_is_closed() -> None:
    async with serving(App(), attrs.evolve(LONG, idle_s=0)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"200" in await read_all(reader)
        writer.close()


async def test_an_answer_may_take_longer_than_all_of_these() -> None:
    app = App()
    timeouts = Timeouts(head_s=SOON_S, body_s=SOON_S, send_s=SOON_S, idle_s=600)
    async with (
        serving(app, timeouts) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        async with client.stream("POST", "/held", content=b"whole") as reply:
            parts = reply.aiter_raw()
            begun = await anext(parts)
            # Others that begin later are cut meanwhile.
            await drip(port, POST)
            await drip(port, b"GET /")
            app.go_on.set()
            assert begun + b"".join([part async for part in parts]) == b"begunwhole"
        # And the connection can be used again.
        assert (await client.post("/", content=b"again")).text == "again"


async def test_a_head_without_end_is_cut() -> None:
    async with serving(App(), LONG) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = asyncio.create_task(read_all(reader))
        with suppress(ConnectionError):
            writer.write(b"GET / HTTP/1.1\r\n")
            while not answer.done():
                writer.write(b"x-more: " + b"a" * 2**14 + b"\r\n")
                await writer.drain()
        assert not (await answer).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_who_is_refused_can_send_all_and_read_why() -> None:
    app = App()
    async with (
        serving(app, LONG) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        evil = {"host": "evil.example"}
        for content in (b"x" * 2**24, _parts()):
            reply = await client.post("/", content=content, headers=evil)
            assert reply.status_code == 403
        assert (await client.post("/", content=b"again")).text == "again"


async def _parts() -> AsyncIterator[bytes]:
    for _ in range(2**8):
        yield b"x" * 2**16


async def test_more_addresses_of_a_host_have_one_port() -> None:
    listeners = listen_tcp("localhost", 0)
    try:
        assert len({listener.socket.getsockname()[1] for listener in listeners}) == 1
        assert all(listener.address.startswith("http://") for listener in listeners)
    finally:
        for listener in listeners:
            listener.close()
