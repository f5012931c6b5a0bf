"""Parts of web apps: the session of an app, events, errors as statuses, and clients that leave."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

import asteady
from asteady import GenerateRequest, Session
from asteady.server import (
    EventStreamResponse,
    SessionDep,
    TextStreamResponse,
    exception_handlers,
    get_session,
    lifespan,
    while_connected,
)
from asteady.testing import FakeEngine
from tests.serving import serving

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def client_of(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serving(app) as address,
        httpx.AsyncClient(base_url=address, timeout=60) as client,
    ):
        yield client


def read_events(text: str) -> list[tuple[str, str]]:
    """The names and data of server-sent events, as browsers read them."""
    found = []
    for block in text.split("\n\n")[:-1]:
        name, data = "message", []
        for line in block.split("\n"):
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
        if data:
            found.append((name, "\n".join(data)))
    return found


async def test_the_session_lives_as_long_as_the_app_and_is_warm(engine: FakeEngine) -> None:
    seen: list[Session] = []
    inner_saw: list[bool] = []

    @asynccontextmanager
    async def inner(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        inner_saw.append(app.state.asteady.is_open)
        yield {"more": 5}

    async def ask(request: Request) -> Response:
        session = await get_session(request)
        seen.append(session)
        assert request.state.asteady is request.app.state.asteady is session
        text = await session.generate("hi", cache="only")
        return PlainTextResponse(f"{text} {request.state.more}")

    app = Starlette(
        routes=[Route("/", ask)],
        lifespan=lifespan(lambda: Session(engine=engine), warm=["hi"], inner=inner),
    )
    async with client_of(app) as client:
        reply = await client.get("/")
    assert reply.text == "You said: hi 5"
    assert inner_saw == [True]
    assert seen[0].is_closed


def test_fastapi_gives_the_session_to_endpoints_and_websockets() -> None:
    app = FastAPI(lifespan=lifespan(lambda: Session(engine=FakeEngine())))

    @app.get("/")
    async def ask(session: SessionDep, prompt: str) -> str:
        return await session.generate(prompt)

    @app.websocket("/ws")
    async def talk(socket: WebSocket, session: SessionDep) -> None:
        await socket.accept()
        await socket.send_text(await session.generate(await socket.receive_text()))

    with TestClient(app) as client:
        assert client.get("/", params={"prompt": "a"}).json() == "You said: a"
        with client.websocket_connect("/ws") as socket:
            socket.send_text("b")
            assert socket.receive_text() == "You said: b"
    with pytest.raises(RuntimeError, match="lifespan"):
        TestClient(FastAPI(routes=app.routes)).get("/", params={"prompt": "a"})


def test_an_error_closes_a_websocket_with_its_message() -> None:
    errors = {
        "client": asteady.InvalidRequestError("é" * 100),
        "queue": asteady.QueueFullError("x"),
    }

    async def fail(socket: WebSocket) -> None:
        await socket.accept()
        raise errors.get(await socket.receive_text(), asteady.EngineError("/secret"))

    app = Starlette(routes=[WebSocketRoute("/", fail)], exception_handlers=exception_handlers)
    with TestClient(app) as client:
        for sent, code, reason in [
            ("client", 1008, "é" * 61),  # a reason has at most 123 bytes
            ("queue", 1013, "x"),
            ("other", 1011, "internal error"),
        ]:
            with client.websocket_connect("/") as socket:
                socket.send_text(sent)
                with pytest.raises(WebSocketDisconnect) as closed:
                    socket.receive_text()
            assert (closed.value.code, closed.value.reason) == (code, reason)


def test_a_session_must_be_one_or_make_one() -> None:
    with pytest.raises(TypeError, match="max_pending=5"):
        lifespan(asteady.Settings(max_pending=5))  # type: ignore[arg-type]


def test_session_dep_without_fastapi_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "asteady.server._web.fastapi")
    with pytest.raises(ImportError, match="pip install fastapi"):
        importlib.import_module("asteady.server._web.fastapi")


async def test_another_session_can_be_put_in_its_place(session: Session) -> None:
    app = FastAPI()

    @app.get("/")
    async def ask(session: SessionDep) -> str:
        return await session.generate("a")

    app.dependency_overrides[get_session] = lambda: session
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        assert (await client.get("/")).json() == "You said: a"


@pytest.fixture
async def app(session: Session) -> Starlette:
    background: list[str] = []

    async def ask(request: Request) -> Response:
        prompt = request.query_params["prompt"]
        return PlainTextResponse(await while_connected(request, session.generate(prompt)))

    async def text(request: Request) -> Response:
        task = BackgroundTask(background.append, "done")
        return TextStreamResponse(session.stream(request.query_params["prompt"]), background=task)

    async def events(request: Request) -> Response:
        return EventStreamResponse(session.stream(request.query_params["prompt"]), ping_s=0.02)

    app = Starlette(
        routes=[Route("/ask", ask), Route("/text", text), Route("/events", events)],
        exception_handlers=exception_handlers,
    )
    app.state.background = background
    return app


@pytest.mark.parametrize("path", ["/ask", "/text", "/events"])
async def test_a_refusal_is_a_status_also_of_a_stream(app: Starlette, path: str) -> None:
    async with client_of(app) as client:
        reply = await client.get(path, params={"prompt": ""})
        assert reply.status_code == 400
        assert "prompt" in reply.json()["detail"]


@pytest.mark.parametrize("path", ["/ask", "/text", "/events"])
async def test_a_client_that_leaves_frees_its_worker(
    app: Starlette, engine: FakeEngine, path: str
) -> None:
    engine.hold()
    try:
        async with client_of(app) as client:
            if path == "/ask":
                asking = asyncio.create_task(client.get(path, params={"prompt": "a"}))
                await engine.wait_computed(1)
                asking.cancel()
            else:
                engine.step()
                async with client.stream("GET", path, params={"prompt": "a"}) as reply:
                    assert await anext(reply.aiter_text())
            await engine.wait_released(1)
    finally:
        engine.resume()
    assert app.state.background == []


@pytest.mark.parametrize("path", ["/ask", "/text", "/events"])
async def test_leaving_before_the_first_chunk_is_no_error_to_middleware(
    app: Starlette, engine: FakeEngine, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    engine.hold()
    async with serving(app) as address:
        url = httpx.URL(address)
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(f"GET {path}?prompt=a HTTP/1.1\r\nHost: app\r\n\r\n".encode())
        await engine.wait_computed(1)
        writer.close()
        await engine.wait_released(1)
    engine.resume()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("response", [TextStreamResponse, EventStreamResponse])
async def test_a_send_that_fails_is_a_client_that_has_left(
    session: Session, engine: FakeEngine, response: type[TextStreamResponse]
) -> None:
    sent: list[str] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:  # as ASGI 2.4 has it
        sent.append(message["type"])
        if sent[-1] == "http.response.body":
            raise OSError("the client has gone")

    engine.hold()
    engine.step()
    await response(session.stream("a b c"))({"type": "http"}, receive, send)
    await engine.wait_released(1)
    engine.resume()
    assert sent == ["http.response.start", "http.response.body"]


async def test_a_text_arrives_as_it_is_computed(app: Starlette, engine: FakeEngine) -> None:
    engine.hold()
    engine.step()
    async with (
        client_of(app) as client,
        client.stream("GET", "/text", params={"prompt": "a\nb é"}) as reply,
    ):
        assert reply.headers["content-type"] == "text/plain; charset=utf-8"
        assert reply.headers["x-accel-buffering"] == "no"
        parts = reply.aiter_text()
        assert await anext(parts) == "You "
        engine.resume()
        assert "You " + "".join([part async for part in parts]) == "You said: a\nb é"
    assert app.state.background == ["done"]


@pytest.mark.parametrize("response", [TextStreamResponse, EventStreamResponse])
async def test_what_is_remembered_is_sent_at_once(
    session: Session, response: type[TextStreamResponse]
) -> None:
    bodies: list[bytes] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        bodies.append(message.get("body", b""))

    prompt = "word " * 100
    await session.generate(prompt)
    await response(session.stream(prompt))({"type": "http"}, receive, send)
    assert len(bodies) <= 4  # the status, the text, an event `done`, and the end
    assert b"".join(bodies).count(b"word") >= 100


async def test_events_are_those_that_browsers_read(session: Session, app: Starlette) -> None:
    async with client_of(app) as client:
        for _ in range(2):  # computed, and from the cache
            reply = await client.get("/events", params={"prompt": "a\r\nb\n\nc"})
            assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
            *texts, (last, data) = read_events(reply.text)
            assert {name for name, _ in texts} == {"message"}
            assert "".join(text for _, text in texts) == "You said: a\nb\n\nc"
            assert last == "done"
            assert json.loads(data)["text"] == "You said: a\r\nb\n\nc"


async def test_comments_keep_a_connection_that_waits(app: Starlette, engine: FakeEngine) -> None:
    engine.hold()
    engine.step()
    async with (
        client_of(app) as client,
        client.stream("GET", "/events", params={"prompt": "a"}) as reply,
    ):
        lines = reply.aiter_lines()
        assert await anext(lines) == "data: You "
        assert await anext(lines) == ""
        assert await anext(lines) == ": waiting"
        engine.resume()
        assert "event: done" in [line async for line in lines]


async def test_reasoning_calls_and_errors_are_events_of_their_own() -> None:
    def answer(request: GenerateRequest) -> str:
        return "one two"

    engine = FakeEngine(
        answer, reasoning=lambda request: "hm", tool_calls=lambda request: [("f", {"x": 1})]
    )
    tool = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    async with Session(engine=engine) as session:

        async def events(request: Request) -> Response:
            return EventStreamResponse(session.stream("a", tools=[tool]))

        async with client_of(Starlette(routes=[Route("/", events)])) as client:
            found = read_events((await client.get("/")).text)
    assert [name for name, _ in found] == ["reasoning", "message", "message", "tool_call", "done"]
    assert json.loads(found[3][1])["name"] == "f"


@pytest.mark.parametrize("response", [TextStreamResponse, EventStreamResponse])
async def test_an_error_in_mid_stream_is_an_event_and_cuts_a_text(
    engine: FakeEngine, response: type[TextStreamResponse]
) -> None:
    session = Session(engine=engine)

    async def show(request: Request) -> Response:
        return response(session.stream("a"))

    engine.hold()
    engine.step()
    async with (
        session,
        client_of(Starlette(routes=[Route("/", show)])) as client,
        client.stream("GET", "/") as reply,
    ):
        parts = reply.aiter_text()
        assert await anext(parts)
        await session.aclose()
        if response is EventStreamResponse:
            assert "event: error" in "".join([part async for part in parts])
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                assert [part async for part in parts]
    engine.resume()


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (asteady.InvalidRequestError("x"), 400, "x"),
        (asteady.PromptTooLongError("x"), 413, "x"),
        (asteady.ModelNotFoundError("/secret/path"), 404, "no such model"),
        (asteady.QueueFullError("x"), 503, "x"),
        (asteady.SessionClosedError("x"), 503, "x"),
        (asteady.SessionError("belongs to another event loop"), 500, "internal error"),
        (asteady.ModelCapabilityError("no chat template"), 400, "no chat template"),
        (asteady.ModelCapabilityError("/secret/a.gguf cannot embed"), 400, "cannot do"),
        (asteady.ModelChangedError("/secret/a.gguf was written to"), 503, "ask again"),
        (TimeoutError(110, "timed out", "/secret"), 504, "too long"),
        (asteady.CacheMissError("x"), 504, "x"),
        (TimeoutError(), 504, "too long"),
        (asteady.EngineError("/secret"), 500, "internal error"),
        (asteady.RemoteError("http://secret/v1"), 502, "sent no valid answer"),
        (asteady.AnswerCutError("http://secret/v1"), 502, "sent no valid answer"),
        (asteady.RemoteUnavailableError("http://secret/v1"), 503, "unavailable"),
        (asteady.RemoteBusyError("http://secret/v1"), 503, "overloaded"),
        (asteady.RemoteTimeoutError("http://secret/v1"), 504, "too long"),
        (asteady.StoreError("/secret"), 500, "internal error"),
    ],
)
async def test_errors_have_a_status_and_no_secrets(
    error: Exception, status: int, told: str
) -> None:
    async def fail(request: Request) -> Response:
        raise error

    app = Starlette(routes=[Route("/", fail)], exception_handlers=exception_handlers)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        reply = await client.get("/")
    assert reply.status_code == status
    assert told in reply.json()["detail"]
    assert "secret" not in reply.text
    assert ("retry-after" in reply.headers) == (status == 503)
