"""`FakeEngine` honours the options of a request as an engine with a model does."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import numpy as np
import pytest

import asteady.blocking
from asteady import (
    Completion,
    EngineError,
    ErrorEvent,
    GenerateRequest,
    InvalidRequestError,
    PromptTooLongError,
    Session,
)
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio

FIVE = "one two three four five"


async def completed(answer: str, **options: Any) -> Completion:
    async with Session(engine=FakeEngine(lambda request: answer)) as session:
        found: Completion = await session.complete("hi", **options)
        async with session.stream("hi", cache="bypass", **options) as stream:
            chunks = [chunk async for chunk in stream]
    assert tuple(chunks) == found.chunks
    assert "".join(chunks) == found.text
    return found


@pytest.mark.parametrize(
    ("options", "text", "reason", "tokens"),
    [
        ({}, FIVE, "stop", 5),
        ({"max_new_tokens": 2}, "one two ", "length", 2),
        # As a real model, which has not said yet that it ends.
        ({"max_new_tokens": 5}, FIVE, "length", 5),
        ({"max_new_tokens": 6}, FIVE, "stop", 5),
        ({"stop": "three"}, "one two ", "stop", 3),
        ({"stop": ["o th", "four"]}, "one tw", "stop", 3),
        ({"stop": "five more"}, FIVE, "stop", 5),
        ({"eos_string": "two"}, "one ", "stop", 2),
        ({"stop": "three", "max_new_tokens": 3}, "one two ", "stop", 3),
        ({"stop": "three", "max_new_tokens": 2}, "one two ", "length", 2),
        ({"stop": "one"}, "", "stop", 1),
    ],
)
async def test_a_text_ends_at_the_limit_and_before_a_stop_string(
    options: dict[str, Any], text: str, reason: str, tokens: int
) -> None:
    answer = await completed(FIVE, **options)
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == (text, reason, tokens)
    assert all(answer.chunks)


async def test_each_token_has_log_probabilities_if_they_are_asked_for() -> None:
    assert (await completed(FIVE)).logprobs is None
    answer = await completed(FIVE, logprobs=3, stop="three")
    assert answer.logprobs is not None
    assert [token.token.decode() for token in answer.logprobs] == ["one ", "two ", "three "]
    for token in answer.logprobs:
        assert len(token.top) == 3
        assert token.top[0] == (token.token_id, token.token, token.logprob)
        logprobs = [logprob for _, _, logprob in token.top]
        assert logprobs == sorted(logprobs, reverse=True)
    none = (await completed(FIVE, logprobs=0)).logprobs
    assert none is not None
    assert {token.top for token in none} == {()}


async def test_messages_are_seen_and_fill_the_context() -> None:
    seen: list[GenerateRequest] = []

    def answer(request: GenerateRequest) -> str:
        seen.append(request)
        return FIVE

    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "go on"}]
    async with Session(engine=FakeEngine(answer, context=6)) as session:
        found = await session.complete(messages=messages)
        assert [message.as_dict() for message in seen[0].messages] == messages
        assert (found.prompt_tokens, found.completion_tokens) == (4, 2)
        assert found.finish_reason == "length"
        with pytest.raises(PromptTooLongError, match="the prompt has 6 words"):
            await session.generate(messages=[*messages, {"role": "user", "content": "and on"}])
    assert len(seen) == 1


async def test_vectors_have_the_dimensions_that_are_asked_for() -> None:
    async with Session(engine=FakeEngine(context=3)) as session:
        whole = await session.embed("hello")
        assert whole.shape == (8,)
        first = await session.embed("hello", dimensions=3)
        assert first.shape == (3,)
        assert np.linalg.norm(first) == pytest.approx(1)
        assert first == pytest.approx(whole[:3] / np.linalg.norm(whole[:3]))
        with pytest.raises(InvalidRequestError, match="dimensions=9"):
            await session.embed("hello", dimensions=9)
        assert not np.array_equal(whole, await session.embed("hello", mode="query"))


async def test_text_is_cut_only_where_that_is_allowed() -> None:
    async with Session(engine=FakeEngine(context=3)) as session:
        with pytest.raises(PromptTooLongError, match="4 words"):
            await session.embed("a b c d")
        cut = await session.embedding("a b c d", truncate=True)
        assert (cut.tokens, cut.truncated) == (3, True)
        assert np.array_equal(cut.vector, await session.embed("a b c "))
        assert not (await session.embedding("a b c ", truncate=True)).truncated


class OwnError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


def fails(request: GenerateRequest) -> str:
    raise OwnError(7, "no")


async def test_the_error_of_the_answer_function_arrives_as_it_is() -> None:
    async with Session(engine=FakeEngine(fails)) as session:
        with pytest.raises(OwnError, match="7: no") as caught:
            await session.generate("hi")
        assert caught.value.code == 7
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert "fails" in names
        assert await session.is_cached("hi") is False
        with pytest.raises(OwnError):
            async with session.stream("hi") as stream:
                await stream.read()


def test_it_arrives_from_blocking_calls_too() -> None:
    with asteady.blocking.Session(engine=FakeEngine(fails)) as session:
        with pytest.raises(OwnError) as caught:
            session.generate("hi")
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert "fails" in names


async def test_an_error_of_another_engine_is_the_cause_of_an_engine_error() -> None:
    class Failing(FakeEngine):
        def open_worker(self) -> Any:
            worker = super().open_worker()
            step = worker.step
            worker.step = lambda: [  # type: ignore[method-assign]
                ErrorEvent(event.slot, event.error) if isinstance(event, ErrorEvent) else event
                for event in step()
            ]
            return worker

    async with Session(engine=Failing(fails)) as session:
        with pytest.raises(EngineError, match="OwnError"):
            await session.generate("hi")


async def test_reasoning_comes_before_the_text_and_counts_as_tokens() -> None:
    engine = FakeEngine(lambda request: FIVE, reasoning=lambda request: "I see two")
    async with Session(engine=engine) as session:
        whole = await session.complete("hi", stop="two", logprobs=1)
        cut = await session.complete("hi", max_new_tokens=2)
    assert (whole.reasoning, whole.text) == ("I see two", "one ")
    assert (whole.reasoning_tokens, whole.completion_tokens) == (3, 5)
    assert [token.token for token in whole.logprobs or ()][2:4] == [b"two", b"one "]
    assert (cut.reasoning, cut.text, cut.finish_reason) == ("I see ", "", "length")


def test_a_wait_that_was_given_up_is_not_told_when_its_loop_is_closed(engine: FakeEngine) -> None:
    async def give_up() -> None:
        waiting = asyncio.create_task(engine.wait_computed(1))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    async def ask() -> None:
        async with Session(engine=engine) as session:
            assert await session.generate("hi") == "You said: hi"

    asyncio.run(give_up())
    asyncio.run(ask())
