"""Which entry goes when the cache is full: pure policies over rows. No I/O, no clock.

A `Policy` gives each row a priority; `remember`, `touch`, `forget` and `shrink` apply it to an
`EvictionIndex`, which is a table of rows that finds the lowest. The store's index is in SQLite; the
benchmark replays access traces through the same one.

Tide, the default, reads: recency is a rising tide (`State.level`), frequency lifts an entry above
it, and an entry is worth what it would cost to compute again per share of the scarcer budget.
Ghosts, which are rows of evicted entries without their answer, teach it how much a newcomer is
worth (`State.phi`). It was chosen by simulation over public traces (docs/performance.md).
"""

from __future__ import annotations

import math
from typing import Protocol

import attrs

from asteady._base.requests import Key

GHOSTS_PER_ENTRY = 3
PHI_START = 0.5
PHI_LOW, PHI_HIGH = 0.1, 4.0
# A returning ghost proves that its entry went too early: three touches more, at half weight.
GHOST_TOUCHES = 3
# A turnover is a sum of shares, and a hundred hundredths are not quite one.
TURN_ROUNDING = 1e-9
# Newcomers over which the mean share is taken, once there were so many.
MEAN_OF = 4096
# What costs nothing to compute would never gain by being used often.
COST_FLOOR_S = 1e-6
# LFU breaks ties by recency; the clock must stay below one touch for 2**40 operations.
LFU_TICK = 2.0**-40


@attrs.frozen
class Budget:
    """How much a cache may hold. Both limits hold after every commit."""

    max_entries: int
    max_bytes: int

    def share(self, size_bytes: int) -> float:
        """The part of the scarcer budget that an entry of this size takes, from 0 to 1."""
        return max(size_bytes / self.max_bytes, 1.0 / self.max_entries)


@attrs.define(eq=False)
class Row:
    """One entry as its policy sees it, or the ghost of one that was evicted (not `live`).

    Of a ghost only `touches` and `turn`, the state's turn at eviction, are remembered. `slot`
    (where the answer is stored) and the two times (in seconds since the epoch) are the store's; no
    policy looks at them.
    """

    key: Key
    size_bytes: int
    cost_s: float
    touches: int = 0
    priority: float = 0.0
    turn: float = 0.0
    live: bool = False
    slot: int = 0
    created_s: float = 0.0
    used_s: float = 0.0


@attrs.define
class State:
    """What a policy knows about the whole cache. `turn` counts turnovers of the budget."""

    entries: int = 0
    size_bytes: int = 0
    level: float = 0.0
    phi: float = PHI_START
    turn: float = 0.0
    ghosts_once: int = 0
    ghosts_more: int = 0
    newcomers: int = 0
    mean_share: float = 0.0

    @property
    def ghosts(self) -> int:
        return self.ghosts_once + self.ghosts_more

    def meet(self, share: float) -> None:
        """Take the share of a key that was not remembered into the mean over newcomers."""
        self.newcomers += 1
        self.mean_share += (share - self.mean_share) / min(self.newcomers, MEAN_OF)

    def full(self, budget: Budget) -> int:
        """Entries at full budget: as many as fit, judged by what came, not by what stayed."""
        if not self.newcomers:
            return budget.max_entries
        return max(1, min(budget.max_entries, round(1 / self.mean_share)))


class EvictionIndex(Protocol):
    """A table of rows. A row that was found may be changed, and counts once it is saved."""

    def find(self, key: Key) -> Row | None: ...

    def save(self, row: Row) -> None: ...

    def remove(self, row: Row) -> None: ...

    def lowest(self) -> Row | None:
        """The live row with the lowest priority, ties by key."""
        ...

    def drop_oldest_ghost(self) -> int | None:
        """Remove the ghost that was evicted longest ago; its touches, or None if there is none."""
        ...


class Policy:
    """Sets `row.priority`; the rows of lowest priority go first."""

    name: str
    ghosts_per_entry = 0

    def touch(self, state: State, row: Row, budget: Budget, touches: int) -> None:
        """The entry was used this many times."""
        raise NotImplementedError

    def insert(self, state: State, row: Row, budget: Budget) -> None:
        """A key that is not remembered at all."""
        self.touch(state, row, budget, 1)

    def learn(self, state: State, row: Row, budget: Budget) -> None:
        """Called with a returning ghost before room is made for it."""

    def welcome(self, state: State, row: Row, budget: Budget) -> None:
        """A key whose ghost is remembered has been computed again."""
        self.touch(state, row, budget, 1)

    def evict(self, state: State, row: Row, budget: Budget) -> None:
        """The row is about to be evicted."""


class Tide(Policy):
    """Frecency; see the module's docstring. `value` is v, `state.level` L, `state.phi` phi."""

    name = "tide"
    ghosts_per_entry = GHOSTS_PER_ENTRY

    @staticmethod
    def value(row: Row, budget: Budget) -> float:
        return max(row.cost_s, COST_FLOOR_S) / budget.share(row.size_bytes)

    def insert(self, state: State, row: Row, budget: Budget) -> None:
        row.touches = 1
        row.priority = state.level + state.phi * self.value(row, budget)

    def learn(self, state: State, row: Row, budget: Budget) -> None:
        # Only a ghost that returns within one turnover would have been there had it been worth
        # more. Counts include the one that returns, so neither is zero for its own kind.
        if state.turn - row.turn >= 1.0 - TURN_ROUNDING:
            return
        if row.touches == 1:
            weight = max(1.0, state.ghosts_more / max(1, state.ghosts_once))
        else:
            weight = -max(1.0, state.ghosts_once / max(1, state.ghosts_more))
        phi = state.phi * 2.0 ** (weight / state.full(budget))
        state.phi = min(PHI_HIGH, max(PHI_LOW, phi))

    def welcome(self, state: State, row: Row, budget: Budget) -> None:
        row.touches += GHOST_TOUCHES
        row.priority = state.level + row.touches * self.value(row, budget) / 2

    def touch(self, state: State, row: Row, budget: Budget, touches: int) -> None:
        row.touches += touches
        row.priority = state.level + row.touches * self.value(row, budget)

    def evict(self, state: State, row: Row, budget: Budget) -> None:
        state.level = max(state.level, row.priority)


class Lru(Policy):
    """The entry goes that was used longest ago. `state.level` counts uses."""

    name = "lru"

    def touch(self, state: State, row: Row, budget: Budget, touches: int) -> None:
        row.touches += touches
        state.level += 1.0
        row.priority = state.level


class Lfu(Policy):
    """The entry goes that was used least often; among equals, longest ago."""

    name = "lfu"

    def touch(self, state: State, row: Row, budget: Budget, touches: int) -> None:
        row.touches += touches
        state.level += 1.0
        row.priority = row.touches + state.level * LFU_TICK


POLICIES: dict[str, Policy] = {policy.name: policy for policy in (Tide(), Lru(), Lfu())}


def remember(
    policy: Policy,
    index: EvictionIndex,
    state: State,
    budget: Budget,
    key: Key,
    size_bytes: int,
    cost_s: float,
) -> tuple[Row, list[Row]]:
    """Put an entry in, and make exactly the room that it needs.

    Returns its row, and the rows of others that were evicted for it and are ghosts now. If its row
    is not live, the entry ranks below all it would have to displace, and is a ghost itself. Where
    evicting one other entry is enough, it is admitted all the same: what was just computed may be
    requested again at once. (Entries of about equal size are never declined.)

    Raises:
        ValueError: it is larger than the whole budget, or its cost is no finite number.
    """
    if size_bytes > budget.max_bytes:
        raise ValueError(f"{size_bytes} bytes are more than the budget of {budget.max_bytes}")
    if not (math.isfinite(cost_s) and cost_s >= 0):
        raise ValueError(f"cost_s={cost_s!r} is not a finite number of seconds")
    row = index.find(key)
    if row is None:
        state.meet(budget.share(size_bytes))
        row = Row(key, size_bytes, cost_s)
        policy.insert(state, row, budget)
    elif row.live:
        _uncount(state, row)
        row.live = False  # no candidate while room is made for its new size
        row.size_bytes, row.cost_s = size_bytes, cost_s
        policy.touch(state, row, budget, 1)
    else:
        policy.learn(state, row, budget)
        count_ghost(state, row.touches, -1)
        index.remove(row)  # making room must not drop it as the oldest ghost
        row.size_bytes, row.cost_s = size_bytes, cost_s
        row.slot = 0  # its answer is gone, and the slot may be another's by now
        policy.welcome(state, row, budget)
    evicted: list[Row] = []
    while over := _over(state, budget, row):
        other = index.lowest()
        if other is None:  # the totals say more than the rows; the store counts anew when it opens
            break
        last = (row.priority, row.key) < (other.priority, other.key)
        if not last:
            policy.evict(state, other, budget)
        elif evicted or other.size_bytes < over:
            policy.evict(state, row, budget)
            _let_go(policy, index, state, budget, row)
            _drop_ghosts(policy, index, state, budget)
            return row, evicted
        _uncount(state, other)
        _let_go(policy, index, state, budget, other)
        evicted.append(other)
    _drop_ghosts(policy, index, state, budget)
    row.live = True
    state.entries += 1
    state.size_bytes += size_bytes
    # Last of all, so that the store can still fill in its own fields.
    index.save(row)
    return row, evicted


def live_row(index: EvictionIndex, key: Key) -> Row | None:
    """The row of an entry; None if the key is not known, or only its ghost is."""
    row = index.find(key)
    return row if row is not None and row.live else None


def touch(
    policy: Policy, index: EvictionIndex, state: State, budget: Budget, key: Key, touches: int
) -> bool:
    """Count this many uses of an entry; False if it is not there (any more)."""
    row = live_row(index, key)
    if row is not None:
        policy.touch(state, row, budget, touches)
        index.save(row)
    return row is not None


def forget(index: EvictionIndex, state: State, key: Key) -> Row | None:
    """Remove an entry and leave no ghost; returns its row, or None if it was not there."""
    row = live_row(index, key)
    if row is not None:
        _uncount(state, row)
        index.remove(row)
    return row


def adopt(policy: Policy, index: EvictionIndex, budget: Budget, rows: list[Row]) -> State:
    """A new state over these live rows, ranked anew in their order; there are no others.

    For rows that another policy ranked, or this one for another budget.
    """
    state = State()
    for row in rows:
        state.entries += 1
        state.size_bytes += row.size_bytes
        state.meet(budget.share(row.size_bytes))
        policy.touch(state, row, budget, 0)
        index.save(row)
    return state


def shrink(policy: Policy, index: EvictionIndex, state: State, budget: Budget) -> list[Row]:
    """Evict until both budgets hold; for a cache that is opened with smaller ones."""
    evicted: list[Row] = []
    while state.entries > budget.max_entries or state.size_bytes > budget.max_bytes:
        row = index.lowest()
        if row is None:
            break
        policy.evict(state, row, budget)
        _uncount(state, row)
        _let_go(policy, index, state, budget, row)
        evicted.append(row)
    _drop_ghosts(policy, index, state, budget)
    return evicted


def _over(state: State, budget: Budget, row: Row) -> int:
    """How many bytes another must have for this row to fit in its place; 0 if it fits as it is."""
    over_bytes = state.size_bytes + row.size_bytes - budget.max_bytes
    if over_bytes > 0:
        return over_bytes
    return 1 if state.entries + 1 > budget.max_entries else 0


def _let_go(policy: Policy, index: EvictionIndex, state: State, budget: Budget, row: Row) -> None:
    row.live = False
    row.turn = state.turn
    state.turn += budget.share(row.size_bytes)
    if policy.ghosts_per_entry:
        count_ghost(state, row.touches, 1)
        index.save(row)
    else:
        index.remove(row)


def _drop_ghosts(policy: Policy, index: EvictionIndex, state: State, budget: Budget) -> None:
    if not state.ghosts:
        return
    keep = policy.ghosts_per_entry * state.full(budget)
    while state.ghosts > keep:
        touches = index.drop_oldest_ghost()
        if touches is None:
            break
        count_ghost(state, touches, -1)


def _uncount(state: State, row: Row) -> None:
    state.entries -= 1
    state.size_bytes -= row.size_bytes


def count_ghost(state: State, touches: int, change: int) -> None:
    """One ghost more or less, by `change` of 1 or -1."""
    if touches == 1:
        state.ghosts_once += change
    else:
        state.ghosts_more += change
