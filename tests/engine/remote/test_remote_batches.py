"""Texts that wait at the same time travel as one request, and none harms another."""

# ruff: noqa: ASYNC110  # it looks at counters, which tell nobody

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.applications import Starlette

import asteady
import asteady.server
from asteady._engine.remote import batches
from asteady._engine.remote.body import RemoteJob
from asteady.testing import FakeEngine
from tests.misbehaving_server import (
    Behaviour,
    Exchange,
    MisbehavingServer,
    embeddings,
    misbehaving_server,
    status,
)
from tests.serving import serving

pytestmark = pytest.mark.anyio

EMBEDDINGS = "/embeddings"
TEXTS = [f"text {number}" for number in range(8)]
FIRST = "the first one"


def given(exchange: Exchange) -> list[str]:
    found: str | list[str] = exchange.body["input"]
    return [found] if isinstance(found, str) else found


def vector(text: str) -> list[float]:
    """The one of this text only."""
    return [float(sum(text.encode())), float(len(text)), 1.0]


def rows_of(exchange: Exchange) -> dict[str, Any]:
    return embeddings(exchange, [vector(text) for text in given(exchange)])


async def embeds(exchange: Exchange) -> None:
    await exchange.reply(rows_of(exchange))


async def embeds_later(exchange: Exchange) -> None:
    await exchange.hold()
    await embeds(exchange)


def refuses(condition: Any, number: int = 400) -> Behaviour:
    """Refuse requests whose list of texts is so."""

    async def behave(exchange: Exchange) -> None:
        behaviour = status(number, "not these") if condition(given(exchange)) else embeds
        await behaviour(exchange)

    return behave


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with misbehaving_server() as server:
        server.always(EMBEDDINGS, embeds)
        yield server


@asynccontextmanager
async def waiting(
    server: MisbehavingServer, cache_dir: Path, reference: str | None = None
) -> AsyncIterator[tuple[asteady.Session, list[asyncio.Task[Any]]]]:
    """A session that may send one request at once. One is under way, and `TEXTS` wait for it."""
    reference = reference or server.reference()
    async with asteady.Session(
        embedding_model=reference, cache_dir=cache_dir, workers=1
    ) as session:
        server.next(EMBEDDINGS, embeds_later)
        first = asyncio.create_task(session.embed(FIRST))
        await server.wait_begun(1)
        tasks = [asyncio.create_task(session.embedding(text)) for text in TEXTS]
        await started(session, reference, 1 + len(TEXTS))
        yield session, tasks
        await first


async def started(session: asteady.Session, reference: str, count: int) -> None:
    """Wait until so many texts have reached the worker."""
    while session.statistics().pools[f"embedding:{reference}"].started < count:
        await asyncio.sleep(0.001)


def is_vector_of(embedding: asteady.Embedding, text: str) -> bool:
    expected = np.array(vector(text))
    return np.allclose(embedding.vector, expected / np.linalg.norm(expected))


async def test_texts_that_wait_travel_together(server: MisbehavingServer, tmp_path: Path) -> None:
    async with waiting(server, tmp_path) as (session, tasks):
        server.release()
        found = await asyncio.gather(*tasks)
        assert all(map(is_vector_of, found, TEXTS))
        # The server tells the tokens of all together.
        assert sum(each.tokens for each in found) == 5
        assert [sorted(given(exchange)) for exchange in server.exchanges] == [[FIRST], TEXTS]
        for text in TEXTS:
            assert (await session.embedding(text, cache="only")).cached


async def test_many_texts_are_each_sent_once_in_bounded_lists(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    texts = [f"number {number}" for number in range(300)]
    async with asteady.Session(
        embedding_model=server.reference(), cache_dir=tmp_path, workers=2
    ) as session:
        found = await asyncio.gather(*map(session.embedding, texts))
    assert all(map(is_vector_of, found, texts))
    sent = [given(exchange) for exchange in server.exchanges]
    assert sorted(text for texts in sent for text in texts) == sorted(texts)
    assert max(map(len, sent)) <= batches.MOST_TEXTS
    assert server.peak <= 2


async def test_a_long_text_holds_up_no_other(server: MisbehavingServer, tmp_path: Path) -> None:
    async with waiting(server, tmp_path) as (session, tasks):
        tasks.append(asyncio.create_task(session.embedding("long " * 30_000)))
        await started(session, server.reference(), 2 + len(TEXTS))
        server.release()
        await asyncio.gather(*tasks)
    assert [len(given(exchange)) for exchange in server.exchanges] == [1, len(TEXTS), 1]


@pytest.mark.parametrize("number", [400, 413, 422, 500])
async def test_a_text_that_is_refused_fails_no_other_one(
    server: MisbehavingServer, tmp_path: Path, number: int
) -> None:
    server.always(EMBEDDINGS, refuses(lambda texts: TEXTS[3] in texts, number))
    async with waiting(server, tmp_path) as (session, tasks):
        server.release()
        found: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
        kind = asteady.RemoteError if number == 500 else asteady.InvalidRequestError
        assert isinstance(found.pop(3), kind)
        assert all(map(is_vector_of, found, TEXTS[:3] + TEXTS[4:]))
        # The first one, the list, and its halves.
        assert len(server.exchanges) == 1 + 1 + 2 * 3
        with pytest.raises(asteady.CacheMissError):
            await session.embed(TEXTS[3], cache="only")


async def test_a_server_that_takes_no_lists_is_sent_texts(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    server.always(EMBEDDINGS, refuses(lambda texts: len(texts) > 1))
    async with waiting(server, tmp_path) as (session, tasks):
        server.release()
        assert all(map(is_vector_of, await asyncio.gather(*tasks), TEXTS))
        server.forget()
        more = [f"more {number}" for number in range(8)]
        assert all(map(is_vector_of, await asyncio.gather(*map(session.embedding, more)), more))
        # It has learnt that.
        assert sorted(map(given, server.exchanges)) == [[text] for text in more]


async def test_a_server_that_takes_short_lists_is_sent_those(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    server.always(EMBEDDINGS, refuses(lambda texts: len(texts) > 4))
    async with waiting(server, tmp_path) as (session, tasks):
        server.release()
        assert all(map(is_vector_of, await asyncio.gather(*tasks), TEXTS))
        assert [len(given(exchange)) for exchange in server.exchanges] == [1, 8, 4, 4]
        server.forget()
        await asyncio.gather(*(session.embed(f"more {number}") for number in range(8)))
        assert max(len(given(exchange)) for exchange in server.exchanges) <= 4


def job_of(text: str, options: bytes = b"") -> RemoteJob:
    return RemoteJob(
        request=asteady.EmbedRequest.of(text),
        path="embeddings",
        body=b"",
        expected_key=None,
        options=options,
    )


@pytest.fixture
async def embedding() -> asteady.Embedding:
    async with asteady.Session(engine=FakeEngine()) as session:
        return await session.embedding("text")


async def test_after_a_while_a_server_is_tried_with_longer_lists(
    monkeypatch: pytest.MonkeyPatch, embedding: asteady.Embedding
) -> None:
    monkeypatch.setattr(batches, "_LISTS_UNTIL_LONGER", 3)
    sizes: list[int] = []
    takes = 4

    async def ask(jobs: Sequence[RemoteJob]) -> list[asteady.Embedding]:
        sizes.append(len(jobs))
        if len(jobs) > takes:
            raise asteady.InvalidRequestError("too many")
        return [embedding] * len(jobs)

    texts = batches.TextBatches(ask, requests=1, servers=1)

    async def embed_eight() -> list[int]:
        sizes.clear()
        await asyncio.gather(*(texts.embed(job_of("text")) for _ in range(8)))
        return [*sizes]

    assert await embed_eight() == [8, 4, 4]
    assert await embed_eight() == [4, 4]
    takes = 8
    assert await embed_eight() == [4, 4]
    assert await embed_eight() == [8]


async def test_texts_with_other_options_travel_apart(embedding: asteady.Embedding) -> None:
    asked: list[list[bytes]] = []

    async def ask(jobs: Sequence[RemoteJob]) -> list[asteady.Embedding]:
        asked.append([job.options for job in jobs])
        return [embedding] * len(jobs)

    texts = batches.TextBatches(ask, requests=1, servers=1)
    jobs = [job_of("text", options) for options in (b"a", b"b", b"a", b"c", b"b")]
    await asyncio.gather(*map(texts.embed, jobs))
    assert asked == [[b"a", b"a"], [b"b", b"b"], [b"c"]]


@pytest.mark.parametrize("error", [asteady.RemoteUnavailableError("away"), RuntimeError("a bug")])
async def test_each_text_of_a_request_that_fails_gets_the_error(error: Exception) -> None:
    async def ask(jobs: Sequence[RemoteJob]) -> list[asteady.Embedding]:
        raise error

    texts = batches.TextBatches(ask, requests=1, servers=1)
    calls = (texts.embed(job_of(str(number))) for number in range(3))
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [(type(each), str(each)) for each in found] == [(type(error), str(error))] * 3
    if isinstance(error, asteady.AsteadyError):
        assert len({id(each) for each in found}) == 3


def reordered(order: list[int | None]) -> Behaviour:
    """Rows of a list in the reverse order, with these numbers."""

    async def behave(exchange: Exchange) -> None:
        content = rows_of(exchange)
        if len(content["data"]) == len(order):
            for row, index in zip(content["data"], order, strict=True):
                row["index"] = index
            content["data"].reverse()
        await exchange.reply(content)

    return behave


async def test_the_numbers_of_the_rows_say_which_text_is_whose(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    server.always(EMBEDDINGS, reordered([*range(8)]))
    async with waiting(server, tmp_path) as (_, tasks):
        server.release()
        assert all(map(is_vector_of, await asyncio.gather(*tasks), TEXTS))
    assert len(server.exchanges) == 2


async def drops_one(exchange: Exchange) -> None:
    content = rows_of(exchange)
    del content["data"][1:2]
    await exchange.reply(content)


@pytest.mark.parametrize(
    "behaviour",
    [
        drops_one,
        reordered([0] * 8),
        reordered([*range(1, 9)]),
        reordered([None] * 8),
        reordered([*range(7), None]),
    ],
    ids=["one too few", "the same numbers", "from one", "no numbers", "one without"],
)
async def test_vectors_that_may_be_of_other_texts_are_asked_for_anew(
    server: MisbehavingServer, tmp_path: Path, behaviour: Behaviour
) -> None:
    server.always(EMBEDDINGS, behaviour)
    async with waiting(server, tmp_path) as (_, tasks):
        server.release()
        assert all(map(is_vector_of, await asyncio.gather(*tasks), TEXTS))


async def test_a_busy_server_is_asked_again_for_all(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    async with waiting(server, tmp_path) as (_, tasks):
        server.next(EMBEDDINGS, status(429, headers={"retry-after": "0"}))
        server.release()
        assert all(map(is_vector_of, await asyncio.gather(*tasks), TEXTS))
    assert [len(given(exchange)) for exchange in server.exchanges] == [1, 8, 8]


async def test_a_server_that_is_away_is_told_once_for_each(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    async with waiting(server, tmp_path, server.reference(retries=0)) as (_, tasks):
        server.next(EMBEDDINGS, status(502, "away"))
        server.release()
        found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in found] == [asteady.RemoteUnavailableError] * 8
    assert len({id(each) for each in found}) == 8
    assert len(server.exchanges) == 2


async def test_cancelling_one_text_leaves_the_others(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    async with waiting(server, tmp_path) as (session, tasks):
        await cancel(session, server, tasks.pop(0))  # while it waits
        server.always(EMBEDDINGS, embeds_later)
        server.release_now()
        await server.wait_begun(2)
        await cancel(session, server, tasks.pop(0))  # while it is under way
        server.release()
        assert all(map(is_vector_of, await asyncio.gather(*tasks), TEXTS[2:]))
        assert [sorted(given(exchange)) for exchange in server.exchanges] == [[FIRST], TEXTS[1:]]
        assert not any(exchange.hung_up for exchange in server.exchanges)


async def test_the_request_of_texts_that_nobody_waits_for_is_closed(
    server: MisbehavingServer, tmp_path: Path
) -> None:
    async with waiting(server, tmp_path) as (session, tasks):
        server.always(EMBEDDINGS, embeds_later)
        server.release_now()
        await server.wait_begun(2)
        for task in tasks:
            await cancel(session, server, task)
        await server.wait_hung_up()
        server.release()
        # Its place is free.
        assert is_vector_of(await session.embedding("another"), "another")


async def cancel(
    session: asteady.Session, server: MisbehavingServer, task: asyncio.Task[Any]
) -> None:
    """Wait until the worker has forgotten the text, too."""
    before = session.statistics().pools[f"embedding:{server.reference()}"].cancelled
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while session.statistics().pools[f"embedding:{server.reference()}"].cancelled == before:
        await asyncio.sleep(0.001)


async def test_several_servers_share_the_texts(server: MisbehavingServer, tmp_path: Path) -> None:
    with misbehaving_server() as other:
        reference = f"openai+{server.address},{other.address}#model"
        other.always(EMBEDDINGS, embeds)
        async with asteady.Session(
            embedding_model=reference, cache_dir=tmp_path, workers=2
        ) as session:
            for each in (server, other):
                each.next(EMBEDDINGS, embeds_later)
            first = [asyncio.create_task(session.embed(f"{FIRST} {n}")) for n in range(2)]
            await server.wait_begun(1)
            await other.wait_begun(1)
            tasks = [asyncio.create_task(session.embedding(text)) for text in TEXTS]
            await started(session, reference, 2 + len(TEXTS))
            for each in (server, other):
                each.release()
            assert all(map(is_vector_of, await asyncio.gather(*tasks), TEXTS))
            await asyncio.gather(*first)
        sizes = [len(given(each)) for each in [*server.exchanges, *other.exchanges]]
        assert max(sizes) <= len(TEXTS) // 2


async def test_texts_in_lists_have_the_same_bytes(
    tmp_path: Path,
) -> None:
    """Against another asteady: keys, vectors and numbers of tokens are those of a session there."""
    modes: list[Any] = ["query", "document"]
    async with (
        asteady.Session(engine=FakeEngine(), cache_dir=tmp_path / "there") as there,
        asteady.Session(engine=FakeEngine(), cache_dir=tmp_path / "here") as here,
    ):
        app = Starlette()
        app.mount("/v1", asteady.server.openai(there))
        async with (
            serving(app) as address,
            asteady.Session(
                embedding_model=f"openai+{address}#builtin", cache_dir=tmp_path / "away"
            ) as remote,
        ):
            calls = [(f"text {'x ' * number}", modes[number % 2]) for number in range(100)]
            own = await asyncio.gather(*(here.embedding(text, mode=mode) for text, mode in calls))
            found = await asyncio.gather(
                *(remote.embedding(text, mode=mode) for text, mode in calls)
            )
            for one, other in zip(own, found, strict=True):
                assert one.vector.tobytes() == other.vector.tobytes()
                assert (one.tokens, one.fingerprint) == (other.tokens, other.fingerprint)
            keys = [
                {str(entry.key) for entry in await session.cache.embedding.entries()}
                for session in (here, remote)
            ]
            assert keys[0] == keys[1]
