"""The apps of docs/web.md, each behind a real server with its framework's own start and end."""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from markdown_it import MarkdownIt

import asteady
from asteady.testing import FakeEngine
from tests.serving import serving

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs/web.md"
FRAMEWORKS = ["FastAPI", "Starlette", "Litestar", "aiohttp", "Quart", "Django"]


def program(framework: str) -> str:
    """The program under this heading of the page."""
    heading, found = "", dict[str, str]()
    for token in MarkdownIt("commonmark").parse(PAGE.read_text("utf-8")):
        if token.type == "inline":
            heading = token.content if token.content in FRAMEWORKS else heading
        elif token.type == "fence" and token.info == "python":
            found.setdefault(heading, token.content)
    return found[framework]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(context=10)


@pytest.fixture(params=FRAMEWORKS)
def app(request: pytest.FixtureRequest, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each app, with its session on the fake engine, whose context holds nine words."""
    pytest.importorskip(request.param.lower(), reason="the framework is not installed")

    def open_session() -> asteady.Session:
        return asteady.Session(engine=engine, workers=1)

    code = program(request.param)
    assert code.count("lifespan(") + code.count("asteady.Session()") == 1
    code = code.replace("lifespan(", "lifespan(open_session, ")
    code = code.replace("asteady.Session()", "open_session()")
    # Django imports the module that has the paths.
    module = ModuleType("a_web_app")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    vars(module)["open_session"] = open_session
    exec(compile(code, str(PAGE), "exec"), vars(module))
    return vars(module)["app"]


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    if type(app).__module__.startswith("aiohttp"):
        web: Any = importlib.import_module("aiohttp.web")

        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            await web.SockSite(runner, listening).start()
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            await runner.cleanup()
    else:
        async with serving(app) as address:
            yield address


@pytest.fixture
async def client(app: Any, engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        served(app) as address,
        httpx.AsyncClient(base_url=address, timeout=60) as client,
    ):
        yield client
        engine.resume()
    assert engine.closed or not engine.computed


async def test_an_answer_and_a_stream(client: httpx.AsyncClient) -> None:
    answer = await client.get("/ask", params={"prompt": "hi"})
    assert answer.status_code == 200
    assert "You said: hi" in answer.text
    stream = await client.get("/stream", params={"prompt": "hi"})
    assert stream.status_code == 200
    if stream.headers["content-type"].startswith("text/event-stream"):
        texts = [line.removeprefix("data: ") for line in stream.text.split("\n\n")]
        assert "".join(texts[:3]) == "You said: hi"
    else:
        assert stream.text == "You said: hi"


@pytest.mark.parametrize("path", ["/ask", "/stream"])
async def test_a_refusal_has_its_status(client: httpx.AsyncClient, path: str) -> None:
    reply = await client.get(path, params={"prompt": ""})
    assert reply.status_code == 400
    assert "prompt" in reply.text
    reply = await client.get(path, params={"prompt": "word " * 10})
    assert reply.status_code == 413


async def test_a_stream_arrives_as_it_is_computed_and_ends_with_its_client(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.computed.clear()
    engine.hold()
    engine.step()
    async with client.stream("GET", "/stream", params={"prompt": "a b c"}) as reply:
        assert "You" in await anext(reply.aiter_text())
    await engine.wait_released(1)


async def test_a_client_that_hangs_up_frees_its_worker(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.computed.clear()  # by the warming
    engine.hold()
    asking = asyncio.create_task(client.get("/ask", params={"prompt": "a"}))
    await engine.wait_computed(1)
    asking.cancel()
    await engine.wait_released(1)


async def test_litestar_mounts_the_api_and_the_dashboard(engine: FakeEngine) -> None:
    litestar: Any = pytest.importorskip("litestar", reason="the framework is not installed")

    session = asteady.Session(engine=engine)
    app = litestar.Litestar(
        [
            litestar.asgi("/v1", is_mount=True, copy_scope=True)(asteady.server.openai(session)),
            litestar.asgi("/page", is_mount=True, copy_scope=True)(
                asteady.server.dashboard(session)
            ),
        ],
        lifespan=[asteady.server.lifespan(session)],
    )
    async with (
        served(app) as address,
        httpx.AsyncClient(base_url=address, timeout=60) as client,
    ):
        models = (await client.get("/v1/models")).json()["data"]
        assert [model["id"] for model in models] == ["builtin"]
        assert (await client.get("/v1/models/builtin")).status_code == 200
        question = {"messages": [{"role": "user", "content": "hi"}]}
        answer = await client.post("/v1/chat/completions", json=question)
        assert answer.json()["choices"][0]["message"]["content"] == "You said: hi"
        # What the page loads is below it.
        page = await client.get("/page", follow_redirects=True)
        assert page.url.path == "/page/"
        assert page.headers["content-type"].startswith("text/html")
        for file in ("data", "style.css"):
            assert (await client.get(f"/page/{file}")).status_code == 200
