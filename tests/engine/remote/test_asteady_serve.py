"""Remote engines and ``asteady serve`` as a process: the answers and entries of its machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

import asteady
from tests.server.serve_process import ServeProcess, client_of, serve_process

pytestmark = pytest.mark.anyio

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Paris"]}},
    "required": ["city"],
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Paris"]}},
            "required": ["city"],
        },
    },
}
TALK = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "What is caching?"},
]
REQUESTS: dict[str, dict[str, Any]] = {
    "chat": {"prompt": "Hello"},
    "messages": {"messages": TALK},
    "raw": {"prompt": "Once upon a time", "raw": True},
    "sampled": {"prompt": "Hello", "temperature": 0.9, "top_k": 40, "top_p": 0.9, "seed": 7},
    "penalties": {"prompt": "Hello", "repeat_penalty": 1.3, "presence_penalty": 0.5, "min_p": 0.05},
    "stop": {"prompt": "Hello", "stop": ["e", "\n"]},
    "schema": {"prompt": "Where?", "schema": SCHEMA},
    "choices": {"prompt": "Yes or no?", "choices": ["yes", "no"]},
    "regex": {"prompt": "A number?", "regex": "[0-9]{3}"},
    "tools": {"prompt": "Weather?", "tools": [TOOL], "tool_choice": "required"},
    "tools, auto": {"prompt": "Weather?", "tools": [TOOL]},
    "logprobs": {"prompt": "Hello", "logprobs": 3},
    "raw logprobs": {"prompt": "Once", "raw": True, "logprobs": 2},
}


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with serve_process("--port", "0") as process:
        address = process.address()
        process.wait_printed("Ctrl-C")
        yield address


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[asteady.Session]:
    async with asteady.Session(cache_dir=tmp_path / "local") as session:
        yield session


@pytest.fixture
async def remote(served: str, tmp_path: Path) -> AsyncIterator[asteady.Session]:
    async with session_of(served, tmp_path / "remote") as session:
        yield session


def session_of(address: str, cache_dir: Path, **settings: Any) -> asteady.Session:
    reference = f"openai+{address}/v1#builtin"
    return asteady.Session(
        generation_model=reference, embedding_model=reference, cache_dir=cache_dir, **settings
    )


def same(answer: asteady.Completion) -> asteady.Completion:
    """All that is the same wherever it is computed: not how long it took, nor the reference."""
    return attrs.evolve(answer, cost_s=0.0, model="", cached=False)


@pytest.mark.parametrize("name", REQUESTS)
async def test_an_answer_is_the_one_of_the_servers_machine(
    local: asteady.Session, remote: asteady.Session, name: str
) -> None:
    options = {"max_new_tokens": 100, **REQUESTS[name]}
    expected, found = await local.complete(**options), await remote.complete(**options)
    assert same(found) == same(expected)
    async with remote.stream(**options, cache="bypass") as stream:
        read = [event async for event in stream.events()]
    async with local.stream(**options) as stream:
        assert read == [event async for event in stream.events()]


async def test_a_vector_is_the_one_of_the_servers_machine(
    local: asteady.Session, remote: asteady.Session
) -> None:
    for options in ({}, {"dimensions": 16}, {"truncate": True}):
        expected = await local.embedding("async cache " * 5, **options)
        found = await remote.embedding("async cache " * 5, **options)
        assert found.vector.tobytes() == expected.vector.tobytes()
        assert (found.fingerprint, found.tokens) == (expected.fingerprint, expected.tokens)
    long = "word " * 20_000
    with pytest.raises(asteady.PromptTooLongError):
        await remote.embed(long)
    cut = await remote.embedding(long, truncate=True)
    assert cut.truncated
    assert cut.vector.tobytes() == (await local.embed(long, truncate=True)).tobytes()


async def test_tokens_are_counted_as_on_the_servers_machine(
    local: asteady.Session, remote: asteady.Session
) -> None:
    for options in REQUESTS.values():
        assert await remote.count_tokens(**options) == await local.count_tokens(**options)
    texts = ["one", "one two three", "<|im_end|>"]
    assert await remote.count_tokens(texts) == await local.count_tokens(texts)
    found = await remote.count_tokens(texts, kind="embedding")
    assert found == await local.count_tokens(texts, kind="embedding")


async def test_vectors_of_many_texts_are_those_of_the_servers_machine(
    local: asteady.Session, remote: asteady.Session
) -> None:
    texts = [f"text {number} " * (number % 7 + 1) for number in range(200)]
    expected = await asyncio.gather(*map(local.embedding, texts))
    found = await asyncio.gather(*map(remote.embedding, texts))
    for one, other in zip(expected, found, strict=True):
        assert one.vector.tobytes() == other.vector.tobytes()
        assert (one.tokens, one.fingerprint) == (other.tokens, other.fingerprint)


async def test_the_entries_are_those_of_a_session_on_the_servers_machine(
    served: str, tmp_path: Path
) -> None:
    """Whoever computes them, with one directory of the cache."""

    async def ask(session: asteady.Session, cache: Literal["only", "use"]) -> list[object]:
        answers: list[object] = [
            same(await session.complete(**{"max_new_tokens": 100, **request}, cache=cache))
            for request in REQUESTS.values()
        ]
        return [*answers, (await session.embed("async cache", cache=cache)).tobytes()]

    for number, order in enumerate(((remote_in, local_in), (local_in, remote_in))):
        first, second = (make(served, tmp_path / str(number)) for make in order)
        async with first as session:
            computed = await ask(session, "use")
        async with second as session:
            assert await ask(session, "only") == computed


def local_in(address: str, cache_dir: Path) -> asteady.Session:
    return asteady.Session(cache_dir=cache_dir)


def remote_in(address: str, cache_dir: Path) -> asteady.Session:
    return session_of(address, cache_dir)


async def test_an_own_revision_has_own_entries(
    served: str, remote: asteady.Session, tmp_path: Path
) -> None:
    expected = await remote.complete("Hello")
    own = f"openai+{served}/v1#builtin@2"
    assert not await remote.is_cached("Hello", model=own)
    found = await remote.complete("Hello", model=own)
    assert (found.text, found.cached) == (expected.text, False)
    assert found.fingerprint != expected.fingerprint


@pytest.mark.parametrize("form", [{"schema": SCHEMA}, {"choices": ["definitely", "perhaps"]}])
async def test_a_form_that_is_cut_is_the_error_of_a_session(
    local: asteady.Session, remote: asteady.Session, form: dict[str, Any]
) -> None:
    errors = []
    for session in (local, remote):
        with pytest.raises(asteady.IncompleteAnswerError) as caught:
            await session.complete("Where?", **form, max_new_tokens=2)
        error = caught.value
        errors.append(
            (str(error), error.text, error.reasoning, error.prompt_tokens, error.completion_tokens)
        )
        assert not await session.is_cached("Where?", **form, max_new_tokens=2)
    assert errors[0] == errors[1]


async def test_what_the_server_refuses_is_the_error_of_a_session(
    remote: asteady.Session, served: str
) -> None:
    with pytest.raises(asteady.PromptTooLongError) as caught:
        await remote.generate("word " * 20_000)
    assert str(caught.value).count("too long") == 1
    with pytest.raises(asteady.ModelNotFoundError, match="builtin"):
        await remote.generate("Hello", model=f"openai+{served}/v1#other")


# -- a fake engine in the server's process, which waits to be told ---------------------------------

RUNNING = 'asteady_pool_running{{pool="generation:builtin"}} {}.0'
LOOKUPS = 'asteady_cache_lookups_total{{cache="generation",result="{}"}} {}.0'


@pytest.fixture
def held() -> Iterator[tuple[ServeProcess, str]]:
    """A server, of two workers, whose answers wait to be told; and its address."""
    with serve_process("--port", "0", fake=True) as process:
        address = process.address()
        process.tell("load")
        process.wait_printed("Ctrl-C")
        yield process, address


async def until(address: str, *lines: str) -> None:
    """Wait until the server's metrics have these lines."""

    def wait() -> None:
        end_s = time.monotonic() + 120
        with client_of(address) as client:
            while not all(line in (metrics := client.get("/metrics").text) for line in lines):
                assert time.monotonic() < end_s, metrics
                time.sleep(0.01)

    await asyncio.to_thread(wait)


async def test_cancelling_frees_the_servers_slot(
    held: tuple[ServeProcess, str], tmp_path: Path
) -> None:
    process, address = held
    async with session_of(address, tmp_path, workers=2) as remote:
        waiting = asyncio.create_task(remote.generate("10"))
        await until(address, RUNNING.format(1))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until(address, RUNNING.format(0))
        async with remote.stream("20") as stream:
            process.tell("step 2")
            assert await anext(stream) == "word "
            await until(address, RUNNING.format(1))
        await until(address, RUNNING.format(0))
        # What was cancelled is stored nowhere.
        process.tell("resume")
        assert await remote.generate("10") == "word " * 10
        await until(address, LOOKUPS.format("hit", 0), LOOKUPS.format("miss", 3))


async def test_requests_of_two_programs_are_computed_once(
    held: tuple[ServeProcess, str], tmp_path: Path
) -> None:
    """Each has a cache of its own, so they share nothing but the server."""
    process, address = held
    async with (
        session_of(address, tmp_path / "a") as first,
        session_of(address, tmp_path / "b") as second,
    ):
        tasks = [asyncio.create_task(each.generate("10")) for each in (first, second)]
        await until(address, LOOKUPS.format("coalesced", 1))
        process.tell("resume")
        assert await asyncio.gather(*tasks) == ["word " * 10] * 2
        await until(address, LOOKUPS.format("hit", 0), LOOKUPS.format("miss", 1))
