"""A real server of Redis or Valkey, and a proxy in front of it that makes the network bad.

The fixtures are in tests/conftest.py: ``redis_server`` is a server of the test's own, and
``redis_proxy`` a proxy before it. A test that starts a server is skipped where there is none.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    import redis

T = TypeVar("T")

# That of Valkey takes the same options and commands.
EXECUTABLE = (
    os.environ.get("REDIS_SERVER") or shutil.which("redis-server") or shutil.which("valkey-server")
)


class RedisServer:
    """A redis-server on a loopback port of its own, which it keeps when it is started again.

    Options are those of redis.conf, with underscores: ``RedisServer(directory, maxmemory="4mb",
    maxmemory_policy="allkeys-lfu")``. It writes nothing to disk, so that it is empty after `kill`,
    unless ``appendonly="yes"``. As a context manager it runs from beginning to end.
    """

    def __init__(self, directory: Path, *, password: str | None = None, **options: object) -> None:
        self.password = password
        self.directory = directory
        self.port = _free_port()
        self._options = {name.replace("_", "-"): str(value) for name, value in options.items()}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """The URL of this server behind a proxy on another port."""
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "it is not started"
        return self._process.pid

    def __enter__(self) -> RedisServer:
        for attempt in range(10):
            try:
                self.start()
            except _EndedError:
                # Another program was faster to take the port.
                if attempt == 9:
                    raise
                self.port = _free_port()
            else:
                break
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, on the same port as before; returns when it answers."""
        if EXECUTABLE is None or sys.platform == "win32":
            pytest.skip("there is no redis-server here (Debian: apt-get install redis-server)")
        assert self._process is None, "it is started"
        log = self.directory / "redis.log"
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "save": "",
            "logfile": str(log),
            **({"requirepass": self.password} if self.password else {}),
            **self._options,
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [EXECUTABLE, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        # It tells nobody that it is ready.
        ends_at = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None:
                self._process = None
                last = log.read_text()[-1000:] if log.exists() else "it has no log"
                if "Failed finding TLS support" in last:
                    pytest.skip(f"{EXECUTABLE} was built without TLS")
                raise _EndedError(last)
            assert time.monotonic() < ends_at, "redis-server does not answer"
            time.sleep(0.005)

    def kill(self) -> None:
        """End it as ``kill -9`` does; no connection is closed in an orderly way."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self, *, timeout_s: float = 60) -> redis.Redis:
        """A blocking client to look at what is stored, or to change it; close it, or use ``with``.

        It tries each command once, where redis-py's default is to try for four seconds.
        """
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return redis.Redis.from_url(self.url, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0))

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                if self.password:
                    connection.sendall(f"AUTH {self.password}\r\n".encode())
                # Not while it still reads its file, nor if another program has the port.
                connection.sendall(b"INFO\r\nQUIT\r\n")
                answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        except OSError:
            return False
        return f"process_id:{self.pid}\r\n".encode() in answer and b"\r\nloading:0\r\n" in answer


class _EndedError(Exception):
    """It ended while it started; with the end of its log."""


def _free_port() -> int:
    # Outside of the range from which the system takes ports for connections: one of those could be
    # given away while the server is not running.
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port


class Proxy:
    """A TCP proxy on the loopback interface, before a server on port `target`.

    It can be made bad at any time, for the connections there are as for new ones:

    - ``delay_s = 5``: what the server sends arrives five seconds later;
    - `partition`: nothing arrives, in either direction, and connecting takes for ever. Neither side
      is told, and what was sent meanwhile arrives after `heal`, as TCP sends it again;
    - `cut`: all connections are reset.

    It runs in a thread of its own, so a blocked event loop of the test delays nothing.
    """

    def __init__(self, target: int) -> None:
        self.delay_s = 0.0
        self.connected = 0
        """How many connections it has accepted in all."""
        self.sent = 0
        """How many bytes clients have sent, arrived or not."""
        self._target = target
        self._heal: asyncio.Event
        self._fillers: list[socket.socket] = []
        self._connections: dict[asyncio.Task[None], list[socket.socket]] = {}
        # Without its protocol a socket gets no TCP_NODELAY, and each answer takes 40 ms more.
        self._listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listening.setblocking(False)
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(1000)
        self.port: int = self._listening.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._call(self._open())
        return self

    def __exit__(self, *exc: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._listening.close()

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def partition(self) -> None:
        self._call(self._partition())

    def heal(self) -> None:
        self._call(self._healed())

    def cut(self) -> None:
        self._call(self._cut())

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _open(self) -> None:
        self._heal = asyncio.Event()
        self._heal.set()
        self._loop.add_reader(self._listening, self._accept)

    async def _close(self) -> None:
        self._loop.remove_reader(self._listening)
        for filler in self._fillers:
            filler.close()
        await self._cut()

    async def _partition(self) -> None:
        if not self._heal.is_set():
            return
        self._heal.clear()
        self._loop.remove_reader(self._listening)
        # A queue of no length has room for one connection. With that taken, the system ignores who
        # wants to connect, as a network does that is not there.
        self._listening.listen(0)
        for _ in range(2):
            filler = socket.socket()
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(("127.0.0.1", self.port))
            self._fillers.append(filler)

    async def _healed(self) -> None:
        if self._heal.is_set():
            return
        self._heal.set()
        self._listening.listen(1000)
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        self._loop.add_reader(self._listening, self._accept)

    async def _cut(self) -> None:
        connections = dict(self._connections)
        for task, sockets in connections.items():
            for each in sockets:
                # Closing now sends a reset, and nothing that is still buffered.
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _accept(self) -> None:
        try:
            client, _ = self._listening.accept()
        except OSError:  # who wanted to connect is gone
            return
        self.connected += 1
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sockets = [client, server]
        task = self._loop.create_task(self._serve(client, server))
        self._connections[task] = sockets
        # Also of a task that is cancelled before it runs.
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        for each in self._connections.pop(task):
            each.close()

    async def _serve(self, client: socket.socket, server: socket.socket) -> None:
        try:
            for each in (client, server):
                each.setblocking(False)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(server, ("127.0.0.1", self._target))
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(client, server, delayed=False))
                pumps.create_task(self._pump(server, client, delayed=True))
        except* OSError:
            # Where the server is gone, its clients lose their connections too.
            pass

    async def _pump(self, source: socket.socket, target: socket.socket, *, delayed: bool) -> None:
        """Pass on what `source` sends, until it ends or is reset; then end the other way too."""
        received: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        reading = self._loop.create_task(self._read(source, received, delayed=delayed))
        try:
            while True:
                due, data = await received.get()
                await asyncio.sleep(due - self._loop.time())
                await self._heal.wait()
                if not data:
                    raise ConnectionResetError
                await self._loop.sock_sendall(target, data)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(
        self, source: socket.socket, received: asyncio.Queue[tuple[float, bytes]], *, delayed: bool
    ) -> None:
        data = b"?"
        while data:
            try:
                data = await self._loop.sock_recv(source, 65_536)
            except OSError:
                data = b""
            if not delayed:
                self.sent += len(data)
            received.put_nowait((self._loop.time() + (self.delay_s if delayed else 0), data))
