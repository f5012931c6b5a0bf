"""Errors as OpenAI's API has them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

from asteady._base.errors import (
    CacheMissError,
    InvalidRequestError,
    ModelNotFoundError,
    PromptTooLongError,
    QueueFullError,
    RemoteUnavailableError,
)
from asteady.server._openai.fields import field_of
from asteady.server._web.errors import RETRY_AFTER, http_error

_log = logging.getLogger("asteady")

# Of errors of the server, by status.
_CODES = {502: "bad_gateway", 503: "not_ready", 504: "timeout"}
_RAW = re.compile(r"pass prompt=\.\.\..*")
_NAMED = re.compile(r"(\w+)[\w\[\]'\"]*(=| is | has |:)?")


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


def not_there(method: str, path: str, error: HTTPException, hint: str) -> ApiError:
    """What is told of a path that is not there, with a `hint` at what is, or of a method that is
    not allowed."""
    message, code, headers = error.detail, "unknown_url", error.headers or {}
    if error.status_code == 405:
        methods = sorted(headers.get("Allow", "").split(", "))
        message, code = f"{message}; it takes {', '.join(methods)}", "method_not_supported"
    elif message == "Not Found":
        message = f"{message}; {hint}"
    return ApiError(
        f"{method} {path}: {message}", status=error.status_code, code=code, headers=headers
    )


def api_error(
    exc: Exception,
    subject: str = "messages",
    body: Mapping[str, Any] = {},  # read only
) -> ApiError:
    """The error that a client is told for any exception; what is no fault of its is logged.

    `subject` is the field that a prompt is in; `body` is the request's.
    """
    match exc:
        case ApiError():
            return exc
        case PromptTooLongError():
            # LangChain and litellm know it by these words.
            message = f"the prompt is too long: {_noted(exc)}"
            return ApiError(message, code="context_length_exceeded", param=subject)
        case InvalidRequestError():
            message = _noted(exc)
            named = _NAMED.match(message)
            if named is not None:
                field = field_of(named[1], body)
                if named[2] or field in body:
                    return ApiError(field + message[named.end(1) :], param=field)
            return ApiError(message)
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
    if status == 400:  # the model cannot do what is asked for
        # The library's remedy is its own.
        message = _RAW.sub("send the text as prompt to /completions", message)
        if os.sep in str(exc):
            message = f"{message}: name another one of those in /models"
        return ApiError(message, param="model")
    match exc:
        case QueueFullError():
            code = "queue_full"
        case RemoteUnavailableError():
            code = "model_unavailable"
        case _:
            code = _CODES.get(status, "internal_error")
    return ApiError(message, status=status, kind="server_error", code=code, headers=headers)


def _noted(exc: Exception) -> str:
    """With its notes, which say which one of several texts it is."""
    return " ".join([str(exc), *getattr(exc, "__notes__", ())])
