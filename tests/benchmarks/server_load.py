"""``asteady serve`` under load, and beside the library.

    python -m tests.benchmarks.server_load load --minutes 5
    python -m tests.benchmarks.server_load pair --model smollm2
    python -m tests.benchmarks.server_load warm

``load``: many clients ask for streams, half of them for what was asked before, and a part hangs up
after the first text. Each error counts. ``pair``: the same requests, eight at once, by the library
in this process and by a server, in turns; each has a cache of its own. ``warm``: one answer again
and again; what counts is the server's processor time, as other programs take none of that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

import asteady
from tests.benchmarks.harness import table

_WORDS = (
    *("rain", "sea", "night", "bread", "glass", "snow", "tree", "road", "light", "hand"),
    *("door", "stone", "wind", "fire", "song"),
)


@attrs.frozen
class Server:
    """A running server: where it listens, and its process."""

    port: int
    process: asyncio.subprocess.Process

    def resident_mb(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def used_s(self) -> float:
        """Its processor time."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def serving(model: str, *options: str) -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "asteady", "serve", "--port", "0", "--model", model, *options),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "ASTEADY_CACHE_DIR": folder},
        )
        assert process.stdout is not None
        port = urlsplit((await process.stdout.readline()).decode().strip()).port
        assert port is not None
        try:
            while b" 200 " not in (await _get(port, "/health"))[:20]:  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.1)
            yield Server(port, process)
        finally:
            process.terminate()
            assert await process.wait() == 0


async def _get(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    try:
        return await reader.read()
    finally:
        writer.close()


class Client:
    """One client with its connection; a library's would be what is measured."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The events before [DONE]; who leaves them earlier hangs up.

        Raises:
            OSError, asyncio.IncompleteReadError: the connection was cut.
            RuntimeError: another status, or an event that is an error.
        """
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        sent = json.dumps({**body, "stream": True}).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer key\r\n"
            f"content-length: {len(sent)}"
        )
        whole = False
        try:
            self._writer.write(f"{head}\r\n\r\n".encode() + sent)
            status = await self._reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in status[:20]:
                raise RuntimeError(status.decode())
            while size := int(await self._reader.readline(), 16):
                for line in (await self._reader.readexactly(size + 2)).splitlines():
                    if line == b"data: [DONE]":
                        whole = True
                    elif line:
                        event = json.loads(line.removeprefix(b"data: "))
                        if "error" in event:
                            raise RuntimeError(event["error"])
                        yield event
            await self._reader.readline()
        finally:
            if not whole:
                self.hang_up()

    def hang_up(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None


@attrs.define
class Found:
    """What the clients found."""

    first_s: list[float] = attrs.Factory(list)
    whole_s: list[float] = attrs.Factory(list)
    hung_up: int = 0
    errors: Counter[str] = attrs.Factory(Counter[str])
    resident_mb: list[float] = attrs.Factory(list)


async def load(given: argparse.Namespace) -> None:
    found = Found()
    end_s = time.perf_counter() + given.minutes * 60
    async with serving(given.model, "--no-dashboard", "-q") as server:

        async def ask_on(number: int) -> None:
            drawn, client, asked = random.Random(number), Client(server.port), 0
            while time.perf_counter() < end_s:
                asked += 1
                try:
                    await _ask(client, drawn, f"{number}-{asked}", given, found)
                except (OSError, asyncio.IncompleteReadError, RuntimeError) as exc:
                    found.errors[f"{type(exc).__name__}: {exc}"[:200]] += 1
            client.hang_up()

        async def sample() -> None:
            while True:
                found.resident_mb.append(server.resident_mb())
                await asyncio.sleep(1)

        sampling = asyncio.create_task(sample())
        await asyncio.gather(*(ask_on(number) for number in range(given.clients)))
        sampling.cancel()
        metrics = (await _get(server.port, "/metrics")).decode()
    _report(given, found, metrics)


async def _ask(
    client: Client, drawn: random.Random, name: str, given: argparse.Namespace, found: Found
) -> None:
    seen = drawn.random() < 0.5
    topic = drawn.choice(_WORDS) if seen else f"{drawn.choice(_WORDS)} {name}"
    leaves = drawn.random() < given.hang_up
    began_s = time.perf_counter()
    first_s = 0.0
    body = {"messages": [{"role": "user", "content": f"Write about {topic}"}]}
    async for event in client.stream({**body, "max_tokens": given.tokens}):
        if event["choices"][0]["delta"].get("content"):
            first_s = first_s or time.perf_counter() - began_s
            if leaves:
                client.hang_up()
                found.hung_up += 1
                break
    found.first_s.append(first_s)
    if not leaves:
        found.whole_s.append(time.perf_counter() - began_s)


def _report(given: argparse.Namespace, found: Found, metrics: str) -> None:
    requests = len(found.whole_s) + found.hung_up
    title = (
        f"{given.clients} clients for {given.minutes:g} minutes: {requests:,} streams of"
        f" {given.model}, {requests / given.minutes / 60:,.0f} a second; {found.hung_up:,} hung up,"
        f" {found.errors.total()} errors"
    )
    rows = [
        [name, *(f"{1000 * _quantile(times, q):,.0f}" for q in (0.5, 0.95, 0.99, 1.0))]
        for name, times in (("first text", found.first_s), ("whole answer", found.whole_s))
    ]
    table(title, ["ms", "p50", "p95", "p99", "longest"], rows)
    sizes, tenth = found.resident_mb, max(1, len(found.resident_mb) // 10)
    parts = [sizes[at : at + tenth] for at in range(0, tenth * 10, tenth)]
    table(
        "Memory of the server, MB, in each tenth of the time",
        [str(number) for number in range(1, 11)],
        [[f"{statistics.median(part):.0f}" if part else "" for part in parts]],
    )
    print("\n".join(line for line in metrics.splitlines() if "lookups_total{" in line))
    for error, count in found.errors.most_common(5):
        print(f"{count} x {error}")


def _quantile(times: Sequence[float], q: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


async def warm(given: argparse.Namespace) -> None:
    rows = []
    for options in (["--no-dashboard"], ["--no-dashboard", "--api-key", "key"], ["--dashboard"]):
        async with serving(given.model, "-q", *options) as server:
            body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": given.tokens}
            async for _ in Client(server.port).stream(body):
                pass
            sent = json.dumps(body).encode()
            request = (
                "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer"
                f" key\r\ncontent-length: {len(sent)}\r\n\r\n"
            ).encode() + sent
            used_s, began_s = server.used_s(), time.perf_counter()
            await asyncio.gather(
                *(_again(server.port, request, given.requests // 8) for _ in range(8))
            )
            took_s = (time.perf_counter() - began_s) / given.requests
            used_s = (server.used_s() - used_s) / given.requests
        rows.append(
            [" ".join(options), f"{used_s * 1e6:.0f}", f"{1 / used_s:,.0f}", f"{1 / took_s:,.0f}"]
        )
    head = ["asteady serve", "server's CPU, µs", "a second of one core", "as measured"]
    table("A remembered answer of /chat/completions, 8 connections", head, rows)


async def _again(port: int, request: bytes, number: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(number):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert b" 200 " in head[:20], head
        await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
    writer.close()


async def pair(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with (
            serving(given.model, "--no-dashboard", "-q", "--timeout-idle", "3600") as server,
            asteady.Session(generation_model=given.model, cache_dir=folder) as session,
        ):
            clients = [Client(server.port) for _ in range(given.at_once)]

            async def by_library(client: int, prompt: str) -> int:
                messages = [{"role": "user", "content": prompt}]
                async with session.stream(messages=messages, max_new_tokens=given.tokens) as stream:
                    async for _ in stream:
                        pass
                return stream.answer.completion_tokens

            async def by_server(client: int, prompt: str) -> int:
                body = {
                    "messages": [{"role": "user", "content": prompt}],
                    "max_tokens": given.tokens,
                    "stream_options": {"include_usage": True},
                }
                *_, last = [event async for event in clients[client].stream(body)]
                tokens: int = last["usage"]["completion_tokens"]
                return tokens

            rows: list[tuple[str, float, float, float]] = []
            for number in range(given.rounds + 1):
                prompts = [f"Tell me of {w} {number}-{i}" for i, w in enumerate(_WORDS * 3)]
                prompts = prompts[: given.requests]
                # Who is first changes, so that neither has the machine's better moments.
                ways = [by_library, by_server][:: 1 if number % 2 else -1]
                rates = {way: await _rate(way, prompts, given.at_once) for way in ways}
                library, served = rates[by_library], rates[by_server]
                if number:  # the first one measures widths
                    rows.append((str(number), library, served, served / library))
    _, *columns = zip(*rows, strict=True)
    library, served, ratio = (statistics.median(map(float, column)) for column in columns)
    rows.append(("median", library, served, ratio))
    table(
        f"Tokens a second of {given.model}, {given.at_once} at once, {given.tokens} tokens at most",
        ["round", "library", "server", "to library"],
        [
            [name, f"{library:,.1f}", f"{served:,.1f}", f"{ratio:.3f}"]
            for name, library, served, ratio in rows
        ],
    )


async def _rate(
    ask: Callable[[int, str], Awaitable[int]], prompts: Sequence[str], at_once: int
) -> float:
    """Tokens a second."""
    left, tokens = iter(prompts), 0

    async def work(client: int) -> None:
        nonlocal tokens
        for prompt in left:
            found = await ask(client, prompt)  # not in one line: others add meanwhile
            tokens += found

    began_s = time.perf_counter()
    await asyncio.gather(*(work(client) for client in range(at_once)))
    return tokens / (time.perf_counter() - began_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    under_load = commands.add_parser("load")
    under_load.add_argument("--minutes", type=float, default=5.0)
    under_load.add_argument("--clients", type=int, default=200)
    under_load.add_argument("--hang-up", type=float, default=0.2, help="the part that hangs up")
    under_load.set_defaults(run=load, model="builtin", tokens=48)
    paired = commands.add_parser("pair")
    paired.add_argument("--at-once", type=int, default=8)
    paired.add_argument("--requests", type=int, default=32, help="in a round, at most 45")
    paired.add_argument("--rounds", type=int, default=5)
    paired.set_defaults(run=pair, model="smollm2", tokens=64)
    remembered = commands.add_parser("warm")
    remembered.add_argument("--requests", type=int, default=16_000)
    remembered.set_defaults(run=warm, model="builtin", tokens=32)
    for command in (under_load, paired, remembered):
        command.add_argument("--model", default=command.get_default("model"))
        command.add_argument("--tokens", type=int, default=command.get_default("tokens"))
    given = parser.parse_args()
    asyncio.run(given.run(given))


if __name__ == "__main__":
    main()
