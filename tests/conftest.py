from __future__ import annotations

import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asteady._base.settings import PREFIXES
from tests.faults.campaign import LONG
from tests.redis_server import Proxy, RedisServer

if TYPE_CHECKING:
    from asteady import Session
    from asteady.testing import FakeEngine


def pytest_configure() -> None:
    # A shell starts what it runs in the background with SIGINT ignored, and so would be the
    # processes that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(ImportError):  # the environments of real clients have none
        from hypothesis import HealthCheck, settings

        # Other work on the machine must not fail a test. Each run has the same examples, so that a
        # change fails by itself and not by chance; new ones are looked for by the long campaign.
        settings.register_profile(
            "asteady",
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            max_examples=60,
            derandomize=not LONG,
        )
        settings.load_profile("asteady")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the user's variables or writes to the user's cache.

    A database that does not answer within two seconds counts as locked, and a busy machine's disk
    may be as slow: only tests of locked databases set a time.
    """
    import os

    for name in list(os.environ):
        if name.startswith(PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ASTEADY_CACHE_DIR", str(tmp_path / "caches"))
    monkeypatch.setenv("ASTEADY_STORE_TIMEOUT_S", "60")
    # From Python 3.12 on, where a program forks beside threads.
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:This process:DeprecationWarning")


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No coverage is measured, neither here nor in processes that the test starts.

    It takes a quarter of a program's time, and most of a long loop's. For tests of whole programs,
    and of what goes on for long, of whose lines others cover each.
    """
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    here, in_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    yield
    threading.settrace(in_threads)
    sys.settrace(here)


@pytest.fixture
def engine() -> FakeEngine:
    from asteady.testing import FakeEngine

    return FakeEngine()


@pytest.fixture
async def session(engine: FakeEngine) -> AsyncIterator[Session]:
    """A session on a fake engine; everything else in it is real."""
    from asteady import Session

    async with Session(engine=engine, workers=2) as session:
        yield session
    engine.resume()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """An empty redis-server without a limit of memory."""
    directory = tmp_path / "redis"
    directory.mkdir()
    with RedisServer(directory) as server:
        yield server


@pytest.fixture
def redis_proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    """A proxy before `redis_server`; its URL is ``redis_server.url_at(redis_proxy.port)``."""
    with Proxy(redis_server.port) as proxy:
        yield proxy
