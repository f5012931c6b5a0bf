"""Remote engines and a server that misbehaves: clear errors, retries, and nothing wrong stored."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import asteady
import asteady.server
from asteady._engine.remote import endpoints
from tests.misbehaving_server import (
    VECTOR,
    WORDS,
    Behaviour,
    Exchange,
    MisbehavingServer,
    behaves,
    chunks,
    dies,
    drips,
    embeddings,
    misbehaving_server,
    never_replies,
    says,
    stalls,
    status,
)
from tests.waiting import until

pytestmark = pytest.mark.anyio

CHAT, RAW, EMBEDDINGS, MODELS = "/chat/completions", "/completions", "/embeddings", "/models"
TEXT = "".join(WORDS)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with misbehaving_server() as server:
        yield server


@pytest.fixture
async def remote(server: MisbehavingServer, tmp_path: Path) -> AsyncIterator[asteady.Session]:
    async with session_of(server, tmp_path) as session:
        yield session


@asynccontextmanager
async def session_of(
    server: MisbehavingServer, cache_dir: Path, reference: str | None = None, **settings: Any
) -> AsyncIterator[asteady.Session]:
    """A session whose models are identified and ready; the server has been asked nothing else."""
    reference = reference or server.reference()
    async with asteady.Session(
        generation_model=reference, embedding_model=reference, cache_dir=cache_dir, **settings
    ) as session:
        await session.generate("Are you ready?", cache="bypass")
        await session.embed("Are you ready?", cache="bypass")
        server.forget()
        yield session


async def entries(session: asteady.Session) -> int:
    """How many answers are stored, or in memory."""
    counted = await session.cache.get_cache_stats()
    return sum(
        counted[kind]["size"] + counted[kind]["memory_size"] for kind in ("generation", "embedding")
    )


async def error_of(call: Awaitable[object]) -> Exception | None:
    try:
        await call
    except Exception as exc:
        return exc
    return None


async def test_a_server_that_behaves(remote: asteady.Session, server: MisbehavingServer) -> None:
    connections = server.connections
    assert await remote.generate("Hello") == TEXT
    async with remote.stream("Hello, stream") as stream:
        assert [chunk async for chunk in stream] == list(WORDS)
    assert await remote.generate("Hello", raw=True) == TEXT
    assert (await remote.embed("Hello")).tolist() == pytest.approx(VECTOR)
    assert server.paths() == [CHAT, CHAT, RAW, EMBEDDINGS]
    # Remembered answers ask for nothing, and connections are kept.
    assert await remote.generate("Hello") == TEXT
    assert len(server.exchanges) == 4
    assert server.connections == connections


@pytest.mark.parametrize("path", [CHAT, RAW, EMBEDDINGS])
async def test_a_reply_that_drips(
    remote: asteady.Session, server: MisbehavingServer, path: str
) -> None:
    server.next(MODELS, drips)
    server.next(path, drips)
    if path == EMBEDDINGS:
        assert (await remote.embed("Hello")).tolist() == pytest.approx(VECTOR)
    else:
        assert await remote.generate("Hello", raw=path == RAW) == TEXT


async def test_events_in_every_form_that_servers_send(
    remote: asteady.Session, server: MisbehavingServer
) -> None:
    async def odd(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.part(": a comment\n\nevent: message\nid: 7\nretry: 10\n")
        for chunk in chunks(exchange, ["Ünï", "cöde ", "\u2028", "🙂"]):
            # As text, and cut in the middle of a character.
            for byte in f"data:{json.dumps(chunk, ensure_ascii=False)}\r\n\r\n".encode():
                await exchange.part(bytes([byte]))
        await exchange.part("data: [DONE]\n\n: after the end\n\n")
        await exchange.end()

    server.next(CHAT, odd)
    assert await remote.generate("Hello") == "Ünïcöde \u2028🙂"


# -- cut streams -----------------------------------------------------------------------------------


def cut(count: int, *, cleanly: bool) -> Behaviour:
    """Send so many events, and then end the reply, by HTTP's means or by dying."""

    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        for chunk in chunks(exchange)[:count]:
            await exchange.event(chunk)
        if cleanly:
            await exchange.end()
        else:
            exchange.cut()

    return behave


@pytest.mark.parametrize("cleanly", [False, True], ids=["died", "ended"])
@pytest.mark.parametrize("count", [2, 3, 4], ids=["one", "two", "all-words"])
async def test_a_stream_that_is_cut_is_an_error_and_never_stored(
    remote: asteady.Session, server: MisbehavingServer, count: int, cleanly: bool
) -> None:
    server.next(CHAT, cut(count, cleanly=cleanly))
    async with remote.stream("Hello") as stream:
        for word in WORDS[: count - 1]:
            assert await anext(stream) == word
        with pytest.raises(asteady.EngineError) as caught:
            await anext(stream)
    assert server.address in str(caught.value)
    assert await entries(remote) == 0
    assert await remote.generate("Hello") == TEXT
    assert len(server.exchanges) == 2


async def test_what_died_before_anything_was_emitted_is_asked_again(
    remote: asteady.Session, server: MisbehavingServer
) -> None:
    server.next(CHAT, dies, cut(0, cleanly=False), cut(1, cleanly=False))
    assert await remote.generate("Hello") == TEXT
    assert len(server.exchanges) == 4


async def test_an_error_in_the_middle_of_a_stream_is_told(
    remote: asteady.Session, server: MisbehavingServer
) -> None:
    async def fails(exchange: Exchange) -> None:
        await exchange.begin()
        for chunk in chunks(exchange)[:3]:
            await exchange.event(chunk)
        await exchange.event({"error": {"message": "the GPU has melted", "code": 500}})
        await exchange.end()

    server.next(CHAT, fails)
    with pytest.raises(asteady.EngineError, match="the GPU has melted"):
        await remote.generate("Hello")
    assert await entries(remote) == 0


# -- wrong replies ---------------------------------------------------------------------------------


def streamed(*changes: dict[str, Any]) -> Behaviour:
    """Events of a reply, of which the second has these fields too."""

    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        for index, chunk in enumerate(chunks(exchange)):
            for change in changes if index == 1 else ():
                chunk = {**chunk, **change}
            await exchange.event(chunk)
        await exchange.part("data: [DONE]\n\n")
        await exchange.end()

    return behave


def events_of(*parts: object) -> Behaviour:
    """A whole stream of these texts."""

    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        for part in parts:
            await exchange.part(f"data: {part}\n\n")
        await exchange.end()

    return behave


WRONG_STREAMS = {
    "html": says("<html>It works!</html>", kind="text/html"),
    "nothing": says(""),
    "no JSON": events_of("{", "[DONE]"),
    "a list": events_of("[]", "[DONE]"),
    "a number": events_of("7", "[DONE]"),
    "NaN": events_of("NaN", "[DONE]"),
    "only the end": events_of("[DONE]"),
    "no Unicode": events_of('{"choices": [{"index": 0, "delta": {"content": "\\ud800"}}]}'),
    "another encoding": says(b"data: \xff\xfe\n\n", kind="text/event-stream"),
    "choices are no list": streamed({"choices": {"a": 1}}),
    "a choice is none": streamed({"choices": [None]}),
    "a delta is none": streamed({"choices": [{"index": 0, "delta": "One "}]}),
    "content is a number": streamed({"choices": [{"index": 0, "delta": {"content": 7}}]}),
    "another choice": streamed({"choices": [{"index": 1, "delta": {"content": "x"}}]}),
    "two choices": streamed(
        {"choices": [{"index": 0, "delta": {"content": "x"}}, {"index": 1, "delta": {}}]}
    ),
    "an unknown reason": events_of(
        '{"choices": [{"index": 0, "delta": {"content": "One "}}]}',
        '{"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]}',
        "[DONE]",
    ),
}


async def test_a_wrong_stream_is_a_clear_error_and_never_stored(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    async with session_of(server, tmp_path, server.reference(retries=0)) as remote:
        for name, behaviour in WRONG_STREAMS.items():
            server.always(CHAT, behaviour)
            caught = await error_of(remote.generate("Hello"))
            assert isinstance(caught, asteady.EngineError), name
            assert server.address in str(caught), name
            # An answer between them keeps the pauses short.
            server.always(CHAT, None)
            assert await remote.generate("Hello", cache="bypass") == TEXT
            assert await entries(remote) == 0, name


def rows(vectors: list[Any], **changes: Any) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.reply({**embeddings(exchange, vectors), **changes})

    return behave


WRONG_EMBEDDINGS = {
    "html": says("<html>It works!</html>", kind="text/html"),
    "nothing": says(""),
    "a list": says([]),
    "no rows": rows([]),
    "two rows": rows([VECTOR, VECTOR]),
    "no numbers": rows([["a", "b"]]),
    "nulls": rows([[None, 1.0]]),
    "NaN": says('{"data": [{"index": 0, "embedding": [NaN, 1.0]}]}'),
    "infinity": rows([[1e300, 1.0]]),
    "zero": rows([[0.0, 0.0]]),
    "empty": rows([[]]),
    "nested": rows([[[0.6], [0.8]]]),
    "no base64": rows(["*"]),
    "a part of a number": rows(["AAAA"]),
}


async def test_a_wrong_vector_is_a_clear_error_and_never_stored(
    remote: asteady.Session, server: MisbehavingServer
) -> None:
    for name, behaviour in WRONG_EMBEDDINGS.items():
        server.always(EMBEDDINGS, behaviour)
        caught = await error_of(remote.embed("Hello"))
        assert isinstance(caught, asteady.EngineError), name
        assert server.address in str(caught), name
        assert await entries(remote) == 0, name
    server.always(EMBEDDINGS, None)
    assert (await remote.embed("Hello")).tolist() == pytest.approx(VECTOR)


async def test_a_vector_that_is_not_of_norm_1_is_scaled(
    remote: asteady.Session, server: MisbehavingServer
) -> None:
    server.next(EMBEDDINGS, rows([[3.0, 4.0]]))
    assert (await remote.embed("Hello")).tolist() == pytest.approx([0.6, 0.8])


async def test_what_the_server_ignores_is_an_error(tmp_path: Path) -> None:
    ignored: list[dict[str, Any]] = [
        {"schema": SCHEMA},
        {"choices": ["yes", "no"]},
        {"regex": "[0-9]+"},
        {"stop": "two"},
        {"logprobs": 1},
        {"tools": [TOOL], "tool_choice": "required"},
    ]
    with misbehaving_server(owner="vllm") as server:
        async with session_of(server, tmp_path) as remote:
            for options in ignored:
                with pytest.raises(asteady.EngineError) as caught:
                    await remote.complete("Hello", **options)
                assert server.address in str(caught.value)
                assert await entries(remote) == 0
            assert await remote.generate("Hello", regex="[A-Z][a-z .]+") == TEXT
            assert await remote.generate("Hello", choices=[TEXT, "no"]) == TEXT


async def test_json_must_have_the_schema_in_any_order_of_keys(
    remote: asteady.Session, server: MisbehavingServer
) -> None:
    schema = {**SCHEMA, "properties": {"n": {"type": "integer"}, **SCHEMA["properties"]}}

    def writes(text: str) -> Behaviour:
        async def behave(exchange: Exchange) -> None:
            await exchange.begin()
            for chunk in chunks(exchange, [text]):
                await exchange.event(chunk)
            await exchange.part("data: [DONE]\n\n")
            await exchange.end()

        return behave

    for wrong in (
        "7",
        "{}",
        '{"city": 1}',
        '{"city": "Rome", "n": "x"}',
        '{"city": "Rome"',
        "[" * 10**5,
    ):
        server.next(CHAT, writes(wrong))
        caught = await error_of(remote.complete("Where?", schema=schema))
        assert isinstance(caught, asteady.EngineError), wrong
    assert await entries(remote) == 0
    server.next(CHAT, writes('{ "city":"Rome",\n"n": 1.0, "more": [] }'))
    answer = await remote.complete("Where?", schema=schema)
    assert answer.value == {"city": "Rome", "n": 1, "more": []}


async def test_calls_that_are_none_are_errors(
    remote: asteady.Session, server: MisbehavingServer
) -> None:
    def calls(*calls: Any) -> Behaviour:
        delta = {"tool_calls": list(calls)}
        return streamed({"choices": [{"index": 0, "delta": delta}]})

    for call in (
        7,
        {"index": 0},
        {"index": 0, "id": "1", "function": {"name": "now", "arguments": "{"}},
        {"index": 0, "id": "1", "function": {"name": "now", "arguments": "[]"}},
        {"index": 0, "id": "1", "function": {"name": "", "arguments": "{}"}},
        {"index": 0, "id": "1", "function": {"name": "unknown", "arguments": "{}"}},
    ):
        server.next(CHAT, calls(call))
        with pytest.raises(asteady.EngineError):
            await remote.complete("What time is it?", tools=[TOOL])
    assert await entries(remote) == 0


# -- refusals --------------------------------------------------------------------------------------


async def test_a_server_that_is_busy_is_asked_again(
    remote: asteady.Session, server: MisbehavingServer
) -> None:
    server.next(CHAT, status(429), status(503, headers={"retry-after": "0"}))
    assert await remote.generate("Hello") == TEXT
    assert len(server.exchanges) == 3


async def test_a_storm_of_refusals_ends_with_a_clear_error(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    async with session_of(server, tmp_path, server.reference(retries=2)) as remote:
        server.always(CHAT, status(429, "far too many", {"retry-after": "0"}))
        with pytest.raises(asteady.RemoteBusyError, match=r"429.*far too many"):
            await remote.generate("Hello")
        assert len(server.exchanges) == 3
        assert await entries(remote) == 0


async def test_it_is_asked_again_when_it_wants_to_be(
    remote: asteady.Session, server: MisbehavingServer
) -> None:
    asked_s = []

    async def busy(exchange: Exchange) -> None:
        asked_s.append(time.monotonic())
        await status(503, headers={"retry-after": "1"})(exchange)

    async def ready(exchange: Exchange) -> None:
        asked_s.append(time.monotonic())
        await behaves(exchange)

    server.next(CHAT, busy, ready)
    assert await remote.generate("Hello") == TEXT
    # Without the header it would have been asked after a quarter of a second.
    assert asked_s[1] - asked_s[0] >= 1


async def test_what_takes_longer_than_anybody_waits_is_told_at_once(
    remote: asteady.Session, server: MisbehavingServer
) -> None:
    server.always(CHAT, status(429, "come tomorrow", {"retry-after": "86400"}))
    with pytest.raises(asteady.QueueFullError, match="come tomorrow"):
        await remote.generate("Hello")
    assert len(server.exchanges) == 1


async def test_a_request_that_is_refused_is_not_repeated(
    remote: asteady.Session, server: MisbehavingServer
) -> None:
    server.always(CHAT, status(400, "temperature: too hot"))
    with pytest.raises(asteady.InvalidRequestError, match="temperature: too hot"):
        await remote.generate("Hello")
    assert len(server.exchanges) == 1


@pytest.mark.parametrize(
    ("behaviour", "kind", "status_of_ours", "code"),
    [
        (dies, asteady.RemoteUnavailableError, 503, "model_unavailable"),
        (status(502), asteady.RemoteUnavailableError, 503, "model_unavailable"),
        (status(429), asteady.RemoteBusyError, 503, "queue_full"),
        (status(503), asteady.RemoteBusyError, 503, "queue_full"),
        (status(504), asteady.RemoteTimeoutError, 504, "timeout"),
        (status(500), asteady.RemoteError, 502, "bad_gateway"),
        (says("<html>", kind="text/html"), asteady.RemoteError, 502, "bad_gateway"),
    ],
    ids=["died", "502", "429", "503", "504", "500", "html"],
)
async def test_failures_have_classes_and_statuses_of_their_own(
    server: MisbehavingServer,
    tmp_path: Path,
    behaviour: Behaviour,
    kind: type[asteady.RemoteError],
    status_of_ours: int,
    code: str,
) -> None:
    async with session_of(server, tmp_path, server.reference(retries=0)) as remote:
        for path in (CHAT, EMBEDDINGS):
            server.always(path, behaviour)
        with pytest.raises(kind) as caught:
            await remote.generate("Hello")
        assert type(caught.value) is kind
        transport = httpx.ASGITransport(app=asteady.server.openai(remote))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            for path, body in (
                (CHAT, {"messages": [{"role": "user", "content": "Hello, you"}]}),
                (CHAT, {"messages": [{"role": "user", "content": "Hello"}], "stream": True}),
                (EMBEDDINGS, {"input": "Hello"}),
            ):
                reply = await client.post(path, json=body)
                error = reply.json()["error"]
                assert (reply.status_code, error["code"]) == (status_of_ours, code)
                assert ("retry-after" in reply.headers) == (status_of_ours == 503)
                assert server.address not in reply.text


async def test_a_pause_that_nobody_waits_for_is_told_with_its_length(
    remote: asteady.Session, server: MisbehavingServer
) -> None:
    server.next(CHAT, status(429, "come later", {"retry-after": "86400"}))
    for prompt in ("Hello", "Hello, you"):
        with pytest.raises(asteady.RemoteBusyError, match="come later") as caught:
            await remote.generate(prompt)
        assert 80_000 < caught.value.retry_after_s <= 86_400
    transport = httpx.ASGITransport(app=asteady.server.openai(remote))
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        reply = await client.post(RAW, json={"prompt": "Hello"})
    assert reply.status_code == 503
    assert 80_000 < int(reply.headers["retry-after"]) <= 86_400
    # The others were not sent.
    assert len(server.exchanges) == 1


async def test_a_wrong_key_is_told(remote: asteady.Session, server: MisbehavingServer) -> None:
    server.always(CHAT, status(401, "no such key"))
    with pytest.raises(asteady.ModelError, match="ASTEADY_REMOTE_API_KEY"):
        await remote.generate("Hello")
    assert len(server.exchanges) == 1


# -- cancelling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", [never_replies, stalls(1), stalls(2)])
async def test_cancelling_closes_the_request_and_the_server_sees_it(
    remote: asteady.Session, server: MisbehavingServer, behaviour: Behaviour
) -> None:
    server.next(CHAT, behaviour)
    task = asyncio.create_task(remote.generate("Hello"))
    await server.wait_begun(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.wait_hung_up()
    assert await entries(remote) == 0
    # Its slot is free.
    assert await remote.generate("Hello") == TEXT


async def test_cancelling_one_of_two_requests_leaves_the_other(
    tmp_path: Path, server: MisbehavingServer
) -> None:
    async with session_of(server, tmp_path, workers=2) as remote:
        server.always(CHAT, never_replies)
        tasks = [asyncio.create_task(remote.generate(text)) for text in ("one", "two")]
        await server.wait_begun(2)
        tasks[0].cancel()
        await server.wait_hung_up()
        server.release()
        assert await tasks[1] == TEXT
        assert sum(exchange.hung_up for exchange in server.exchanges) == 1


async def test_closing_the_session_closes_its_requests(
    tmp_path: Path, server: MisbehavingServer
) -> None:
    async with session_of(server, tmp_path) as remote:
        server.always(CHAT, stalls(2))
        task = asyncio.create_task(remote.generate("Hello"))
        await server.wait_begun(1)
    with pytest.raises(asteady.SessionClosedError):
        await task
    await server.wait_hung_up()


async def test_neither_closing_nor_cancelling_waits_for_a_pause(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    async with session_of(server, tmp_path) as remote:
        server.always(CHAT, status(429, headers={"retry-after": "500"}))
        one, other = (asyncio.create_task(remote.generate(text)) for text in ("one", "other"))
        await server.wait_begun(1)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
    with pytest.raises(asteady.SessionClosedError):
        await other


async def test_a_server_that_sends_nothing_for_too_long_is_given_up(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    reference = server.reference(timeout_s=2)
    async with session_of(server, tmp_path, reference, workers=4) as remote:
        server.next(CHAT, never_replies, stalls(0), stalls(1), stalls(2))
        calls = [remote.generate(f"number {n}") for n in range(4)]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, asteady.RemoteTimeoutError)
            assert server.address in str(error)
            assert "timeout_s" in str(error)
        # It has seen that its clients are gone.
        await server.wait_hung_up(4)
        assert await entries(remote) == 0


async def test_no_more_requests_at_once_than_workers(
    tmp_path: Path, server: MisbehavingServer
) -> None:
    async with session_of(server, tmp_path, workers=3) as remote:
        server.always(CHAT, never_replies)
        tasks = [asyncio.create_task(remote.generate(f"number {n}")) for n in range(9)]
        await server.wait_begun(3)
        pool = f"generation:{server.reference()}"
        # The others are on their way to the queue.
        await until(lambda: remote.statistics().pools[pool].pending == 6)
        assert remote.statistics().pools[pool].running == 3
        server.release()
        assert await asyncio.gather(*tasks) == [TEXT] * 9
    assert server.peak == 3


async def test_identical_requests_are_asked_once(
    remote: asteady.Session, server: MisbehavingServer
) -> None:
    server.next(CHAT, never_replies)
    tasks = [asyncio.create_task(remote.generate("Hello")) for _ in range(20)]
    await server.wait_begun(1)
    server.release()
    assert await asyncio.gather(*tasks) == [TEXT] * 20
    assert len(server.exchanges) == 1


# -- servers that die, and several of them ---------------------------------------------------------


async def test_a_server_that_is_not_there_is_told_with_its_address(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    server.die()
    reference = server.reference(retries=0)
    async with asteady.Session(generation_model=reference, cache_dir=tmp_path) as session:
        with pytest.raises(asteady.RemoteUnavailableError, match=f"{server.address} cannot be"):
            await session.generate("Hello")


async def test_what_is_cached_is_answered_while_the_server_is_away(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    async with session_of(server, tmp_path) as remote:
        assert await remote.generate("Hello") == TEXT
    server.die()
    reference = server.reference()
    async with asteady.Session(generation_model=reference, cache_dir=tmp_path) as later:
        assert await later.generate("Hello") == TEXT


async def test_a_server_that_comes_back_is_found(
    server: MisbehavingServer, remote: asteady.Session
) -> None:
    server.next(CHAT, dies_and_is_away)
    task = asyncio.create_task(remote.generate("Hello"))
    await server.wait_begun(1)
    server.come_back()
    assert await task == TEXT


async def dies_and_is_away(exchange: Exchange) -> None:
    exchange.server.stop_listening()
    exchange.cut()


async def test_another_model_under_the_same_name_is_not_mixed_up(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    server.fingerprint = "build-1"
    async with session_of(server, tmp_path) as remote:
        before = await remote.complete("Hello")
        server.fingerprint = "build-2"
        after = await remote.complete("Hello, you")
        assert after.fingerprint != before.fingerprint
        # What the new build answered to the old one's key was dropped.
        assert len(server.exchanges) == 3
        again = await remote.complete("Hello")
        assert (again.cached, again.fingerprint) == (False, after.fingerprint)


async def test_a_server_that_always_reports_another_fingerprint(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    async def reports(exchange: Exchange) -> None:
        server.fingerprint = f"{server.fingerprint}1"
        await behaves(exchange)

    server.fingerprint = "1"
    reference = server.reference("model@2", fingerprint="ignore")
    async with session_of(server, tmp_path) as remote:
        for path in (CHAT, "/identify"):
            server.always(path, reports)
        with pytest.raises(asteady.ModelChangedError, match="fingerprint=ignore"):
            await remote.generate("Hello")
        assert await entries(remote) == 0
        assert await remote.generate("Hello", model=reference) == TEXT
        assert (await remote.complete("Hello", model=reference)).cached


async def test_a_model_that_is_not_served_is_told_with_those_that_are(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    for model, told in (("other", "there are: model"), ("", None)):
        async with asteady.Session(
            generation_model=server.reference(model), cache_dir=tmp_path
        ) as session:
            if told is None:  # it is the only one
                assert await session.generate("Hello") == TEXT
            else:
                with pytest.raises(asteady.ModelNotFoundError, match=told):
                    await session.generate("Hello")


@pytest.fixture
def both(server: MisbehavingServer) -> Iterator[tuple[MisbehavingServer, MisbehavingServer, str]]:
    """Two servers of one model, and its reference."""
    with misbehaving_server() as other:
        yield server, other, f"openai+{server.address},{other.address}#model"


async def test_the_least_busy_server_is_asked(
    both: tuple[MisbehavingServer, MisbehavingServer, str], tmp_path: Path
) -> None:
    one, other, reference = both
    async with session_of(one, tmp_path, reference, workers=4) as remote:
        other.forget()
        for server in (one, other):
            server.always(CHAT, never_replies)
        tasks = [asyncio.create_task(remote.generate(f"number {n}")) for n in range(4)]
        await one.wait_begun(2)
        await other.wait_begun(2)
        one.release()
        other.release()
        assert await asyncio.gather(*tasks) == [TEXT] * 4
    assert one.peak == other.peak == 2


async def test_what_was_under_way_on_a_server_that_died_is_asked_elsewhere(
    both: tuple[MisbehavingServer, MisbehavingServer, str], tmp_path: Path
) -> None:
    one, other, reference = both
    async with session_of(one, tmp_path, reference, workers=2) as remote:
        one.always(CHAT, never_replies)
        task = asyncio.create_task(remote.generate("Hello"))
        await one.wait_begun(1)
        one.die()
        assert await task == TEXT
        # It is set aside: nobody waits for it.
        assert await remote.generate("Hello, you") == TEXT
    assert len(one.exchanges) == 1
    assert [exchange.body["messages"][0]["content"] for exchange in other.exchanges][-2:] == [
        "Hello",
        "Hello, you",
    ]


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_PAUSE_S", "LONGEST_PAUSE_S"):
        monkeypatch.setattr(endpoints, name, 0.0)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    "behaviour",
    [says("<html>"), dies, status(500), never_replies],
    ids=["html", "dies", "500", "silent"],
)
async def test_no_request_waits_for_a_server_that_failed_while_another_one_answers(
    both: tuple[MisbehavingServer, MisbehavingServer, str], tmp_path: Path, behaviour: Behaviour
) -> None:
    one, _, reference = both
    async with session_of(one, tmp_path, reference) as remote:
        one.next(CHAT, dies)
        one.always(MODELS, behaviour)
        for number in range(5):
            assert await remote.generate(f"number {number}") == TEXT
        assert len(one.exchanges) == 1
        # When it is well, it has its share again.
        one.always(MODELS, None)
        one.release()
        one.forget()
        async with asyncio.timeout(60):
            while not one.exchanges:
                number += 1
                assert await remote.generate(f"number {number}") == TEXT


@pytest.mark.usefixtures("no_pauses")
async def test_a_server_that_failed_is_asked_at_once_without_another(
    both: tuple[MisbehavingServer, MisbehavingServer, str], tmp_path: Path
) -> None:
    one, other, reference = both
    async with session_of(one, tmp_path, reference) as remote:
        one.next(CHAT, dies)
        assert await remote.generate("Hello") == TEXT
        other.die()
        assert await remote.generate("Hello, you") == TEXT
    assert len(one.exchanges) == 2


@pytest.mark.usefixtures("no_pauses")
async def test_closing_does_not_wait_for_a_server_that_is_looked_at(
    both: tuple[MisbehavingServer, MisbehavingServer, str], tmp_path: Path
) -> None:
    one, _, reference = both
    looked_at = threading.Event()

    async def silent(exchange: Exchange) -> None:
        looked_at.set()
        await exchange.hold()

    async with session_of(one, tmp_path, reference) as remote:
        one.next(CHAT, dies)
        one.always(MODELS, silent)
        number = 0
        while not looked_at.is_set():
            number += 1
            assert await remote.generate(f"number {number}") == TEXT


async def test_what_was_read_before_a_server_died_is_not_asked_elsewhere(
    both: tuple[MisbehavingServer, MisbehavingServer, str], tmp_path: Path
) -> None:
    one, other, reference = both
    async with session_of(one, tmp_path, reference) as remote:
        other.forget()
        one.next(CHAT, cut(2, cleanly=False))
        async with remote.stream("Hello") as stream:
            assert await anext(stream) == WORDS[0]
            with pytest.raises(asteady.AnswerCutError, match=one.address):
                await anext(stream)
        assert other.exchanges == []
        assert await entries(remote) == 0


async def test_a_storm_of_everything_stores_nothing_wrong(tmp_path: Path) -> None:
    """300 requests to two servers, which misbehave in all ways at random."""
    rng = random.Random(7)
    ways = [
        *[behaves] * 20,
        *(drips, dies, status(429, headers={"retry-after": "0"}), status(500)),
        *(cut(count, cleanly=cleanly) for count in (0, 1, 3) for cleanly in (False, True)),
        *WRONG_STREAMS.values(),
    ]

    async def anyhow(exchange: Exchange) -> None:
        await rng.choice(ways)(exchange)

    with misbehaving_server() as one, misbehaving_server() as other:
        reference = f"openai+{one.address},{other.address}?retries=0#model"
        async with session_of(one, tmp_path, reference, workers=16) as remote:
            one.always(CHAT, anyhow)
            other.always(CHAT, anyhow)
            prompts = [f"number {n % 200}" for n in range(300)]
            found = await asyncio.gather(*map(remote.generate, prompts), return_exceptions=True)
            answered = {prompt for prompt, text in zip(prompts, found, strict=True) if text == TEXT}
            for text in found:
                assert text == TEXT or isinstance(text, asteady.AsteadyError), repr(text)
            assert answered
            for prompt in set(prompts):
                assert await remote.is_cached(prompt) == (prompt in answered)
                if prompt in answered:
                    assert await remote.generate(prompt, cache="only") == TEXT
            # Nothing is left over: all workers are free.
            pool = remote.statistics().pools[f"generation:{reference}"]
            assert (pool.running, pool.pending) == (0, 0)
