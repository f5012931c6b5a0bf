"""A request of megabytes: what takes long to compute in Python is done off the event loop."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from asteady import Session
from asteady._base.requests import LARGE_CHARACTERS, EmbedRequest, GenerateRequest
from asteady.testing import FakeEngine

pytestmark = pytest.mark.anyio

LARGE = "x" * (LARGE_CHARACTERS + 1)
CALLS: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": LARGE},
    "messages": {"messages": [{"role": "user", "content": LARGE}]},
    "logit_bias": {"prompt": "x", "logit_bias": dict.fromkeys(range(5000), 1.0)},
    "chat_template_kwargs": {
        "prompt": "x",
        "chat_template_kwargs": {f"v{number}": number for number in range(5000)},
    },
}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(lambda request: "answer", context=10**7)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that validate and digest, one after the other."""
    seen: list[str] = []
    for cls in (GenerateRequest, EmbedRequest):
        key, of = cls.key, cls.of

        def noted_key(self: Any, fingerprint: str, key: Any = key) -> str:
            seen.append(threading.current_thread().name)
            return key(self, fingerprint)  # type: ignore[no-any-return]

        def noted_of(*args: Any, of: Any = of, **options: Any) -> object:
            seen.append(threading.current_thread().name)
            return of(*args, **options)

        monkeypatch.setattr(cls, "key", noted_key)
        monkeypatch.setattr(cls, "of", noted_of)
    return seen


@pytest.mark.parametrize("arguments", CALLS.values(), ids=CALLS.keys())
async def test_generating(session: Session, threads: list[str], arguments: dict[str, Any]) -> None:
    assert await session.generate(**arguments) == "answer"
    assert (await session.complete(**arguments)).cached
    assert await session.is_cached(**arguments)
    async with session.stream(**arguments) as stream:
        assert (await stream.read()).cached
    async with session.prefix("prefix").stream(**arguments) as stream:
        assert not (await stream.read()).cached
    assert set(threads) == {"asteady-aside"}


async def test_embedding(session: Session, threads: list[str]) -> None:
    first = await session.embedding(LARGE)
    again = await session.embedding(LARGE)
    assert (first.cached, again.cached) == (False, True)
    await session.embed([LARGE, LARGE + "y"])
    assert set(threads) == {"asteady-aside"}


async def test_a_small_request_needs_no_other_thread(session: Session, threads: list[str]) -> None:
    await session.generate("hi")
    await session.embed("hi")
    assert set(threads) == {threading.current_thread().name}
