"""The policies again, written down as naively as can be: a list that is searched every time."""

from __future__ import annotations

from asteady._cache.policy import Row


class NaiveEvictionIndex:
    """A `EvictionIndex` as a dictionary."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def find(self, key: str) -> Row | None:
        return self.rows.get(key)

    def save(self, row: Row) -> None:
        self.rows[row.key] = row

    def remove(self, row: Row) -> None:
        self.rows.pop(row.key, None)

    def lowest(self) -> Row | None:
        live = [row for row in self.rows.values() if row.live]
        return min(live, key=lambda row: (row.priority, row.key), default=None)

    def drop_oldest_ghost(self) -> int | None:
        ghosts = [row for row in self.rows.values() if not row.live]
        if not ghosts:
            return None
        oldest = min(ghosts, key=lambda row: (row.turn, row.key))
        return self.rows.pop(oldest.key).touches


class NaiveTide:
    """Tide for entries of equal size under a budget of entries, straight from its definition."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.level = 0.0
        self.phi = 0.5
        self.turn = 0
        self.live: dict[str, list[float]] = {}  # key: [touches, priority]
        self.ghosts: dict[str, tuple[float, int]] = {}  # key: (touches, turn), oldest first

    def access(self, key: str, cost_s: float) -> bool:
        value = cost_s * self.capacity
        if key in self.live:
            entry = self.live[key]
            entry[0] += 1
            entry[1] = self.level + entry[0] * value
            return True
        if key in self.ghosts:
            touches, turn = self.ghosts[key]
            if (self.turn - turn) / self.capacity < 1:
                once = sum(1 for ghost in self.ghosts.values() if ghost[0] == 1)
                more = len(self.ghosts) - once
                step = max(1.0, more / once) if touches == 1 else -max(1.0, once / more)
                self.phi = min(4.0, max(0.1, self.phi * 2 ** (step / self.capacity)))
            del self.ghosts[key]
            touches += 3
            priority = self.level + touches * value / 2
        else:
            touches = 1.0
            priority = self.level + self.phi * value
        if len(self.live) == self.capacity:
            last = min(self.live, key=lambda name: (self.live[name][1], name))
            if (self.live[last][1], last) <= (priority, key):
                self.level = max(self.level, self.live[last][1])
            self.ghosts[last] = (self.live.pop(last)[0], self.turn)
            self.turn += 1
            while len(self.ghosts) > 3 * self.capacity:
                del self.ghosts[next(iter(self.ghosts))]
        self.live[key] = [touches, priority]
        return False
