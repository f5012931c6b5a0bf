"""Caches whose memory tier does not sleep."""

from __future__ import annotations

from asteady import blocking


def keep_awake(session: blocking.Session) -> None:
    """Unused for half a second, the memory tier of a cache sleeps, and the next call goes to the
    database. On a busy machine that is soon; in this open session it is never."""
    for cache in (session.awaitable.cache.generation, session.awaitable.cache.embedding):
        cache._tick_s = 3600.0
