"""Whether texts have the form that was asked for, where a server may ignore it."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from asteady._base.constraints import Constraint
from asteady._base.forks import fork_gate
from asteady._base.validation import needs

if TYPE_CHECKING:
    from asteady._engine.output.grammar import Grammars


class _Bytes:
    """A vocabulary of which each byte is a token."""

    size = 257
    eos = 256

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < self.eos else b""

    def whole_piece(self, token: int) -> bytes:
        return self.piece(token)

    def ends(self) -> list[int]:
        return [self.eos]


@functools.cache
def _grammars() -> Grammars:
    with fork_gate:  # it imports numpy, which few remote models need
        from asteady._engine.output.grammar import Grammars

    return Grammars(_Bytes())


def has_form(text: str, constraint: Constraint) -> bool:
    """Whether a whole text has this form.

    Raises:
        SettingsError: it is JSON, and jsonschema is not installed.
        InvalidRequestError: the form is not valid, or no text has it.
    """
    match constraint.kind:
        case "choices":
            return text in constraint.choices
        case "json":
            return _has_schema(text, json.loads(constraint.source))
    matcher = _grammars().compile(constraint).copy()
    return all(map(matcher.accept, text.encode())) and matcher.accepting


def _has_schema(text: str, schema: Any) -> bool:
    # Not by a grammar: that has one order of keys, and servers have others.
    needs("jsonschema", extra="remote")
    with fork_gate:
        from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
        from jsonschema.validators import validator_for  # type: ignore[import-untyped]
        from referencing import Registry
    try:
        value = json.loads(text)
        validator = validator_for(schema, default=Draft202012Validator)
        # An empty registry: a schema must not make it ask the network for another one.
        return bool(validator(schema, registry=Registry()).is_valid(value))
    except (ValueError, RecursionError):
        return False
