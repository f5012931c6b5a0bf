"""Streams: they share the computation with everybody else, and replay what is remembered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest

from asteady import (
    InvalidRequestError,
    ReasoningChunk,
    Session,
    SessionClosedError,
    SessionError,
    StreamEvent,
    TextChunk,
)
from asteady._base.requests import GenerateRequest
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio

CHUNKS = ["You ", "said: ", "a ", "b ", "c"]


async def read(session: Session, prompt: str = "a b c") -> list[str]:
    async with session.stream(prompt) as stream:
        return [chunk async for chunk in stream]


async def test_chunks_come_as_they_are_computed(session: Session, engine: FakeEngine) -> None:
    engine.hold()
    async with session.stream("a b c") as stream:
        for expected in CHUNKS:
            engine.step()
            assert await anext(stream) == expected
        engine.resume()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert stream.answer.text == "You said: a b c"
        assert stream.answer.finish_reason == "stop"


async def test_readers_and_waiters_share_one_computation(
    session: Session, engine: FakeEngine
) -> None:
    engine.hold()
    first = asyncio.create_task(read(session))
    await engine.wait_computed(1)
    engine.step(2)
    await anyio.wait_all_tasks_blocked()
    late = asyncio.create_task(read(session))
    waiter = asyncio.create_task(session.generate("a b c"))
    await anyio.wait_all_tasks_blocked()
    engine.resume()
    assert await first == await late == CHUNKS
    assert await waiter == "".join(CHUNKS)
    assert len(engine.computed) == 1


async def test_a_remembered_answer_replays_with_its_chunk_boundaries(
    session: Session, engine: FakeEngine
) -> None:
    await session.generate("a b c")
    assert await read(session) == CHUNKS, "from the memory tier"
    async with Session(engine=engine) as another:
        assert await read(another) == CHUNKS, "from the disk"
    assert len(engine.computed) == 1


async def test_a_slow_reader_holds_up_nobody(session: Session, engine: FakeEngine) -> None:
    async with session.stream("a b c") as slow:
        assert await anext(slow) == CHUNKS[0]
        assert await session.generate("a b c") == "".join(CHUNKS)
        assert [chunk async for chunk in slow] == CHUNKS[1:]


async def test_leaving_early_ends_the_computation_if_nobody_else_waits(
    session: Session, engine: FakeEngine
) -> None:
    engine.hold()
    async with session.stream("a b c") as stream:
        engine.step()
        assert await anext(stream) == CHUNKS[0]
    await engine.wait_released(1)
    assert not await session.is_cached("a b c"), "a partial answer is never stored"


async def test_leaving_early_leaves_the_others_alone(session: Session, engine: FakeEngine) -> None:
    engine.hold()
    async with session.stream("a b c") as stream:
        engine.step()
        await anext(stream)
        waiter = asyncio.create_task(session.generate("a b c"))
        await anyio.wait_all_tasks_blocked()
    engine.resume()
    assert await waiter == "".join(CHUNKS)
    assert engine.released == []


async def test_an_error_comes_after_the_chunks_before_it() -> None:
    def answer(request: GenerateRequest) -> str:
        raise ValueError("no answer")

    async with (
        Session(engine=FakeEngine(answer)) as session,
        session.stream("hi") as stream,
    ):
        with pytest.raises(Exception, match="no answer"):
            await anext(stream)
        with pytest.raises(SessionError, match="read to its end"):
            _ = stream.answer


async def test_read_returns_the_whole_answer(session: Session) -> None:
    async with session.stream("a b c") as stream:
        assert (await stream.read()).chunks == tuple(CHUNKS)


async def test_misuse_is_told_what_to_do(session: Session) -> None:
    stream = session.stream("hi")
    with pytest.raises(SessionError, match="async with"):
        async for _ in stream:
            pass
    async with stream:
        with pytest.raises(SessionError, match="already open"):
            await stream.__aenter__()
    with pytest.raises(SessionError, match="async with"):
        await anext(stream)
    with pytest.raises(InvalidRequestError, match="seed=-1"):
        async with session.stream("hi", seed=-1):
            pass


async def test_closing_the_session_ends_a_stream(engine: FakeEngine) -> None:
    engine.hold()
    session = await Session(engine=engine).open()
    async with session.stream("a b c") as stream:
        engine.step()
        assert await anext(stream) == CHUNKS[0]
        await session.aclose()
        with pytest.raises(SessionClosedError):
            await anext(stream)


THOUGHT = [ReasoningChunk("Let "), ReasoningChunk("me "), ReasoningChunk("see")]
SAID = [TextChunk(chunk) for chunk in ("You ", "said: ", "a")]


async def read_events(session: Session) -> list[StreamEvent]:
    async with session.stream("a") as stream:
        events = [event async for event in stream.events()]
        assert stream.answer.reasoning == "Let me see"
    return events


def thinking() -> FakeEngine:
    return FakeEngine(reasoning=lambda request: "Let me see")


async def test_events_tell_reasoning_from_text_live_and_replayed() -> None:
    engine = thinking()
    engine.hold()
    async with Session(engine=engine) as session:
        async with session.stream("a") as stream:
            events = stream.events()
            for expected in THOUGHT + SAID:
                engine.step()
                assert await anext(events) == expected
            engine.resume()
            assert [event async for event in events] == []
        assert await read_events(session) == THOUGHT + SAID, "from the memory tier"
        assert await read(session, "a") == ["You ", "said: ", "a"]
        assert await session.generate("a") == "You said: a"
    async with Session(engine=thinking()) as another:
        assert await read_events(another) == THOUGHT + SAID, "from the disk"
        answer = await another.complete("a")
        assert answer.cached
        assert (answer.reasoning_tokens, answer.completion_tokens) == (3, 6)


async def test_iterating_and_events_read_on_from_each_other() -> None:
    async with Session(engine=thinking()) as session, session.stream("a") as stream:
        assert await anext(stream.events()) == THOUGHT[0]
        assert await anext(stream) == "You "
        assert [event async for event in stream.events()] == SAID[1:]
        assert (await stream.read()).text == "You said: a"


async def test_events_need_an_open_stream(session: Session) -> None:
    with pytest.raises(SessionError, match="open the stream"):
        session.stream("a").events()


async def test_logprobs_come_with_their_text_also_from_the_cache(tmp_path: Path) -> None:
    async def events(session: Session, cached: bool) -> list[StreamEvent]:
        async with session.stream("Hello", max_new_tokens=12, logprobs=1) as stream:
            found = [event async for event in stream.events()]
        texts = [event for event in found if isinstance(event, TextChunk)]
        assert tuple(each for text in texts for each in text.logprobs) == stream.answer.logprobs
        assert all(b"".join(t.token for t in text.logprobs) == text.text.encode() for text in texts)
        assert stream.answer.cached is cached
        return found

    async with Session(cache_dir=tmp_path) as session:
        computed = await events(session, cached=False)
        assert await events(session, cached=True) == computed
        async with session.stream("Hello", max_new_tokens=12, logprobs=1) as stream:
            assert [text async for text in stream] == list(map(text_of, computed))
    async with Session(cache_dir=tmp_path) as session:
        assert await events(session, cached=True) == computed


def text_of(event: StreamEvent) -> str:
    assert isinstance(event, TextChunk)
    return event.text
