"""litellm."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.clients.city import ASK_CITY, WEATHER, City
from tests.server.clients.conftest import TEXT

litellm: Any = pytest.importorskip("litellm", reason="install the dependency group clients")

pytestmark = pytest.mark.anyio

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def where(url: str) -> dict[str, str]:
    return {"api_base": url, "api_key": "none"}


async def test_completion(where: dict[str, str]) -> None:
    asked: Any = {"model": f"openai/{TEXT}", "messages": HELLO, "max_tokens": 8, **where}
    answer = litellm.completion(**asked)
    assert answer.choices[0].message.content
    texts = [c.choices[0].delta.content or "" for c in litellm.completion(**asked, stream=True)]
    assert "".join(texts) == answer.choices[0].message.content
    again = await litellm.acompletion(**asked, stream=True)
    texts = [chunk.choices[0].delta.content or "" async for chunk in again]
    assert "".join(texts) == answer.choices[0].message.content


def test_text_completion(where: dict[str, str]) -> None:
    answer = litellm.text_completion(
        model=f"text-completion-openai/{TEXT}", prompt="A cache is", max_tokens=4, **where
    )
    assert answer.choices[0].text


async def test_embedding(where: dict[str, str]) -> None:
    found = litellm.embedding(model=f"openai/{TEXT}", input=["a cache"], **where)
    again = await litellm.aembedding(model=f"openai/{TEXT}", input=["a cache"], **where)
    assert found.data[0]["embedding"] == pytest.approx(again.data[0]["embedding"])


async def test_responses(where: dict[str, str]) -> None:
    asked: Any = {"model": f"openai/{TEXT}", "input": "Hello", "max_output_tokens": 100, **where}
    answer = litellm.responses(**asked)
    assert answer.output_text
    events = [event async for event in await litellm.aresponses(**asked, stream=True)]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == answer.output_text


def test_structured_output_and_tools(where: dict[str, str], chat: str) -> None:
    messages = [{"role": "user", "content": ASK_CITY}]
    answer = litellm.completion(
        model=f"openai/{chat}", messages=messages, response_format=City, **where
    )
    assert City.model_validate_json(answer.choices[0].message.content)
    tools = [{"type": "function", "function": WEATHER}]
    answer = litellm.completion(
        model=f"openai/{chat}", messages=messages, tools=tools, tool_choice="required", **where
    )
    assert answer.choices[0].message.tool_calls[0].function.name == "Weather"


def test_errors(where: dict[str, str]) -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="openai/gpt-5", messages=HELLO, **where)
    long = [{"role": "user", "content": "word " * 5000}]
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(model=f"openai/{TEXT}", messages=long, **where)
