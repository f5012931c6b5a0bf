"""langchain-openai: chat models, by either API, and embeddings."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.clients.city import ASK_CITY, City, Weather
from tests.server.clients.conftest import TEXT

langchain = pytest.importorskip("langchain_openai", reason="install the dependency group clients")

pytestmark = pytest.mark.anyio

APIS = pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])


def model(url: str, name: str, responses: bool, **options: Any) -> Any:
    return langchain.ChatOpenAI(
        base_url=url, api_key="none", model=name, use_responses_api=responses, **options
    )


@APIS
async def test_invoke_and_stream(url: str, responses: bool) -> None:
    llm = model(url, TEXT, responses, max_tokens=8)
    answer = llm.invoke("Hello")
    assert answer.text
    assert answer.usage_metadata["output_tokens"] == 8
    assert "".join(chunk.text for chunk in llm.stream("Hello")) == answer.text
    assert (await llm.ainvoke("Hello")).text == answer.text
    assert "".join([chunk.text async for chunk in llm.astream("Hello")]) == answer.text


@APIS
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(url: str, chat: str, responses: bool, method: str) -> None:
    llm = model(url, chat, responses, max_tokens=80).with_structured_output(City, method=method)
    assert isinstance(llm.invoke(ASK_CITY), City)
    *_, last = llm.stream(ASK_CITY)
    assert isinstance(last, City)


@APIS
async def test_tools(url: str, chat: str, responses: bool) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage

    llm = model(url, chat, responses, max_tokens=80)
    calling = llm.bind_tools([Weather], tool_choice="required")
    asked = HumanMessage("What is the weather in Rome?")
    answer = calling.invoke([asked])
    (call,) = answer.tool_calls
    assert call["name"] == "Weather"
    chunks = list(calling.stream([asked]))
    whole = sum(chunks[1:], chunks[0])
    assert [c["args"] for c in whole.tool_calls] == [call["args"]]
    result = ToolMessage("sunny", tool_call_id=call["id"])
    assert (await llm.ainvoke([asked, answer, result])).text


async def test_embeddings(url: str) -> None:
    # Otherwise it sends tokens of OpenAI's models.
    embeddings = langchain.OpenAIEmbeddings(
        base_url=url, api_key="none", model=TEXT, check_embedding_ctx_length=False
    )
    one, two = embeddings.embed_documents(["a cache", "a queue"])
    assert len(one) == len(two)
    assert await embeddings.aembed_query("a cache") == pytest.approx(one)
