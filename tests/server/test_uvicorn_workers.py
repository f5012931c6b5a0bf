"""Four processes of uvicorn over one ``asteady serve``."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.published import smollm2_file
from tests.server.serve_process import client_of, serve_process

WORKERS = 4
ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="memory is measured by Linux's /proc"
)


@pytest.fixture
def sockets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Paths for the two sockets, short enough for them."""
    directory = tmp_path_factory.mktemp("s")
    return str(directory / "model"), str(directory / "web")


def memory_bytes(process: int, *, shared: bool = False) -> int:
    """What a process has, with its part of what it shares with others, or with all of that."""
    name = "Rss" if shared else "Pss"
    smaps = Path(f"/proc/{process}/smaps_rollup").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", smaps, re.M)
    assert found is not None
    return int(found[1]) * 1024


class Workers:
    """The example's app in four processes of uvicorn."""

    def __init__(self, model: str, web: str, cache_dir: Path) -> None:
        command = ["uvicorn", "examples.workers:app", "--workers", str(WORKERS), "--uds", web]
        self._web = web
        self._stack = ExitStack()
        self._process = self._stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", *command, "--log-level", "error"],
                cwd=ROOT,
                env={
                    **os.environ,
                    "ASTEADY_GENERATION_MODEL": f"openai+unix://{model}#smollm2",
                    "ASTEADY_CACHE_DIR": str(cache_dir),
                },
            )
        )
        self._stack.callback(self._process.terminate)
        self.clients: dict[int, httpx.Client] = {}
        """A client of each of them, by its process."""

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def connect(self) -> None:
        """Ask until each of them has answered once."""
        while not _listens(self._web):
            assert self._process.poll() is None
            time.sleep(0.05)
        while len(self.clients) < WORKERS:
            client = self._stack.enter_context(client_of(self._web, timeout=300))
            worker = client.get("/generate", params={"prompt": "Hello"}).json()["worker"]
            self.clients.setdefault(worker, client)

    def ask_all(self, prompt: str) -> list[str]:
        """The same of all at once."""

        def ask(client: httpx.Client) -> str:
            return str(client.get("/generate", params={"prompt": prompt}).json()["text"])

        with ThreadPoolExecutor(WORKERS) as threads:
            return list(threads.map(ask, self.clients.values()))


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(path) == 0


def test_four_workers_share_the_weights_and_the_computations(
    sockets: tuple[str, str], tmp_path: Path
) -> None:
    model, web = sockets
    weights_bytes = smollm2_file().stat().st_size
    with serve_process("--unix-socket", model, "--model", "smollm2") as serve:
        serve.wait_printed("ready")
        with Workers(model, web, tmp_path) as workers:
            workers.connect()
            texts = workers.ask_all("What is caching?")
            assert len(texts) == WORKERS
            assert len({*texts}) == 1
            assert texts[0]
            for worker in workers.clients:
                assert memory_bytes(worker) < weights_bytes
                assert "libllama" not in Path(f"/proc/{worker}/maps").read_text()
            # Shared with any other process that has loaded the same file, as of a test beside this.
            assert memory_bytes(serve.process.pid, shared=True) > weights_bytes
            # "Hello", and the question: none was computed twice.
            with client_of(model) as client:
                metrics = client.get("/metrics").text
        lookups = 'asteady_cache_lookups_total{cache="generation",result='
        assert f'{lookups}"miss"}} 2.0' in metrics
