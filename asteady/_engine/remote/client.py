"""HTTP to the servers of one remote model, on one event loop."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import random
import socket
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote
from urllib.request import getproxies

import attrs
import httpx

from asteady._base.errors import (
    AsteadyError,
    RemoteBusyError,
    RemoteTimeoutError,
    RemoteUnavailableError,
)
from asteady._engine.remote.endpoints import Endpoint, first_back_s, least_busy
from asteady._engine.remote.events import EventDecoder
from asteady._engine.remote.failures import (
    ServerFailedError,
    broken,
    error_of,
    told_error,
    unreachable,
)
from asteady._engine.remote.reference import DEFAULT_KEY_VARIABLE, Address, RemoteReference

T = TypeVar("T")

_log = logging.getLogger("asteady")

# Not the module's, whose numbers are the program's.
_random = random.Random()

_CONNECT_S = 5.0
# In seconds: after so long without data, each so long, so many times.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
# Most servers close a connection that was not used for five seconds.
_KEEP_S = 4.0
_MAX_BODY_BYTES = 256 * 2**20
_MAX_ERROR_BYTES = 2**16


@attrs.frozen
class Reply:
    """A JSON object and the headers that came with it, by their names in lower case."""

    content: dict[str, Any]
    headers: Mapping[str, str]


@attrs.frozen
class EventStream:
    """The data of the events of a stream, and the headers before them."""

    headers: Mapping[str, str]
    events: AsyncGenerator[bytes, None]


class Client:
    """Pooled connections to each server; made and used by one thread, and closed by `aclose`.

    `attempt` chooses the server. The other methods ask it, once, and raise a `ServerFailedError`
    if another try may go better, otherwise an error of asteady's.
    """

    def __init__(
        self,
        reference: RemoteReference,
        connections: int,
        check: Callable[[Endpoint], Awaitable[None]] | None = None,
    ) -> None:
        """`check` asks a server that failed whether it is well, and raises if it is not. While
        another one can be asked, no request waits for it.

        Raises:
            SettingsError: the variable for the API key is not set, or has no key.
        """
        self.endpoints = [Endpoint(address) for address in reference.addresses]
        self._last_failure: ServerFailedError | None = None
        self._check = check
        self._checking: dict[Endpoint, asyncio.Task[None]] = {}
        self._reference = reference
        self._key = key = reference.api_key()
        timeout = httpx.Timeout(
            reference.timeout_s, connect=min(_CONNECT_S, reference.timeout_s), pool=None
        )
        limits = httpx.Limits(max_keepalive_connections=connections, keepalive_expiry=_KEEP_S)
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._clients = {
            endpoint: httpx.AsyncClient(
                base_url=endpoint.address.base_url,
                headers={"user-agent": "asteady", **headers},
                timeout=timeout,
                limits=limits,
                transport=_transport(endpoint.address, limits),
            )
            for endpoint in self.endpoints
        }

    async def aclose(self) -> None:
        checking = [*self._checking.values()]
        for task in checking:
            task.cancel()
        await asyncio.gather(*checking, return_exceptions=True)
        for client in self._clients.values():
            await client.aclose()

    async def attempt(
        self, use: Callable[[Endpoint], Awaitable[T]], *, retries: int | None = None
    ) -> T:
        """What `use` returns for the least busy server. One that fails is set aside, and another
        one is tried; after a pause the same ones, `retries` times.

        Raises:
            AsteadyError: `use` raised it, or a server failed, and there is no other try.
        """
        try:
            return await self._attempt(use, retries)
        except AsteadyError as exc:
            # A server may repeat the key.
            if self._key is None or self._key not in str(exc):
                raise
            told = copy.copy(exc)
            told.args = (str(exc).replace(self._key, "***"),)
            raise told from None

    async def _attempt(self, use: Callable[[Endpoint], Awaitable[T]], retries: int | None) -> T:
        time_s = asyncio.get_running_loop().time
        pauses = self._reference.retries if retries is None else retries
        hopeless: list[Endpoint] = []
        failed: ServerFailedError | None = None
        while True:
            endpoint = self._next(time_s(), hopeless)
            if endpoint is None:
                left = [each for each in self.endpoints if each not in hopeless]
                if failed is not None:
                    if not left or not pauses:
                        raise failed.error
                    pauses -= 1
                pause_s = first_back_s(left) - time_s()
                if pause_s > self._reference.timeout_s and (last := failed or self._last_failure):
                    # A new one each time, as each gets a traceback.
                    error = copy.copy(last.error)
                    if isinstance(error, RemoteBusyError):
                        error.retry_after_s = pause_s
                    raise error from last
                await asyncio.sleep(max(0.0, pause_s))
                continue
            began_s = time_s()
            try:
                with endpoint.busy():
                    result = await use(endpoint)
            except ServerFailedError as exc:
                failed = exc
                self.set_aside(endpoint, exc, began_s)
                if not exc.again:
                    hopeless.append(endpoint)
            else:
                self._succeeded(endpoint)
                return result

    def _next(self, now_s: float, hopeless: Sequence[Endpoint]) -> Endpoint | None:
        """The least busy one that can be asked now; one that is suspect only without others."""
        suspects = [each for each in self.endpoints if each.suspect]
        found = least_busy(self.endpoints, now_s, [*hopeless, *suspects])
        if found is None or self._check is None:
            return least_busy(self.endpoints, now_s, hopeless)
        for each in suspects:
            if each.until_s <= now_s and each not in self._checking:
                task = asyncio.get_running_loop().create_task(self._look(each, self._check))
                self._checking[each] = task
        return found

    async def _look(self, endpoint: Endpoint, check: Callable[[Endpoint], Awaitable[None]]) -> None:
        began_s = asyncio.get_running_loop().time()
        try:
            await check(endpoint)
        except ServerFailedError as exc:
            self.set_aside(endpoint, exc, began_s)
        except AsteadyError as exc:
            self.set_aside(endpoint, ServerFailedError(exc, again=True), began_s)
        else:
            self._succeeded(endpoint)
        finally:
            del self._checking[endpoint]

    def _succeeded(self, endpoint: Endpoint) -> None:
        if endpoint.failures:
            _log.info("the server at %s answers again", endpoint.address)
        endpoint.succeeded()

    def set_aside(self, endpoint: Endpoint, failed: ServerFailedError, began_s: float) -> None:
        """A request that began then failed.

        A lone server that is not to be asked again for that goes on with other requests.
        """
        if not failed.again and len(self.endpoints) == 1:
            return
        self._last_failure = failed
        if not endpoint.failures:
            # Without another one the caller is told.
            level = logging.WARNING if len(self.endpoints) > 1 else logging.INFO
            _log.log(level, "%s; the server is set aside for a while", failed)
        endpoint.failed(
            asyncio.get_running_loop().time(),
            began_s,
            at_least_s=failed.after_s,
            jitter=_random.uniform(0.8, 1.2),
        )

    async def get(self, endpoint: Endpoint, path: str, **parameters: str) -> Reply:
        return await self._json(endpoint, "GET", quote(path), params=parameters)

    async def post(self, endpoint: Endpoint, path: str, body: bytes) -> Reply:
        return await self._json(
            endpoint, "POST", path, content=body, headers={"content-type": "application/json"}
        )

    async def _json(self, endpoint: Endpoint, method: str, path: str, **more: Any) -> Reply:
        async with self._open(endpoint, method, path, **more) as response:
            body = await self._read(endpoint, response, _MAX_BODY_BYTES)
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise broken(endpoint.address, f"it is no JSON: {exc}") from None
        if not isinstance(content, dict):
            raise broken(endpoint.address, "it is no JSON object")
        if content.get("error"):
            raise told_error(endpoint.address, content)
        return Reply(content, _headers(response))

    @asynccontextmanager
    async def stream(
        self, endpoint: Endpoint, path: str, body: bytes
    ) -> AsyncIterator[EventStream]:
        """The events that answer a POST request. Leaving the block closes the request.

        The iterator raises a `ServerFailedError` where the stream is cut.
        """
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream",
            # What compresses a stream may hold its events back.
            "accept-encoding": "identity",
        }
        async with self._open(endpoint, "POST", path, content=body, headers=headers) as response:
            kind = response.headers.get("content-type", "")
            if not kind.startswith("text/event-stream"):
                raise broken(endpoint.address, f"it is {kind or 'nothing'!r} and no stream")
            yield EventStream(_headers(response), self._events(endpoint, response))

    async def _events(
        self, endpoint: Endpoint, response: httpx.Response
    ) -> AsyncGenerator[bytes, None]:
        decoder = EventDecoder()
        with _failures(endpoint):
            async for piece in response.aiter_bytes():
                try:
                    events = decoder.feed(piece)
                except ValueError as exc:
                    raise broken(endpoint.address, str(exc)) from None
                for event in events:
                    yield event

    @asynccontextmanager
    async def _open(
        self, endpoint: Endpoint, method: str, path: str, **more: Any
    ) -> AsyncIterator[httpx.Response]:
        client = self._clients[endpoint]
        request = client.build_request(method, path, **more)
        with _failures(endpoint):
            response = await client.send(request, stream=True)
        try:
            if response.status_code != 200:
                body = await self._read(endpoint, response, _MAX_ERROR_BYTES, cut=True)
                raise error_of(
                    endpoint.address,
                    response.status_code,
                    _headers(response),
                    body,
                    key_variable=self._reference.key_variable or DEFAULT_KEY_VARIABLE,
                    now=datetime.now(UTC),
                )
            yield response
        finally:
            await response.aclose()

    async def _read(
        self, endpoint: Endpoint, response: httpx.Response, most: int, *, cut: bool = False
    ) -> bytes:
        parts: list[bytes] = []
        size = 0
        with _failures(endpoint):
            async for part in response.aiter_bytes():
                parts.append(part)
                size += len(part)
                if size > most:
                    if cut:
                        break
                    raise broken(endpoint.address, f"it has more than {most:,} bytes")
        return b"".join(parts)[:most]


def _transport(address: Address, limits: httpx.Limits) -> httpx.AsyncHTTPTransport | None:
    """One that notices a machine that is gone, whose connections nobody closes; None for httpx's
    own, which asks the proxies of the environment."""
    if address.socket is not None:
        return httpx.AsyncHTTPTransport(uds=address.socket, limits=limits)
    if {"all", "http", "https"} & getproxies().keys():
        return None
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in _KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            options.append((socket.IPPROTO_TCP, option, value))
    return httpx.AsyncHTTPTransport(limits=limits, socket_options=options)


def _headers(response: httpx.Response) -> Mapping[str, str]:
    return MappingProxyType(dict(response.headers))


@contextmanager
def _failures(endpoint: Endpoint) -> Iterator[None]:
    where = endpoint.address
    try:
        yield
    except httpx.ReadTimeout as exc:
        # The same server would only take as long again.
        silent = f"the server at {where} sent nothing for as long as timeout_s allows"
        raise ServerFailedError(RemoteTimeoutError(silent), again=False) from exc
    except httpx.ConnectTimeout as exc:
        raise unreachable(where, "it does not answer") from exc
    except httpx.ConnectError as exc:
        raise unreachable(where, str(exc) or type(exc).__name__) from exc
    except httpx.TransportError as exc:
        reason = str(exc).rstrip(".") or type(exc).__name__
        lost = f"the connection to the server at {where} was lost: {reason}"
        raise ServerFailedError(RemoteUnavailableError(lost), again=True) from exc
    except httpx.HTTPError as exc:  # what is no HTTP
        raise broken(where, str(exc)) from exc
