"""Which session a tool works on: the one it was given, or the running loop's default session."""

from __future__ import annotations

import asyncio

from asteady._default import _session_of, default_session
from asteady._errors import SessionError
from asteady._session import Session


def session_now(session: Session | None) -> Session:
    """The session, which may not be open yet.

    Raises:
        SessionError: none was given, and no event loop is running.
    """
    if session is not None:
        return session
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise SessionError(
            "without a session this needs a running event loop: call it in an async function, or"
            " give session=..."
        ) from None
    return _session_of(loop)


async def opened_session(session: Session | None) -> Session:
    """The session; the default one is opened if it is not open yet."""
    return await default_session() if session is None else session
