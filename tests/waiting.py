"""Waiting for what other threads do, of which there is no event."""

from __future__ import annotations

from collections.abc import Callable

import anyio


async def until(condition: Callable[[], object]) -> None:
    """Wait until it is true, and let the other threads run meanwhile: a loop that turns as fast as
    it can keeps the interpreter's lock from them for most of the time."""
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.001)
