"""A process of ``asteady serve``."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory
from typing import IO, Any

import httpx

_LIMIT_S = 60.0


class ServeProcess:
    """Started by `serve_process`; what it prints is waited for."""

    def __init__(self, command: Sequence[str], cache_dir: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "ASTEADY_CACHE_DIR": cache_dir},
        )
        self.printed: list[str] = []
        self._lines = queue.Queue[str | None]()
        assert self.process.stderr is not None
        self._reading = threading.Thread(target=self._read, args=(self.process.stderr,))
        self._reading.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

    def address(self) -> str:
        """The next one that it prints: of HTTP, or a path."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.rest()
        return line.strip()

    def wait_printed(self, text: str) -> None:
        """Wait until standard error has it."""
        while True:
            line = self._lines.get(timeout=_LIMIT_S)
            assert line is not None, "".join(self.printed)
            self.printed.append(line)
            if text in line:
                return

    def rest(self) -> str:
        """All of standard error, when it has ended."""
        while (line := self._lines.get(timeout=_LIMIT_S)) is not None:
            self.printed.append(line)
        return "".join(self.printed)

    def tell(self, command: str) -> None:
        """To the fake program."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(_LIMIT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reading.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with suppress(OSError):  # what it was told and did not read
                stream.close()


@contextmanager
def serve_process(*options: str, fake: bool = False, fails: bool = False) -> Iterator[ServeProcess]:
    """One with these options; on a fake engine see `fake_program`. It is killed at the end."""
    program = ["tests.server.fake_program", *(["fail"] if fails else [])] if fake else ["asteady"]
    with TemporaryDirectory(ignore_cleanup_errors=True) as cache_dir:
        serve = ServeProcess(["-m", *program, "serve", *options], cache_dir)
        try:
            yield serve
        finally:
            serve.close()


def client_of(address: str, **options: Any) -> httpx.Client:
    """A client of the server at an address that it has printed."""
    options.setdefault("timeout", _LIMIT_S)
    if address.startswith("http"):
        return httpx.Client(base_url=address, **options)
    transport = httpx.HTTPTransport(uds=address)
    return httpx.Client(base_url="http://localhost", transport=transport, **options)


def question(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}
