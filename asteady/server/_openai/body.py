"""The body of a request, as JSON and of a bounded size."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, NoReturn

from starlette.types import Receive, Scope

from asteady._base.tasks import run_aside
from asteady.server._openai.errors import ApiError
from asteady.server._web.hang_up import ClientLeftError

# To parse more takes milliseconds, in which the event loop would stand still.
_LARGE_BYTES = 2**18


async def read_body(scope: Scope, receive: Receive, most_bytes: int) -> dict[str, Any]:
    """The JSON object that was sent.

    Raises:
        ApiError: it is too large, or no JSON object.
        ClientLeftError: the client hung up before it had sent it.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > most_bytes:
            raise _too_large(most_bytes)
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most_bytes:
            raise _too_large(most_bytes)
        more = message.get("more_body", False)
    whole = b"".join(parts)
    try:
        body = await run_aside(partial(_parse, whole)) if size > _LARGE_BYTES else _parse(whole)
    except RecursionError:
        raise ApiError("the body is nested too deeply", code="invalid_json") from None
    except ValueError as exc:
        raise ApiError(f"the body is not JSON: {exc}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError("the body must be a JSON object", code="invalid_json")
    for name, value in body.items():
        if type(value) is float and value.is_integer():  # JSON has one type of numbers
            body[name] = int(value)
    return body


def _parse(body: bytes) -> Any:
    return _DECODER.decode(body.decode())


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _too_large(most_bytes: int) -> ApiError:
    return ApiError(
        f"the body has more than {most_bytes:,} bytes: send less of it, or let the server take more"
        " (asteady serve --max-body-mb, or max_body_bytes of asteady.server.openai)",
        status=413,
        code="request_too_large",
    )
