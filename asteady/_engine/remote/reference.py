"""References of remote models: ``openai+http://host:8000/v1#name@revision``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs

from asteady._base.errors import InvalidRequestError, ModelNotFoundError, SettingsError
from asteady._base.settings import REMOTE_PREFIX
from asteady._base.validation import number, shorten, whole_number

DEFAULT_KEY_VARIABLE = "ASTEADY_REMOTE_API_KEY"
DEFAULT_TIMEOUT_S = 600.0
DEFAULT_RETRIES = 4

_EXAMPLE = f"{REMOTE_PREFIX}http://host:8000/v1#name"
_OPTIONS = ("api_key", "fingerprint", "retries", "timeout_s")


@attrs.frozen
class Address:
    """Where a server is: the base of its URLs, and the path of its unix socket if it has one."""

    base_url: str
    socket: str | None = None

    def __str__(self) -> str:
        return self.base_url if self.socket is None else f"unix:{self.socket}"


@attrs.frozen(kw_only=True)
class RemoteReference:
    """What a reference says.

    `name` is the model's name on its servers, "" for the only one that they have. `revision` is
    declared by the user. `key_variable` names the variable with the API key. `timeout_s` is how
    long a server may send nothing. A request is tried again after a pause at most `retries` times.
    With `ignores_fingerprint` it does not matter what the servers report.
    """

    text: str
    addresses: tuple[Address, ...]
    name: str
    revision: str | None = None
    key_variable: str | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S
    retries: int = DEFAULT_RETRIES
    ignores_fingerprint: bool = False

    @classmethod
    def parse(cls, text: str) -> RemoteReference:
        """
        Raises:
            ModelNotFoundError: it is no reference of a remote model.
        """
        head, _, fragment = text.removeprefix(REMOTE_PREFIX).partition("#")
        urls, _, query = head.partition("?")
        name, at, revision = unquote(fragment).rpartition("@")
        if not at:
            name, revision = revision, ""
        elif not name:  # a name that begins with @, as some hosts have them
            name, revision = "@" + revision, ""
        addresses = tuple(_address(text, url.strip()) for url in urls.split(","))
        if len(set(addresses)) < len(addresses):
            _refuse(text, "an address is there twice")
        try:
            return cls(
                text=text,
                addresses=addresses,
                name=name,
                revision=revision or None,
                **_options(text, query),
            )
        except InvalidRequestError as exc:
            raise ModelNotFoundError(f"the model {_shown(text)} is not allowed: {exc}") from None

    def api_key(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The key for the servers, None for none.

        Raises:
            SettingsError: the variable that the reference names is not set, or has no key.
        """
        variable = self.key_variable or DEFAULT_KEY_VARIABLE
        key = environ.get(variable, "").strip()
        if not key:
            if self.key_variable is None:
                return None
            raise SettingsError(
                f"the environment variable {variable}, which the model reference names, is not "
                "set: set it to the API key"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            # Not shown: it is a secret.
            raise SettingsError(
                f"{variable} is no API key: it has spaces, or other characters than those of ASCII"
            )
        return key


def _options(text: str, query: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        match name:
            case "timeout_s":
                found[name] = number(name, _number(value), 0, 86_400, above=True)
            case "retries":
                found[name] = whole_number(name, _number(value), 0, 1000)
            case "api_key":
                if not value.isidentifier():
                    # Not shown: it may be the key itself.
                    _refuse(
                        None,
                        "its api_key is the name of an environment variable that has the key, as "
                        "in ?api_key=OPENAI_API_KEY",
                    )
                found["key_variable"] = value
            case "fingerprint":
                if value != "ignore":
                    _refuse(text, "fingerprint=ignore is the only value")
                found["ignores_fingerprint"] = True
            case _:
                _refuse(None, f"it has the option {name!r}; there are {', '.join(_OPTIONS)}")
    return found


def _number(value: str) -> object:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def _address(text: str, url: str) -> Address:
    url = url.removeprefix(REMOTE_PREFIX)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        _refuse(None, f"an address is no URL: {exc}")
    if parts.username is not None or parts.password is not None:
        _refuse(
            None,
            f"no password is in an address: set {DEFAULT_KEY_VARIABLE}, or the variable that "
            "?api_key= names, to the API key",
        )
    if parts.scheme == "unix":
        return _unix_address(text, parts.netloc, unquote(parts.path))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        _refuse(text, f"an address begins with http://, https:// or unix:///, as in {_EXAMPLE}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    at = host if port is None else f"{host}:{port}"
    return Address(f"{parts.scheme}://{at}{parts.path.rstrip('/') or '/v1'}")


def _unix_address(text: str, host: str, path: str) -> Address:
    """The socket's path ends with .sock, .socket or a colon, and is all of it without one."""
    if host or not path.startswith("/"):
        _refuse(text, f"as in {REMOTE_PREFIX}unix:///run/asteady.sock#name, the path is absolute")
    socket, colon, base = path.partition(":")
    if not colon:
        names = path.split("/")
        for at, name in enumerate(names):
            if name.endswith((".sock", ".socket")):
                socket, base = "/".join(names[: at + 1]), "/".join(["", *names[at + 1 :]])
                break
    # The host is only for the header that HTTP needs.
    return Address(f"http://localhost{base.rstrip('/') or '/v1'}", socket)


def _refuse(text: str | None, reason: str) -> NoReturn:
    shown = "a reference of a remote model" if text is None else f"the model {_shown(text)}"
    raise ModelNotFoundError(f"{shown} is not allowed: {reason}")


def _shown(text: str) -> str:
    return repr(shorten(text, 200))
