"""A warm answer through HTTP, beside a bare route of Starlette in the same process.

The server has one core to itself, the clients another. What counts is the server's processor time
for each request: other programs on the machine lower the rate, and not that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

import asteady
from tests.benchmarks.harness import table

MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]
CHAT = {"model": "builtin", "messages": MESSAGES, "max_tokens": 32}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "a bare route of Starlette": ("/bare", CHAT),
    "/chat/completions": ("/v1/chat/completions", CHAT),
    "/chat/completions, streamed": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "/completions": ("/v1/completions", {"prompt": "The sky is", "max_tokens": 32}),
    "/responses": ("/v1/responses", {"input": "Why is the sky blue?", "max_output_tokens": 32}),
    "/embeddings, base64": ("/v1/embeddings", {"input": "sky", "encoding_format": "base64"}),
}


def serve(http: str) -> None:
    """The server's process. It prints its address, then the time that it used, when asked."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    async def bare(request: Request) -> Response:
        return JSONResponse({"choices": [(await request.json())["messages"][-1]]})

    async def used(request: Request) -> Response:
        return JSONResponse(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        session = asteady.Session(cache_dir=folder)

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            async with session:
                yield

        app = Starlette(
            routes=[
                Route("/bare", bare, methods=["POST"]),
                Route("/used", used),
                Mount("/v1", asteady.server.openai(session)),
            ],
            lifespan=lifespan,
        )
        uvicorn.run(app, port=int(sys.argv[-1]), http=http, access_log=False, log_level="warning")


class Client:
    """One connection, without a library: the clients must not be what takes the time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        assert lines[0].split()[1] == b"200", lines
        for line in lines:
            if line.startswith(b"content-length:"):
                return await self._reader.readexactly(int(line.split(b":")[1]))
        chunks = b""
        while size := int(await self._reader.readline(), 16):
            chunks += (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readline()
        return chunks


async def measure(port: int, requests: int, connections: int) -> list[list[object]]:
    clients = [
        Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(connections)
    ]
    rows: list[list[object]] = []
    bare_s = 0.0
    for name, (path, body) in BODIES.items():
        encoded = json.dumps(body).encode()

        async def ask(client: Client, number: int, path: str, encoded: bytes) -> None:
            for _ in range(number):
                await client.ask("POST", path, encoded)

        await ask(clients[0], 200, path, encoded)
        before_s, began_s = float(await clients[0].ask("GET", "/used")), time.perf_counter()
        await asyncio.gather(*(ask(c, requests // connections, path, encoded) for c in clients))
        took_s = time.perf_counter() - began_s
        used_s = (float(await clients[0].ask("GET", "/used")) - before_s) / requests
        bare_s = bare_s or used_s
        rows.append(
            [
                name,
                f"{used_s * 1e6:.0f}",
                f"{1 / used_s:,.0f}",
                f"{requests / took_s:,.0f}",
                f"{used_s / bare_s:.2f}",
            ]
        )
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--requests", type=int, default=8000)
    arguments.add_argument("--connections", type=int, default=8)
    arguments.add_argument("--http", choices=["auto", "h11", "httptools"], default="auto")
    arguments.add_argument("--serve", type=int, metavar="PORT")
    given = arguments.parse_args()
    if given.serve is not None:
        serve(given.http)
        return
    asyncio.run(_run(given.requests, given.connections, given.http))


async def _run(requests: int, connections: int, http: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.server", "--http", http, "--serve", str(port)
    )
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                break
        rows = await measure(port, requests, connections)
    finally:
        server.terminate()
        await server.wait()
        if cores:
            os.sched_setaffinity(0, cores)
    table(
        f"Warm answers through HTTP ({http}, {connections} connections)",
        ["route", "server's CPU, µs", "a second of one core", "as measured", "to bare"],
        rows,
    )


if __name__ == "__main__":
    main()
