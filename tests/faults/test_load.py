"""Hundreds of clients of a web app at once: no error, flat memory, and how long they wait."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.faults.campaign import rounds
from tests.faults.conftest import Tally

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("unmeasured")]

CLIENTS = 500
# Of all clients together: as many on a slow machine, and with them as much to grow by.
REQUESTS = rounds(4_000, 2_000_000)
PROMPTS = 2000
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def served() -> AsyncIterator[tuple[int, str]]:
    """The example app in a process of its own: its process id, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        listening.set_inheritable(True)
        program = [sys.executable, "-m", "uvicorn", "--fd", str(listening.fileno())]
        # A client of a busy machine may take its time for the next request: it must not meet the
        # end of its connection.
        program += ["--timeout-keep-alive", "600"]
        process = subprocess.Popen(
            [*program, "--log-level", "warning", "examples.asgi_app:app"],
            cwd=Path(__file__).parents[2],
            pass_fds=[listening.fileno()],
        )
    try:
        yield process.pid, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to read memory")
async def test_many_clients_ask_for_popular_and_rare_things(tally: Tally) -> None:
    draw = random.Random(3)
    # Zipf: the prompt of rank k is asked 1/k times as often as the first.
    weights = [1 / rank for rank in range(1, PROMPTS + 1)]
    waits_s: list[float] = []
    refused: list[int] = []
    memory_mb: list[float] = []

    async def ask(client: httpx.AsyncClient, pid: int) -> None:
        for _ in range(REQUESTS // CLIENTS):
            (number,) = draw.choices(range(PROMPTS), weights)
            path = "/stream" if number % 5 == 0 else "/generate"
            params = {"prompt": f"What is {number}?"}
            began_s = time.monotonic()
            # More clients than the app's queue has places: some may have to come again.
            while (reply := await client.get(path, params=params)).status_code == 503:
                refused.append(number)
                await asyncio.sleep(float(reply.headers["retry-after"]))
            assert reply.status_code == 200, reply.text
            assert reply.text
            waits_s.append(time.monotonic() - began_s)
            if len(waits_s) % (REQUESTS // 100) == 0:
                memory_mb.append(resident_mb(pid))

    async with served() as (pid, url):
        limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
            await client.get("/health")
            async with asyncio.TaskGroup() as group:
                for _ in range(CLIENTS):
                    group.create_task(ask(client, pid))
    half = len(memory_mb) // 2
    # In the first half all begin at once, and what is cached grows; then memory stays as it is. To
    # lose 20 kB at each request would be too much.
    assert max(memory_mb[half:]) < 1.1 * max(memory_mb[:half]) + 10
    cuts = statistics.quantiles(waits_s, n=1000)
    tally("requests, none failed", len(waits_s))
    tally("refused and asked again", len(refused))
    tally("ms at the median", round(1000 * cuts[499]))
    tally("ms at the 99th percentile", round(1000 * cuts[989]))
    tally("MB at the most", round(max(memory_mb)))
