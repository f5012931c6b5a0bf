"""How a tool of `asteady.operate` is used without await: constructed, and called, on the loop."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar

from asteady._base.errors import InvalidRequestError
from asteady.blocking._calls import SessionCalls, WholeCalls, default_calls
from asteady.blocking._portal import Portal

if TYPE_CHECKING:
    from asteady._session.observe import Observer
    from asteady._session.session import Session as AsyncioSession

P = ParamSpec("P")
R = TypeVar("R")
Tool = TypeVar("Tool")


def waited(
    method: Callable[Concatenate[Any, P], Awaitable[R]],
) -> Callable[Concatenate[BlockingTool[Any], P], R]:
    """The asynchronous method of a tool, as a plain one."""

    @functools.wraps(method)
    def plain(self: BlockingTool[Any], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._portal().call(method, self._tool, *args, **kwargs)

    return plain


def on_loop(
    method: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[BlockingTool[Any], P], R]:
    """A method that looks at what the loop's thread changes, called on that thread."""

    @functools.wraps(method)
    def plain(self: BlockingTool[Any], /, *args: P.args, **kwargs: P.kwargs) -> R:
        async def called() -> R:
            return method(self._tool, *args, **kwargs)

        return self._portal().call(called)

    return plain


class BlockingTool(Generic[Tool]):
    """A tool of `asteady.operate`, without await.

    It holds nothing that must be closed. Without a session it works on the module's own.

    Args:
        session: an `asteady.blocking.Session`.
        arguments: as for the tool in `asteady.operate`.
    """

    _kind: ClassVar[Callable[..., Any]]

    def __init__(self, session: SessionCalls | None = None, **arguments: Any) -> None:
        self._calls = calls_of(session)

        async def make() -> Any:
            given = None if session is None else session._asyncio_session
            return type(self)._kind(given, **arguments)

        self._tool: Tool = self._portal().call(make)

    def __repr__(self) -> str:
        return f"<blocking {repr(self._tool).removeprefix('<')}"

    def _portal(self) -> Portal:
        return self._calls._portal()

    def _opened(self) -> AsyncioSession:
        return self._portal().call(self._calls._session)

    @contextmanager
    def _observing(self, observer: Observer, *, everywhere: bool) -> Iterator[None]:
        # On the caller's thread: what is not everywhere is in its context.
        with self._opened().observe(observer, everywhere=everywhere):
            yield


def calls_of(session: SessionCalls | None) -> WholeCalls:
    if session is None:
        return default_calls
    if not isinstance(session, SessionCalls):
        raise InvalidRequestError(
            f"session={session!r} is not allowed: an asteady.blocking.Session; asteady.Session has"
            " its tools in asteady.operate"
        )
    return session
