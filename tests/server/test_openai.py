"""The API of OpenAI over a real socket: shapes, errors, caching, and clients that hang up."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import asteady
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "one two"}]}
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": FUNCTION}]


async def chat(api: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    reply = await api.post("/chat/completions", json={**HELLO, **fields})
    assert reply.status_code == 200, reply.text
    content: dict[str, Any] = reply.json()
    return content


async def chunks(api: httpx.AsyncClient, path: str, **body: Any) -> list[Any]:
    """The data of the events; the last one is "[DONE]"."""
    reply = await api.post(path, json={**body, "stream": True})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, end = reply.text.split("\n\n")
    assert end == ""
    data = [event.removeprefix("data: ") for event in events]
    assert data[-1] == "[DONE]"
    return [json.loads(each) for each in data[:-1]]


def deltas(events: list[Any], index: int = 0) -> list[Any]:
    return [c["delta"] for e in events for c in e["choices"] if c["index"] == index]


async def test_an_answer_has_openais_shape(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    first = await chat(api)
    assert first["object"] == "chat.completion"
    assert first["model"] == "builtin"
    assert first["system_fingerprint"] == engine.fingerprint
    (choice,) = first["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "You said: one two",
        "refusal": None,
    }
    assert choice["finish_reason"] == "stop"
    assert first["usage"]["prompt_tokens"] == 2
    assert first["usage"]["completion_tokens"] == 4
    assert first["usage"]["total_tokens"] == 6
    again = await chat(api)
    assert again["id"] == first["id"]
    assert again["choices"] == first["choices"]


async def test_headers_tell_the_key_and_where_the_answer_comes_from(
    api: httpx.AsyncClient, session: asteady.Session
) -> None:
    async def ask(**headers: str) -> httpx.Response:
        return await api.post("/chat/completions", json=HELLO, headers=headers)

    miss = await ask(**{"x-asteady-cache-mode": "only"})
    assert (miss.status_code, miss.json()["error"]["code"]) == (504, "cache_miss")
    outcomes = [(await ask()).headers["x-asteady-cache"] for _ in range(2)]
    assert outcomes == ["computed", "memory"]
    again = await ask(**{"x-asteady-cache-mode": "refresh"})
    assert again.headers["x-asteady-cache"] == "computed"
    (entry,) = await session.cache.generation.entries()
    assert again.headers["x-asteady-key"] == str(entry.key)
    wrong = await ask(**{"x-asteady-cache-mode": "never"})
    assert wrong.status_code == 400
    assert "'never'" in wrong.json()["error"]["message"]


async def test_equal_requests_at_once_are_computed_once(
    api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.hold()
    asked = [asyncio.create_task(api.post("/chat/completions", json=HELLO)) for _ in range(5)]
    await engine.wait_computed(1)
    engine.resume()
    replies = await asyncio.gather(*asked)
    assert len(engine.computed) == 1
    outcomes = sorted(reply.headers["x-asteady-cache"] for reply in replies)
    assert outcomes[-1] == "computed"
    assert set(outcomes[:-1]) <= {"coalesced", "memory"}


async def test_a_stream_has_the_events_that_clients_expect(api: httpx.AsyncClient) -> None:
    events = await chunks(api, "/chat/completions", **HELLO, stream_options={"include_usage": True})
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    first, *between, last = deltas(events)
    assert first == {"role": "assistant", "content": ""}
    assert [delta["content"] for delta in between] == ["You ", "said: ", "one ", "two"]
    assert last == {}
    reasons = [choice["finish_reason"] for event in events for choice in event["choices"]]
    assert reasons == [None] * 5 + ["stop"]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 4
    assert all(event["usage"] is None for event in events[:-1])
    assert all("usage" not in event for event in await chunks(api, "/chat/completions", **HELLO))


async def test_a_stream_tells_where_its_answer_comes_from(engine: FakeEngine) -> None:
    found = []
    for _ in range(2):  # the second session has nothing in memory
        async with asteady.Session(engine=engine) as session:
            transport = httpx.ASGITransport(app=asteady.server.openai(session))
            async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
                for _ in range(2):
                    reply = await client.post("/chat/completions", json={**HELLO, "stream": True})
                    assert reply.text.endswith("data: [DONE]\n\n")
                    found.append(reply.headers["x-asteady-cache"])
    assert found == ["computed", "memory", "disk", "memory"]


async def test_fields_of_other_servers_are_taken(
    api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await chat(api, top_k=-1, min_p=0.1, repetition_penalty=1.2, n_predict=7, mirostat=0, cat=1)
    (request,) = engine.computed
    assert isinstance(request, asteady.GenerateRequest)
    assert (request.top_k, request.min_p, request.repeat_penalty) == (0, 0.1, 1.2)
    assert request.max_new_tokens == 7
    one = await chat(api, guided_choice=["a", "b"])
    assert one["choices"][0]["message"]["content"] in ("a", "b")
    form = await chat(api, json_schema={"const": 1})
    assert form["choices"][0]["message"]["content"] == "1"


async def test_choices_have_seeds_of_their_own(api: httpx.AsyncClient, engine: FakeEngine) -> None:
    content = await chat(api, n=3, seed=7)
    assert [choice["index"] for choice in content["choices"]] == [0, 1, 2]
    asked = [r for r in engine.computed if isinstance(r, asteady.GenerateRequest)]
    assert sorted(request.seed for request in asked) == [7, 8, 9]
    assert {request.temperature for request in asked} == {1.0}
    events = await chunks(api, "/chat/completions", **HELLO, n=2, seed=20)
    for index in range(2):
        text = "".join(delta.get("content", "") for delta in deltas(events, index))
        assert text == "You said: one two"


@pytest.mark.parametrize(
    ("fields", "temperature"),
    [({}, 0.0), ({"seed": 1}, 1.0), ({"top_p": 0.5}, 1.0), ({"seed": 1, "temperature": 0}, 0.0)],
)
async def test_the_temperature_is_openais_where_something_is_drawn(
    api: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], temperature: float
) -> None:
    await chat(api, **fields)
    (request,) = engine.computed
    assert isinstance(request, asteady.GenerateRequest)
    assert request.temperature == temperature


async def test_an_answer_with_a_form_may_be_cut(api: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"a": {"const": "long"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    content = await chat(api, response_format=form)
    assert json.loads(content["choices"][0]["message"]["content"]) == {"a": "long"}
    events = await chunks(api, "/chat/completions", **HELLO, response_format=form, max_tokens=1)
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    content = await chat(api, response_format=form, max_tokens=1)
    assert content["choices"][0]["finish_reason"] == "length"
    assert content["usage"]["prompt_tokens"] == 2
    assert content["usage"]["completion_tokens"] == 1


async def test_calls_of_tools(api: httpx.AsyncClient) -> None:
    content = await chat(api, tools=TOOLS, tool_choice="required")
    (choice,) = content["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": "{}"}
    events = await chunks(api, "/chat/completions", **HELLO, tools=TOOLS, tool_choice="required")
    (streamed,) = [d["tool_calls"][0] for d in deltas(events) if "tool_calls" in d]
    assert streamed == {"index": 0, **call}


async def test_log_probabilities(api: httpx.AsyncClient) -> None:
    content = await chat(api, logprobs=True, top_logprobs=2)
    tokens = content["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == "You said: one two"
    assert all(bytes(token["bytes"]).decode() == token["token"] for token in tokens)
    assert len(tokens[0]["top_logprobs"]) == 2
    reply = await api.post("/completions", json={"prompt": "a b", "logprobs": 1, "echo": True})
    (choice,) = reply.json()["choices"]
    assert choice["text"] == "a bYou said: a b"
    assert choice["logprobs"]["text_offset"][:2] == [3, 7]


async def test_log_probabilities_are_streamed_with_their_text(api: httpx.AsyncClient) -> None:
    wanted = {"logprobs": True, "top_logprobs": 1}
    whole = (await chat(api, **wanted))["choices"][0]["logprobs"]["content"]
    events = await chunks(api, "/chat/completions", **HELLO, **wanted)
    parts = [event["choices"][0] for event in events]
    assert [part["logprobs"] and len(part["logprobs"]["content"]) for part in parts] == [
        *(None, 1, 1),
        *(1, 1, None),
    ]
    assert [each for part in parts[1:-1] for each in part["logprobs"]["content"]] == whole
    body = {"prompt": "a b", "logprobs": 1, "echo": True}
    (choice,) = (await api.post("/completions", json=body)).json()["choices"]
    events = await chunks(api, "/completions", **body)
    parts = [event["choices"][0] for event in events]
    assert parts[0]["logprobs"] is parts[-1]["logprobs"] is None
    for name, values in choice["logprobs"].items():
        assert [each for part in parts[1:-1] for each in part["logprobs"][name]] == values


async def test_log_probabilities_of_what_a_stop_string_leaves_out_come_at_the_end(
    api: httpx.AsyncClient,
) -> None:
    events = await chunks(api, "/chat/completions", **HELLO, logprobs=True, stop="one")
    parts = [event["choices"][0] for event in events]
    tokens = [[t["token"] for t in (p["logprobs"] or {"content": []})["content"]] for p in parts]
    assert tokens == [[], ["You "], ["said: "], ["one "]]


async def test_texts_are_written_on(api: httpx.AsyncClient) -> None:
    reply = await api.post("/completions", json={"prompt": ["a", "b"], "n": 2, "seed": 1})
    texts = [choice["text"] for choice in reply.json()["choices"]]
    assert texts == ["You said: a"] * 2 + ["You said: b"] * 2
    events = await chunks(api, "/completions", prompt="a", stream_options={"include_usage": True})
    assert "".join(e["choices"][0]["text"] for e in events[:-1]) == "You said: a"
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["usage"]["total_tokens"] == 4


async def test_vectors_as_numbers_and_as_base64(
    api: httpx.AsyncClient, session: asteady.Session
) -> None:
    body = {"input": ["a", "b"]}
    plain = await api.post("/embeddings", json=body)
    coded = await api.post("/embeddings", json={**body, "encoding_format": "base64"})
    assert (plain.headers["x-asteady-cache"], coded.headers["x-asteady-cache"]) == (
        "computed",
        "memory",
    )
    expected = await session.embed(["a", "b"])
    for row, (one, other) in enumerate(
        zip(plain.json()["data"], coded.json()["data"], strict=True)
    ):
        assert np.array_equal(np.array(one["embedding"], "<f4"), expected[row])
        read = np.frombuffer(base64.b64decode(other["embedding"]), "<f4")
        assert np.array_equal(read, expected[row])
        assert (one["tokens"], one["key"]) == (1, other["key"])
    assert plain.json()["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    assert {row["key"] for row in plain.json()["data"]} == {
        str(entry.key) for entry in await session.cache.embedding.entries()
    }


async def test_vectors_are_asked_for_without_observing(
    api: httpx.AsyncClient, session: asteady.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    # While anybody observes, the warm hits of all take a longer way.
    monkeypatch.delattr(asteady.Session, "observe")
    reply = await api.post("/embeddings", json={"input": "b"})
    assert reply.headers["x-asteady-cache"] == "computed"
    (entry,) = await session.cache.embedding.entries()
    assert reply.headers["x-asteady-key"] == str(entry.key)


async def test_tokens_are_told_without_computing(
    api: httpx.AsyncClient, session: asteady.Session, engine: FakeEngine
) -> None:
    messages = [{"role": "user", "content": "one two"}]
    for body, expected in [
        ({"messages": messages, "stream": True}, await session.tokenize(messages=messages)),
        ({"prompt": "one two", "model": "other"}, await session.tokenize("one two", raw=True)),
        (
            {"input": "one two", "mode": "query"},
            await session.tokenize("one two", kind="embedding", mode="query"),
        ),
    ]:
        found = (await api.post("/tokenize", json=body)).json()
        assert found == {"count": len(expected), "tokens": [token for token, _ in expected]}
    assert not engine.computed


async def test_texts_may_be_given_as_ids_of_tokens(
    api: httpx.AsyncClient, session: asteady.Session
) -> None:
    ids = [token for token, _ in await session.tokenize("one two", raw=True)]
    reply = await api.post("/completions", json={"prompt": ids})
    assert reply.json()["choices"][0]["text"] == "You said: one two"
    embedded = [token for token, _ in await session.tokenize("one two", kind="embedding")]
    reply = await api.post("/embeddings", json={"input": [embedded, "one two"]})
    one, other = reply.json()["data"]
    assert one["embedding"] == other["embedding"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "told"),
    [
        ("/chat/completions", {"messages": []}, 400, "messages", "at least one message"),
        ("/chat/completions", {**HELLO, "temperature": -1}, 400, "temperature", "-1"),
        ("/chat/completions", {**HELLO, "n": 99}, 400, "n", "1 to 16"),
        ("/chat/completions", {**HELLO, "stream": "yes"}, 400, "stream", "'yes'"),
        ("/chat/completions", {**HELLO, "model": "/etc/x.gguf"}, 404, "model", "not served"),
        ("/chat/completions", {**HELLO, "audio": {}}, 400, "audio", "text only"),
        ("/chat/completions", {**HELLO, "top_logprobs": 1}, 400, "top_logprobs", "logprobs"),
        ("/chat/completions", {**HELLO, "response_format": "x"}, 400, "response_format", "json"),
        (
            "/chat/completions",
            {**HELLO, "max_completion_tokens": -1},
            400,
            "max_completion_tokens",
            "-1",
        ),
        ("/chat/completions", {**HELLO, "max_tokens": 0}, 400, "max_tokens", "max_tokens=0"),
        ("/completions", {"prompt": "a", "n_predict": -1}, 400, "n_predict", "n_predict=-1"),
        (
            "/chat/completions",
            {**HELLO, "response_format": {"type": "json_schema", "schema": {"type": "frob"}}},
            400,
            "response_format",
            "response_format is not allowed",
        ),
        (
            "/chat/completions",
            {**HELLO, "stop": ["a"] * 9, "logit_bias": {"x": 1}},
            400,
            "logit_bias",
            "'x'",
        ),
        (
            "/chat/completions",
            {**HELLO, "tools": TOOLS, "response_format": {"type": "json_object"}},
            400,
            "response_format",
            'tool_choice "none" or "required"',
        ),
        ("/chat/completions", {**HELLO, "guided_json": "{"}, 400, "guided_json", "guided_json="),
        ("/completions", {"prompt": [1, "a"]}, 400, "prompt", "list of texts"),
        ("/completions", {"prompt": [9]}, 400, "prompt", "the token 9"),
        ("/completions", {"prompt": "a", "suffix": "b"}, 400, "suffix", "gaps"),
        ("/tokenize", {}, 400, "messages", "one of messages, prompt and input"),
        ("/tokenize", {"prompt": "a", "input": "a"}, 400, "messages", "one of messages, prompt"),
        ("/tokenize", {"prompt": ["a"]}, 400, "prompt", "a text"),
        ("/tokenize", {"input": "a", "mode": "x"}, 400, "mode", "'x'"),
        ("/tokenize", {"messages": []}, 400, "messages", "at least one"),
        ("/tokenize", {"input": "a", "model": "none"}, 404, "model", "not served"),
        ("/embeddings", {"input": []}, 400, "input", "list of texts"),
        ("/embeddings", {"input": ["a", 1]}, 400, "input", "list of texts"),
        ("/embeddings", {"input": "a", "encoding_format": "x"}, 400, "encoding_format", "'x'"),
        ("/chat/completions", {**HELLO, "seed": "x", "n": 2}, 400, "seed", "'x'"),
        (
            "/chat/completions",
            {**HELLO, "reasoning_effort": "low", "chat_template_kwargs": [1]},
            400,
            "chat_template_kwargs",
            "[1]",
        ),
        ("/chat/completions", {**HELLO, "mirostat": 2}, 400, "mirostat", "not offered"),
        ("/chat/completions", {**HELLO, "grammar": "root ::= x"}, 400, "grammar", "regex"),
        ("/chat/completions", {**HELLO, "model": "\ud800"}, 404, "model", "not served"),
        ("/embeddings", {"input": "a", "dimensions": 0}, 400, "dimensions", "0"),
        ("/nowhere", {}, 404, None, "/v1/openapi.json"),
        ("/models", {}, 405, None, "Method Not Allowed; it takes GET, HEAD"),
    ],
)
async def test_a_refusal_names_what_is_refused(
    api: httpx.AsyncClient, path: str, body: Any, status: int, param: str | None, told: str
) -> None:
    # As bytes, since no client writes what is no Unicode.
    reply = await api.post(path, content=json.dumps(body))
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, param), error
    assert told in error["message"]
    if body.get("stream") is None and path not in ("/embeddings", "/tokenize"):
        streamed = await api.post(path, content=json.dumps({**body, "stream": True}))
        assert streamed.status_code == status


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "the model has no chat template: pass prompt=..., under a prefix with raw=True",
            "the model has no chat template: send the text as prompt to /completions",
        ),
        (
            f"{Path('/models/a.gguf')} is a generation model and cannot embed",
            "the model cannot do what the request asks for: name another one of those in /models",
        ),
    ],
)
async def test_what_a_model_cannot_do_has_a_remedy_of_this_api(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, message: str, told: str
) -> None:
    engine = FakeEngine()

    def refuse(request: object) -> None:
        raise asteady.ModelCapabilityError(message)

    monkeypatch.setattr(engine, "prepare", refuse)
    async with asteady.Session(engine=engine, cache_dir=tmp_path) as session:
        transport = httpx.ASGITransport(app=asteady.server.openai(session))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            reply = await client.post("/chat/completions", json=HELLO)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == told
    assert reply.json()["error"]["param"] == "model"


async def test_a_body_is_json_of_a_bounded_size(session: asteady.Session) -> None:
    app = asteady.server.openai(session, max_body_bytes=100)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        for content, status in (
            (b"{", 400),
            (b"[]", 400),
            (b"[" * 99, 400),
            (b'{"user": NaN}', 400),
            (b'{"user": "\xff"}', 400),
            (b" " * 101, 413),
        ):
            reply = await client.post("/chat/completions", content=content)
            assert reply.status_code == status, content
        assert "max_body_bytes" in reply.json()["error"]["message"]

        async def parts() -> Any:
            for _ in range(20):
                yield b" " * 10

        reply = await client.post("/chat/completions", content=parts())
        assert reply.status_code == 413


async def test_models_are_those_with_a_name(api: httpx.AsyncClient) -> None:
    listed = (await api.get("/models")).json()["data"]
    assert [model["id"] for model in listed] == ["builtin", "other"]
    assert (await api.get("/models/other")).json()["id"] == "other"
    assert (await api.get("/models/none")).status_code == 404
    unknown = await api.post("/embeddings", json={"input": "a", "model": "none"})
    assert "there are builtin, other, and a request without a name asks builtin" in unknown.text
    assert (await chat(api, model="other"))["model"] == "other"


async def test_a_slash_at_the_end_of_a_path_does_not_matter(api: httpx.AsyncClient) -> None:
    assert (await api.post("/chat/completions/", json=HELLO)).status_code == 200
    assert (await api.get("/models/other/")).json()["id"] == "other"
    assert (await api.get("/")).status_code == 404


async def test_a_file_is_called_by_its_own_name(tmp_path: Path) -> None:
    for reference, name in (
        (tmp_path / "model.gguf", "model"),
        # As other programs keep them.
        (tmp_path / "blobs" / "sha256-6a07", "sha256-6a07"),
        ("hf:owner/repo/file.gguf", "file"),
        ("hf:owner/repo:Q4_K_M", "hf:owner/repo:Q4_K_M"),
    ):
        app = asteady.server.openai(asteady.Session(generation_model=reference))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://app"
        ) as client:
            listed = (await client.get("/models")).json()["data"]
        assert [model["id"] for model in listed] == [name, "builtin"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", HELLO),
        ("/chat/completions", {**HELLO, "stream": True}),
        ("/chat/completions", {**HELLO, "n": 2, "stream": True}),
        ("/completions", {"prompt": ["a", "b"]}),
        ("/embeddings", {"input": ["a", "b"]}),
        ("/responses", {"input": "a", "stream": True}),
    ],
)
async def test_a_client_that_hangs_up_frees_its_worker(
    api: httpx.AsyncClient, session: asteady.Session, engine: FakeEngine, path: str, body: Any
) -> None:
    engine.hold()
    asking = asyncio.create_task(api.post(path, json=body))
    await engine.wait_computed(1)
    asking.cancel()
    await engine.wait_released(1)
    # The second of two may be on its way to its worker.
    (pool,) = session.statistics().pools
    while (now := session.statistics().pools[pool]).running or now.pending:  # noqa: ASYNC110  # no event tells
        await asyncio.sleep(0.01)
    assert len(engine.computed) == len(engine.released)


async def test_a_client_that_hangs_up_in_mid_stream_takes_nothing_from_others(
    api: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.hold()
    body = {**HELLO, "stream": True}

    async def begun() -> httpx.Response:
        return await api.send(
            api.build_request("POST", "/chat/completions", json=body), stream=True
        )

    engine.step()
    first = await begun()
    second = await begun()  # it is there when it has read what was computed
    await first.aclose()
    assert (await api.get("/models")).status_code == 200
    engine.resume()
    assert "two" in (await second.aread()).decode()
    assert first.headers["x-asteady-cache"] == "computed"
    assert second.headers["x-asteady-cache"] == "coalesced"
    assert (len(engine.computed), len(engine.released)) == (1, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_send_that_fails_is_a_client_that_has_left(
    session: asteady.Session, engine: FakeEngine, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    sent: list[str] = []
    received = [{"type": "http.request", "body": json.dumps({**HELLO, "stream": stream}).encode()}]

    async def receive() -> Any:
        if received:
            return received.pop()
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:  # as ASGI 2.4 has it
        sent.append(message["type"])
        if sent[-1] == "http.response.body":
            raise OSError("the client has gone")

    scope = {"type": "http", "method": "POST", "path": "/chat/completions", "headers": []}
    if stream:
        engine.hold()
        engine.step()
    await asteady.server.openai(session)({**scope, "query_string": b""}, receive, send)
    if stream:
        await engine.wait_released(1)
    engine.resume()
    assert sent == ["http.response.start", "http.response.body"]
    assert caplog.records == []


async def test_a_full_queue_is_told_with_when_to_ask_again(engine: FakeEngine) -> None:
    async with asteady.Session(engine=engine, workers=1, max_pending=1) as session:
        transport = httpx.ASGITransport(app=asteady.server.openai(session))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:

            def ask(text: str) -> Any:
                messages = [{"role": "user", "content": text}]
                return client.post("/chat/completions", json={"messages": messages})

            engine.hold()
            waiting = [asyncio.create_task(ask("a"))]
            await engine.wait_computed(1)
            waiting.append(asyncio.create_task(ask("b")))
            while session.statistics().pools["generation:builtin"].pending < 1:  # noqa: ASYNC110  # no event tells
                await asyncio.sleep(0.01)
            reply = await ask("c")
            assert reply.status_code == 503
            assert reply.headers["retry-after"] == "1"
            assert reply.json()["error"]["code"] == "queue_full"
            engine.resume()
            assert {reply.status_code for reply in await asyncio.gather(*waiting)} == {200}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/chat/completions", {"messages": [{"role": "user", "content": "a b c d"}]}, "messages"),
        ("/completions", {"prompt": "a b c d"}, "prompt"),
        ("/embeddings", {"input": ["a", "a b c d"]}, "input"),
        ("/responses", {"input": "a b c d"}, "input"),
    ],
)
async def test_a_prompt_that_is_too_long_is_told_with_its_field(
    path: str, body: Any, param: str
) -> None:
    async with asteady.Session(engine=FakeEngine(context=3)) as session:
        transport = httpx.ASGITransport(app=asteady.server.openai(session))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            for streamed in ({}, {"stream": True}):
                reply = await client.post(path, json={**body, **streamed})
                error = reply.json()["error"]
                assert (reply.status_code, error["code"]) == (400, "context_length_exceeded")
                assert error["param"] == param
                assert ("(at input[1])" in error["message"]) is (path == "/embeddings")


async def test_what_fails_inside_is_logged_and_not_told(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: asteady.GenerateRequest) -> str:
        raise RuntimeError("a secret")

    async with asteady.Session(engine=FakeEngine(fail)) as session:
        transport = httpx.ASGITransport(app=asteady.server.openai(session))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            reply = await client.post("/chat/completions", json=HELLO)
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert "a request failed" in caplog.text


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (asteady.ModelCapabilityError("no chat template"), 400, "no chat template"),
        (asteady.ModelCapabilityError("/secret/a.gguf cannot"), 400, "the model cannot do"),
        (asteady.ModelChangedError("/secret/a.gguf was written to"), 503, "ask again"),
        (asteady.SessionError("belongs to another event loop"), 500, "internal error"),
    ],
)
async def test_files_of_the_server_are_not_named(error: Exception, status: int, told: str) -> None:
    def fail(request: asteady.GenerateRequest) -> str:
        raise error

    async with asteady.Session(engine=FakeEngine(fail)) as session:
        transport = httpx.ASGITransport(app=asteady.server.openai(session))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            reply = await client.post("/chat/completions", json=HELLO)
    assert reply.status_code == status
    assert told in reply.json()["error"]["message"]
    assert "secret" not in reply.text


async def test_a_session_that_is_not_open_is_a_503() -> None:
    transport = httpx.ASGITransport(app=asteady.server.openai(asteady.Session()))
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        reply = await client.post("/chat/completions", json=HELLO)
    assert reply.status_code == 503
