"""What a type checker says of the public functions. Checked by mypy; nothing here runs."""

from __future__ import annotations

from typing import Any, TypeAlias, assert_type

import numpy as np
from numpy.typing import NDArray

import asteady

Vector: TypeAlias = NDArray[np.float32]


async def checked(session: asteady.Session) -> None:
    assert_type(await session.generate("hi", seed=1, stop=["x"], cache="only"), str)
    assert_type(await session.generate(messages=[{"role": "user", "content": "hi"}]), str)
    assert_type(await session.complete("hi"), asteady.Completion)
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
        async for chunk in stream:
            assert_type(chunk, str)
        assert_type(stream.answer, asteady.Completion)
    await session.generate("hi", sede=1)  # type: ignore[call-arg]  # no such option
    await session.generate("hi", seed="1")  # type: ignore[arg-type]  # an int is needed


def test_the_module_is_imported() -> None:
    assert checked.__name__ == "checked"
