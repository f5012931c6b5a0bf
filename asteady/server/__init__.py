"""For web apps: a session, streams and errors as responses, and the OpenAI-compatible API."""

from typing import TYPE_CHECKING

from asteady._base.public import lazy_exports

if TYPE_CHECKING:
    from asteady.server._dashboard.app import dashboard as dashboard
    from asteady.server._openai.app import openai as openai
    from asteady.server._web.connected import while_connected as while_connected
    from asteady.server._web.dependency import get_session as get_session
    from asteady.server._web.errors import (
        exception_handlers as exception_handlers,
        http_error as http_error,
    )
    from asteady.server._web.fastapi import SessionDep as SessionDep
    from asteady.server._web.lifespan import Lifespan as Lifespan, lifespan as lifespan
    from asteady.server._web.streams import (
        EventStreamResponse as EventStreamResponse,
        TextStreamResponse as TextStreamResponse,
    )

try:
    import starlette  # noqa: F401
except ImportError as exc:
    raise ImportError(
        'asteady.server needs starlette: python -m pip install "asteady[server]"'
    ) from exc

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "asteady.server._dashboard.app": "dashboard",
        "asteady.server._openai.app": "openai",
        "asteady.server._web.connected": "while_connected",
        "asteady.server._web.dependency": "get_session",
        "asteady.server._web.errors": "exception_handlers http_error",
        "asteady.server._web.fastapi": "SessionDep",
        "asteady.server._web.lifespan": "Lifespan lifespan",
        "asteady.server._web.streams": "EventStreamResponse TextStreamResponse",
    },
)
