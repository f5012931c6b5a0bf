"""A session that lives as long as an app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

from asteady._base.public import public
from asteady._session.session import Session
from asteady._session.warm import WarmOptions, WarmSource

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]
"""What Starlette, FastAPI and Litestar take as a lifespan: a function of the app."""


@public
def lifespan(
    session: Session | Callable[[], Session] = Session,
    *,
    warm: WarmSource | None = None,
    warm_options: WarmOptions | None = None,
    inner: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None,
) -> Lifespan:
    """The lifespan of an app with a session, for Starlette, FastAPI and Litestar::

        app = FastAPI(lifespan=asteady.server.lifespan(warm=["Write a haiku about caching"]))

    The session is in the state of each request, as `request.state.asteady`, and in that of the app,
    `app.state.asteady`; `get_session` finds it. It is closed when the app ends.

    Args:
        session: or a function that makes it, for an app that is started several times.
        warm: prompts that are computed before the first request, as `Session.warm` takes them.
        warm_options: how they are; by default for 30 seconds at most. `max_new_tokens` and other
            options must be those of the requests, or the answers are other ones.
        inner: a lifespan of your own, which runs with the session open. What it yields is in the
            state of each request too.

    Raises:
        TypeError: `session` is neither.

    When the app starts it raises what opening a session and warming raise.
    """
    if not isinstance(session, Session) and not callable(session):
        raise TypeError(
            f"session={session!r} is not allowed: give a Session, or a function that makes one, as"
            " lambda: Session(max_pending=100)"
        )

    @asynccontextmanager
    async def run(app: Any) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            own = session if isinstance(session, Session) else session()
            await stack.enter_async_context(own)
            if hasattr(app, "state"):
                app.state.asteady = own
            if warm is not None:
                options: WarmOptions = {"budget_s": 30, **(warm_options or {})}
                await own.warm(warm, **options)
            more = None if inner is None else await stack.enter_async_context(inner(app))
            yield {**(more or {}), "asteady": own}

    return run
