"""Entries from elsewhere, taken into a cache in one transaction.

The better frecency of the two is kept, and what does not fit into the budgets goes by the policy,
ours and theirs alike. First all rows, then the answers of those that stay: an answer that would go
at once is never written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asteady._cache.policy import Policy, Row, State, Tide, _uncount_ghost, shrink
from asteady._cache.store.api import Incoming, Merge, Merged
from asteady._cache.store.codec import payload_bytes
from asteady._cache.store.tags import add_tags

if TYPE_CHECKING:
    from asteady._cache.policy import Budget
    from asteady._cache.store.transaction import _Commit

# Answers are written when so many bytes have gathered, so that an import of any size needs little
# memory.
GATHERED_BYTES = 8 * 1024 * 1024


def standing(policy: Policy, level: float, row: Row, budget: Budget) -> float:
    """How many touches' worth a live row is above the tide: its touches, less what has aged.

    Unlike a priority it means the same in a cache of another size or level. Policies without a
    tide do not age: there it is the touches.
    """
    if not isinstance(policy, Tide):
        return float(row.touches)
    above = (row.priority - level) / policy.value(row, budget)
    return min(float(row.touches), max(0.0, above))


def merge(commit: _Commit[Any], op: Merge) -> Merged:
    """Do the operation within the transaction that `commit` is.

    Raises whatever `op.values` raises; the transaction is to be rolled back then.
    """
    tables, ledger, state = commit.tables, commit.ledger, commit.state
    policy, budget = tables.policy, tables.budget
    new: list[Row] = []
    known = oversized = 0
    # The one used longest ago first: policies that go by recency get them in that order.
    for entry in sorted(op.entries, key=lambda entry: (entry.used_s, entry.key)):
        row = ledger.find(entry.key)
        if row is not None and row.live:
            known += 1
            add_tags(commit, row, entry.namespaces)
        elif entry.size_bytes > budget.max_bytes:
            oversized += 1
            continue
        else:
            if row is None:
                state.meet(budget.share(entry.size_bytes))
            else:
                _uncount_ghost(state, row.touches)
                ledger.remove(row)
            row = Row(entry.key, entry.size_bytes, entry.cost_s, live=True)
            row.created_s = min(entry.created_s, commit.now_s)
            state.entries += 1
            state.size_bytes += entry.size_bytes
            new.append(row)
        _take(policy, state, budget, row, entry)
        row.used_s = max(row.used_s, min(entry.used_s, commit.now_s))
        ledger.save(row)
    gone = shrink(policy, ledger, state, budget)
    # What came and went at once has no answer yet.
    commit.dropped([row for row in gone if row.slot])
    added = _store_answers(commit, op, {row.key for row in new})
    return Merged(
        entries=len(op.entries),
        added=added,
        known=known,
        declined=len(new) - added,
        oversized=oversized,
        evicted=sum(1 for row in gone if row.slot),
    )


def _take(policy: Policy, state: State, budget: Budget, row: Row, entry: Incoming) -> None:
    """Give the row the better of its own frecency and the other's; never a worse one."""
    if isinstance(policy, Tide):
        above = min(float(entry.touches), max(0.0, entry.standing))
        row.touches = max(row.touches, entry.touches)
        row.priority = max(row.priority, state.level + above * policy.value(row, budget))
    elif entry.touches > row.touches or entry.used_s > row.used_s:
        policy.touch(state, row, budget, max(0, entry.touches - row.touches))


def _store_answers(commit: _Commit[Any], op: Merge, new: set[str]) -> int:
    added = gathered_bytes = 0
    for entry in op.entries:
        row = commit.ledger.find(entry.key) if entry.key in new else None
        if row is None or not row.live:
            continue
        values = op.values(entry.key)
        commit.slots += 1
        row.slot = commit.slots
        commit.ledger.save(row)
        if entry.namespaces:
            commit.tags.of(row.slot).update(entry.namespaces)
        commit.answers[row.slot] = (row.slot, *values)
        added += 1
        gathered_bytes += payload_bytes(values)
        if gathered_bytes > GATHERED_BYTES:
            commit.write_answers()
            gathered_bytes = 0
    return added
