"""The official client, sync and async."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.clients.city import ASK_CITY, WEATHER, City
from tests.server.clients.conftest import TEXT

openai = pytest.importorskip("openai", reason="install the dependency group clients")

pytestmark = pytest.mark.anyio

HELLO: Any = [{"role": "user", "content": "Hello"}]
CHAT_TOOL: Any = {"type": "function", "function": WEATHER}
TOOL: Any = {"type": "function", **WEATHER}


@pytest.fixture
def client(url: str) -> Any:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(url: str) -> Any:
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_models(client: Any) -> None:
    assert TEXT in [model.id for model in client.models.list()]
    assert client.models.retrieve(TEXT).owned_by == "asteady"
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-5", messages=HELLO)
    assert caught.value.code == "model_not_found"


def test_chat(client: Any) -> None:
    asked = {"model": TEXT, "messages": HELLO, "max_completion_tokens": 8}
    answer = client.chat.completions.create(**asked)
    assert answer.choices[0].message.content
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(texts) == answer.choices[0].message.content
    assert (chunks[-1].choices, chunks[-1].usage) == ([], answer.usage)


def test_the_headers_tell_where_an_answer_comes_from(client: Any) -> None:
    asked = {"model": TEXT, "messages": HELLO, "max_completion_tokens": 9}
    raw = client.chat.completions.with_raw_response
    first, again = [raw.create(**asked) for _ in range(2)]
    assert (first.headers["x-asteady-cache"], again.headers["x-asteady-cache"]) == (
        "computed",
        "memory",
    )
    assert first.parse().choices == again.parse().choices


async def test_chat_async(async_client: Any) -> None:
    asked = {"model": TEXT, "messages": HELLO, "max_completion_tokens": 8}
    answer = await async_client.chat.completions.create(**asked)
    stream = await async_client.chat.completions.create(**asked, stream=True)
    texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(texts) == answer.choices[0].message.content


def test_choices_have_seeds_and_log_probabilities(client: Any) -> None:
    asked = {"messages": HELLO, "n": 3, "max_tokens": 6, "logprobs": True, "top_logprobs": 2}
    answer = client.chat.completions.create(model=TEXT, **asked)
    assert len({choice.message.content for choice in answer.choices}) > 1
    tokens = answer.choices[1].logprobs.content
    assert b"".join(bytes(t.bytes) for t in tokens).decode() == answer.choices[1].message.content
    assert {len(token.top_logprobs) for token in tokens} == {2}


def test_completions(client: Any) -> None:
    asked = {"model": TEXT, "prompt": "A cache is", "max_tokens": 8}
    answer = client.completions.create(**asked)
    stream = client.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


async def test_completions_async(async_client: Any) -> None:
    asked = {"model": TEXT, "prompt": ["A cache is", "A queue is"], "max_tokens": 4}
    answer = await async_client.completions.create(**asked)
    assert [choice.index for choice in answer.choices] == [0, 1]


def test_embeddings(client: Any) -> None:
    # The client asks for base64 unless it is told otherwise, and decodes it.
    found = client.embeddings.create(model=TEXT, input=["a cache", "a queue"]).data
    floats = client.embeddings.create(
        model=TEXT, input=["a cache", "a queue"], encoding_format="float"
    ).data
    assert [each.index for each in found] == [0, 1]
    for one, other in zip(found, floats, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-7)
        assert sum(x * x for x in one.embedding) == pytest.approx(1, abs=1e-5)


async def test_embeddings_async(async_client: Any) -> None:
    found = await async_client.embeddings.create(model=TEXT, input="a cache")
    assert found.usage.prompt_tokens > 0


def test_responses(client: Any) -> None:
    asked = {"model": TEXT, "input": "Hello", "max_output_tokens": 200}
    answer = client.responses.create(**asked)
    assert answer.output_text
    assert answer.status == "completed"
    with client.responses.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert final.output_text == answer.output_text
    assert final.id == answer.id
    assert {"response.created", "response.output_text.delta", "response.completed"} <= kinds


async def test_responses_async(async_client: Any) -> None:
    asked = {"model": TEXT, "input": HELLO, "max_output_tokens": 4}
    answer = await async_client.responses.create(**asked)
    assert answer.incomplete_details.reason == "max_output_tokens"
    events = [event async for event in await async_client.responses.create(**asked, stream=True)]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == answer.output_text
    assert events[-1].type == "response.incomplete"


def test_structured_output(client: Any, chat: str) -> None:
    messages: Any = [{"role": "user", "content": ASK_CITY}]
    answer = client.chat.completions.parse(model=chat, messages=messages, response_format=City)
    city = answer.choices[0].message.parsed
    assert isinstance(city, City)
    with client.chat.completions.stream(
        model=chat, messages=messages, response_format=City
    ) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == city
    answer = client.responses.parse(model=chat, input=ASK_CITY, text_format=City)
    assert answer.output_parsed == city
    with client.responses.stream(model=chat, input=ASK_CITY, text_format=City) as stream:
        assert stream.get_final_response().output_parsed == city


async def test_structured_output_async(async_client: Any, chat: str) -> None:
    answer = await async_client.responses.parse(model=chat, input=ASK_CITY, text_format=City)
    assert isinstance(answer.output_parsed, City)


def test_tools_in_a_chat(client: Any, chat: str) -> None:
    messages: Any = [{"role": "user", "content": "What is the weather in Rome?"}]
    asked = {"model": chat, "messages": messages, "tools": [CHAT_TOOL], "tool_choice": "required"}
    message = client.chat.completions.create(**asked).choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "Weather"
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert [(c.id, c.function.arguments) for c in streamed] == [(call.id, call.function.arguments)]
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    last = client.chat.completions.create(
        model=chat, messages=messages, tools=[CHAT_TOOL], tool_choice="none", max_tokens=8
    )
    assert last.choices[0].message.content


def test_tools_in_responses(client: Any, chat: str) -> None:
    conversation: Any = [{"role": "user", "content": "What is the weather in Rome?"}]
    asked = {"model": chat, "input": conversation, "tools": [TOOL], "tool_choice": "required"}
    answer = client.responses.create(**asked)
    (call,) = answer.output
    assert (call.type, call.name) == ("function_call", "Weather")
    with client.responses.stream(**asked) as stream:
        (streamed,) = stream.get_final_response().output
    assert (streamed.id, streamed.arguments) == (call.id, call.arguments)
    conversation += answer.output
    conversation.append(
        {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    )
    last = client.responses.create(model=chat, input=conversation, max_output_tokens=8)
    assert last.output_text


def test_errors_have_the_classes_of_the_client(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=TEXT, messages=HELLO, temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=TEXT, input="Hello", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=TEXT, input="word " * 5000, stream=True)
    assert caught.value.code == "context_length_exceeded"


async def test_leaving_a_stream_ends_it(async_client: Any) -> None:
    asked: Any = {"model": TEXT, "messages": HELLO, "max_tokens": 400, "seed": 7}
    stream = await async_client.chat.completions.create(**asked, stream=True)
    async for _ in stream:
        break
    await stream.close()
    # The server is there for the next one.
    assert (await async_client.models.list()).data
