"""What a type checker says of the public functions. Checked by mypy; nothing here runs."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any, TypeAlias, assert_type

import numpy as np
from numpy.typing import NDArray

import asteady
from asteady import blocking, steadytext

Vector: TypeAlias = NDArray[np.float32]


class Mood(Enum):
    GOOD = "good"


async def checked(session: asteady.Session) -> None:
    assert_type(await session.generate("hi", seed=1, stop=["x"], cache="only"), str)
    assert_type(await session.generate("hi", eos_string="x"), str)
    assert_type(await session.generate("hi", seed=None, temperature=None, top_p=None), str)
    assert_type(await session.generate("hi", seed=np.int64(1), temperature=np.float32(0.5)), str)
    assert_type(await session.generate("hi", temperature=Decimal("0.5"), min_p=Fraction(1, 9)), str)
    assert_type(await session.generate("hi", logit_bias={"5": 1}), str)
    assert_type(await session.generate("hi", logit_bias={5: np.float32(1)}), str)
    assert_type(await session.generate(messages=[{"role": "user", "content": "hi"}]), str)
    assert_type(await session.complete("hi"), asteady.Completion)
    assert_type((await session.complete("hi")).as_dict(), dict[str, Any])
    assert_type(asteady.Completion.from_dict({}), asteady.Completion)
    assert_type(session.statistics().as_dict(), dict[str, Any])
    assert_type(await session.embed("hi"), Vector)
    assert_type(await session.embed(["a", "b"], truncate=True), Vector)
    assert_type(await session.embedding("hi"), asteady.Embedding)
    assert_type(await session.is_cached("hi"), bool)
    assert_type(await session.cache.get_cache_stats(), dict[str, dict[str, Any]])
    assert_type(session.cache.generation, asteady.Cache[asteady.Completion])
    assert_type(await session.cache.generation.get("key"), asteady.Completion | None)
    assert_type(await asteady.generate("hi"), str)
    assert_type(await asteady.embed("hi"), Vector)
    async with session.stream("hi") as stream:
        async for event in stream.events():
            assert_type(event, asteady.StreamEvent)
        async for chunk in stream:
            assert_type(chunk, str)
        assert_type(stream.answer, asteady.Completion)
    assert_type(await session.generate("hi", choices=[Mood.GOOD]), Mood)
    await session.generate("hi", sede=1)  # type: ignore[call-overload]  # no such option
    await session.generate("hi", seed="1")  # type: ignore[call-overload]  # an int is needed
    await session.generate("hi", seed=1.0)  # type: ignore[call-overload]
    await session.generate("hi", temperature="0.5")  # type: ignore[call-overload]


def test_the_module_is_imported() -> None:
    assert checked.__name__ == "checked"


def checked_blocking(session: blocking.Session) -> None:
    assert_type(session.generate("hi", seed=1, stop=["x"], cache="only"), str)
    assert_type(session.complete("hi"), asteady.Completion)
    assert_type(session.embed(["a", "b"]), Vector)
    assert_type(session.embedding("hi"), asteady.Embedding)
    assert_type(session.is_cached("hi"), bool)
    assert_type(session.cache.get_cache_stats(), dict[str, dict[str, Any]])
    assert_type(session.cache.generation.get("key"), asteady.Completion | None)
    assert_type(session.cache.embedding.get("key"), asteady.Embedding | None)
    assert_type(blocking.generate("hi"), str)
    assert_type(blocking.embed("hi"), Vector)
    assert_type(blocking.complete("hi", seed=1), asteady.Completion)
    assert_type(blocking.run(asteady.is_cached, "hi"), bool)
    assert_type(session.generate("hi", timeout=1.5), str)
    assert_type(session.complete("hi", seed=1, timeout=None), asteady.Completion)
    assert_type(next(session.embed_batches(["a"], timeout=10)), Vector)
    assert_type(session.cache.generation.get("key", timeout=1), asteady.Completion | None)
    session.complete("hi", timeout="1")  # type: ignore[call-overload]  # a number is needed
    assert_type(session.statistics(), asteady.SessionStatistics)
    assert_type(next(session.embed_batches(["a"], batch_size=1)), Vector)
    assert_type(session.cache.generation, blocking.Cache[asteady.Completion])
    assert_type(session.cache.generation.contains("key"), bool)
    assert_type(session.namespace("emails").prefix("a").complete("hi"), asteady.Completion)
    for chunk in blocking.generate_iter("hi"):
        assert_type(chunk, str)
    with session.stream("hi") as stream:
        assert_type(next(stream), str)
        assert_type(next(stream.events()), asteady.StreamEvent)
        assert_type(stream.read(), asteady.Completion)
    with session.stream("hi", schema=Decimal, timeout=1) as typed:
        assert_type(typed, blocking.TypedStream[Decimal])
        assert_type(next(typed), str)
        assert_type(typed.answer, asteady.TypedCompletion[Decimal])
        assert_type(typed.read().value, Decimal)
    with blocking.stream("hi", choices=Mood) as mood:
        assert_type(mood.answer.value, Mood)
    for chunk in session.generate_iter("hi", choices=["a"]):
        assert_type(chunk, str)
    assert_type(session.count_tokens("hi", schema=int), int)
    session.generate("hi", sede=1)  # type: ignore[call-overload]  # no such option
    session.complete("hi", sede=1)  # type: ignore[call-overload]  # no such option
    session.prefix("a").embed("hi")  # type: ignore[attr-defined]  # a prefix is for generating
    blocking.Session(wrokers=1)  # type: ignore[call-arg]  # no such setting
    blocking.run(asteady.is_cached, 5)  # type: ignore[arg-type]  # a prompt is needed


def checked_steadytext() -> None:
    assert_type(steadytext.generate("hi", 10, seed=1), str)
    assert_type(steadytext.generate("hi", return_logprobs=True), tuple[str, dict[str, Any]])
    assert_type(steadytext.embed(["a", "b"], seed=1), Vector)
    assert_type(steadytext.get_cache_manager(), blocking.CacheManager)
    for chunk in steadytext.generate_iter("hi"):
        assert_type(chunk, str)
