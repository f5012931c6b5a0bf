"""A text that has a given form, for answers without a model."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from asteady._base.constraints import Constraint
from asteady._base.errors import InvalidRequestError

if TYPE_CHECKING:
    from asteady._engine.output.grammar import Grammars

# Where the form leaves a choice, the first of these that it allows: what ends something, first.
_PREFERRED = b'"}],0aA1-. :'
_ORDER = [*_PREFERRED, *(byte for byte in range(256) if byte not in _PREFERRED)]
_LONGEST_BYTES = 5_000
_END = 256


class _Bytes:
    """A vocabulary with a token for each byte, and one for the end."""

    size = 257
    eos = _END

    def piece(self, token: int) -> bytes:
        return b"" if token == _END else bytes([token])

    def whole_piece(self, token: int) -> bytes:
        return b"<end>" if token == _END else bytes([token])

    def ends(self) -> list[int]:
        return [_END]


@functools.cache
def _grammars() -> Grammars:
    from asteady._engine.output.grammar import Grammars

    return Grammars(_Bytes())


def example_of(constraint: Constraint) -> str:
    """The same short text each time.

    Raises:
        InvalidRequestError: the form is not valid, or no short text has it.
    """
    import numpy as np

    from asteady._engine.output.grammar import Form, MaskThread

    matcher = _grammars().compile(constraint)
    # Of "0*1" the first way has no end.
    for choose in (_first, _drawn(random.Random(0), constraint.kind == "json")):
        form = Form(matcher, MaskThread())
        found = bytearray()
        while len(found) < _LONGEST_BYTES:
            logits = np.zeros(_Bytes.size, np.float32)
            form.apply(logits)
            if np.isfinite(logits[_END]):
                return found.decode()
            byte = choose([byte for byte in _ORDER if np.isfinite(logits[byte])])
            found.append(byte)
            if form.accept(byte):
                return found.decode()
    raise InvalidRequestError("no short text has the form of the answer: give the FakeEngine one")


def _first(allowed: list[int]) -> int:
    return allowed[0]


def _drawn(draw: random.Random, quotes_end: bool) -> Callable[[list[int]], int]:
    def choose(allowed: list[int]) -> int:
        preferred = [byte for byte in allowed if byte in _PREFERRED]
        if quotes_end and preferred[:1] == [ord('"')]:
            return preferred[0]
        return draw.choice(preferred if preferred and draw.random() < 0.5 else allowed)

    return choose
