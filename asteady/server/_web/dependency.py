"""The app's session in its endpoints."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from asteady._base.public import public
from asteady._session.session import Session


@public
async def get_session(request: HTTPConnection) -> Session:
    """The session that `lifespan` opened, for a request or a websocket.

    Raises:
        RuntimeError: the app was started without it.
    """
    session: Session | None = getattr(request.state, "asteady", None)
    if session is None:
        # Litestar takes no state from a lifespan.
        app = request.scope.get("app")
        session = getattr(getattr(app, "state", None), "asteady", None)
    if session is not None:
        return session
    raise RuntimeError(
        "the app has no session: give it lifespan=asteady.server.lifespan(), and run that: in tests"
        " as `with TestClient(app)` does, and by a server that has lifespans, which Daphne has not"
    )
