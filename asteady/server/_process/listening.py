"""The sockets that the server listens on."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from contextlib import suppress
from typing import Any

import attrs

from asteady._base.errors import SettingsError

_BACKLOG = 2048
# Whether a server is alive behind a unix socket is known at once, or it is very busy.
_TRY_S = 2.0


@attrs.frozen
class Listener:
    """A listening socket, and how it is reached: by an address of HTTP, or by a file's path."""

    socket: socket.socket
    address: str
    # What makes a file another one than that of a socket, which has been replaced.
    identity: tuple[int, int] | None = None

    def close(self) -> None:
        """Close it, and remove the file if it is still the socket's own."""
        self.socket.close()
        with suppress(OSError):
            if self.identity is not None and _identity(self.address) == self.identity:
                os.unlink(self.address)


def is_loopback(host: str) -> bool:
    """Whether nothing outside of this machine reaches what listens there.

    Raises:
        SettingsError: the name of the host is unknown.
    """
    return all(ipaddress.ip_address(info[4][0]).is_loopback for info in _resolved(host, 0))


def listen_tcp(host: str, port: int) -> list[Listener]:
    """Listen on all addresses of a host, with port 0 on any free port, the same for each.

    Raises:
        SettingsError: that is not possible; the message says why.
    """
    listeners: list[Listener] = []
    try:
        for family, kind, protocol, _, address in _resolved(host, port):
            # With its protocol: asyncio sets TCP_NODELAY only where it is known to be TCP.
            listening = socket.socket(family, kind, protocol)
            listeners.append(Listener(listening, ""))
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind((address[0], port, *address[2:]))
            listening.listen(_BACKLOG)
            port = listening.getsockname()[1]
            name = f"[{address[0]}]" if family == socket.AF_INET6 else address[0]
            listeners[-1] = Listener(listening, f"http://{name}:{port}")
    except OSError as exc:
        for listener in listeners:
            listener.close()
        raise SettingsError(_why_not(exc, host, port)) from None
    return listeners


def _resolved(host: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise SettingsError(
            f"--host {host} is not allowed: {reason}; give an address of this machine, as"
            " 127.0.0.1, or 0.0.0.0 for all of them"
        ) from None


def _why_not(exc: OSError, host: str, port: int) -> str:
    match exc.errno:
        case errno.EADDRINUSE:
            return (
                f"port {port} of {host} is in use by another program: give another one with --port,"
                " or --port 0 for any that is free"
            )
        case errno.EACCES:
            return (
                f"port {port} is only for programs with special rights: give one from 1024 on with"
                " --port"
            )
        case errno.EADDRNOTAVAIL:
            return (
                f"this machine has no address {host}: give one that it has with --host, as"
                " 127.0.0.1, or 0.0.0.0 for all of them"
            )
    return f"cannot listen on port {port} of {host}: {exc.strerror or exc}"


def listen_unix(path: str) -> Listener:
    """Listen on a unix socket. One that a server has left behind is replaced.

    Raises:
        SettingsError: that is not possible; the message says why.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise SettingsError("there are no unix sockets on this system: give --host and --port")
    _check_free(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(path)
        listening.listen(_BACKLOG)
    except OSError as exc:
        listening.close()
        # A path that is too long has no errno.
        raise SettingsError(
            f"cannot listen on the unix socket {path}: {exc.strerror or exc}"
        ) from None
    return Listener(listening, path, _identity(path))


def _check_free(path: str) -> None:
    """Make room for a socket."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise SettingsError(f"{path} is a file, and no unix socket: give another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_TRY_S)
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except OSError as exc:
            if not isinstance(exc, TimeoutError | BlockingIOError):
                raise SettingsError(
                    f"the unix socket {path} cannot be used: {exc.strerror or exc}"
                ) from None
    raise SettingsError(
        f"another server listens on the unix socket {path}: end it, or give another path"
    )


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino
