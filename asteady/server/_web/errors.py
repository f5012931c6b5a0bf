"""asteady's errors as responses."""

from __future__ import annotations

import logging
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from asteady._base.errors import (
    AsteadyError,
    CacheMissError,
    IncompleteAnswerError,
    InvalidRequestError,
    ModelCapabilityError,
    ModelChangedError,
    ModelNotFoundError,
    PromptTooLongError,
    QueueFullError,
    SessionError,
)

_log = logging.getLogger("asteady")

RETRY_AFTER_S = 1
# The first that fits. The message of the others is for the log: it may name files.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (PromptTooLongError, 413),
    (InvalidRequestError, 400),
    (ModelCapabilityError, 400),
    (QueueFullError, 503),
    (ModelChangedError, 503),
    (SessionError, 503),
    (CacheMissError, 504),
    (TimeoutError, 504),
    (IncompleteAnswerError, 502),
)


def described(error: Exception) -> tuple[int, str, dict[str, str]]:
    """The status, what the client is told, and the headers for an error."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            headers = {"retry-after": str(RETRY_AFTER_S)} if status == 503 else {}
            return status, str(error) or "it took too long", headers
    if isinstance(error, ModelNotFoundError):
        _log.warning("a model that was asked for cannot be found: %s", error)
        return 404, "there is no such model", {}
    _log.error("a request failed", exc_info=error)
    return 500, "internal error", {}


async def _respond(request: Request, error: Exception) -> Response:
    status, message, headers = described(error)
    return JSONResponse({"detail": message}, status, headers)


exception_handlers: dict[Any, Any] = {
    AsteadyError: _respond,
    TimeoutError: _respond,
}
"""For `FastAPI(exception_handlers=...)` and `Starlette(exception_handlers=...)`.

They make responses of asteady's errors: `{"detail": message}` with the status 400, 404, 413, 503
(with Retry-After) or 504. What is the server's own fault is logged, and a 500 or 502."""
