"""Several machines with one shared cache: a machine is a session with a directory of its own."""

# ruff: noqa: ASYNC110  # it looks at a server, which tells nobody

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import anyio
import pytest

from asteady import Session
from asteady._cache.counters import Counters
from asteady.testing import FakeEngine

if TYPE_CHECKING:
    import redis

Machine: TypeAlias = Callable[..., Session]
"""The fixture `machine` of tests/cache/conftest.py."""

# For what is no fault of time, so that a busy machine is not taken for a faulty one.
PATIENT_S = 30.0
# So long at most something takes that has no limit of its own.
BOUND_S = 60.0


async def ask(session: Session, prompt: str) -> None:
    with anyio.fail_after(BOUND_S):
        assert await session.generate(prompt) == f"You said: {prompt}"


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(BOUND_S):
        while not condition():
            await anyio.sleep(0.01)


def counters(session: Session) -> Counters:
    return session.cache.generation.counters


def prompts_of(engine: FakeEngine) -> list[str]:
    return [cast(Any, request).prompt for request in engine.computed]


def entries(client: redis.Redis, key: str = "*") -> list[bytes]:
    """The names of all entries, or of the one with this key."""
    # A name may come twice.
    names = set(client.scan_iter(f"asteady:*:{key}", count=10_000))
    return [name for name in names if not name.endswith(b":lease")]


def leases(client: redis.Redis) -> list[bytes]:
    return list(set(client.scan_iter("asteady:*:lease", count=10_000)))


async def shares_again(session: Session, client: redis.Redis) -> str:
    """Ask until an answer is in the shared cache, which was empty or unreachable; its prompt."""
    before = set(entries(client))
    with anyio.fail_after(BOUND_S):
        for number in itertools.count():
            await ask(session, f"again {number}")
            await anyio.sleep(0.01)
            if set(entries(client)) - before:
                break
    last = f"again {number + 1}"
    await ask_shared(session, last, client)
    return last


async def ask_shared(session: Session, prompt: str, client: redis.Redis) -> bytes:
    """Ask for a new answer, and wait until it is in the shared cache, which is in the background.

    Returns the name of its entry.
    """
    before = set(await session.cache.generation.keys())
    await ask(session, prompt)
    (key,) = set(await session.cache.generation.keys()) - before
    await until(lambda: entries(client, key))
    return entries(client, key)[0]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR")]
