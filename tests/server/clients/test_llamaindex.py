"""LlamaIndex's model for servers that are like OpenAI's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.clients.city import ASK_CITY, City
from tests.server.clients.conftest import TEXT

openai_like: Any = pytest.importorskip(
    "llama_index.llms.openai_like", reason="install the dependency group clients-openai2"
)

pytestmark = pytest.mark.anyio


def model(url: str, name: str, **options: Any) -> Any:
    return openai_like.OpenAILike(api_base=url, api_key="none", model=name, **options)


async def test_complete_and_stream(url: str) -> None:
    for is_chat in (False, True):
        llm = model(url, TEXT, is_chat_model=is_chat, max_tokens=8)
        answer = llm.complete("A cache is").text
        assert answer
        assert "".join(part.delta for part in llm.stream_complete("A cache is")) == answer
        assert (await llm.acomplete("A cache is")).text == answer


async def test_chat(url: str) -> None:
    from llama_index.core.llms import ChatMessage

    llm = model(url, TEXT, is_chat_model=True, max_tokens=8)
    messages = [ChatMessage(role="user", content="Hello")]
    answer = llm.chat(messages).message.content
    assert "".join(part.delta or "" for part in llm.stream_chat(messages)) == answer
    stream = await llm.astream_chat(messages)
    assert "".join([part.delta or "" async for part in stream]) == answer


@pytest.mark.parametrize(
    "options", [{"is_function_calling_model": True}, {"should_use_structured_outputs": True}]
)
def test_structured_output(url: str, chat: str, options: Any) -> None:
    llm = model(url, chat, is_chat_model=True, max_tokens=80, **options).as_structured_llm(City)
    assert isinstance(llm.complete(ASK_CITY).raw, City)


def test_tools(url: str, chat: str) -> None:
    from llama_index.core.tools import FunctionTool

    def weather(city: str) -> str:
        """The weather in a city."""
        return "sunny"

    llm = model(url, chat, is_chat_model=True, is_function_calling_model=True, max_tokens=80)
    answer = llm.chat_with_tools(
        [FunctionTool.from_defaults(weather)],
        "What is the weather in Rome?",
        tool_required=True,
    )
    (call,) = llm.get_tool_calls_from_response(answer)
    assert call.tool_name == "weather"


def test_embeddings(url: str) -> None:
    embeddings = pytest.importorskip("llama_index.embeddings.openai")
    found = embeddings.OpenAIEmbedding(
        api_base=url, api_key="none", model_name=TEXT
    ).get_text_embedding_batch(["a cache", "a queue"])
    assert len(found) == 2
