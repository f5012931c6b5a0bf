"""What a chat template is given besides the messages: the date, variables, tools."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from asteady._base.errors import AsteadyError, InvalidRequestError
from asteady._base.messages import canonical_json
from asteady._base.validation import refuse, text

DEFAULT_DATE = "2024-07-26"
"""The date of prompts that have none of their own: the one that Llama's templates write where there
is no clock. It never changes, so that a request has the same answer on another day."""

TODAY = "today"

# What asteady gives to a template itself.
_TAKEN = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "bos_token",
    "eos_token",
    "raise_exception",
    "strftime_now",
]


def date_of(name: str, value: object, *, error: type[AsteadyError] = InvalidRequestError) -> str:
    """An ISO date; "today" stays as it is.

    Raises:
        AsteadyError: it is no date.
    """
    if isinstance(value, datetime.datetime):
        value = value.date()
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, str):
        if value == TODAY:
            return TODAY
        try:
            found = datetime.date.fromisoformat(value)
        except ValueError:
            pass
        else:
            return found.isoformat()
    raise refuse(name, value, '"today", or a date such as "2026-11-25"', error)


def resolved(date: str) -> str:
    """The date of `date_of`, with that of today, in the local time zone, for "today"."""
    return datetime.date.today().isoformat() if date == TODAY else date


def template_options(value: object) -> tuple[tuple[str, str], ...]:
    """The names of a template's variables and their values as JSON, in the order of the names.

    Raises:
        InvalidRequestError: a name is taken or none, or JSON has no such value.
    """
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise refuse("chat_template_kwargs", value, 'a mapping like {"enable_thinking": False}')
    found = {}
    for name, item in value.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise refuse("chat_template_kwargs", value, f"{name!r} is no name of a variable")
        if name in _TAKEN:
            raise refuse(
                f"chat_template_kwargs[{name!r}]", item, f"{name} is given by asteady itself"
            )
        found[text("chat_template_kwargs", name)] = canonical_json(
            f"chat_template_kwargs[{name!r}]", item
        )
    return tuple(sorted(found.items()))
