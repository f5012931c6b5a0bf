"""Entries that keep their request: what is written, what is trusted, and its size."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from asteady import Session
from asteady._base.requests import EmbedRequest, GenerateRequest
from asteady._cache.manager import CacheManager
from asteady._cache.store.codec import CompletionCodec, payload_bytes
from asteady._cache.store.stored_request import (
    arguments,
    from_json,
    preview,
    quoted,
    to_json,
    verified,
)
from asteady._cache.store.transaction import ROW_BYTES
from asteady.testing import FakeEngine
from tests.cache.helpers import change, completion, embedding, opened

pytestmark = pytest.mark.anyio
FINGERPRINT = "f" * 64
CODEC = CompletionCodec()

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**32 - 2),
        "max_new_tokens": st.integers(1, 4096),
        "temperature": st.floats(0, 100),
        "top_k": st.integers(0, 100),
        "top_p": st.floats(0, 1),
        "min_p": st.floats(0, 1),
        "typical_p": st.floats(0, 1),
        "repeat_penalty": st.floats(0.01, 10),
        "presence_penalty": st.floats(-10, 10),
        "frequency_penalty": st.floats(-10, 10),
        "logit_bias": st.dictionaries(st.integers(0, 2**31 - 1), st.floats(-100, 100)),
        "stop": st.lists(TEXT),
        "logprobs": st.integers(0, 100) | st.none(),
    },
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), min_size=1)


def generate(prompt: str | None, options: dict[str, Any], **more: Any) -> GenerateRequest:
    return GenerateRequest.of(prompt, **options, **more)


PROMPTED = st.builds(generate, TEXT, OPTIONS, raw=st.booleans())
CHATS = st.builds(generate, st.none(), OPTIONS, messages=MESSAGES)
EMBED = st.builds(
    EmbedRequest.of,
    TEXT | st.just(""),
    truncate=st.booleans(),
    dimensions=st.none() | st.integers(1, 2**20),
    mode=st.sampled_from([None, "query", "document"]),
)


@given(PROMPTED | CHATS | EMBED)
def test_a_request_comes_back_with_its_key(request: GenerateRequest | EmbedRequest) -> None:
    text = to_json(request, 10**6)
    assert text is not None
    assert "\n" not in text
    again = from_json(text)
    assert again == request
    key = request.key(FINGERPRINT)
    assert again.key(FINGERPRINT) == key
    assert verified(text, key, FINGERPRINT) == request
    assert verified(text, key, "another") is None


def test_what_is_at_its_default_is_not_written() -> None:
    assert to_json(GenerateRequest.of("hi"), 100) == '{"prompt":"hi"}'
    assert to_json(EmbedRequest.of("é", mode="query"), 100) == '{"text":"é","mode":"query"}'
    given: dict[str, Any] = {
        "messages": [{"role": "user", "content": "hi"}],
        "logit_bias": {3: 1.5},
    }
    assert arguments(GenerateRequest.of(**given)) == given


@pytest.mark.parametrize("prompt", ["x" * 18, "é" * 9])
def test_a_request_of_more_bytes_is_not_stored(prompt: str) -> None:
    request = GenerateRequest.of(prompt)
    assert to_json(request, 31) is not None
    assert to_json(request, 30) is None
    assert to_json(request, 0) is None


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "nonsense",
        "[1]",
        '"text"',
        "[" * 100_000,
        '{"prompt": 1}',
        '{"prompt": "hi", "size": 1}',
        '{"prompt": "\\ud800"}',
        '{"prompt": "hi", "logit_bias": {"x": 1}}',
        '{"prompt": "hi", "temperature": NaN}',
        '{"prompt": "another"}',
    ],
)
def test_what_does_not_hash_to_the_key_is_not_trusted(text: object) -> None:
    assert verified(text, GenerateRequest.of("hi").key(FINGERPRINT), FINGERPRINT) is None


def test_the_beginning_of_a_prompt_is_shown() -> None:
    assert preview('{"prompt":"hi"}') == "hi"
    assert preview('{"text":"%s"}' % ("x" * 500)) == "x" * 200
    asked = '{"messages":[{"role":"system","content":"a"},{"role":"user","content":"b"}]}'
    assert preview(asked) == "b"
    assert preview(None) is preview("nonsense") is None
    assert quoted("a\x1b[2J\n" + "b" * 80) == r"'a\x1b[2J\n" + "b" * 51 + "...'"


# -- in the database ------------------------------------------------------------------------------


async def put(manager: CacheManager, prompt: str, **options: Any) -> str:
    request = GenerateRequest.of(prompt, **options)
    key = request.key(FINGERPRINT)
    assert await manager.generation.put(key, completion(fingerprint=FINGERPRINT), request=request)
    return key


async def test_a_request_is_stored_with_its_entry(directory: Path) -> None:
    async with opened(directory) as manager:
        key = await put(manager, "What is a tide?", seed=7)
        text = EmbedRequest.of("tide")
        await manager.embedding.put(text.key("e"), embedding(fingerprint="e"), request=text)
    async with opened(directory) as manager:
        request = GenerateRequest.of("What is a tide?", seed=7)
        assert await manager.generation.request(key) == request
        assert await manager.embedding.request(text.key("e")) == text
        assert await manager.generation.request("0" * 64) is None
        (entry,) = await manager.generation.entries()
        assert (entry.prompt, entry.fingerprint) == ("What is a tide?", FINGERPRINT)
        assert (await manager.generation.get(key)) is not None


async def test_the_size_of_a_request_counts(directory: Path) -> None:
    async with opened(directory, keep_requests_bytes=60) as manager:
        kept = await put(manager, "x" * 40)
        long = await put(manager, "x" * 80)
        sizes = {entry.key: entry.size_bytes for entry in await manager.generation.entries()}
        # Half as much again, as for every other value.
        assert abs(sizes[kept] - sizes[long] - 1.5 * len('{"prompt":""}' + "x" * 40)) < 1
        stats = await manager.generation.statistics()
        assert stats["total_size_bytes"] == sum(sizes.values())
        assert await manager.generation.request(long) is None


async def test_no_request_is_stored_with_a_limit_of_zero(directory: Path) -> None:
    async with opened(directory, keep_requests_bytes=0) as manager:
        key = await put(manager, "secret")
        assert await manager.generation.request(key) is None
        assert (await manager.generation.entries())[0].prompt is None
    assert b"secret" not in (directory / "generation_cache.db").read_bytes()


async def test_a_new_answer_brings_its_own_request(directory: Path) -> None:
    async with opened(directory) as manager:
        key = await put(manager, "hi")
        assert await manager.generation.put(key, completion(fingerprint=FINGERPRINT))
        assert await manager.generation.request(key) is None


async def test_a_request_of_another_entry_is_not_trusted(directory: Path) -> None:
    async with opened(directory) as manager:
        key = await put(manager, "hi")
        with closing(sqlite3.connect(directory / "generation_cache.db")) as connection:
            connection.execute('UPDATE answer SET request = \'{"prompt":"a lie"}\'')
            connection.commit()
        assert await manager.generation.request(key) is None
        assert await manager.generation.get(key) is not None


async def test_a_session_stores_its_requests(directory: Path) -> None:
    async with Session(engine=FakeEngine(), cache_dir=directory) as session:
        await session.generate("a prompt", stop=["b", "a"], temperature=0.5)
        await session.embed("a text", mode="query")
        prompt = GenerateRequest.of("a prompt", stop=["a", "b"], temperature=0.5)
        assert await session.cache.generation.request(prompt.key("fake-1")) == prompt
        text = EmbedRequest.of("a text", mode="query")
        assert await session.cache.embedding.request(text.key("fake-1")) == text


# -- in an export ---------------------------------------------------------------------------------


SHORT = GenerateRequest.of("short")
LONG = GenerateRequest.of("x" * 80)


@pytest.fixture
async def export(tmp_path: Path) -> Path:
    """Two completions with their requests."""
    path = tmp_path / "export.db"
    async with opened(tmp_path / "other") as other:
        await put(other, "short")
        await put(other, "x" * 80)
        await other.export_entries(path)
    return path


async def requests_in(manager: CacheManager) -> dict[str, object]:
    """By the key; what they take counts, and the answers are there."""
    cache = manager.generation
    entries = await cache.entries()
    sizes = {
        entry.key: int(ROW_BYTES + 64 + 1.5 * payload_bytes((*CODEC.encode(answer), text)))
        for entry in entries
        if (answer := await cache.peek(entry.key)) is not None
        for request in [await cache.request(entry.key)]
        for text in [None if request is None else to_json(request, 10**6)]
    }
    assert sizes == {entry.key: entry.size_bytes for entry in entries}
    return {entry.key: await cache.request(entry.key) for entry in entries}


async def test_requests_go_with_their_entries(manager: CacheManager, export: Path) -> None:
    await manager.import_entries(export)
    assert await requests_in(manager) == {r.key(FINGERPRINT): r for r in (SHORT, LONG)}


@pytest.mark.parametrize(("limit", "kept"), [(0, None), (40, SHORT)])
async def test_an_import_stores_no_request_over_the_limit(
    directory: Path, export: Path, limit: int, kept: GenerateRequest | None
) -> None:
    async with opened(directory, keep_requests_bytes=limit) as manager:
        await manager.import_entries(export)
        expected = {SHORT.key(FINGERPRINT): kept, LONG.key(FINGERPRINT): None}
        assert await requests_in(manager) == expected


async def test_an_export_has_no_request_over_the_limit(
    manager: CacheManager, directory: Path, tmp_path: Path
) -> None:
    await put(manager, "a secret")
    async with opened(directory, keep_requests_bytes=0) as silent:
        await silent.export_entries(tmp_path / "export.db")
    assert b"secret" not in (tmp_path / "export.db").read_bytes()


@pytest.mark.parametrize("lie", ['\'{"prompt":"lie"}\'', "'nonsense'", "7", "zeroblob(5000)"])
async def test_a_request_that_is_not_the_entrys_does_not_come_in(
    manager: CacheManager, export: Path, lie: str
) -> None:
    change(export, f"UPDATE generation SET request = {lie}")
    assert (await manager.import_entries(export))["generation"].added == 2
    assert set((await requests_in(manager)).values()) == {None}
