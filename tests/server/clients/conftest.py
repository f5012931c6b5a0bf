"""The API behind uvicorn on the loopback interface, for real clients."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette

import asteady
import asteady.server
from tests.published import smollm2_file

TEXT = "builtin"
CHAT = "smollm2"


def application(session: asteady.Session) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with session:
            yield

    app = Starlette(lifespan=lifespan)
    app.mount("/v1", asteady.server.openai(session, models={CHAT: CHAT}))
    return app


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """All tests run on one event loop: some clients share connections, which belong to it."""
    yield  # noqa: PT022  # a runner of tests is kept for as long as there is something to end


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with the built-in models, and a small chat model."""
    session = asteady.Session(cache_dir=tmp_path_factory.mktemp("caches"))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(session), log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    # A connection waits until the server, which may still load, takes it.
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    server.should_exit = True
    thread.join()
    listening.close()


@pytest.fixture(scope="session")
def chat() -> str:
    """The name of the chat model, which follows forms and calls tools."""
    smollm2_file()
    return CHAT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings of the clients, such as of connections that they leave open, are none of ours."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.filterwarnings("default"))
