"""From a request of HTTP to a reply of it: reading, errors, events, and clients that hang up."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any, ClassVar

import attrs
from starlette.types import Receive, Scope, Send

from asteady._base.validation import one_of
from asteady._session.pipeline import CacheMode
from asteady._session.session import Session
from asteady.server._openai.body import read_body
from asteady.server._openai.errors import ApiError, api_error, refused
from asteady.server._openai.served import ServedModels
from asteady.server._web.hang_up import ClientLeftError, noticing_hang_up, until_hang_up

_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would hold the events back.
    (b"x-accel-buffering", b"no"),
]
_MODES = ("use", "refresh", "bypass", "only")
# What is there at once is sent in parts of about this size.
_PART_BYTES = 2**16
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@attrs.frozen
class Reply:
    """A JSON object, which may be encoded, or server-sent events, each of them whole.

    `headers` is called when the object, or the first event, is there. `ready` says that all events
    are there at once: they are not sent one by one.
    """

    content: Mapping[str, Any] | bytes | AsyncIterator[bytes]
    headers: Callable[[], Mapping[str, str]] = dict
    ready: bool = False


@attrs.frozen
class Asked:
    """One request: its body, how it uses the cache, what is closed after its reply, and how its
    client is watched."""

    body: dict[str, Any]
    mode: CacheMode
    stack: AsyncExitStack
    receive: Receive


class Endpoint(ABC):
    """An ASGI application that answers one path's POST requests."""

    conversation: ClassVar[str | None] = None
    """The field of the body whose number of messages is limited."""

    subject: ClassVar[str] = "messages"
    """The field that has the prompt."""

    def __init__(
        self,
        session: Session,
        served: ServedModels,
        most_body_bytes: int,
        most_messages: int,
        most_tokens: int | None,
    ) -> None:
        self.session = session
        self.served = served
        self.most_tokens = most_tokens
        self._most_body_bytes = most_body_bytes
        self._most_messages = most_messages

    @abstractmethod
    async def reply(self, asked: Asked) -> Reply:
        """Answer one request. Its first event is there before a stream's status is sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = noticing_hang_up(send)
        body: dict[str, Any] = {}
        try:
            body = await read_body(scope, receive, self._most_body_bytes)
            await self._answer(body, scope, receive, send)
        except ClientLeftError:
            pass
        except Exception as exc:
            error = api_error(exc, self.subject, body)
            with suppress(ClientLeftError):
                await send_json(send, {"error": error.body}, error.status, error.headers)

    async def _answer(
        self, body: dict[str, Any], scope: Scope, receive: Receive, send: Send
    ) -> None:
        async with AsyncExitStack() as stack:
            self._check_messages(body)
            reply = await self.reply(Asked(body, _mode_of(scope), stack, receive))
            if isinstance(reply.content, Mapping | bytes):
                await send_json(send, reply.content, headers=reply.headers())
            elif reply.ready:
                await _send_events(send, _joined(reply.content), reply.headers)
            else:
                await until_hang_up(receive, _send_events(send, reply.content, reply.headers))

    def _check_messages(self, body: Mapping[str, Any]) -> None:
        name = self.conversation
        messages = None if name is None else body.get(name)
        if name is not None and isinstance(messages, list) and len(messages) > self._most_messages:
            raise refused(name, f"{len(messages):,} are given, and {self._most_messages:,} allowed")


def event(data: Mapping[str, Any], name: str | None = None) -> bytes:
    """A server-sent event."""
    named = b"" if name is None else b"event: " + name.encode() + b"\n"
    return named + b"data: " + json_bytes(data) + b"\n\n"


def json_bytes(value: object) -> bytes:
    """As JSON without spaces. What is no Unicode in a client's text is escaped, as JSON does it."""
    return _encode(value).encode("utf-8", "backslashreplace")


async def send_json(
    send: Send,
    content: Mapping[str, Any] | bytes,
    status: int = 200,
    headers: Mapping[str, str] = {},  # read only
) -> None:
    body = content if isinstance(content, bytes) else json_bytes(content)
    sent = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    sent += _encoded(headers)
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})


async def _send_events(
    send: Send, events: AsyncIterator[bytes], headers: Callable[[], Mapping[str, str]]
) -> None:
    first = await anext(events)  # an error in its place has a status of its own
    sent = [*_EVENTS, *_encoded(headers())]
    await send({"type": "http.response.start", "status": 200, "headers": sent})
    await send({"type": "http.response.body", "body": first, "more_body": True})
    try:
        async for each in events:
            await send({"type": "http.response.body", "body": each, "more_body": True})
    except ClientLeftError:
        raise
    except Exception as exc:
        error: ApiError = api_error(exc)
        last = event({"error": error.body})
        await send({"type": "http.response.body", "body": last, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _joined(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    parts: list[bytes] = []
    size = 0
    async for each in events:
        parts.append(each)
        size += len(each)
        if size >= _PART_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    yield b"".join(parts)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _mode_of(scope: Scope) -> CacheMode:
    for name, value in scope["headers"]:
        if name == b"x-asteady-cache-mode":
            mode: CacheMode = one_of("x-asteady-cache-mode", value.decode("latin-1"), _MODES)
            return mode
    return "use"
