"""Module-level functions over one default session per event loop.

The session is opened at the first call, with settings from the environment, and closed by
`aclose`, or when ``asyncio.run`` ends. Programs with a life cycle of their own, such as a web app's
lifespan, open a `Session` themselves.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from asteady._base.errors import SessionError
from asteady._base.files import AnyPath
from asteady._base.options import shows_options_of
from asteady._base.public import public
from asteady._base.requests import GenerateRequest
from asteady._base.tasks import running_loop
from asteady._cache.manager import CacheManager
from asteady._session.generation import Stream, context_of, make_stream
from asteady._session.pipeline import CacheMode, CallContext
from asteady._session.session import Session

P = ParamSpec("P")
R = TypeVar("R")

_sessions: dict[asyncio.AbstractEventLoop, Session] = {}
_opening: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
    weakref.WeakKeyDictionary()
)


def default_session_of(loop: asyncio.AbstractEventLoop) -> Session:
    """The loop's default session, which may not be open yet; a closed one is replaced."""
    session = _sessions.get(loop)
    if session is None or session.is_closed:
        # A session knows its loop, so an entry keeps its own key alive: closed loops go here.
        # Other threads change the dictionary meanwhile, each for a loop of its own: a copy is made
        # in one step, and what is not there any more was taken by somebody else.
        for other in list(_sessions):
            if other.is_closed() and (left := _sessions.pop(other, None)) is not None:
                left.abandon()
        session = Session.opened_by(default_session)
        _sessions[loop] = session
    return session


async def default_session() -> Session:
    """The running loop's default session, opened if it is not open yet.

    Concurrent first calls open one session. A session that was closed is replaced.
    """
    loop = running_loop()
    session = _sessions.get(loop)
    if session is not None and session.is_open:
        return session
    async with _opening.setdefault(loop, asyncio.Lock()):
        session = default_session_of(loop)
        if not session.is_open:
            await session.open()
    return session


def sessions_here() -> list[Session]:
    """The running loop's default session, if it has one."""
    session = _sessions.get(asyncio.get_running_loop())
    return [] if session is None else [session]


def forget_all() -> None:
    """Close every loop's default session soon; the next call in a loop opens another."""
    for loop in list(_sessions):
        if (session := _sessions.pop(loop, None)) is not None:
            session.abandon()


@public
def get_cache_manager() -> CacheManager:
    """The cache of the running loop's default session; its first use opens the session.

    Raises:
        SessionError: no event loop is running.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise SessionError(
            "get_cache_manager() needs a running event loop of asyncio: call it in an async"
            " function"
        ) from None
    return default_session_of(loop).cache


def _of_default(
    method: Callable[Concatenate[Session, P], Awaitable[R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """A method of `Session` as a function over the running loop's default session."""

    @functools.wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return await method(await default_session(), *args, **kwargs)

    signature = inspect.signature(method)
    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__qualname__ = call.__name__
    return public(call)


@public
@shows_options_of(GenerateRequest.of)
def _stream(
    prompt: str | None = None,
    *,
    model: AnyPath | None = None,
    cache: CacheMode = "use",
    **options: Any,
) -> Stream:
    """`Session.stream` of the running loop's default session, which opens with the stream."""

    async def context() -> CallContext:
        return context_of(await default_session())

    return make_stream(context, prompt, model, cache, options)


embed = _of_default(Session.embed)
is_cached = _of_default(Session.is_cached)
warm = _of_default(Session.warm)
if TYPE_CHECKING:
    # A decorator would lose their overloads.
    _any = cast(Session, None)
    generate = _any.generate
    complete = _any.complete
    stream = _any.stream
    count_tokens = _any.count_tokens
else:
    generate = _of_default(Session.generate)
    complete = _of_default(Session.complete)
    count_tokens = _of_default(Session.count_tokens)
    stream = _stream
    stream.__name__ = stream.__qualname__ = "stream"


@public
async def aclose() -> None:
    """Close the running loop's default session, if it has one; the next call opens another."""
    session = _sessions.pop(running_loop(), None)
    if session is not None:
        await session.aclose()
