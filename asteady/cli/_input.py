"""Reading standard input."""

from __future__ import annotations

import sys

from asteady._base.errors import InvalidRequestError


def read_standard_input(what: str) -> str:
    """All of standard input, decoded as UTF-8.

    Raises:
        InvalidRequestError: it is a terminal (nobody means to type a prompt there unasked), or no
            valid UTF-8.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise InvalidRequestError(f"give {what} as an argument, or pipe it to standard input")
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidRequestError(f"standard input is not valid UTF-8: {exc}") from None
