"""How a difference between two answers is described."""

from __future__ import annotations

import attrs

from asteady.operate._verify import difference
from tests.cache.helpers import completion


def test_a_difference_in_the_reasoning_is_described() -> None:
    one = completion("Hello", reasoning="I see", reasoning_chunks=("I see",), reasoning_tokens=2)
    other = attrs.evolve(one, reasoning="I saw", reasoning_chunks=("I saw",))
    assert difference(one, one) is None
    assert difference(one, other) == "reasoning: stored 'I see', computed 'I saw'"
