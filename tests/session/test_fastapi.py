"""Answers, statistics and messages as what FastAPI's endpoints take and return."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Body, FastAPI
from pydantic import BaseModel

import asteady
from asteady import Completion, Embedding, Message, Session, SessionStatistics, TypedCompletion
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio


class Reply(BaseModel):
    answer: Completion
    vector: asteady.Vector


class Question(BaseModel):
    messages: list[Message]


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    async with Session(engine=FakeEngine(reasoning=lambda request: "let me see")) as session:
        yield session


@pytest.fixture
async def client(session: Session) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app_of(session), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        yield client


def app_of(session: Session) -> FastAPI:
    app = FastAPI()

    async def complete() -> Completion:
        return await session.complete("hi", logprobs=2)

    @app.get("/untyped")
    async def untyped():  # type: ignore[no-untyped-def]  # as many endpoints are
        return await complete()

    @app.get("/nested")
    async def nested() -> dict[str, Any]:
        return {"answers": [await complete()], "embedding": await session.embedding("hi")}

    @app.get("/annotated")
    async def annotated() -> Completion:
        return await complete()

    @app.get("/model", response_model=Completion, response_model_exclude={"chunks", "logprobs"})
    async def model() -> Any:
        return await complete()

    @app.get("/typed")
    async def typed() -> TypedCompletion[Reply]:
        answer = await complete()
        return TypedCompletion.of(answer, Reply(answer=answer, vector=await session.embed("hi")))

    @app.get("/embedding")
    async def embedding() -> Embedding:
        return await session.embedding("hi")

    @app.get("/reply")
    async def reply() -> Reply:
        return Reply(answer=await complete(), vector=await session.embed("hi"))

    @app.post("/reply")
    async def same_reply(reply: Reply) -> Reply:
        return reply

    @app.post("/completion")
    async def same_completion(completion: Annotated[Completion, Body()]) -> Completion:
        return completion

    @app.post("/chat")
    async def chat(question: Question) -> Completion:
        return await session.complete(messages=question.messages)

    @app.get("/ready")
    async def ready() -> SessionStatistics:
        return session.statistics()

    return app


async def test_a_completion_is_returned_with_and_without_a_type(
    client: httpx.AsyncClient, session: Session
) -> None:
    computed = await session.complete("hi", logprobs=2)
    expected = {**computed.as_dict(), "cached": True, "reused_tokens": 0}
    assert expected["reasoning"]
    assert expected["logprobs"]
    for path in ("/untyped", "/annotated"):
        assert (await client.get(path)).json() == expected
    embedded = (await session.embedding("hi")).as_dict() | {"cached": True}
    assert (await client.get("/embedding")).json() == embedded
    assert (await client.get("/nested")).json() == {"answers": [expected], "embedding": embedded}
    short = {name: expected[name] for name in expected if name not in ("chunks", "logprobs")}
    assert (await client.get("/model")).json() == short


async def test_records_go_both_ways(client: httpx.AsyncClient) -> None:
    await client.get("/reply")
    reply = (await client.get("/reply")).json()  # from the cache, as all that follow
    typed = (await client.get("/typed")).json()
    assert typed == {**reply["answer"], "value": reply}
    assert (await client.post("/reply", json=reply)).json() == reply
    assert (await client.post("/completion", json=reply["answer"])).json() == reply["answer"]
    refused = await client.post("/completion", json=reply["answer"] | {"seed": "x"})
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body", "seed"]


async def test_messages_are_taken_as_openais_api_has_them(
    client: httpx.AsyncClient, session: Session
) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    answer = (await client.post("/chat", json={"messages": messages})).json()
    assert answer["text"] == await session.generate("hi")
    refused = await client.post("/chat", json={"messages": [{"role": "user"}]})
    assert refused.status_code == 422
    assert "content" in refused.text


async def test_statistics_are_returned(client: httpx.AsyncClient, session: Session) -> None:
    await session.generate("hi")
    assert (await client.get("/ready")).json() == session.statistics().as_dict()


async def test_the_openapi_schema_describes_them(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()
    schemas = described["components"]["schemas"]

    def returned(path: str, method: str = "get") -> dict[str, Any]:
        content = described["paths"][path][method]["responses"]["200"]["content"]
        schema = content["application/json"]["schema"]
        return dict(schemas[schema["$ref"].rpartition("/")[2]])

    for path in ("/annotated", "/model"):
        completion = returned(path)
        assert list(completion["properties"]) == list(completion["required"])
        assert completion["title"] == "Completion"
        assert completion["properties"]["finish_reason"]["enum"] == ["stop", "length", "tool_calls"]
    assert returned("/embedding")["properties"]["vector"]["items"] == {"type": "number"}
    assert "activities" in returned("/ready")["properties"]
    taken = schemas["Completion-Input"]
    assert "logprobs" not in taken["required"]
    message = schemas["Question"]["properties"]["messages"]["items"]
    assert message["properties"].keys() >= {"role", "content", "tool_calls"}
