"""Servers that are busy, broken, away, or other ones than they were."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, request_response

import asteady
from asteady._engine.remote import endpoints
from tests.engine.remote.scripted import REFUSED, Scripted, chunk, events, text_events
from tests.serving import serving

pytestmark = pytest.mark.anyio


@contextmanager
def refusing(port: int = 0) -> Iterator[int]:
    """A port that refuses connections, as nobody listens there, and nobody else can."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        yield bound.getsockname()[1]


@asynccontextmanager
async def asking(*servers: Scripted, more: str = "?retries=1#m") -> AsyncIterator[asteady.Session]:
    """A session whose model these servers have."""
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(serving(each.app)) for each in servers]
        reference = "openai+" + ",".join(addresses) + more
        yield await stack.enter_async_context(
            asteady.Session(generation_model=reference, embedding_model=reference, workers=2)
        )


class Failing:
    """Replies with these statuses in turn, and then with answers."""

    def __init__(self, *statuses: int, **headers: str) -> None:
        self._statuses = list(statuses)
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def __call__(self, body: dict[str, Any]) -> Response:
        if self._statuses:
            return JSONResponse(REFUSED, self._statuses.pop(0), self._headers)
        return text_events("at ", "last")


@pytest.mark.parametrize("status", [429, 503, 502])
async def test_a_busy_server_is_asked_again(status: int) -> None:
    server = Scripted(Failing(status, retry_after="0"))
    async with asking(server) as session:
        assert await session.generate("p") == "at last"
    assert len(server.asked) == 2


async def test_a_server_that_stays_busy_is_told_with_what_it_says() -> None:
    server = Scripted(Failing(*[429] * 9))
    async with asking(server) as session:
        with pytest.raises(asteady.QueueFullError, match="status 429: no"):
            await session.generate("p")
        assert not await session.is_cached("p")
    assert len(server.asked) == 2


async def test_nobody_waits_longer_than_timeout_s_for_a_busy_server() -> None:
    server = Scripted(Failing(429, retry_after="3600"))
    async with asking(server, more="?timeout_s=60#m") as session:
        for prompt in ("p", "q"):
            with pytest.raises(asteady.QueueFullError, match="status 429"):
                await session.generate(prompt)
    assert len(server.asked) == 1


async def test_a_request_that_a_lone_server_fails_on_holds_up_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "asteady")
    server = Scripted(Failing(500))
    async with asking(server) as session:
        with pytest.raises(asteady.EngineError, match="status 500"):
            await session.generate("p")
        assert await session.generate("q") == "at last"
    assert "set aside" not in caplog.text


async def test_another_server_answers_where_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "FIRST_PAUSE_S", 600.0)
    monkeypatch.setattr(endpoints, "LONGEST_PAUSE_S", 600.0)
    broken, whole = Scripted(Failing(*[500] * 9)), Scripted()
    async with asking(broken, whole) as session:
        assert await session.generate("p") == "an answer"
        # It is set aside.
        assert await session.generate("q") == "an answer"
    assert (len(broken.asked), len(whole.asked)) == (1, 2)


async def test_a_failure_without_another_server_is_an_error() -> None:
    async with asking(Scripted(Failing(500))) as session:
        with pytest.raises(asteady.EngineError, match="status 500: no"):
            await session.generate("p")


async def test_a_server_is_found_by_the_name_of_its_host() -> None:
    async with serving(Scripted().app) as address:
        reference = f"openai+{address.replace('127.0.0.1', 'localhost')}#m"
        async with asteady.Session(generation_model=reference) as session:
            before = {*threading.enumerate()}
            assert await session.generate("p") == "an answer"
            # None of asyncio's executor, which Python would wait for at exit.
            begun = {*threading.enumerate()} - before
            assert not [thread for thread in begun if thread.name.startswith("asyncio_")]


async def test_a_server_that_is_away_is_replaced_by_another() -> None:
    with refusing() as port:
        async with serving(Scripted().app) as address:
            reference = f"openai+http://127.0.0.1:{port},{address}#m"
            async with asteady.Session(generation_model=reference) as session:
                assert await session.generate("p") == "an answer"


async def test_without_any_server_the_model_is_unavailable() -> None:
    with refusing() as port:
        reference = f"openai+http://127.0.0.1:{port}?retries=0#m"
        async with asteady.Session(generation_model=reference) as session:
            # As one that is not there, and as one that fails.
            for kind in (asteady.ModelError, asteady.EngineError):
                with pytest.raises(kind, match="cannot be reached") as caught:
                    await session.generate("p")
                assert type(caught.value) is asteady.RemoteUnavailableError


async def test_without_httpx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    async with asteady.Session(generation_model="openai+http://127.0.0.1:9#m") as session:
        with pytest.raises(asteady.SettingsError, match=r"asteady\[remote\]"):
            await session.generate("p")


async def test_cached_answers_are_found_while_the_server_is_away() -> None:
    async with serving(Scripted().app) as address:
        reference = f"openai+{address}?retries=0#m"
        async with asteady.Session(generation_model=reference) as session:
            await session.generate("p")
    with refusing(int(address.rpartition(":")[2])):
        async with asteady.Session(generation_model=reference) as session:
            assert await session.generate("p") == "an answer"
            with pytest.raises(asteady.EngineError, match="cannot be reached"):
                await session.generate("q")


async def test_requests_go_to_the_least_busy_server() -> None:
    one, two = Scripted(), Scripted()
    both = asyncio.Barrier(2)

    def held(server: Scripted) -> None:
        reply = server.app.routes[1].endpoint  # type: ignore[attr-defined]

        async def endpoint(request: Any) -> Response:
            if "stream" in await request.json():
                await both.wait()  # until the other one has a request too
            found: Response = await reply(request)
            return found

        server.app.routes[1].app = request_response(endpoint)  # type: ignore[attr-defined]

    held(one)
    held(two)
    async with asking(one, two) as session:
        await asyncio.gather(session.generate("p"), session.generate("q"))
    assert (len(one.asked), len(two.asked)) == (1, 1)


def half(text: str, *, cleanly: bool) -> Any:
    """Replies that end after a chunk, by HTTP's means or by closing the connection."""
    body = events(chunk({"content": text}), done=False).body
    headers = {} if cleanly else {"content-length": "9999"}
    return lambda _: Response(body, media_type="text/event-stream", headers=headers)


@pytest.mark.parametrize("cleanly", [False, True])
@pytest.mark.parametrize("text", ["half", ""])
async def test_an_answer_that_is_cut_is_asked_for_elsewhere_if_nobody_has_read_of_it(
    text: str, cleanly: bool
) -> None:
    cut, whole = Scripted(half(text, cleanly=cleanly)), Scripted()
    async with asking(cut, whole) as session:
        assert await session.generate("p") == "an answer"
        async with session.stream("p", cache="only") as stream:
            assert [each async for each in stream] == ["an ", "answer"]
    assert (len(cut.asked), len(whole.asked)) == (1, 1)


@pytest.mark.parametrize("cleanly", [False, True])
async def test_a_reader_of_an_answer_that_is_cut_gets_an_error(cleanly: bool) -> None:
    cut, whole = Scripted(half("half", cleanly=cleanly)), Scripted()
    async with asking(cut, whole) as session:
        async with session.stream("p") as stream:
            assert await anext(stream) == "half"
            with pytest.raises(asteady.AnswerCutError, match="cut in the middle"):
                await anext(stream)
        assert not await session.is_cached("p")
    assert not whole.asked


async def test_a_stream_without_an_end_is_no_answer() -> None:
    server = Scripted(lambda body: events(chunk({"content": "half"}), done=False))
    async with asking(server) as session:
        with pytest.raises(asteady.EngineError, match="nothing says why the answer ends"):
            await session.generate("p")
        assert not await session.is_cached("p")


async def test_the_key_is_sent_and_never_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = "sk-0123456789"
    monkeypatch.setenv("OF_THE_SERVER", secret)
    server = Scripted(
        lambda body: JSONResponse({"error": {"message": f"{secret} has no credit"}}, 400)
    )
    async with asking(server, more="?api_key=OF_THE_SERVER#m") as session:
        with pytest.raises(asteady.InvalidRequestError, match="has no credit") as caught:
            await session.generate("p")
        assert secret not in str(caught.value)
        server.answer = lambda body: JSONResponse({"error": {"message": secret[:9]}}, 401)
        with pytest.raises(asteady.ModelError, match="set OF_THE_SERVER") as refused:
            await session.generate("p")
        assert secret[:9] not in str(refused.value)
    assert server.keys == [f"Bearer {secret}"]
    assert secret.encode() not in b"".join(
        file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()
    )
    monkeypatch.delenv("OF_THE_SERVER")
    async with asking(server, more="?api_key=OF_THE_SERVER#m") as session:
        with pytest.raises(asteady.SettingsError, match="OF_THE_SERVER"):
            await session.generate("p")


async def test_a_model_that_is_not_served_is_named_with_those_that_are() -> None:
    async with asking(Scripted(models=("one", "two")), more="#three") as session:
        with pytest.raises(asteady.ModelNotFoundError, match="no model 'three'; there are: one, "):
            await session.generate("p")
    async with asking(Scripted(models=("one", "two")), more="") as session:
        with pytest.raises(asteady.ModelNotFoundError, match="add #NAME; there are: one, two"):
            await session.generate("p")


async def test_a_server_without_the_model_is_left_to_itself() -> None:
    without, whole = Scripted(models=("other",)), Scripted()
    for servers in ((without, whole), (whole, without)):
        async with asking(*servers) as session:
            for prompt in ("p", "q"):
                assert await session.generate(prompt, cache="bypass") == "an answer"
    assert not without.asked


async def test_a_server_with_another_build_has_other_keys() -> None:
    server = Scripted()
    async with asking(server) as session:
        first = await session.complete("p")

        def other(body: dict[str, Any]) -> Response:
            return events({**chunk({"content": "new"}, "stop"), "system_fingerprint": "g"})

        server.fingerprint, server.answer = "g", other
        assert (await session.complete("p")).text == first.text
        second = await session.complete("q")
        assert second.text == "new"
        assert second.fingerprint != first.fingerprint


async def test_servers_that_report_various_builds_can_be_used_by_a_revision() -> None:
    builds = iter("abcdefghij")

    def answer(body: dict[str, Any]) -> Response:
        return events({**chunk({"content": "x"}, "stop"), "system_fingerprint": next(builds)})

    async with asking(Scripted(answer)) as session:
        with pytest.raises(asteady.ModelChangedError, match="fingerprint=ignore"):
            await session.generate("p")
    found = set()
    for more in ("?fingerprint=ignore#m@1", "?fingerprint=ignore#m@2"):
        async with asking(Scripted(answer), more=more) as session:
            found.add((await session.complete("p")).fingerprint)
    assert len(found) == 2


async def test_a_fingerprint_does_not_depend_on_where_the_server_is() -> None:
    found = set()
    for number in range(2):
        async with asking(Scripted()) as session:
            found.add((await session.complete(f"{number}")).fingerprint)
    assert len(found) == 1


NO_ANSWERS = {
    "HTML": Response("<html>", media_type="text/html"),
    "half of JSON": Response("data: {\n\n", media_type="text/event-stream"),
    "a list": Response("data: []\n\n", media_type="text/event-stream"),
    "a choice that is a number": events({"choices": [7]}),
    "a text that is a number": events(chunk({"content": 7}, "stop")),
    "an error": events({"error": {"message": "out of memory"}}),
    "half of a call": events(
        chunk({"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "stop")
    ),
    "a filter": events(chunk({}, "content_filter")),
    "no end": events(*[chunk({"content": "x"})] * 3000, chunk({}, "stop")),
    "another place": Response(status_code=302, headers={"location": "http://elsewhere/"}),
}


@pytest.mark.parametrize("reply", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
async def test_what_is_no_answer_is_an_error_and_not_stored(reply: Response) -> None:
    server = Scripted(lambda body: reply)
    async with asking(server) as session:
        with pytest.raises((asteady.EngineError, asteady.ModelError), match=r"http://127\.0\.0\.1"):
            await session.generate("p")
        assert not await session.is_cached("p")
        server.answer = lambda body: text_events("fine")
        assert await session.generate("p") == "fine"


def telling_tokens(server: Scripted, reply: Response) -> list[dict[str, Any]]:
    """Give a server POST /tokenize beside /v1; the bodies that it is sent."""
    asked: list[dict[str, Any]] = []

    async def tokenize(request: Request) -> Response:
        asked.append(await request.json())
        return reply

    server.app.routes.append(Route("/tokenize", tokenize, methods=["POST"]))
    return asked


async def test_tokens_are_counted_as_vllm_does_it() -> None:
    server = Scripted(owned_by="vllm")
    asked = telling_tokens(server, JSONResponse({"count": 3, "tokens": [7, 8, 9]}))
    async with asking(server) as session:
        assert await session.count_tokens("p") == 3
        assert await session.count_tokens("p", raw=True) == 3
        assert await session.count_tokens(["p", "q"], kind="embedding") == [3, 3]
    chat, raw, *texts = asked
    assert (chat["model"], chat["messages"]) == ("m", [{"role": "user", "content": "p"}])
    assert (raw["model"], raw["prompt"]) == ("m", "p")
    assert texts == [{"model": "m", "prompt": "p"}, {"model": "m", "prompt": "q"}]
    # Nothing was computed.
    assert not server.asked


@pytest.mark.parametrize(
    ("owned_by", "reply", "told"),
    [
        ("somebody", None, "the prompt_tokens of an answer"),
        ("openai", None, "the prompt_tokens of an answer"),
        ("vllm", None, "does not tell the tokens"),
        ("llamacpp", None, "does not tell the tokens"),
        ("vllm", JSONResponse({"count": 3}), "no list of ids"),
        ("vllm", JSONResponse({"tokens": ["a"]}), "no list of ids"),
        ("vllm", JSONResponse(REFUSED, 500), "status 500"),
    ],
)
async def test_a_server_that_tells_no_tokens_is_a_clear_error(
    owned_by: str, reply: Response | None, told: str
) -> None:
    server = Scripted(owned_by=owned_by)
    if reply is not None:
        telling_tokens(server, reply)
    async with asking(server) as session:
        with pytest.raises(asteady.AsteadyError, match=told) as caught:
            await session.count_tokens("p", raw=True)
        kind = asteady.RemoteError if reply else asteady.ModelCapabilityError
        assert type(caught.value) is kind
        assert await session.generate("p") == "an answer"


async def test_counting_tokens_of_a_server_that_is_away_is_a_clear_error() -> None:
    async with serving(Scripted(owned_by="vllm").app) as address:
        reference = f"openai+{address}?retries=0#m"
        async with asteady.Session(generation_model=reference) as session:
            await session.generate("p")
    with refusing(int(address.rpartition(":")[2])):
        async with asteady.Session(generation_model=reference) as session:
            with pytest.raises(asteady.RemoteUnavailableError, match="cannot be reached"):
                await session.count_tokens("p")
