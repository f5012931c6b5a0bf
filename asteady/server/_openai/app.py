"""The application, to be mounted in another one."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asteady._base.files import AnyPath
from asteady._base.public import public
from asteady._session.session import Session
from asteady.operate._resolve_session import session_now
from asteady.server._openai.chat import ChatCompletions
from asteady.server._openai.completions import Completions
from asteady.server._openai.embeddings import Embeddings
from asteady.server._openai.errors import ApiError, not_there
from asteady.server._openai.openapi import description
from asteady.server._openai.responses import Responses
from asteady.server._openai.served import ServedModels, identified
from asteady.server._openai.tokenize import Tokenize
from asteady.server._web.trailing_slash import WithoutTrailingSlash

DEFAULT_BODY_BYTES = 8 * 2**20
DEFAULT_MESSAGES = 1024


@public
def openai(
    session: Session,
    *,
    models: Mapping[str, AnyPath] | None = None,
    max_tokens: int | None = None,
    max_body_bytes: int = DEFAULT_BODY_BYTES,
    max_messages: int = DEFAULT_MESSAGES,
) -> Starlette:
    """An ASGI application that OpenAI's clients can ask, answered by a session::

        app = Starlette(lifespan=...)  # opens and closes the session
        app.mount("/v1", asteady.server.openai(session))

    Args:
        session: need not be open before the first request; it is not closed here.
        models: further names that clients may give, and what they stand for: references as
            `Session.generate` takes them. Without it there are the session's two models. Another
            name is answered with 404, and opens no file.
        max_tokens: of an answer, where a request does not say; default: the library's 512.
        max_body_bytes: of a request; more is answered with 413.
        max_messages: of a conversation; more are answered with 400.

    Raises:
        InvalidRequestError: `session` is no `asteady.Session`.

    Paths, defaults and differences: docs/openai-api.md.
    """
    session = session_now(session)  # refuses what is none
    served = ServedModels(session, models)
    given = (session, served, max_body_bytes, max_messages, max_tokens)

    async def list_models(request: Request) -> Response:
        records = [served.describe(name) for name in served.names()]
        return JSONResponse({"object": "list", "data": records})

    async def show_model(request: Request) -> Response:
        name, kind = request.path_params["name"], request.query_params.get("kind")
        record = served.describe(name)
        if kind is not None:
            record |= await identified(served, session, name, kind)
        return JSONResponse(record)

    async def describe_api(request: Request) -> Response:
        return JSONResponse(description(request.scope["root_path"], served.names()))

    return Starlette(
        routes=[
            Route("/openapi.json", describe_api),
            Route("/models", list_models),
            Route("/models/{name:path}", show_model),
            Route("/chat/completions", ChatCompletions(*given), methods=["POST"]),
            Route("/completions", Completions(*given), methods=["POST"]),
            Route("/embeddings", Embeddings(*given), methods=["POST"]),
            Route("/responses", Responses(*given), methods=["POST"]),
            Route("/tokenize", Tokenize(*given), methods=["POST"]),
        ],
        middleware=[Middleware(WithoutTrailingSlash)],
        exception_handlers={ApiError: _refused, HTTPException: _not_there},
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse({"error": error.body}, error.status, dict(error.headers))


async def _not_there(request: Request, error: Exception) -> Response:
    """Another path, or another method."""
    assert isinstance(error, HTTPException)
    hint = f"what is there is in {request.scope['root_path']}/openapi.json"
    own = not_there(request.method, request.url.path, error, hint)
    return await _refused(request, own)
