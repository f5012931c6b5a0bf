"""A server with the paths of OpenAI's API that does what a test tells it, on a real socket.

It writes HTTP itself, in a thread of its own, so that it can send a part of a reply, cut it
anywhere, and see when its client hangs up.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

_LIMIT_S = 60.0
_REASONS = {200: "OK", 429: "Too Many Requests", 503: "Service Unavailable"}

WORDS = ("One ", "two ", "three.")
VECTOR = (0.6, 0.0, -0.8)


class Exchange:
    """A request, and the connection that its reply goes to."""

    def __init__(
        self,
        server: MisbehavingServer,
        path: str,
        headers: Mapping[str, str],
        body: Any,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.path = path
        self.headers = headers
        self.body = body
        self.ended = False
        self.hung_up = False
        """Whether the client closed the connection before its reply was complete."""
        # Whether a client only wants to know who answers, by an answer of one token or letter.
        self.identifies = body is not None and (
            body.get("input") == "a" or (not body.get("stream") and body.get("max_tokens") == 1)
        )
        self.server = server
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def reply(
        self,
        content: bytes | str | object,
        status: int = 200,
        headers: Mapping[str, str] = {},  # read only
        kind: str = "application/json",
    ) -> None:
        """A whole reply; what is no text is sent as JSON."""
        if not isinstance(content, bytes | str):
            content = json.dumps(content)
        data = content if isinstance(content, bytes) else content.encode()
        await self._head(
            status, {"content-type": kind, "content-length": str(len(data)), **headers}
        )
        await self.send(data)

    async def begin(self) -> None:
        """The head of a reply of events, whose length nobody knows."""
        kind = "text/event-stream; charset=utf-8"
        await self._head(200, {"content-type": kind, "transfer-encoding": "chunked"})

    async def part(self, data: bytes | str) -> None:
        """A part of such a reply."""
        data = data if isinstance(data, bytes) else data.encode()
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def event(self, content: object) -> None:
        await self.part(f"data: {json.dumps(content)}\n\n")

    async def end(self) -> None:
        """The end of such a reply."""
        await self.send(b"0\r\n\r\n")

    async def hold(self) -> None:
        """Wait until the test lets it go on, or the client hangs up."""
        await self.server.released.wait()

    def cut(self) -> None:
        """Close the connection at once, as a program that died would."""
        self._writer.transport.abort()

    async def _head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([*lines, "", ""]).encode())


Behaviour: TypeAlias = Callable[[Exchange], Awaitable[None]]


class MisbehavingServer:
    """Made by `misbehaving_server`. Behaves, but where a test has given it another behaviour.

    `exchanges` are those that have begun, in order, without those by which clients only learn who
    answers; these are at the path "/identify".
    """

    def __init__(self, models: Sequence[str], fingerprint: str | None, owner: str) -> None:
        self.models = [*models]
        self.owner = owner
        self.fingerprint = fingerprint
        self.exchanges: list[Exchange] = []
        self.connections = 0
        self.peak = 0
        """The largest number of exchanges at the same time."""
        self.released = asyncio.Event()
        self.port = 0
        self._behaviours = defaultdict[str, deque[Behaviour]](deque)
        self._always: dict[str, Behaviour] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._listening: asyncio.Server | None = None
        self._bound: socket.socket | None = None
        self._loop = asyncio.new_event_loop()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run)

    # -- for the test ------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def reference(self, model: str = "model", **options: object) -> str:
        """Of a model of this server, with options such as ``retries=1``."""
        given = "&".join(f"{name}={value}" for name, value in options.items())
        return f"openai+{self.address}{given and '?'}{given}#{model}"

    def next(self, path: str, *behaviours: Behaviour) -> None:
        """Behave so at the next requests to a path, such as "/chat/completions"."""
        self._behaviours[path].extend(behaviours)

    def always(self, path: str, behaviour: Behaviour | None) -> None:
        """Behave so at each request to a path that has no other behaviour; None: well."""
        if behaviour is None:
            self._always.pop(path, None)
        else:
            self._always[path] = behaviour

    def release(self) -> None:
        """Let what is held go on, and hold no more."""
        self._loop.call_soon_threadsafe(self.released.set)

    def release_now(self) -> None:
        """Let what is held now go on, and hold what comes later."""

        def release() -> None:
            self.released.set()
            self.released.clear()

        self._loop.call_soon_threadsafe(release)

    def forget(self) -> None:
        """What it was asked so far does not count."""
        with self._changed:
            self.exchanges.clear()

    def paths(self) -> list[str]:
        return [exchange.path for exchange in self.exchanges]

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until something that the server sees has happened."""

        def wait() -> None:
            with self._changed:
                assert self._changed.wait_for(condition, _LIMIT_S), self.paths()

        await asyncio.to_thread(wait)

    async def wait_begun(self, count: int) -> None:
        """Wait until so many requests have reached it in all."""
        await self.wait(lambda: len(self.exchanges) >= count)

    async def wait_hung_up(self, count: int = 1) -> None:
        """Wait until so many clients have hung up in all."""
        await self.wait(lambda: sum(exchange.hung_up for exchange in self.exchanges) >= count)

    def die(self) -> None:
        """Cut all connections and listen no more."""
        asyncio.run_coroutine_threadsafe(self._die(), self._loop).result(_LIMIT_S)

    def come_back(self) -> None:
        """Listen again, at the same port."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(_LIMIT_S)

    def start(self) -> None:
        self._thread.start()
        self.come_back()

    def close(self) -> None:
        self.die()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._bound is not None:
            self._bound.close()

    # -- on its own thread -------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _bind(self) -> socket.socket:
        """A socket at the server's port, which refuses connections while it does not listen."""
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", self.port))
        self.port = bound.getsockname()[1]
        return bound

    async def _listen(self) -> None:
        bound, self._bound = self._bound or self._bind(), None
        self._listening = await asyncio.start_server(self._accept, sock=bound)

    def stop_listening(self) -> None:
        """Refuse connections; the port is nobody else's meanwhile."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
            self._bound = self._bind()

    async def _die(self) -> None:
        self.stop_listening()
        tasks = [*self._tasks]
        for writer in self._writers:
            writer.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        with self._changed:
            self.connections += 1
            self._changed.notify_all()
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    await self._exchange(reader, writer)
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request and its reply.

        Raises:
            OSError: the client has hung up, or the reply was cut.
            asyncio.IncompleteReadError: the same, while the server waited for a request.
        """
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        content = await reader.readexactly(int(headers.get("content-length", "0")))
        body = json.loads(content) if content else None
        exchange = Exchange(self, target.removeprefix("/v1"), headers, body, writer)
        if method == "POST" and not exchange.identifies:
            with self._changed:
                self.exchanges.append(exchange)
                self.peak = max(self.peak, sum(not each.ended for each in self.exchanges))
                self._changed.notify_all()
        behaving = asyncio.ensure_future(self._behaviour(exchange)(exchange))
        # A client sends nothing more before its reply is there: what can be read is its end.
        hanging_up = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({behaving, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left = hanging_up.done()
            for task in (behaving, hanging_up):
                task.cancel()
            await asyncio.wait({behaving, hanging_up})
            failed = None if behaving.cancelled() else behaving.exception()
            with self._changed:
                exchange.ended = True
                exchange.hung_up = behaving.cancelled() or isinstance(failed, ConnectionError)
                self._changed.notify_all()
        if failed is not None:
            raise failed
        if left or writer.transport.is_closing():
            raise ConnectionAbortedError

    def _behaviour(self, exchange: Exchange) -> Behaviour:
        path = "/identify" if exchange.identifies else exchange.path
        next_ones = self._behaviours[path]
        return next_ones.popleft() if next_ones else self._always.get(path, behaves)


@contextmanager
def misbehaving_server(
    *models: str, fingerprint: str | None = None, owner: str = "somebody"
) -> Iterator[MisbehavingServer]:
    """One that serves these models ("model" by default), in a thread; it ends with the block.

    `fingerprint` is the `system_fingerprint` of its replies. By `owner`, who owns its models, a
    client knows what kind of server it is.
    """
    server = MisbehavingServer(models or ("model",), fingerprint, owner)
    server.start()
    try:
        yield server
    finally:
        server.close()


# -- how it may behave ---------------------------------------------------------------------------


async def behaves(exchange: Exchange) -> None:
    """As a server should: three words, or the vectors of the texts."""
    body = exchange.body
    match exchange.path:
        case "/models":
            server = exchange.server
            records = [{"id": name, "owned_by": server.owner} for name in server.models]
            await exchange.reply({"object": "list", "data": records})
        case "/embeddings":
            texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
            await exchange.reply(embeddings(exchange, [VECTOR] * len(texts)))
        case "/chat/completions" | "/completions" if body.get("stream"):
            await exchange.begin()
            for chunk in chunks(exchange):
                await exchange.event(chunk)
            await exchange.part("data: [DONE]\n\n")
            await exchange.end()
        case "/chat/completions" | "/completions":
            await exchange.reply(completion(exchange))
        case _:
            await status(404)(exchange)


def embeddings(exchange: Exchange, vectors: Sequence[object]) -> dict[str, Any]:
    """The content of a reply with these vectors."""
    rows = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return {"object": "list", "model": exchange.body["model"], "data": rows, "usage": usage}


def completion(exchange: Exchange, text: str = "".join(WORDS), **message: Any) -> dict[str, Any]:
    """The content of a reply that is not streamed."""
    if exchange.path == "/completions":
        written: dict[str, Any] = {"text": text}
    else:
        written = {"message": {"role": "assistant", "content": text, **message}}
    return {
        **_head(exchange, "chat.completion"),
        "choices": [{"index": 0, **written, "finish_reason": "stop"}],
        "usage": _USAGE,
    }


def chunks(exchange: Exchange, words: Sequence[str] = WORDS) -> list[dict[str, Any]]:
    """The events of a reply, but the last line of all: a role, the words, the end, the usage."""
    raw = exchange.path == "/completions"
    head = _head(exchange, "chat.completion.chunk")

    def chunk(text: str, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
        written = {"text": text} if raw else {"delta": {"content": text, **more}}
        choice = {"index": 0, **written, "finish_reason": finish_reason}
        return {**head, "choices": [choice]}

    found = [] if raw else [chunk("", role="assistant")]
    found += [chunk(word) for word in words]
    found.append(chunk("", "stop"))
    if (exchange.body.get("stream_options") or {}).get("include_usage"):
        found.append({**head, "choices": [], "usage": _USAGE})
    return found


_USAGE = {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}


def _head(exchange: Exchange, kind: str) -> dict[str, Any]:
    head = {"id": "1", "object": kind, "created": 0, "model": exchange.body["model"]}
    if exchange.server.fingerprint is not None:
        head["system_fingerprint"] = exchange.server.fingerprint
    return head


def status(
    number: int, message: str = "it does not want to", headers: Mapping[str, str] = {}
) -> Behaviour:
    """Refuse with this status."""

    async def behave(exchange: Exchange) -> None:
        content = {"error": {"message": message, "type": "server_error", "code": None}}
        await exchange.reply(content, number, headers)

    return behave


def says(content: bytes | str | object, number: int = 200, **options: Any) -> Behaviour:
    """Reply with this, whatever is asked."""

    async def behave(exchange: Exchange) -> None:
        await exchange.reply(content, number, **options)

    return behave


def streams(*parts: bytes | str | object, ends: bool = True) -> Behaviour:
    """Reply with these parts, of which texts are sent as they are, and others as events of JSON.

    Unless it `ends`, the connection is closed in the middle.
    """

    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        for part in parts:
            if isinstance(part, bytes | str):
                await exchange.part(part)
            else:
                await exchange.event(part)
        if ends:
            await exchange.end()
        else:
            exchange.cut()

    return behave


async def dies(exchange: Exchange) -> None:
    """Close the connection without a reply."""
    exchange.cut()


async def never_replies(exchange: Exchange) -> None:
    """Hold before the reply."""
    await exchange.hold()
    await behaves(exchange)


def stalls(count: int) -> Behaviour:
    """Hold after so many events."""

    async def behave(exchange: Exchange) -> None:
        await exchange.begin()
        for index, chunk in enumerate(chunks(exchange)):
            if index == count:
                await exchange.hold()
            await exchange.event(chunk)
        await exchange.part("data: [DONE]\n\n")
        await exchange.end()

    return behave


async def drips(exchange: Exchange) -> None:
    """Send the reply byte by byte."""
    send = exchange.send

    async def drip(data: bytes) -> None:
        for byte in data:
            await send(bytes([byte]))
            await asyncio.sleep(0)

    exchange.send = drip  # type: ignore[method-assign]
    await behaves(exchange)
