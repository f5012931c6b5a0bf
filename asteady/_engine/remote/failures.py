"""What went wrong with a server, and whether another try may go better."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from asteady._base.errors import (
    AsteadyError,
    InvalidRequestError,
    ModelError,
    ModelNotFoundError,
    PromptTooLongError,
    RemoteBusyError,
    RemoteError,
    RemoteTimeoutError,
    RemoteUnavailableError,
)
from asteady._base.validation import shorten

_SHOWN_CHARACTERS = 500
# The codes and types of asteady, OpenAI and llama-server, and vLLM's words.
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size_error|maximum (context|model) length"
    r"|exceeds? the (available |maximum )?context|too many tokens|longer than the context"
)


class ServerFailedError(Exception):
    """A server failed on a request. Another one may answer it.

    `error` is what the caller is told if there is no other try. With `again` the same server may
    answer it later, but not within `after_s` seconds.
    """

    def __init__(self, error: AsteadyError, *, again: bool, after_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.after_s = after_s


def unreachable(where: object, reason: str) -> ServerFailedError:
    return ServerFailedError(
        RemoteUnavailableError(
            f"the server at {where} cannot be reached ({reason}): start it, or correct the address"
        ),
        again=True,
    )


def broken(where: object, reason: str) -> RemoteError:
    """The server sent what is no answer."""
    return RemoteError(f"the server at {where} sent no valid answer: {reason}")


def error_of(
    where: object,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    key_variable: str,
    now: datetime,
) -> Exception:
    """The error for a reply whose status is not 200; `now` is with a time zone."""
    found = _error_in(body)
    said = shorten(" ".join(_message(found, body).split()), _SHOWN_CHARACTERS)
    answered = f"the server at {where} answered with status {status}"
    detail = f"{answered}: {said}" if said else answered
    code = str(found.get("code"))
    match status:
        case 401 | 403:
            # Not what it said, which may have a part of the key.
            return ModelError(
                f"{answered}, so it does not take the API key: set {key_variable} to one that it "
                "takes"
            )
        case 404:
            return ModelNotFoundError(detail)
        case 429 if code == "insufficient_quota":
            return RemoteError(detail)
        case 429 | 503:
            busy = RemoteBusyError(detail)
            busy.retry_after_s = retry_after_s(headers, now)
            return ServerFailedError(busy, again=True, after_s=busy.retry_after_s)
        case 502:  # of a proxy, whose server is away
            return ServerFailedError(RemoteUnavailableError(detail), again=True)
        case 504:
            return ServerFailedError(RemoteTimeoutError(detail), again=False)
        case _ if status >= 500:
            return ServerFailedError(RemoteError(detail), again=False)
        case _ if 300 <= status < 400:
            to = headers.get("location", "elsewhere")
            return ModelError(f"{answered}, which leads to {shorten(to, 200)}: give that address")
    kinds = " ".join(str(found.get(name)) for name in ("code", "type"))
    if _TOO_LONG.search(f"{kinds} {said}"):
        said = said.removeprefix("the prompt is too long: ")  # as asteady begins
        return PromptTooLongError(f"the prompt is too long for the remote model: {said}")
    return InvalidRequestError(detail)


def told_error(where: object, content: Mapping[str, Any]) -> RemoteError:
    """The error for an answer, or an event of one, that tells an error all the same."""
    found = content["error"]
    message = found.get("message") if isinstance(found, Mapping) else found
    return RemoteError(f"the server at {where} failed: {shorten(str(message), _SHOWN_CHARACTERS)}")


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float:
    """The seconds that ``Retry-After`` asks to wait, which it says as a number or as a date."""
    with suppress(ValueError):
        return max(0.0, float(headers.get("retry-after-ms", "")) / 1000)
    value = headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    return 0.0


def _error_in(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(found, Mapping):
        error = found.get("error", found)
        return error if isinstance(error, Mapping) else {"message": error}
    return {}


def _message(found: Mapping[str, Any], body: bytes) -> str:
    for name in ("message", "detail"):
        if found.get(name):
            return str(found[name])
    return body.decode("utf-8", "replace")
