"""Whether texts have the form that was asked for, where a server may ignore it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from asteady._base.constraints import Constraint
from asteady._base.forks import fork_gate

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
    """Whether all of the text has this form, byte by byte: of JSON only one spelling has.

    Raises:
        InvalidRequestError: the form is not valid, or no text has it.
    """
    matcher = _grammars().compile(constraint).copy()
    return all(map(matcher.accept, text.encode())) and matcher.accepting
