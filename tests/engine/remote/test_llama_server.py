"""Remote engines and llama.cpp's llama-server, where it is there."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import asteady
from tests.llama_server import llama_server, needs_llama_server

pytestmark = [pytest.mark.anyio, needs_llama_server]

MODELS = Path(asteady.__file__).parent / "models"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Paris"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def generating() -> Iterator[str]:
    options = ("--ctx-size", "2048", "--parallel", "1", "--jinja", "--alias", "small", "--metrics")
    with llama_server(MODELS / "generate.gguf", *options) as address:
        yield f"openai+{address}/v1#small"


@pytest.fixture(scope="module")
def embedding() -> Iterator[str]:
    with llama_server(MODELS / "embed.gguf", "--embedding") as address:
        # Without a name it is the only model.
        yield f"openai+{address}"


@pytest.fixture
async def remote(generating: str, tmp_path: Path) -> AsyncIterator[asteady.Session]:
    async with asteady.Session(generation_model=generating, cache_dir=tmp_path) as session:
        yield session


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[asteady.Session]:
    async with asteady.Session(cache_dir=tmp_path / "local") as session:
        yield session


async def test_it_generates(remote: asteady.Session, local: asteady.Session) -> None:
    given: list[dict[str, Any]] = [{}, {"raw": True}, {"stop": [" "]}, {"seed": 1, "top_k": 5}]
    for options in given:
        options["max_new_tokens"] = 4
        expected = await local.complete("Write a haiku", **options)
        found = await remote.complete("Write a haiku", **options)
        # The same prompt reached the same model; that the same text comes is not promised.
        assert found.prompt_tokens == expected.prompt_tokens
        assert found.finish_reason == ("stop" if "stop" in options else "length")
        assert 1 <= found.completion_tokens <= 4
        assert found.text
        assert found.fingerprint != expected.fingerprint
        again = await remote.complete("Write a haiku", **options)
        assert again.cached
        assert again.text == found.text
    async with remote.stream("Tell me a story", max_new_tokens=8) as stream:
        chunks = [chunk async for chunk in stream]
    assert len(chunks) > 2
    assert "".join(chunks) == stream.answer.text


async def test_it_holds_to_forms(remote: asteady.Session) -> None:
    answer = await remote.complete("Where?", schema=SCHEMA, max_new_tokens=200)
    assert answer.value["city"] in ("Rome", "Paris")
    chosen = await remote.generate("Yes or no?", choices=["yes", "no"])
    assert chosen in ("yes", "no")
    with pytest.raises(asteady.IncompleteAnswerError):
        await remote.generate("Where?", schema=SCHEMA, max_new_tokens=1)
    with pytest.raises(asteady.ModelCapabilityError, match="regex"):
        await remote.generate("A number?", regex="[0-9]+")


async def test_it_tells_log_probabilities(remote: asteady.Session) -> None:
    for raw in (False, True):
        answer = await remote.complete("Hello", logprobs=2, max_new_tokens=4, raw=raw)
        assert answer.logprobs is not None
        assert b"".join(each.token for each in answer.logprobs).decode() == answer.text
        for each in answer.logprobs:
            assert each.logprob <= 0
            assert each.top[0][2] == max(each.logprob, each.top[0][2])
            assert len(each.top) == 2


async def test_a_call_that_it_leaves_out_is_an_error(remote: asteady.Session) -> None:
    """It ignores tools if the model's template has none."""
    options: dict[str, Any] = {
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}],
        "tool_choice": "required",
        "max_new_tokens": 50,
    }
    with pytest.raises(asteady.EngineError, match="asks for a call"):
        await remote.complete("Weather?", **options)
    assert not await remote.is_cached("Weather?", **options)


async def test_a_caller_that_leaves_frees_its_slot(
    remote: asteady.Session, generating: str
) -> None:
    address = generating.removeprefix("openai+").removesuffix("/v1#small")
    numbers = {"type": "array", "items": {"type": "integer"}, "minItems": 2000}
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        before = _predicted(await client.get("/metrics"))
        # It would write until the context is full.
        async with remote.stream("Numbers?", schema=numbers, max_new_tokens=1900) as stream:
            assert await anext(stream)
            assert (await client.get("/slots")).json()[0]["is_processing"]
        while (await client.get("/slots")).json()[0]["is_processing"]:
            pass
        assert _predicted(await client.get("/metrics")) - before < 1900
    assert not await remote.is_cached("Numbers?", schema=numbers, max_new_tokens=1900)


def _predicted(metrics: httpx.Response) -> float:
    """How many tokens the server has computed in all."""
    found = re.search(r"^llamacpp:tokens_predicted_total (\S+)$", metrics.text, re.M)
    assert found is not None
    return float(found[1])


async def test_it_counts_tokens(remote: asteady.Session, embedding: str, tmp_path: Path) -> None:
    given: list[dict[str, Any]] = [
        {"prompt": "Hello <|im_end|>"},
        {"prompt": "Hello", "raw": True},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "?"},
            ]
        },
    ]
    for options in given:
        counted = await remote.count_tokens(**options)
        assert counted == (await remote.complete(**options, max_new_tokens=1)).prompt_tokens
    async with asteady.Session(embedding_model=embedding, cache_dir=tmp_path / "e") as session:
        counted = await session.count_tokens("async cache", kind="embedding")
        assert counted == (await session.embedding("async cache")).tokens


async def test_it_embeds(embedding: str, local: asteady.Session, tmp_path: Path) -> None:
    async with asteady.Session(embedding_model=embedding, cache_dir=tmp_path) as remote:
        expected, found = await local.embed("async cache"), await remote.embed("async cache")
        assert found.shape == expected.shape
        assert float(found @ expected) == pytest.approx(1.0, abs=1e-3)
        assert (await remote.embedding("async cache")).cached
        short = await remote.embed("async cache", dimensions=8)
        assert float(short @ short) == pytest.approx(1.0)


async def test_what_it_refuses(
    remote: asteady.Session, generating: str, embedding: str, tmp_path: Path
) -> None:
    with pytest.raises(asteady.PromptTooLongError):
        await remote.generate("word " * 4000)
    with pytest.raises(asteady.ModelNotFoundError, match="small"):
        await remote.generate("Hello", model=generating.replace("#small", "#large"))
    async with asteady.Session(embedding_model=generating, cache_dir=tmp_path / "e") as session:
        with pytest.raises(asteady.AsteadyError, match="embedding"):
            await session.embed("Hello")
