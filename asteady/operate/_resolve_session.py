"""The session of a tool: the one it was given, or the running loop's default session."""

from __future__ import annotations

import asyncio
from typing import Any

from asteady._base.errors import InvalidRequestError, SessionError
from asteady._session.default import default_session, default_session_of
from asteady._session.session import Session


def session_now(session: Session | None) -> Session:
    """The session, which may not be open yet.

    Raises:
        SessionError: none was given, and no event loop is running.
        InvalidRequestError: something else was given.
    """
    if session is not None:
        return _checked(session)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise SessionError(
            "without a session this needs a running event loop: call it in an async function, or"
            " give session=..."
        ) from None
    return default_session_of(loop)


async def opened_session(session: Session | None) -> Session:
    """The session; the default one is opened if it is not open yet.

    Raises:
        SessionError: the session is not open yet, or is closed.
    """
    if session is None:
        return await default_session()
    _checked(session).check_open()
    return session


def _checked(session: Session) -> Session:
    if not isinstance(session, Session):
        raise InvalidRequestError(
            f"session={session!r} is not allowed: an asteady.Session; the tools of a"
            " blocking.Session are in asteady.blocking, and other arguments have names"
        )
    return session


async def stats_of(session: Session) -> dict[str, dict[str, Any]]:
    """`CacheManager.get_cache_stats`; raises if closed, when the caches would seem empty.

    A session that is not open yet may be a default one, which opens at the first use of its cache.
    """
    if session.state in ("closing", "closed"):
        session.check_open()
    return await session.cache.get_cache_stats()
