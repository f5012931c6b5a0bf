"""Who may ask, and how much at once."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asteady.server._openai.endpoint import send_json
from asteady.server._openai.errors import ApiError

if TYPE_CHECKING:
    from asteady.server._process.connection import Connection

API = "/v1"
HEALTH = "/health"
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """Refuses requests before anything of their bodies is read.

    With keys, each request has to give one of them, but those for the health. Without, a page of
    another site must not reach the server through a browser on this machine: by a name that its
    own server resolves to the loopback address (DNS rebinding), or by a request whose answer it
    cannot read, but which computes. So the names in `Host` and `Origin` are compared with those of
    `hosts`; None allows all.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Sequence[str],
        hosts: Collection[str] | None,
        origins: Collection[str],
        max_streams: int,
    ) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]
        self._hosts = None if hosts is None or keys else frozenset(hosts).union(_LOCAL_NAMES)
        self._origins = frozenset(origin.encode() for origin in origins)
        self._max_streams = max_streams
        self._streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: Connection = scope["state"]["connection"]

        async def received() -> Message:
            message = await receive()
            if not message.get("more_body", False):
                connection.has_body()
            return message

        head = _Head(scope)
        connection.begin(head.has_body)
        streams = 0
        try:
            asks = scope["method"] == "POST" and scope["path"].startswith(API)
            refusal = self._refusal(scope, head, asks)
            if refusal is None:
                self._streams += (streams := int(asks))
                await self._app(scope, received, send)
            else:
                body = {"error": refusal.body}
                await send_json(send, body, refusal.status, refusal.headers)
        finally:
            self._streams -= streams
            connection.end()

    def _refusal(self, scope: Scope, head: _Head, asks: bool) -> ApiError | None:
        host, origin, path = head.host, head.origin, scope["path"]
        # Only what comes over TCP has a client's address.
        if self._hosts is not None and scope["client"] is not None:
            if host is not None and _name(host) not in self._hosts:
                return _forbidden(
                    f"the host {_shown(host)} is not known here: start the server with"
                    f" --allowed-host {_name(host)}, or with an API key"
                )
            if origin is not None and not self._may_come_from(origin):
                return _forbidden(
                    f"pages of {_shown(origin)} may not ask: start the server with"
                    f" --cors-origin {_shown(origin)}"
                )
        if self._keys and path != HEALTH and not path.startswith(HEALTH + "/"):
            given = _given_key(head.authorization)
            if not self._is_key(given):
                return _unauthorized(given, asks or path.startswith(API))
        if asks and self._streams >= self._max_streams:
            return ApiError(
                f"the server answers {self._max_streams} requests, and no more at once: try again",
                status=503,
                kind="server_error",
                code="too_many_requests",
                headers={"retry-after": "1"},
            )
        return None

    def _may_come_from(self, origin: bytes) -> bool:
        assert self._hosts is not None
        if b"*" in self._origins or origin in self._origins:
            return True
        return _name(origin.partition(b"//")[2]) in self._hosts

    def _is_key(self, given: bytes | None) -> bool:
        """Takes as long whichever key it is, and however much of one is right."""
        if given is None:
            return False
        found = [hmac.compare_digest(given, key) for key in self._keys]
        return any(found)


class _Head:
    """What decides about a request."""

    __slots__ = ("authorization", "has_body", "host", "origin")

    def __init__(self, scope: Scope) -> None:
        self.host: bytes | None = None
        self.origin: bytes | None = None
        self.authorization: bytes | None = None
        self.has_body = False
        for name, value in scope["headers"]:
            if name == b"host":
                self.host = value
            elif name == b"content-length" or name == b"transfer-encoding":
                self.has_body = value != b"0"
            elif name == b"authorization":
                self.authorization = value
            elif name == b"origin":
                self.origin = value


def _given_key(authorization: bytes | None) -> bytes | None:
    """The key as clients of the API give it, or as browsers do: as the password of any user."""
    scheme, _, value = (authorization or b"").partition(b" ")
    match scheme.lower():
        case b"bearer":
            return value.strip()
        case b"basic":
            try:
                return base64.b64decode(value).partition(b":")[2]
            except binascii.Error:
                return None
    return None


def _name(host: bytes) -> str:
    """Without the port; an address of IPv6 in its brackets."""
    text = host.decode("latin-1").lower()
    name, colon, port = text.rpartition(":")
    return name if colon and port.isdigit() else text


def _shown(header: bytes) -> str:
    return header.decode("latin-1")[:100]


def _forbidden(message: str) -> ApiError:
    return ApiError(message, status=403, kind="permission_error", code="forbidden")


def _unauthorized(given: bytes | None, api: bool) -> ApiError:
    reason = "the API key is wrong" if given else "an API key is needed: Authorization: Bearer KEY"
    return ApiError(
        reason,
        status=401,
        kind="authentication_error",
        code="invalid_api_key",
        # A browser asks its user on this.
        headers={"www-authenticate": "Bearer" if api else 'Basic realm="asteady"'},
    )
