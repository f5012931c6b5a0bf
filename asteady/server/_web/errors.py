"""asteady's errors as responses."""

from __future__ import annotations

import logging
import math
import os
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket

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
    RemoteBusyError,
    RemoteError,
    RemoteTimeoutError,
    RemoteUnavailableError,
    SessionClosedError,
    SessionNotOpenError,
)
from asteady._base.public import public

_log = logging.getLogger("asteady")

RETRY_AFTER = {"retry-after": "1"}
# The first that fits. The message of the others is for the log: it may name files.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (PromptTooLongError, 413),
    (InvalidRequestError, 400),
    (QueueFullError, 503),
    (SessionClosedError, 503),
    (SessionNotOpenError, 503),
    (CacheMissError, 504),
    (IncompleteAnswerError, 502),
)
_MOST_RETRY_AFTER_S = 86_400  # a server may say anything
_MOST_REASON_BYTES = 123  # of a close frame, RFC 6455, 5.5


@public
def http_error(error: Exception) -> tuple[int, str, dict[str, str]]:
    """The status, the message and the headers that `exception_handlers` answer an error with.

    For frameworks that take no handlers of Starlette's. What is the server's own fault, or that of
    a remote model's server, is logged; the message names no files and no addresses.
    """
    if isinstance(error, RemoteError):
        _log.warning("a request failed: %s", error)
        return _remote_error(error)
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status, str(error), dict(RETRY_AFTER) if status == 503 else {}
    match error:
        case ModelCapabilityError():
            return 400, _without_files(error, "the model cannot do what the request asks for"), {}
        case ModelChangedError():
            message = _without_files(error, "the model is being replaced: ask again")
            return 503, message, dict(RETRY_AFTER)
        case ModelNotFoundError():
            _log.warning("a model that was asked for cannot be found: %s", error)
            return 404, "there is no such model", {}
        case TimeoutError():
            # Not its message: it is an OSError, which may name anything.
            return 504, "it took too long", {}
    _log.error("a request failed", exc_info=error)
    return 500, "internal error", {}


def _remote_error(error: RemoteError) -> tuple[int, str, dict[str, str]]:
    """Without its message, which names the server."""
    match error:
        case RemoteBusyError():
            wait_s = max(1, math.ceil(min(error.retry_after_s, _MOST_RETRY_AFTER_S)))
            return 503, "the model's server is overloaded", {"retry-after": str(wait_s)}
        case RemoteUnavailableError():
            return 503, "the model's server is unavailable", dict(RETRY_AFTER)
        case RemoteTimeoutError():
            return 504, "the model's server took too long", {}
    return 502, "the model's server failed, or sent no valid answer", {}


def _without_files(error: Exception, instead: str) -> str:
    """The message of an error; where it may name files of this machine, `instead`, and a log
    entry."""
    message = str(error)
    if os.sep not in message:
        return message
    _log.warning("%s: %s", instead, message)
    return instead


async def _respond(request: HTTPConnection, error: Exception) -> Response | None:
    status, message, headers = http_error(error)
    if isinstance(request, WebSocket):
        # 1008 the client's fault, 1013 try again later, 1011 the server's.
        code = 1008 if status < 500 else 1013 if status == 503 else 1011
        reason = message.encode()[:_MOST_REASON_BYTES].decode(errors="ignore")
        await request.close(code, reason)
        return None
    return JSONResponse({"detail": message}, status, headers)


exception_handlers: dict[Any, Any] = {
    AsteadyError: _respond,
    TimeoutError: _respond,
}
"""For `FastAPI(exception_handlers=...)` and `Starlette(exception_handlers=...)`.

They make responses of asteady's errors: `{"detail": message}` with the status 400, 404, 413, 503
(with Retry-After) or 504. What is the server's own fault is logged, and a 500; an answer that was
cut before its form was complete, or that a remote model's server failed on, is a 502. A websocket
is closed with 1008, 1013 (try again later) or 1011, and the message."""
