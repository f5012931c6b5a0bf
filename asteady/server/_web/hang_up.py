"""Computing for a client only as long as it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Message, Receive, Send

T = TypeVar("T")


class ClientLeftError(Exception):
    """The client hung up: nobody is there to read an answer."""


def noticing_hang_up(send: Send) -> Send:
    """`send`, which raises `ClientLeftError` where it raised the OSError by which servers say that
    the client has gone (ASGI 2.4)."""

    async def send_on(message: Message) -> None:
        try:
            await send(message)
        except OSError:
            raise ClientLeftError from None

    return send_on


async def until_hang_up(receive: Receive, work: Awaitable[T]) -> T:
    """Await `work`; when the client hangs up, it is cancelled, which frees its worker.

    Raises:
        ClientLeftError: it did.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_hung_up(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        leaving.result()
        raise ClientLeftError
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            # What it holds is given back before the request ends.
            await asyncio.wait((working,))
            if not working.cancelled():
                working.exception()  # seen: nobody is there to be told


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
