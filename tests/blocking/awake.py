"""Caches whose memory tier does not sleep."""

from __future__ import annotations

from asteady import blocking


def awake(session: blocking.Session) -> blocking.Session:
    """A session, which is not open yet, whose memory tiers never sleep.

    They do when they are unused for half a second, which is soon on a busy machine; the next call
    then goes to the database.
    """
    for cache in (session.awaitable.cache.generation, session.awaitable.cache.embedding):
        cache._tick_s = 3600.0
    return session
