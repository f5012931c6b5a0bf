"""The URL of a server of Redis or Valkey: what is wrong with it, and how it is shown."""

from __future__ import annotations

import re
from typing import NamedTuple

_SCHEMES = (
    *("redis://", "rediss://", "valkey://", "valkeys://", "unix://"),
    *("redis+cluster://", "rediss+cluster://", "redis+sentinel://", "rediss+sentinel://"),
)
_ALLOWED = (
    "the URL of a Redis or Valkey server, as redis://host:6379/0, rediss:// (TLS), unix://,"
    " redis+cluster:// or redis+sentinel://"
)
_ENCODE = (
    "a / ? # @ [ or % in a user or password must be percent-encoded, as %23 for #"
    " (urllib.parse.quote with safe='')"
)
_URL = re.compile(r"(.*?)://(?:([^/?#]*)@)?([^/?#]*)([^?#]*)\??([^#]*)#?(.*)", re.DOTALL)
_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]*))(?::([0-9]+))?")


class RedisUrl(NamedTuple):
    """The parts of a URL, as they are written there; `hosts` are several for sentinels.

    Python's own functions refuse several hosts, from 3.14 on where one is an IPv6 address.
    """

    scheme: str
    credentials: str | None
    hosts: str
    path: str
    query: str
    fragment: str

    @classmethod
    def of(cls, url: str) -> RedisUrl:
        match = _URL.fullmatch(url)
        assert match is not None  # all else is refused, as it has no scheme
        return cls(*match.groups())


def hidden_password(url: object) -> str:
    """The URL with `***` for what is in front of its host, and for a password in its query.

    A password with characters that ought to be encoded, and so one that is taken for a path, is
    hidden too.
    """
    shown = re.sub(r"//.*@", "//***@", str(url))
    return re.sub(r"(password=)[^&#]*", r"\1***", shown)


def host_of(text: str, default_port: int) -> tuple[str, int]:
    """The host and port of ``host``, ``host:port`` or ``[address]:port``.

    Raises:
        ValueError: it is nothing of these.
    """
    match = _HOST.fullmatch(text)
    if match is None or int(match[3] or 0) > 65535:
        raise ValueError(f"{text!r} is not a host, or host:port with a port up to 65535")
    return match[1] or match[2], int(match[3] or default_port)


def check_redis_url(url: object) -> None:
    """Check all but the options, which are those of redis-py.

    Raises:
        ValueError: what is allowed. It has no part of a password.
    """
    if not isinstance(url, str) or not url.startswith(_SCHEMES):
        raise ValueError(_ALLOWED)
    scheme, credentials, hosts, path, *rest = RedisUrl.of(url)
    if scheme == "unix":
        if hosts or not path.strip("/"):
            raise ValueError("the path of a socket is needed, as unix:///run/redis.sock")
        return
    if re.search(r"[\[\]]", credentials or "") or "@" in "".join([path, *rest]):
        raise ValueError(_ENCODE)
    several = scheme.endswith("+sentinel")
    for host in hosts.split(",") if several else [hosts]:
        host_of(host, 0)
    database = path.strip("/")
    if several:
        service, _, database = database.partition("/")
        if not service:
            raise ValueError("the service has no name, as in redis+sentinel://host/service/0")
    if not re.fullmatch("[0-9]*", database):
        raise ValueError(f"{database!r} is not the number of a database")
    if scheme.endswith("+cluster") and int(database or 0):
        raise ValueError(f"a cluster has database 0 only, and not {database}")
