"""Errors as OpenAI's API has them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from asteady._base.errors import (
    CacheMissError,
    InvalidRequestError,
    ModelCapabilityError,
    ModelChangedError,
    ModelNotFoundError,
    PromptTooLongError,
    QueueFullError,
    SessionClosedError,
    SessionNotOpenError,
)
from asteady.server._web.errors import without_files

_log = logging.getLogger("asteady")

_RETRY = {"retry-after": "1"}
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


def api_error(exc: BaseException, subject: str = "messages") -> ApiError:
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
        case ModelCapabilityError():
            message = without_files(exc, "the model cannot do what the request asks for")
            return ApiError(message, param="model")
        case QueueFullError():
            return _unavailable(str(exc), "queue_full")
        case CacheMissError():
            return ApiError(
                "the answer is not in the cache, and x-asteady-cache-mode: only was sent",
                status=504,
                kind="server_error",
                code="cache_miss",
                # OpenAI's clients would ask twice more.
                headers={"x-should-retry": "false"},
            )
        case TimeoutError():
            return ApiError("it took too long", status=504, kind="server_error", code="timeout")
        case ModelChangedError():
            message = without_files(exc, "the model is being replaced: ask again")
            return _unavailable(message, "not_ready")
        case SessionClosedError() | SessionNotOpenError():
            return _unavailable(str(exc), "not_ready")
        case ModelNotFoundError():
            # Not its message: it names files of this machine.
            _log.error("a model that is served cannot be loaded: %s", exc)
            return _unavailable("the model cannot be loaded on this server", "model_unavailable")
    _log.error("a request failed", exc_info=exc)
    return ApiError("internal error", status=500, kind="server_error", code="internal_error")


def _unavailable(message: str, code: str) -> ApiError:
    return ApiError(message, status=503, kind="server_error", code=code, headers=_RETRY)


def _param(message: str) -> str | None:
    found: Any = _NAMED.match(message)
    return None if found is None else _NAMES.get(found[1], found[1])
