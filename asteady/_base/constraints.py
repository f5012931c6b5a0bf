"""The form that an answer must have: a JSON schema, choices, a regular expression or a grammar.

Nothing here compiles anything: that needs a model's vocabulary.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, TypeAlias

import attrs

from asteady._base import validation
from asteady._base.errors import InvalidRequestError
from asteady._base.public import public
from asteady._base.validation import refuse

ConstraintKind: TypeAlias = Literal["json", "choices", "regex", "lark"]

# A grammar is compiled in a thread that other requests need too: so much takes a second or two.
MAX_CONSTRAINT_CHARACTERS = 2**19
MAX_CHOICES = 10_000


@public
@attrs.frozen
class Constraint:
    """A form in canonical form.

    `source` is the JSON schema without spaces and with its keys in the given order, which is that
    of the properties in the answer; a JSON list of the choices, sorted; the regular expression; or
    the grammar in Lark's syntax.
    """

    kind: ConstraintKind
    source: str

    def key(self) -> tuple[str, str, str]:
        """Its part of a request's key; another version of the library may allow other tokens."""
        return self.kind, self.source, _library_version()

    @property
    def choices(self) -> list[str]:
        """The choices, if it has them."""
        found: list[str] = json.loads(self.source)
        return found


def constraint_of(
    *,
    schema: Mapping[str, Any] | bool | str | None = None,
    choices: Iterable[str] | None = None,
    regex: str | None = None,
    grammar: str | None = None,
) -> Constraint | None:
    """The one that is given; None if none is.

    Raises:
        InvalidRequestError: more than one is given, or it is not allowed.
    """
    given = {
        "schema": schema,
        "choices": choices,
        "regex": regex,
        "grammar": grammar,
    }
    names = [name for name, value in given.items() if value is not None]
    if not names:
        return None
    if len(names) > 1:
        raise InvalidRequestError(f"give one of {', '.join(names)}: an answer has one form")
    (name,) = names
    if name == "schema":
        constraint = Constraint("json", _json("schema", schema))
    elif name == "choices":
        constraint = Constraint("choices", _choices(choices))
    else:
        kind: ConstraintKind = "regex" if name == "regex" else "lark"
        source = validation.text(name, given[name])
        if not source:
            raise refuse(name, source, "it must have at least one character")
        constraint = Constraint(kind, source)
    if len(constraint.source) > MAX_CONSTRAINT_CHARACTERS:
        raise InvalidRequestError(
            f"{name} has {len(constraint.source):,} characters, and may have at most "
            f"{MAX_CONSTRAINT_CHARACTERS:,}"
        )
    return constraint


def _json(name: str, value: object) -> str:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as exc:
            raise refuse(name, value, f"it is not JSON: {exc}") from None
    if not isinstance(value, Mapping | bool):
        raise refuse(name, value, 'a JSON schema, such as {"type": "object", "properties": {...}}')
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidRequestError(f"{name} is not allowed: it cannot be JSON: {exc}") from None
    return validation.text(name, text)


def _choices(value: object) -> str:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise refuse("choices", value, 'a list of texts, such as ["yes", "no"]')
    texts = {validation.text("choices", item) for item in value}
    if not texts or "" in texts:
        raise refuse("choices", value, "at least one choice, each of at least one character")
    if len(texts) > MAX_CHOICES:
        raise InvalidRequestError(f"{len(texts):,} choices are too many: at most {MAX_CHOICES:,}")
    return json.dumps(sorted(texts), ensure_ascii=False)


@functools.cache
def _library_version() -> str:
    try:
        return version("llguidance")
    except PackageNotFoundError:
        return ""
