"""Checks of arguments and of optional libraries; messages name what is refused and the remedy.

A check of an argument returns its canonical value: a plain `str` for a subclass, 0.0 for -0.0.
"""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Iterable, Mapping
from decimal import Decimal
from itertools import islice
from numbers import Real
from typing import Any

from asteady._base.errors import AsteadyError, InvalidRequestError, SettingsError

SLICE = 2**16
"""How many characters of a text are looked at in one step, which lets no other thread run."""


def shorten(text: str, limit: int) -> str:
    """The text if it has at most `limit` characters, else its beginning with "..." at the end."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def refuse(
    name: str, value: object, allowed: str, error: type[AsteadyError] = InvalidRequestError
) -> AsteadyError:
    """The error to raise for an argument that is not allowed."""
    return error(f"{name}={shorten(_shown(value), 80)} is not allowed: {allowed}")


def _shown(value: object, depth: int = 3) -> str:
    """The beginning of ``repr(value)``, of at least 80 characters, without making all of it."""
    if isinstance(value, str | bytes | bytearray):
        return repr(value[:80])
    if depth and type(value) in (list, tuple):
        items = [_shown(item, depth - 1) for item in value[:40]]  # type: ignore[index]
        if type(value) is list:
            return "[" + ", ".join(items) + "]"
        return "(" + ", ".join(items) + (",)" if len(items) == 1 else ")")
    if depth and type(value) is dict:
        pairs = islice(value.items(), 40)
        return "{" + ", ".join(f"{_shown(k)}: {_shown(v, depth - 1)}" for k, v in pairs) + "}"
    try:
        return repr(value)
    except Exception:  # a __repr__ of the caller's, or too deeply nested
        return f"<{type(value).__name__}>"


def text(name: str, value: object) -> str:
    """Valid Unicode, as a plain `str`."""
    if not isinstance(value, str):
        raise refuse(name, value, f"a str is needed, not {type(value).__name__}")
    # A subclass of str may compare, print or encode as it likes.
    plain = value if type(value) is str else str.__str__(value)
    for start in range(0, len(plain), SLICE):
        part = plain[start : start + SLICE]
        try:
            part.encode()
        except UnicodeEncodeError as exc:
            raise refuse(
                name,
                part[exc.start : exc.end],
                "text must be valid Unicode, without lone surrogates",
            ) from None
    return plain


def scalar(value: Any) -> object:
    """A scalar of numpy, or an array or tensor without dimensions, as Python's own number."""
    return value.item() if getattr(value, "shape", None) == () else value


def whole_number(
    name: str,
    value: object,
    low: int,
    high: int | None = None,
    *,
    allowed: str = "",
    error: type[AsteadyError] = InvalidRequestError,
) -> int:
    """An integer, of numpy too, but no `bool`, from `low` to `high`; as a plain `int`.

    `allowed` replaces the description of the type and range in the message.
    """
    try:
        plain = scalar(value)
        if isinstance(plain, bool):
            raise TypeError
        whole = int(operator.index(plain))  # type: ignore[arg-type]  # refused if not
    except TypeError:
        raise refuse(
            name, value, allowed or f"an int is needed, not {type(value).__name__}", error
        ) from None
    if whole < low or (high is not None and whole > high):
        limits = f"at least {low}" if high is None else f"a whole number from {low} to {high}"
        raise refuse(name, value, allowed or limits, error)
    return whole


def number(
    name: str,
    value: object,
    low: float,
    high: float,
    *,
    allowed: str = "",
    above: bool = False,
    error: type[AsteadyError] = InvalidRequestError,
) -> float:
    """A finite number, of numpy, `decimal` and `fractions` too, but no `bool`; from `low` (with
    `above`: more than `low`) to `high`, as a plain `float`.

    `allowed` replaces the description of the range in the message.
    """
    plain: Any = scalar(value)
    # Most are plain, and to ask an abstract class takes a microsecond.
    if type(plain) not in (float, int) and (
        isinstance(plain, bool) or not isinstance(plain, Real | Decimal)
    ):
        raise refuse(
            name, value, allowed or f"a number is needed, not {type(value).__name__}", error
        )
    try:
        real = float(plain)
    except (OverflowError, ValueError):  # ValueError: a signaling NaN of decimal
        real = math.inf
    if not (math.isfinite(real) and low <= real <= high) or (above and real == low):
        raise refuse(name, value, allowed or f"a number from {low:g} to {high:g}", error)
    return real + 0.0  # turns -0.0 into 0.0


def seconds(name: str, value: object, *, above: bool = False) -> float:
    """A duration in seconds: 0 or more, or with `above` more than 0."""
    allowed = "seconds, more than 0" if above else "seconds, 0 or more"
    return number(name, value, 0, math.inf, allowed=allowed, above=above)


def percent(name: str, value: object) -> float:
    return number(name, value, 0, 100, allowed="0 to 100, in percent")


def share(name: str, value: object) -> float:
    return number(name, value, 0, 1, allowed="above 0, at most 1 (0.95 is 95 %)", above=True)


def flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise refuse(name, value, "True or False")
    return value


def one_of(name: str, value: Any, allowed: Iterable[Any]) -> Any:
    """One of these values, or of a subclass of its type; `value` need not be hashable."""
    every = list(allowed)
    if not any(isinstance(value, type(item)) and value == item for item in every):
        shown = ", ".join(f'"{item}"' if isinstance(item, str) else repr(item) for item in every)
        raise refuse(name, value, f"one of {shown}")
    return value


def check_list(name: str, value: object, of: str) -> None:
    """An iterable, but no single `str` or mapping, whose characters or keys would be its items."""
    if isinstance(value, (str, bytes, Mapping)):
        raise InvalidRequestError(f"{name} is one {type(value).__name__}: give a list of {of}")
    if not isinstance(value, Iterable):
        raise refuse(name, value, f"a list of {of}")


def needs(module: str, *, extra: str) -> Any:
    """Import a module that one of the package's extras installs.

    Raises:
        SettingsError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise SettingsError(f'this needs {package}: pip install "asteady[{extra}]"') from None
