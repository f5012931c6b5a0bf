"""Values in the shared cache that are not what was put there: misses, counted and replaced."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import pytest

from asteady.testing import FakeEngine
from tests.cache.machines import (
    Machine,
    ask,
    ask_shared,
    counters,
    entries,
    until,
    warnings,
)

if TYPE_CHECKING:
    import redis

pytestmark = pytest.mark.anyio


def value_of(client: redis.Redis, name: bytes) -> bytes:
    return cast(bytes, client.hget(name.decode(), "v"))


def flipped(at: float) -> Callable[[bytes], bytes]:
    def flip(value: bytes) -> bytes:
        index = min(int(at * len(value)), len(value) - 1)
        return value[:index] + bytes([value[index] ^ 0x10]) + value[index + 1 :]

    return flip


DAMAGES = {
    "cut off": lambda value: value[:-1],
    "half": lambda value: value[: len(value) // 2],
    "empty": lambda value: b"",
    "longer": lambda value: value + b"\0",
    "another version": lambda value: value[:3] + b"\xff" + value[4:],
    "a header of 4 GB": lambda value: value[:8] + struct.pack("<I", 2**32 - 1) + value[12:],
    "a header nested deeply": lambda value: value[:8] + struct.pack("<I", 200_000) + b"[" * 200_000,
    "a long number": lambda value: value[:8] + struct.pack("<I", 100_000) + b"9" * 100_000,
    "not a number": lambda value: value[:8] + struct.pack("<I", 8) + b"[NaN,[]]",
    "noise": lambda value: random.Random(1).randbytes(len(value)),
    "text": lambda value: b"You said: something else",
    **{f"a bit at {at:.0%}": flipped(at) for at in (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)},
}


async def test_damaged_values_are_misses_and_are_replaced(
    machine: Machine, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    engines = FakeEngine(), FakeEngine()
    async with machine("a", engines[0]) as a, machine("b", engines[1]) as b:
        for number, (title, damage) in enumerate(DAMAGES.items()):
            name = await ask_shared(a, title, redis_client)
            right = value_of(redis_client, name)
            damaged = damage(right)
            assert damaged != right
            redis_client.hset(name.decode(), "v", damaged)
            await ask(b, title)
            assert counters(b).damaged == number + 1, title
            assert len(engines[1].computed) == number + 1
            await until(lambda name=name, damaged=damaged: value_of(redis_client, name) != damaged)  # type: ignore[misc]
        assert counters(b).shared_misses == len(DAMAGES)
        assert counters(b).shared_errors == 0
    assert len(warnings(caplog)) == len(DAMAGES)
    engine = FakeEngine()
    async with machine("c", engine) as c:
        for title in DAMAGES:
            await ask(c, title)
        assert counters(c).damaged == 0
    assert engine.computed == []


async def test_the_value_of_another_request_is_damaged(
    machine: Machine, redis_client: redis.Redis
) -> None:
    engine = FakeEngine()
    async with machine("a", engine) as a, machine("b", engine) as b:
        names = [await ask_shared(a, prompt, redis_client) for prompt in ("one", "other")]
        redis_client.hset(names[0].decode(), "v", value_of(redis_client, names[1]))
        await ask(b, "one")
        assert counters(b).damaged == 1


async def test_a_vector_of_another_size_is_damaged(
    machine: Machine, redis_client: redis.Redis
) -> None:
    engine = FakeEngine()
    async with machine("a", engine) as a, machine("b", engine) as b:
        right = await a.embed("text")
        await until(lambda: entries(redis_client))
        (name,) = entries(redis_client)
        value = value_of(redis_client, name)
        redis_client.hset(name.decode(), "v", value[:-8] + bytes(8))
        assert (await b.embed("text")).tobytes() == right.tobytes()
        assert b.cache.embedding.counters.damaged == 1
    assert len(engine.computed) == 2


async def test_what_is_no_entry_at_all_costs_no_answer(
    machine: Machine, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine()
    async with machine("a", engine) as a, machine("b", engine) as b:
        name = (await ask_shared(a, "prompt", redis_client)).decode()
        redis_client.delete(name)
        redis_client.set(name, "a string, where a hash belongs")
        await ask(b, "prompt")
        assert counters(b).shared_misses == 1
        # It can be neither read, twice, nor replaced.
        await until(lambda: counters(b).shared_errors == 3)
        await ask_shared(b, "another", redis_client)
    assert len(warnings(caplog)) == 1
