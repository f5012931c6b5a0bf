"""Side by side with llama-server, where it is there: the same requests, statuses and shapes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

import asteady
import asteady.server
from tests.llama_server import llama_server, needs_llama_server
from tests.published import smollm2_file
from tests.serving import serving

pytestmark = [pytest.mark.anyio, needs_llama_server]

HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Paris"]}},
    "required": ["city"],
}
FORM = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}
# What only llama-server tells.
OWN = {"timings", "models", "architecture", "tags", "aliases", "meta"}
Answers = tuple[httpx.Response, httpx.Response]


@pytest.fixture(scope="module")
def theirs() -> Iterator[str]:
    """The address of llama-server with the small chat model."""
    options = ("--ctx-size", "1024", "--parallel", "1", "--jinja")
    with llama_server(smollm2_file(), *options) as address:
        yield f"{address}/v1"


@pytest.fixture
async def ours(tmp_path: Path) -> AsyncIterator[str]:
    session = asteady.Session(
        generation_model=smollm2_file(), cache_dir=tmp_path, context_tokens=1024
    )
    app = Starlette()
    app.mount("/v1", asteady.server.openai(session))
    async with session, serving(app) as address:
        yield f"{address}/v1"


async def both(ours: str, theirs: str, path: str, body: dict[str, Any] | None = None) -> Answers:
    async with httpx.AsyncClient(timeout=120) as client:
        method = "GET" if body is None else "POST"
        first = await client.request(method, ours + path, json=body)
        second = await client.request(method, theirs + path, json=body)
    assert first.status_code == second.status_code, (first.text, second.text)
    kinds = [reply.headers["content-type"].split(";")[0] for reply in (first, second)]
    assert kinds[0] == kinds[1]
    return first, second


def missing(ours: Any, theirs: Any, at: str = "") -> list[str]:
    """What llama-server's JSON has and ours has not, or has with another type."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        found = [f"{at}.{name}" for name in theirs.keys() - ours.keys() - OWN]
        for name in theirs.keys() & ours.keys():
            found += missing(ours[name], theirs[name], f"{at}.{name}")
        return found
    if isinstance(theirs, list) and isinstance(ours, list):
        return missing(ours[0], theirs[0], f"{at}[]") if ours and theirs else []
    if isinstance(theirs, int | float) and isinstance(ours, int | float):
        return []
    return [] if type(ours) is type(theirs) else [f"{at}: {ours!r} for {theirs!r}"]


def events(reply: httpx.Response) -> list[Any]:
    lines = [line for line in reply.text.splitlines() if line.startswith("data: ")]
    return [
        line if line == "data: [DONE]" else json.loads(line.removeprefix("data: "))
        for line in lines
    ]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/models", None),
        ("/chat/completions", {"messages": HELLO, "max_tokens": 4}),
        ("/chat/completions", {"messages": HELLO, "max_tokens": 40, "response_format": FORM}),
        ("/completions", {"prompt": "Once", "max_tokens": 4}),
        ("/responses", {"input": "Hello", "max_output_tokens": 200}),
    ],
)
async def test_answers_have_the_same_shape(
    ours: str, theirs: str, path: str, body: dict[str, Any] | None
) -> None:
    first, second = await both(ours, theirs, path, body)
    assert missing(first.json(), second.json()) == []


async def test_log_probabilities_have_the_same_shape(ours: str, theirs: str) -> None:
    body = {"messages": HELLO, "max_tokens": 4, "logprobs": True, "top_logprobs": 2}
    found = [
        reply.json()["choices"][0] for reply in await both(ours, theirs, "/chat/completions", body)
    ]
    # Both tell the ids of tokens too, which are no part of OpenAI's API.
    assert missing(*found) == []


async def test_chunks_have_the_same_order_and_shape(ours: str, theirs: str) -> None:
    body = {
        "messages": HELLO,
        "max_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    first, second = map(events, await both(ours, theirs, "/chat/completions", body))
    assert first[-1] == second[-1] == "data: [DONE]"
    # The role, a piece, the end of the choice, the usage. OpenAI's first piece is "", not null.
    for at in (0, 1, -3, -2):
        assert [
            each for each in missing(first[at], second[at]) if "delta.content" not in each
        ] == []
    assert second[-2]["choices"] == first[-2]["choices"] == []


async def test_events_have_the_same_order(ours: str, theirs: str) -> None:
    body = {"input": "Hello", "max_output_tokens": 16, "stream": True}
    orders = []
    for found in map(events, await both(ours, theirs, "/responses", body)):
        kinds = [event["type"] for event in found]
        orders.append(list(dict.fromkeys(kinds)))
    assert orders[0][:-1] == orders[1][:-1]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", {}),
        ("/chat/completions", {"messages": HELLO, "max_tokens": "x"}),
        ("/chat/completions", {"messages": [{"role": "user", "content": "word " * 2000}]}),
        ("/responses", {"input": "Hello", "previous_response_id": "resp_1"}),
        ("/nothing", {}),
    ],
)
async def test_errors_have_the_same_status(
    ours: str, theirs: str, path: str, body: dict[str, Any]
) -> None:
    first, second = await both(ours, theirs, path, body)
    for reply in (first, second):
        assert isinstance(reply.json()["error"]["message"], str)
        assert isinstance(reply.json()["error"]["type"], str)
