"""App servers on paper: a trace of requests, replayed over local caches and a shared tier.

What is real: the eviction policy is the package's own code. What is not: requests come evenly, at a
rate; a computation takes the seconds of the trace, however many run; Redis and the network take no
time and do not fail; a server is one process.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, TypeAlias

import attrs

from asteady._base.requests import Key
from asteady._cache.policy import Budget, Row, State, Tide, remember, touch
from tests.benchmarks.scale_lfu import SharedLfu

Access: TypeAlias = tuple[str, int, float]
Trace: TypeAlias = Sequence[Access]
Sharing: TypeAlias = Literal["no", "yes", "without leases"]
POLICY = Tide()


class MemoryIndex:
    """An `EvictionIndex` in memory: the store's is in SQLite, too slow for a thousand of them.

    Takes it that a priority only rises while an entry lives, as that of every policy does.
    """

    def __init__(self) -> None:
        self._rows: dict[Key, Row] = {}
        self._ghosts: OrderedDict[Key, Row] = OrderedDict()
        self._heap: list[tuple[float, Key]] = []

    def find(self, key: Key) -> Row | None:
        row = self._rows.get(key)
        return self._ghosts.get(key) if row is None else row

    def save(self, row: Row) -> None:
        if not row.live:
            self._rows.pop(row.key, None)
            self._ghosts[row.key] = row
        elif row.key not in self._rows:
            self._rows[row.key] = row
            heapq.heappush(self._heap, (row.priority, row.key))

    def remove(self, row: Row) -> None:
        self._rows.pop(row.key, None)
        self._ghosts.pop(row.key, None)

    def lowest(self) -> Row | None:
        while self._heap:
            priority, key = self._heap[0]
            row = self._rows.get(key)
            if row is None or not row.live:
                heapq.heappop(self._heap)
            elif row.priority != priority:
                heapq.heapreplace(self._heap, (row.priority, key))
            else:
                return row
        return None

    def drop_oldest_ghost(self) -> int | None:
        return self._ghosts.popitem(last=False)[1].touches if self._ghosts else None


class LocalCache:
    """The store of one app server."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._index = MemoryIndex()
        self._state = State()

    def get(self, key: str) -> bool:
        return touch(POLICY, self._index, self._state, self._budget, key, 1)

    def put(self, key: str, size_bytes: int, cost_s: float) -> None:
        if size_bytes <= self._budget.max_bytes:
            remember(POLICY, self._index, self._state, self._budget, key, size_bytes, cost_s)


@attrs.frozen(kw_only=True)
class Cluster:
    """What a trace is replayed on.

    `rate` is of all servers together, in requests a second. `overhead_bytes` is what an entry takes
    in Redis beside its answer. `lease_s` is how long a lease holds, which is renewed at a third.
    """

    servers: int
    budget: Budget
    sharing: Sharing
    rate: float
    shared_bytes: float = float("inf")
    overhead_bytes: int = 0
    lease_s: float = 10.0


@attrs.define
class Counts:
    """What a replay did, or the second half of it, for which the first one warms the caches.

    Each request is one of these: a `local` hit, `coalesced` with another of its server, a hit in
    the shared tier (`fetched`), `waited` for the lease of another server, or `computed`. `renewals`
    are those of leases, and `looks` those of servers that wait.
    """

    requests: int = 0
    local: int = 0
    coalesced: int = 0
    fetched: int = 0
    waited: int = 0
    computed: int = 0
    renewals: int = 0
    looks: int = 0
    computed_s: float = 0.0
    got_bytes: int = 0
    put_bytes: int = 0
    duration_s: float = 0.0
    busiest: float = 0.0
    """Requests of the busiest server, the mean one's being 1."""

    def percent(self, name: str) -> float:
        """The part of all requests that ended so."""
        return 100 * float(getattr(self, name)) / self.requests


def looks(wait_s: float) -> int:
    """How often one that waits so long looks for itself, beside its first look and its last."""
    number, at_s, pause_s = 0, 0.1, 0.1
    while at_s < wait_s:
        number += 1
        pause_s = min(2 * pause_s, 1.0)
        at_s += pause_s
    return number


def replay(trace: Trace, routes: Sequence[int], cluster: Cluster, *, whole: bool = False) -> Counts:
    """Replay a trace; `routes` has the server of each request. Counts the second half, or all."""
    counts = Counts()
    caches = [LocalCache(cluster.budget) for _ in range(cluster.servers)]
    shared = SharedLfu(cluster.shared_bytes) if cluster.sharing != "no" else None
    leases: dict[str, float] = {}
    # The servers that compute or wait for a key.
    flights: set[tuple[int, str]] = set()
    # When an answer arrives where: the end, a number that keeps the order, server, owner, access.
    ends: list[tuple[float, int, int, bool, Access]] = []
    per_server = [0] * cluster.servers
    begin = 0 if whole else len(trace) // 2

    def arrive(until_s: float) -> None:
        while ends and ends[0][0] <= until_s:
            end_s, _, server, owner, (key, size_bytes, cost_s) = heapq.heappop(ends)
            flights.discard((server, key))
            caches[server].put(key, size_bytes, cost_s)
            if owner and shared is not None:
                leases.pop(key, None)
                shared.put(key, size_bytes + cluster.overhead_bytes, end_s)

    for number, access in enumerate(trace):
        key, size_bytes, cost_s = access
        now_s = number / cluster.rate
        server = routes[number]
        if number == begin:
            counts = Counts()
            per_server = [0] * cluster.servers
        arrive(now_s)
        counts.requests += 1
        per_server[server] += 1
        if caches[server].get(key):
            counts.local += 1
        elif (server, key) in flights:
            counts.coalesced += 1
        elif shared is not None and shared.get(key, now_s):
            counts.fetched += 1
            counts.got_bytes += size_bytes
            caches[server].put(key, size_bytes, cost_s)
        else:
            owner = key not in leases
            if owner:
                counts.computed += 1
                counts.computed_s += cost_s
                end_s = now_s + cost_s
                if shared is not None:
                    counts.put_bytes += size_bytes
                if cluster.sharing == "yes":
                    counts.renewals += int(cost_s / (cluster.lease_s / 3))
                    leases[key] = end_s
            else:
                counts.waited += 1
                counts.got_bytes += size_bytes
                end_s = leases[key]
                counts.looks += looks(end_s - now_s)
            flights.add((server, key))
            heapq.heappush(ends, (end_s, number, server, owner, access))
    counts.duration_s = (len(trace) - begin) / cluster.rate
    counts.busiest = max(per_server) * cluster.servers / counts.requests
    return counts


def round_robin(trace: Trace, servers: int) -> list[int]:
    """One after the other: also what a balancer by load comes to."""
    return [number % servers for number in range(len(trace))]


def by_user(trace: Trace, servers: int, repeats: float = 0.5) -> list[int]:
    """Users stay with their server, and so many of all repeats are by who asked last.

    The traces do not say who asked: the part is an assumption.
    """
    chance = random.Random(1)
    last: dict[str, int] = {}
    routes = []
    for key, _, _ in trace:
        server = last.get(key)
        if server is None or chance.random() >= repeats:
            server = chance.randrange(servers)
        last[key] = server
        routes.append(server)
    return routes


def by_key(trace: Trace, servers: int) -> list[int]:
    """Each key has one server, as under consistent hashing."""
    places: dict[str, int] = {}
    for key, _, _ in trace:
        if key not in places:
            digest = hashlib.sha256(key.encode()).digest()
            places[key] = int.from_bytes(digest[:8], "big") % servers
    return [places[key] for key, _, _ in trace]


def made_up(accesses: int, new: float = 0.144, seed: int = 0) -> list[Access]:
    """Simon's process: a request is new with this chance, else one drawn from all before it.

    So some requests are asked again and again, and new ones never end, however long the trace. The
    default is the share of distinct keys in a shop's log of pages (cache2k's web12); the first
    hundred are distinct, as the most frequent one would be a quarter of all otherwise, and is a
    hundredth there. Answers have 8 to 1,024 tokens, 200 in the middle, of 4 bytes and 0.02 s each,
    and 1 s for the prompt.
    """
    chance = random.Random(seed)
    trace: list[Access] = []
    for number in range(accesses):
        if number < 100 or chance.random() < new:
            tokens = int(min(1024.0, max(8.0, chance.lognormvariate(5.3, 0.8))))
            trace.append((f"{number:x}", 4 * tokens, 1.0 + 0.02 * tokens))
        else:
            trace.append(trace[int(chance.random() * number)])
    return trace
