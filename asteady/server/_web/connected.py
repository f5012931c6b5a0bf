"""Computing for a request only while its client is there."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request

from asteady._base.public import public
from asteady.server._web.hang_up import ClientLeftError, until_hang_up

T = TypeVar("T")


@public
async def while_connected(request: Request, asked: Awaitable[T]) -> T:
    """Await an answer as long as the client is there::

        text = await while_connected(request, session.generate(prompt))

    When it hangs up, the call is cancelled; its worker is free within a step, unless another caller
    waits for the same answer. To be used once the request's body was read.

    Raises:
        HTTPException: 499, when the client has gone: nobody reads it.
        Exception: whatever `asked` raises.
    """
    try:
        return await until_hang_up(request.receive, asked)
    except ClientLeftError:
        raise HTTPException(499, "the client hung up") from None
