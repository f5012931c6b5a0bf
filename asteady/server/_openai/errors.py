"""Errors as OpenAI's API has them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from asteady._base.errors import (
    CacheMissError,
    InvalidRequestError,
    ModelNotFoundError,
    PromptTooLongError,
    QueueFullError,
    RemoteUnavailableError,
)
from asteady.server._web.errors import RETRY_AFTER, http_error

_log = logging.getLogger("asteady")

# Of errors of the server, by status.
_CODES = {502: "bad_gateway", 503: "not_ready", 504: "timeout"}
# The library's names of what a body names otherwise.
_NAMES = {
    "max_new_tokens": "max_completion_tokens",
    "schema": "response_format",
    "prompt": "prompt",
    "text": "input",
}
_NAMED = re.compile(r"(\w+)[\w\[\]'\"]*(=| is | has |:)")


class ApiError(Exception):
    """What a client is told in place of an answer."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] = {},  # read only
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = {"message": message, "type": kind, "param": param, "code": code}


def refused(param: str, reason: str) -> ApiError:
    """The field `param` of a body is not allowed."""
    return ApiError(f"{param}: {reason}", param=param)


def api_error(exc: Exception, subject: str = "messages") -> ApiError:
    """The error that a client is told for any exception; what is no fault of its is logged.

    `subject` is the field that a prompt is in.
    """
    match exc:
        case ApiError():
            return exc
        case PromptTooLongError():
            # LangChain and litellm know it by these words.
            message = f"the prompt is too long: {exc}"
            return ApiError(message, code="context_length_exceeded", param=subject)
        case InvalidRequestError():
            # Notes say which one of several texts it is.
            message = " ".join([str(exc), *getattr(exc, "__notes__", ())])
            return ApiError(message, param=_param(message))
        case CacheMissError():
            return ApiError(
                "the answer is not in the cache, and x-asteady-cache-mode: only was sent",
                status=504,
                kind="server_error",
                code="cache_miss",
                # OpenAI's clients would ask twice more.
                headers={"x-should-retry": "false"},
            )
        case ModelNotFoundError():
            # Not a 404: the name is one of those that are served. Its message names files.
            _log.error("a model that is served cannot be loaded: %s", exc)
            return ApiError(
                "the model cannot be loaded on this server",
                status=503,
                kind="server_error",
                code="model_unavailable",
                headers=RETRY_AFTER,
            )
    status, message, headers = http_error(exc)
    if status == 400:
        return ApiError(message, param="model")  # it cannot do what is asked for
    match exc:
        case QueueFullError():
            code = "queue_full"
        case RemoteUnavailableError():
            code = "model_unavailable"
        case _:
            code = _CODES.get(status, "internal_error")
    return ApiError(message, status=status, kind="server_error", code=code, headers=headers)


def _param(message: str) -> str | None:
    found: Any = _NAMED.match(message)
    return None if found is None else _NAMES.get(found[1], found[1])
