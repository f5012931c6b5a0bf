"""pydantic-ai: agents, by either API."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.clients.city import ASK_CITY, City
from tests.server.clients.conftest import TEXT

pydantic_ai: Any = pytest.importorskip("pydantic_ai", reason="install the dependency group clients")

pytestmark = pytest.mark.anyio

APIS = pytest.mark.parametrize("api", ["OpenAIChatModel", "OpenAIResponsesModel"])


def model(url: str, api: str, name: str) -> Any:
    from pydantic_ai.models import openai
    from pydantic_ai.providers.openai import OpenAIProvider

    return getattr(openai, api)(name, provider=OpenAIProvider(base_url=url, api_key="none"))


@APIS
async def test_run_and_stream(url: str, api: str) -> None:
    agent = pydantic_ai.Agent(model(url, api, TEXT), model_settings={"max_tokens": 100})
    answer = await agent.run("Hello")
    assert answer.output
    async with agent.run_stream("Hello") as stream:
        texts = [text async for text in stream.stream_text(delta=True)]
    assert "".join(texts) == answer.output


def test_run_sync(url: str) -> None:
    agent = pydantic_ai.Agent(model(url, "OpenAIChatModel", TEXT), instructions="Be brief.")
    assert agent.run_sync("Hello").output


@APIS
@pytest.mark.parametrize("way", ["ToolOutput", "NativeOutput"])
async def test_output_type(url: str, chat: str, api: str, way: str) -> None:
    output: Any = getattr(pydantic_ai, way)(City)
    agent: Any = pydantic_ai.Agent(model(url, api, chat), output_type=output)
    assert isinstance((await agent.run(ASK_CITY)).output, City)
    async with agent.run_stream(ASK_CITY) as stream:
        assert isinstance(await stream.get_output(), City)


@APIS
async def test_tool(url: str, chat: str, api: str) -> None:
    def weather(city: str) -> str:
        """The weather in a city."""
        return "sunny"

    settings = {"max_tokens": 60}
    agent = pydantic_ai.Agent(
        model(url, api, chat), output_type=City, tools=[weather], model_settings=settings
    )
    assert isinstance((await agent.run(ASK_CITY)).output, City)
