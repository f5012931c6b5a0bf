"""llama.cpp's llama-server, where it is in PATH or named by the variable LLAMA_SERVER."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import httpx
import pytest

_PROGRAM = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")

needs_llama_server = pytest.mark.skipif(
    _PROGRAM is None,
    reason="llama-server is not there: put it into PATH, or name it by LLAMA_SERVER",
)


@contextmanager
def llama_server(model: Path, *options: str) -> Iterator[str]:
    """One with this model, ready; yields its address. It ends with the block."""
    assert _PROGRAM is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [_PROGRAM, "--model", str(model), "--host", "127.0.0.1", "--port", str(port)]
    with (
        TemporaryFile() as output,
        subprocess.Popen([*command, *options], stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            address = f"http://127.0.0.1:{port}"
            while process.poll() is None and not _is_ready(address):
                time.sleep(0.05)
            if process.poll() is not None:
                output.seek(0)
                pytest.fail(output.read().decode(errors="replace")[-2000:])
            yield address
        finally:
            process.terminate()


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health").status_code == 200
    except httpx.TransportError:
        return False
