"""Answers, caches and other processes for the tests of the cache."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import numpy as np

from asteady._base.requests import Completion, Embedding
from asteady._base.settings import Settings
from asteady._cache.cache import TICK_S
from asteady._cache.manager import CacheManager
from asteady._cache.store.api import BUSY_RETRY_S, BUSY_TIMEOUT_S


def key_of(name: object) -> str:
    return hashlib.sha256(repr(name).encode()).hexdigest()


def completion(text: str = "An answer", *, cost_s: float = 0.5, **fields: Any) -> Completion:
    values: dict[str, Any] = {
        "text": text,
        "chunks": tuple(text),
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": len(text),
        "seed": 42,
        "model": "builtin",
        "fingerprint": "f" * 64,
        "cost_s": cost_s,
    }
    return Completion(**{**values, **fields})


def embedding(*numbers: float, cost_s: float = 0.001, **fields: Any) -> Embedding:
    vector = np.array(numbers or (0.6, 0.8), dtype=np.float32)
    vector.flags.writeable = False
    values: dict[str, Any] = {
        "vector": vector,
        "tokens": 2,
        "model": "builtin",
        "fingerprint": "e" * 64,
        "cost_s": cost_s,
    }
    return Embedding(**{**values, **fields})


def settings(directory: Path, **changes: Any) -> Settings:
    # A busy machine's disk must not look like a locked database.
    return Settings(**{"cache_dir": directory, "store_timeout_s": 60.0, **changes})


@asynccontextmanager
async def opened(
    directory: Path,
    *,
    busy_timeout_s: float = BUSY_TIMEOUT_S,
    busy_retry_s: float = BUSY_RETRY_S,
    tick_s: float = TICK_S,
    **changes: Any,
) -> AsyncIterator[CacheManager]:
    manager = CacheManager(
        settings(directory, **changes),
        busy_timeout_s=busy_timeout_s,
        busy_retry_s=busy_retry_s,
        tick_s=tick_s,
    )
    await manager.open()
    try:
        yield manager
    finally:
        await manager.aclose()


async def fill(manager: CacheManager, names: range, **fields: Any) -> None:
    for n in names:
        await manager.generation.put(key_of(n), completion(f"answer {n}", **fields))


def change(path: Path, *statements: str, parameters: tuple[Any, ...] = ()) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement, parameters)


PRELUDE = """
import asyncio, sys
from pathlib import Path
from tests.cache.helpers import completion, embedding, key_of, opened

def say(*words):
    print(*words, flush=True)

async def told():
    # Waits, without blocking the loop, for a line from the test.
    return (await asyncio.to_thread(sys.stdin.readline)).strip()

directory = Path(sys.argv[1])
"""


class Process:
    """A second Python that runs `body` as its main coroutine; lines go both ways."""

    def __init__(self, directory: Path, body: str) -> None:
        lines = "\n".join("    " + line for line in body.strip().splitlines())
        program = f"{PRELUDE}\nasync def main():\n{lines}\n\nasyncio.run(main())\n"
        self._popen = subprocess.Popen(
            [sys.executable, "-c", program, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        self._popen.kill()
        self._popen.communicate()

    def hear(self) -> str:
        """The next line that it prints; empty when it has ended."""
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()

    def tell(self, line: str = "") -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(line + "\n")
        self._popen.stdin.flush()

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def finish(self) -> int:
        return self._popen.wait(60)
