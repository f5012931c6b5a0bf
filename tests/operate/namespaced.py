"""What the tests of namespaces share."""

from __future__ import annotations

from typing import Any

import pytest

from asteady import Session
from asteady._cache.cache import Cache


async def held(session: Session, path: str) -> int:
    return (await session.cache.namespace_size(path)).entries


async def writes(cache: Cache[Any], monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is submitted to the store from now on."""
    submitted: list[object] = []
    store = await cache.ready()
    submit = store.submit

    def note(operation: Any) -> Any:
        submitted.append(operation)
        return submit(operation)

    monkeypatch.setattr(store, "submit", note)
    return submitted
