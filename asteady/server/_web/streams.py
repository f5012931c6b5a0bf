"""Streams of answers as responses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

from starlette.background import BackgroundTask
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from asteady._base.messages import ToolCall
from asteady._base.public import public
from asteady._base.requests import Completion, ReasoningChunk, StreamEvent, TextChunk
from asteady._session.generation import Stream
from asteady.server._web.errors import http_error
from asteady.server._web.hang_up import ClientLeftError, noticing_hang_up, until_hang_up


@public
class TextStreamResponse(Response):
    """The text of a stream as it is computed, as text/plain::

        return TextStreamResponse(session.stream(prompt))

    The stream is opened when the response is sent, and left when the client hangs up, which frees
    its worker within a step. An error in place of the first chunk is raised before the status is
    sent, so that `exception_handlers` make a response of it; one in mid-stream cuts the connection,
    as nothing else can be told in a text. Reasoning and calls of tools are left out.
    """

    media_type = "text/plain"

    def __init__(
        self,
        stream: Stream,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        self._stream = stream
        self.status_code = status_code
        self.background = background
        self.body = b""
        self._started = False
        self.init_headers(headers)
        del self.headers["content-length"]
        # nginx would hold the parts back.
        self.headers.setdefault("x-accel-buffering", "no")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await until_hang_up(receive, self._send(noticing_hang_up(send)))
        except ClientLeftError:
            if not self._started:
                # Middleware takes it for an error when nothing is sent.
                await Response(status_code=499)(scope, receive, send)
            return
        if self.background is not None:
            await self.background()

    async def _parts(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """What is sent, piece by piece."""
        events = stream.events()
        async for event in events:
            if part := await self._with_ready(event, stream, events):
                yield part

    async def _with_ready(
        self, event: StreamEvent, stream: Stream, events: AsyncIterator[StreamEvent]
    ) -> bytes:
        """An event and those that are there already: a remembered answer of 500 chunks is sent in
        2 ms so, and in 30 ms chunk by chunk."""
        parts = [self._encoded(event)]
        while stream.ready:
            parts.append(self._encoded(await anext(events)))
        return b"".join(parts)

    def _encoded(self, event: StreamEvent) -> bytes:
        return event.text.encode() if isinstance(event, TextChunk) else b""

    async def _send(self, send: Send) -> None:
        async with self._stream as stream, aclosing(self._parts(stream)) as parts:
            first = await anext(parts, b"")
            self._started = True
            status, headers = self.status_code, self.raw_headers
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


@public
class EventStreamResponse(TextStreamResponse):
    """A stream as server-sent events, which a browser's `EventSource` reads::

        return EventStreamResponse(session.stream(prompt))

    A piece of text is an event without a name (`message`); `reasoning` has a piece of reasoning,
    `tool_call` the JSON of a call, and `done`, the last one, that of the answer without its chunks:
    a browser must close its `EventSource` then, or it asks again. An error in mid-stream is an
    event `error` with `{"detail": ...}`. Once it has begun, a comment is sent when nothing
    else was for `ping_s` seconds, so that proxies keep the connection.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        stream: Stream,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
        *,
        ping_s: float = 15,
    ) -> None:
        super().__init__(stream, status_code, headers, background)
        self.headers.setdefault("cache-control", "no-cache")
        self._ping_s = ping_s

    async def _parts(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        events = stream.events()
        began = False
        try:
            while True:
                waiting = asyncio.ensure_future(anext(events, None))
                try:
                    # Before the first event nothing is sent: an error there has a status.
                    limit = self._ping_s if began else None
                    while not (await asyncio.wait((waiting,), timeout=limit))[0]:
                        yield b": waiting\n\n"
                finally:
                    waiting.cancel()
                event = waiting.result()
                began = True
                if event is None:
                    break
                yield await self._with_ready(event, stream, events)
            yield _event(json.dumps(_summary(stream.answer), ensure_ascii=False), "done")
        except Exception as exc:
            if not began:
                raise
            yield _event(json.dumps({"detail": http_error(exc)[1]}), "error")

    def _encoded(self, event: StreamEvent) -> bytes:
        match event:
            case TextChunk(text):
                return _event(text)
            case ReasoningChunk(text):
                return _event(text, "reasoning")
            case ToolCall():
                return _event(json.dumps(event.as_dict(), ensure_ascii=False), "tool_call")


def _event(data: str, name: str | None = None) -> bytes:
    """Each line of the data is a field: the reader joins them again."""
    lines = [f"data: {line}" for line in data.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    named = [] if name is None else [f"event: {name}"]
    return "\n".join([*named, *lines, "", ""]).encode()


def _summary(answer: Completion) -> dict[str, object]:
    return {
        name: value
        for name, value in answer.as_dict().items()
        if name not in ("chunks", "reasoning_chunks")
    }
