"""Which keys are worth keeping most: their uses, in bounded memory."""

from __future__ import annotations

from typing import Any

import attrs

from asteady._base.requests import Key
from asteady.operate._accesses import Access


@attrs.frozen(kw_only=True)
class CachePriority:
    """A key that was asked for, and what keeping its entry saves.

    `saves_s` is what its uses after the first one would have cost: the seconds of computation that
    were saved by keeping it, or would have been. `prompt` is its beginning.
    """

    key: Key
    prompt: str
    seed: int | None
    count: int
    cost_s: float
    size_bytes: int
    saves_s: float


class Uses:
    """Counts uses of at most 2 x `limit` keys: beyond, the half that saves least is forgotten."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._by_key: dict[Key, CachePriority] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, access: Access, prompt: str = "", seed: int | None = None) -> None:
        known = self._by_key.get(access.key)
        count = known.count + 1 if known else 1
        saves_s = known.saves_s + access.cost_s if known else 0.0
        # The latest goes to the end: among keys that save the same, the oldest are forgotten.
        self._by_key.pop(access.key, None)
        self._by_key[access.key] = CachePriority(
            key=access.key,
            prompt=prompt or (known.prompt if known else ""),
            seed=seed if seed is not None else (known.seed if known else None),
            count=count,
            cost_s=access.cost_s,
            size_bytes=access.size_bytes,
            saves_s=saves_s,
        )
        if len(self._by_key) > 2 * self._limit:
            forgotten = sorted(self._by_key.values(), key=lambda use: use.saves_s)
            for use in forgotten[: len(self._by_key) - self._limit]:
                del self._by_key[use.key]

    def top(self, n: int) -> list[CachePriority]:
        """Those that save most, best first."""
        return sorted(self._by_key.values(), key=lambda use: (-use.saves_s, use.key))[:n]

    def often(self, more_than: int) -> int:
        """How many keys were used more often than this."""
        return sum(1 for use in self._by_key.values() if use.count > more_than)

    def state(self) -> list[dict[str, Any]]:
        return [attrs.asdict(use) for use in self._by_key.values()]

    def restore(self, state: list[dict[str, Any]]) -> None:
        for record in state:
            use = CachePriority(**record)
            self._by_key[use.key] = use
