"""Shared by the tests of namespaces."""

from __future__ import annotations

from typing import Any

import pytest

from asteady import Session
from asteady._cache.cache import Cache


async def tagged_entries(session: Session, path: str) -> int:
    return (await session.cache.namespace_size(path)).entries


async def writes(cache: Cache[Any], monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The operations that are submitted to the store from now on."""
    submitted: list[object] = []
    store = await cache.ready()
    submit = store.submit

    def note(operation: Any) -> Any:
        submitted.append(operation)
        return submit(operation)

    monkeypatch.setattr(store, "submit", note)
    return submitted
