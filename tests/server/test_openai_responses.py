"""POST /responses, on a fake engine: the items, the events, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

import asteady.server
from asteady import EngineError, GenerateRequest, IncompleteAnswerError, Session
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio

WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
asked: list[GenerateRequest] = []


def answer(request: GenerateRequest) -> str:
    asked.append(request)
    last = request.conversation()[-1].content or ""
    if last == "fail":
        raise EngineError("llama.cpp failed")
    if request.constraint is None:
        return "One two three."
    if request.max_new_tokens == 1:
        cut = IncompleteAnswerError("too few tokens")
        cut.text = '{"one": '
        cut.prompt_tokens, cut.completion_tokens = 1, 1
        raise cut
    return '{"one": 1}'


@pytest.fixture
def engine() -> FakeEngine:
    asked.clear()
    return FakeEngine(
        answer,
        reasoning=lambda request: (
            "So I think." if request.conversation()[-1].content == "think" else None
        ),
        tool_calls=lambda request: (
            [("weather", {"city": "Rome"})] if request.conversation()[-1].role == "user" else []
        ),
    )


@pytest.fixture
async def client(session: Session) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=asteady.server.openai(session))
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        yield client


async def post(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/responses", json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def events(client: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    response = await client.post("/responses", json={**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


async def refusal(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/responses", json=body)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def without_times(response: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in response.items() if not name.endswith("_at")}


async def test_a_text_is_answered_with_a_message(client: httpx.AsyncClient) -> None:
    response = await post(client, input="Hello", instructions="Be brief.", metadata={"a": "b"})
    assert [(m.role, m.content) for m in asked[0].messages] == [
        ("system", "Be brief."),
        ("user", "Hello"),
    ]
    assert response["object"] == "response"
    assert response["status"] == "completed"
    assert response["metadata"] == {"a": "b"}
    assert response["store"] is False
    assert response["temperature"] == 0
    (item,) = response["output"]
    assert item["type"] == "message"
    assert item["role"] == "assistant"
    assert item["content"] == [
        {"type": "output_text", "text": "One two three.", "annotations": [], "logprobs": []}
    ]
    assert response["usage"]["output_tokens"] == 3
    assert response["usage"]["total_tokens"] == response["usage"]["input_tokens"] + 3


async def test_ids_depend_on_the_request_alone(client: httpx.AsyncClient) -> None:
    first, again = [await post(client, input="Hello") for _ in range(2)]
    assert without_times(first) == without_times(again)
    other = await post(client, input="Hello", seed=1)
    assert other["id"] != first["id"]
    assert other["output"][0]["id"] != first["output"][0]["id"]


async def test_an_answer_that_is_sent_back_is_the_message_that_the_library_makes(
    client: httpx.AsyncClient, session: Session
) -> None:
    ask = {"role": "user", "content": "think"}
    first = await post(client, input=[ask], tools=[WEATHER])
    kinds = [item["type"] for item in first["output"]]
    assert kinds == ["reasoning", "message", "function_call"]
    call = first["output"][-1]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    second = await post(client, input=[ask, *first["output"], result], tools=[WEATHER])
    assert second["output"][0]["content"][0]["text"] == "One two three."

    tools = [{"type": "function", "function": {k: WEATHER[k] for k in ("name", "parameters")}}]
    own = await session.complete(messages=[ask], tools=tools)
    assert own.cached
    turn = [
        ask,
        own.message(),
        {"role": "tool", "tool_call_id": call["call_id"], "content": "sunny"},
    ]
    assert (await session.complete(messages=turn, tools=tools)).cached


async def test_the_parts_of_messages_and_outputs_are_texts(client: httpx.AsyncClient) -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    await post(
        client,
        input=[
            {"type": "message", "role": "developer", "content": parts},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": parts},
            {"type": "function_call_output", "call_id": "c2", "output": "d"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
            {"role": "user", "content": "e"},
        ],
    )
    system, calls, one, two, last = asked[0].messages
    assert (system.role, system.content) == ("system", "a\nb")
    assert [call.id for call in calls.tool_calls] == ["c1", "c2"]
    assert (one.tool_call_id, one.content) == ("c1", "a\nb")
    assert (two.tool_call_id, two.content) == ("c2", "d")
    assert (last.role, last.content) == ("user", "e")


@pytest.mark.parametrize("text", ["Hello", "think"])
@pytest.mark.parametrize("tools", [[], [WEATHER]])
async def test_events_lead_to_the_same_response(
    client: httpx.AsyncClient, text: str, tools: list[Any]
) -> None:
    body = {"input": text, "tools": tools}
    found = await events(client, **body)
    assert [event["type"] for event in found[:2]] == ["response.created", "response.in_progress"]
    assert found[0]["response"]["status"] == "in_progress"
    assert found[-1]["type"] == "response.completed"
    final = found[-1]["response"]
    assert without_times(final) | {"usage": None} == without_times(await post(client, **body)) | {
        "usage": None
    }

    # Assembled as a client does, without a look at the last event.
    items: list[dict[str, Any]] = []
    for event in found:
        if "item_id" in event:
            assert (event["item_id"], event["output_index"]) == (items[-1]["id"], len(items) - 1)
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert event["output_index"] == len(items)
                assert event["item"]["status"] == "in_progress"
                items.append(event["item"])
            case "content_part.added":
                items[-1]["content"].append(event["part"])
            case "output_text.delta" | "reasoning_text.delta":
                items[-1]["content"][event["content_index"]]["text"] += event["delta"]
            case "function_call_arguments.delta":
                items[-1]["arguments"] += event["delta"]
            case "output_text.done" | "reasoning_text.done":
                assert items[-1]["content"][-1]["text"] == event["text"]
            case "function_call_arguments.done":
                assert items[-1]["arguments"] == event["arguments"]
            case "content_part.done":
                assert items[-1]["content"][-1] == event["part"]
            case "output_item.done":
                assert {**items[-1], "status": "completed"} == event["item"]
                items[-1] = event["item"]
    assert items == final["output"]


async def test_an_answer_that_is_cut_is_incomplete(client: httpx.AsyncClient) -> None:
    body = {"input": "Hello", "max_output_tokens": 2}
    response = await post(client, **body)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["content"][0]["text"] == "One two "
    last = (await events(client, **body))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["output"] == response["output"]


async def test_a_form_that_is_cut_is_incomplete(client: httpx.AsyncClient) -> None:
    body = {
        "input": "Hello",
        "max_output_tokens": 1,
        "text": {"format": {"type": "json_object"}},
    }
    response = await post(client, **body)
    assert response["status"] == "incomplete"
    assert response["output"][0]["content"][0]["text"] == '{"one": '
    assert response["usage"]["output_tokens"] == 1
    assert (await events(client, **body))[-1]["type"] == "response.incomplete"


async def test_the_form_of_a_text(client: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"one": {"type": "integer"}}}
    form = {"type": "json_schema", "name": "it", "schema": schema, "strict": True}
    response = await post(client, input="Hello", text={"format": form})
    assert response["output"][0]["content"][0]["text"] == '{"one": 1}'
    assert response["text"]["format"] == form
    assert asked[0].constraint is not None
    assert "integer" in asked[0].constraint.source
    error = await refusal(client, input="Hello", text={"format": {"type": "grammar"}})
    assert error["param"] == "text.format"


async def test_a_call_that_must_be_made_has_no_form_beside_it(client: httpx.AsyncClient) -> None:
    body = {"input": "Hello", "tools": [WEATHER], "text": {"format": {"type": "json_object"}}}
    choice = {"type": "function", "name": "weather"}
    response = await post(client, **body, tool_choice=choice)
    assert response["output"][-1]["type"] == "function_call"
    assert asked[0].constraint is None
    await refusal(client, **body)


async def test_log_probabilities_are_those_of_the_text(client: httpx.AsyncClient) -> None:
    body = {"input": "think", "top_logprobs": 2, "include": ["message.output_text.logprobs"]}
    response = await post(client, **body)
    (part,) = response["output"][1]["content"]
    assert "".join(each["token"] for each in part["logprobs"]) == "One two three."
    assert {len(each["top_logprobs"]) for each in part["logprobs"]} == {2}
    sent = await events(client, **body)
    (done,) = [e for e in sent if e["type"] == "response.output_text.done"]
    assert done["logprobs"] == part["logprobs"]
    deltas = [e for e in sent if e["type"] == "response.output_text.delta"]
    assert [len(e["logprobs"]) for e in deltas] == [1, 1, 1]
    assert [each for e in deltas for each in e["logprobs"]] == part["logprobs"]


async def test_one_call_where_several_are_not_wanted() -> None:
    engine = FakeEngine(tool_calls=lambda request: [("weather", {"city": c}) for c in "AB"])
    async with Session(engine=engine) as session:
        transport = httpx.ASGITransport(app=asteady.server.openai(session))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            body: dict[str, Any] = {"input": "Hello", "tools": [WEATHER]}
            assert len((await post(client, **body))["output"]) == 2
            body["parallel_tool_calls"] = False
            one = await post(client, **body)
            assert [item["arguments"] for item in one["output"]] == ['{"city": "A"}']
            streamed = await events(client, **body)
            assert streamed[-1]["response"]["output"] == one["output"]


@pytest.mark.parametrize("name", ["previous_response_id", "conversation", "prompt"])
async def test_what_would_need_stored_responses_is_refused_by_name(
    client: httpx.AsyncClient, name: str
) -> None:
    error = await refusal(client, input="Hello", **{name: "resp_1"})
    assert error["param"] == name
    assert "stored" in error["message"]


@pytest.mark.parametrize("name", ["store", "background"])
async def test_false_is_no_request_for_it(client: httpx.AsyncClient, name: str) -> None:
    assert (await post(client, input="Hello", **{name: False}))[name] is False
    assert (await refusal(client, input="Hello", **{name: True}))["param"] == name


@pytest.mark.parametrize(
    ("items", "param"),
    [
        (None, "input"),
        ([], "input"),
        (["Hello"], "input[0]"),
        ([{"role": "user"}], "input[0].content"),
        ([{"type": "message", "content": "a"}], "input[0].role"),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}],
            "input[0].content[0].type",
        ),
        ([{"type": "web_search_call"}], "input[0].type"),
        ([{"type": "item_reference", "id": "msg_1"}], "input[0]"),
        ([{"type": "function_call", "call_id": "1", "name": "f"}], "input[0].arguments"),
        ([{"type": "function_call_output", "output": "a"}], "input[0].call_id"),
    ],
)
async def test_items_that_are_not_allowed(
    client: httpx.AsyncClient, items: object, param: str
) -> None:
    assert (await refusal(client, input=items))["param"] == param


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("instructions", 1),
        ("text", "json"),
        ("reasoning", "high"),
        ("metadata", "a"),
        ("include", 1),
        ("top_logprobs", 21),
        ("stream", "yes"),
        ("tools", [{"type": "web_search"}]),
    ],
)
async def test_fields_that_are_not_allowed(
    client: httpx.AsyncClient, name: str, value: object
) -> None:
    assert name in (await refusal(client, input="Hello", **{name: value}))["message"]


async def test_an_error_before_the_first_event_has_a_status(client: httpx.AsyncClient) -> None:
    response = await client.post("/responses", json={"input": "fail", "stream": True})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"


async def test_a_failure_after_the_first_event_is_an_event(
    client: httpx.AsyncClient, engine: FakeEngine, session: Session
) -> None:
    engine.hold()
    asking = asyncio.create_task(events(client, input="Hello"))
    async with session.stream(messages=[{"role": "user", "content": "Hello"}]) as stream:
        engine.step()
        await anext(stream)
        # Another reader of the same answer, so it has been told of the first word too.
        await session.aclose()
    found = await asking
    assert found[0]["type"] == "response.created"
    assert found[-1]["type"] == "response.failed"
    assert found[-1]["response"]["status"] == "failed"
    assert found[-1]["response"]["error"]["code"] == "not_ready"
