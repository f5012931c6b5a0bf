"""`Session.prefix`: the same requests, the same answers, computed from a kept state."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import anyio
import pytest

import asteady
from asteady import InvalidRequestError, Message, Session, blocking
from asteady._base.requests import DeclaredPrefix, GenerateRequest
from asteady._engine.api import Job, PrefixStatistics, Request
from asteady._engine.prefix_cache import PrefixCache
from asteady._session.observe import Observed
from asteady.blocking._portal import Portal
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio

# 1,600 to 2,000 tokens of the built-in model: three whole pieces, and a part of a fourth.
SYSTEM = " ".join(f"Rule {number}: be kind to queues, and to caches." for number in range(92))


def messages(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def options(index: int) -> dict[str, Any]:
    return {
        "seed": index,
        "temperature": 0.8 * (index % 2),
        "logprobs": 2,
        "max_new_tokens": 6 + index % 5,
    }


def evidence(answer: asteady.Completion) -> tuple[object, ...]:
    return (
        answer.text,
        answer.chunks,
        answer.finish_reason,
        answer.prompt_tokens,
        answer.logprobs,
    )


def shown(request: GenerateRequest) -> str:
    return f"{request.prompt} {request.messages} {request.raw}"


async def test_answers_have_the_same_bits_with_and_without_also_between_cancellations() -> None:
    questions = [f"{index}: what is a cache? " * (1 + index % 3) for index in range(12)]
    async with Session(workers=2) as session:
        plain = [
            evidence(
                await session.complete(
                    messages=messages(question), cache="bypass", **options(index)
                )
            )
            for index, question in enumerate(questions)
        ]
        assert session.statistics().prefixes["generation:builtin"].states == 0

        chat = session.prefix(SYSTEM)

        async def ask(index: int) -> None:
            found = await chat.complete(questions[index], cache="bypass", **options(index))
            assert evidence(found) == plain[index]

        draw = random.Random(0)
        doomed = [
            asyncio.create_task(
                chat.complete(f"never {n}", cache="bypass", max_new_tokens=20, temperature=1.0)
            )
            for n in range(20)
        ]
        async with anyio.create_task_group() as group:
            for index in draw.sample(range(12), 12):
                group.start_soon(ask, index)
            # By the first answer both workers have begun; the rest is cut off wherever it is.
            await asyncio.wait(doomed, return_when=asyncio.FIRST_COMPLETED)
            for task in doomed:
                task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        for index in range(4):
            await ask(index)

        told = session.statistics().prefixes["generation:builtin"]
        # Each of the two workers may have computed it once, if they began at the same moment.
        assert told.states == 1
        assert 1 <= told.made <= 2
        assert told.reused >= 14
        assert told.reused_tokens == told.reused * 1600
        assert told.size_bytes <= told.max_bytes
    assert session.statistics().prefixes == {}


async def test_raw_prompts_and_further_messages_have_the_same_bits() -> None:
    more = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "What is a queue?"},
    ]
    async with Session(workers=1) as session:
        chat = session.prefix(SYSTEM)
        plain = [
            await session.complete(SYSTEM + "Go on.", raw=True, cache="bypass", **options(1)),
            await session.complete(
                messages=[*messages("")[:1], *more], cache="bypass", **options(2)
            ),
        ]
        for _ in range(2):
            found = [
                await chat.complete("Go on.", raw=True, cache="bypass", **options(1)),
                await chat.complete(messages=more, cache="bypass", **options(2)),
            ]
            assert [evidence(a) for a in found] == [evidence(a) for a in plain]
        told = session.statistics().prefixes["generation:builtin"]
        assert (told.made, told.reused) == (2, 4), "a raw prompt has no role before it"


async def test_answers_are_shared_with_those_who_ask_without_the_prefix(
    session: Session, engine: FakeEngine
) -> None:
    chat = session.prefix("Be brief.")
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    text = await chat.generate("hi", seed=3)
    assert await session.is_cached(messages=asked, seed=3)
    assert await session.generate(messages=asked, seed=3) == text
    raw = await session.generate("Be brief.hi", raw=True)
    assert await chat.generate("hi", raw=True) == raw
    assert engine.computed == [
        GenerateRequest.of(messages=asked, seed=3),
        GenerateRequest.of("Be brief.hi", raw=True),
    ]


async def test_the_same_prompt_under_another_prefix_is_another_request() -> None:
    engine = FakeEngine(shown)
    async with Session(engine=engine) as session:
        asking = [session, session.prefix("a"), session.prefix("b")]
        first = [await who.generate("hi", seed=1) for who in asking]
        # Once more, from memory.
        assert [await who.generate("hi", seed=1) for who in asking] == first
        assert len(set(first)) == len(engine.computed) == 3
        assert await session.prefix("a").generate("hi", seed=1) == first[1]
        assert session.prefix("a").text == "a"
        assert "Prefix of 1 characters" in repr(session.prefix("a"))


async def test_one_that_asks_with_and_one_without_share_a_computation(
    session: Session, engine: FakeEngine
) -> None:
    engine.hold()
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    async with asyncio.TaskGroup() as tasks:
        plain = tasks.create_task(session.generate(messages=asked))
        await engine.wait_computed(1)
        under = tasks.create_task(session.prefix("Be brief.").generate("hi"))
        await anyio.wait_all_tasks_blocked()
        engine.resume()
    assert plain.result() == under.result()
    assert len(engine.computed) == 1


async def test_streams_and_look_ups_go_through_the_prefix_too(
    session: Session, engine: FakeEngine
) -> None:
    chat = session.prefix("Be brief.")
    assert not await chat.is_cached("hi")
    async with chat.stream("hi") as stream:
        text = "".join([chunk async for chunk in stream])
    assert await chat.is_cached("hi")
    assert await chat.generate("hi") == text
    first = engine.computed[0].messages[0]  # type: ignore[union-attr]
    assert first == Message(role="system", content="Be brief.")


class Noting(FakeEngine):
    """Takes prefixes, and notes them."""

    def __init__(self) -> None:
        super().__init__()
        self.prefixes: list[DeclaredPrefix] = []

    def prepare_declared(self, request: Request, prefix: DeclaredPrefix) -> Job:
        self.prefixes.append(prefix)
        return self.prepare(request)

    def prefix_statistics(self) -> PrefixStatistics:
        return PrefixCache(0, 64).statistics()


async def test_a_namespace_holds_what_was_asked_under_a_prefix_of_its_own() -> None:
    engine = Noting()
    async with Session(engine=engine) as session:
        chat = session.namespace("emails").prefix("Be brief.")
        await chat.generate("hi", seed=2)
        await chat.generate("hi", seed=2)
        counts = (await session.namespace("emails").statistics()).generation
    assert (counts.entries, counts.misses, counts.hits) == (1, 1, 1)
    assert engine.prefixes == [DeclaredPrefix("Be brief.")]


async def test_every_call_under_a_prefix_tells_the_engine_and_no_other_does() -> None:
    engine = Noting()
    async with Session(engine=engine) as session:
        chat = session.prefix("Be brief.")
        await chat.complete("a")
        async with chat.stream("b") as stream:
            async for _ in stream:
                pass
        assert len(engine.prefixes) == 2
        await session.generate("c")
        assert len(engine.prefixes) == 2


async def test_observers_see_the_request_as_it_is(session: Session) -> None:
    seen: list[Observed] = []
    with session.observe(seen.append):
        await session.prefix("Be brief.").generate("hi")
    assert seen[0].request.messages == (  # type: ignore[union-attr]
        Message(role="system", content="Be brief."),
        Message(role="user", content="hi"),
    )


@pytest.mark.parametrize("wrong", ["", None, 3, b"x", "\ud800"])
async def test_what_is_no_prefix_is_refused(wrong: Any, session: Session) -> None:
    with pytest.raises(InvalidRequestError):
        session.prefix(wrong)
    with pytest.raises(InvalidRequestError):
        blocking.prefix(wrong)


async def test_arguments_under_a_prefix_are_checked_as_ever(session: Session) -> None:
    chat = session.prefix("Be brief.")
    with pytest.raises(InvalidRequestError, match="either a prompt or messages"):
        await chat.generate()
    with pytest.raises(InvalidRequestError, match="did you mean 'seed'"):
        await chat.generate("hi", sede=3)  # type: ignore[call-overload]


async def test_a_prefix_without_a_template_needs_raw_prompts(tmp_path: Any) -> None:
    from tests.gguf_files import write_llama

    path = write_llama(tmp_path / "plain.gguf", template=None)
    async with Session(generation_model=str(path), workers=1) as session:
        chat = session.prefix("Be brief. ")
        with pytest.raises(asteady.ModelCapabilityError, match="raw=True"):
            await chat.generate("hi", max_new_tokens=2)
        plain = await session.generate("Be brief. hi", raw=True, max_new_tokens=2)
        assert await chat.generate("hi", raw=True, max_new_tokens=2) == plain


def test_the_blocking_calls_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(shown)
    seen: list[Observed] = []
    with blocking.Session(engine=engine) as session:
        chat = session.prefix("Be brief.")
        text = chat.generate("hi", seed=1)
        assert text == chat.generate("hi", seed=1)
        assert chat.complete("hi", seed=1).cached
        assert "".join(chat.generate_iter("hi", seed=1)) == text
        with chat.stream("hi", seed=1) as chunks:
            assert "".join(chunks) == text
        assert chat.is_cached("hi", seed=1)
        assert session.generate("hi", seed=1) != text
        assert len(engine.computed) == 2
        with monkeypatch.context() as patch:
            patch.delattr(Portal, "call")
            assert chat.generate("hi", seed=1) == text, "from memory, on this thread"
        with session.observe(seen.append, everywhere=True):
            assert chat.generate("hi", seed=1) == text
        assert len(seen) == 1
        assert repr(chat) == "<blocking Prefix of 9 characters>"

        under = session.namespace("emails").prefix("Be brief.")
        assert [under.generate("hi", seed=1) for _ in range(3)] == [text] * 3
        counts = session.namespace("emails").statistics().generation
        assert (counts.entries, counts.hits) == (1, 3)
        # Six of them above, and the three under the namespace.
        assert session.cache.get_cache_stats()["generation"]["hits"] == 9
