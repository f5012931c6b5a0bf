"""What 1, 10, 100 and 1,000 app servers do to a shared Redis and to engines.

    python -m tests.benchmarks.scale [TRACE] [--blocks TRACE] [--quick]

Costs are measured on a real redis-server, where there is one. The servers are simulated, as
`scale_model` says: a trace of requests is replayed over them (gzip text, an access a line,
``key<TAB>size_bytes<TAB>cost_s``), or a made-up one. ``--blocks`` is a trace of the blocks of
prompts, for replicas of an engine that keep prefixes. --quick is for a look: a tenth of all.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs

from asteady._cache.policy import Budget
from tests.benchmarks import scale_prefixes, scale_real
from tests.benchmarks.harness import table
from tests.benchmarks.policy import read
from tests.benchmarks.scale_costs import (
    COMPUTED,
    HIT,
    LOOK,
    RENEWAL,
    WAITED,
    Cost,
    Costs,
    measure,
    packed_bytes,
)
from tests.benchmarks.scale_lfu import SharedLfu
from tests.benchmarks.scale_model import (
    Access,
    Cluster,
    Counts,
    Sharing,
    Trace,
    by_key,
    by_user,
    made_up,
    replay,
    round_robin,
)
from tests.redis_server import EXECUTABLE, RedisServer

SERVERS = (1, 10, 100, 1000)
# The profile "production" of the settings.
BUDGET = Budget(1024, 200 * 2**20)
# Requests a second: of the replayed trace, and of each server where all have the same load.
TRACE_RATE, SERVER_RATE = 100.0, 10.0
LFU_ACCESSES = 30_000
# What real sessions do in a minute, on a machine that has other things to do.
REAL_ACCESSES, REAL_RATE, REAL_FASTER = 3000, 50.0, 4.0
REAL_SERVERS, REAL_BUDGET = 5, Budget(64, 2**40)
OUTCOMES = {
    "local": "local",
    "coalesced": "coalesced",
    "fetched": "from Redis",
    "waited": "waited",
    "computed": "computed",
}
REPLICAS = (1, 4, 16, 64)
# 512 tokens each: an 8B model with grouped attention takes 128 kB a token, and leaves 50 GB of 80.
BLOCKS = 800


def costs_tables(costs: Costs) -> None:
    table(
        "What an event costs",
        [
            "event",
            "commands",
            "bytes to Redis",
            "bytes from Redis",
            "Redis, us of CPU",
            "app, us of CPU",
            "elapsed, us",
        ],
        [
            (
                name,
                f"{cost.commands:.0f}",
                *(f"{figure:,.0f}" for figure in attrs.astuple(cost)[1:-1]),
                # One that waits does so on purpose.
                "" if name == WAITED else f"{cost.wall_us:,.0f}",
            )
            for name, cost in costs.events.items()
        ],
    )
    table(
        "What an entry takes",
        ["answer", "value, bytes", "memory, bytes"],
        [
            (f"{tokens:,} tokens", f"{value:,}", f"{memory:,}")
            for tokens, (value, memory) in costs.entry_bytes.items()
        ],
    )
    print(f"\nA connection takes {costs.connection_bytes / 1000:.0f} kB.")


def on(
    servers: int,
    sharing: Sharing,
    rate: float,
    trace: Trace,
    routes: Sequence[int],
    budget: Budget = BUDGET,
) -> Counts:
    cluster = Cluster(servers=servers, budget=budget, sharing=sharing, rate=rate)
    return replay(trace, routes, cluster)


def load(counts: Counts, costs: Costs) -> Cost:
    """What Redis does for these requests, in all."""
    total = [0.0] * len(attrs.fields(Cost))
    # The costs of a hit and a wait have the bytes of one answer, that of a computation, too.
    for name, number in (
        (HIT, counts.fetched),
        (WAITED, counts.waited),
        (COMPUTED, counts.computed),
        (LOOK, counts.looks),
        (RENEWAL, counts.renewals),
    ):
        each = attrs.astuple(costs.events[name])
        total = [sum + number * figure for sum, figure in zip(total, each, strict=True)]
    answer_bytes = costs.entry_bytes[200][0]
    cost = Cost(*total)
    return attrs.evolve(
        cost,
        in_bytes=cost.in_bytes + counts.put_bytes - answer_bytes * counts.computed,
        out_bytes=cost.out_bytes
        + counts.got_bytes
        - answer_bytes * (counts.fetched + counts.waited),
    )


def one_trace(trace: Trace, costs: Costs | None) -> None:
    """The same requests on more and more servers."""
    computed, sources = [], []
    for servers in SERVERS:
        turns, users = round_robin(trace, servers), by_user(trace, servers)
        keys = on(servers, "no", TRACE_RATE, trace, by_key(trace, servers))
        shared = on(servers, "yes", TRACE_RATE, trace, turns)
        columns = (
            on(servers, "no", TRACE_RATE, trace, turns),
            on(servers, "no", TRACE_RATE, trace, users),
            on(servers, "no", TRACE_RATE, trace, turns, Budget(2**40, 2**60)),
            on(servers, "without leases", TRACE_RATE, trace, turns),
            shared,
            keys,
        )
        computed.append(
            (
                f"{servers:,}",
                *(f"{column.percent('computed'):.1f}" for column in columns),
                f"{keys.busiest:.1f}",
            )
        )
        for split, counts in (
            ("in turn", shared),
            ("by user", on(servers, "yes", TRACE_RATE, trace, users)),
        ):
            asked = load(counts, costs) if costs is not None else None
            sources.append(
                (
                    f"{servers:,}, {split}",
                    *(f"{counts.percent(name):.1f}" for name in OUTCOMES),
                    *(
                        (
                            f"{asked.commands / counts.requests:.2f}",
                            f"{(asked.in_bytes + asked.out_bytes) / counts.requests:,.0f}",
                        )
                        if asked is not None
                        else ("", "")
                    ),
                )
            )
        progress(computed[-1])
    table(
        "The same requests on more servers",
        [
            "servers",
            "local only",
            "local only, by user",
            "local only, without bounds",
            "shared, no leases",
            "shared",
            "by key",
            "by key: the busiest, mean = 1",
        ],
        computed,
    )
    table(
        "Where answers come from",
        [
            "servers",
            *(f"{label}, %" for label in OUTCOMES.values()),
            "commands a request",
            "bytes a request",
        ],
        sources,
    )


def more_traffic(per_server: int, costs: Costs | None) -> None:
    """More servers with more requests: each has the same rate."""
    rows = []
    for servers in SERVERS:
        trace = stored(made_up(max(100, servers) * per_server))
        rate, turns = SERVER_RATE * servers, round_robin(trace, servers)
        local = on(servers, "no", rate, trace, turns)
        shared = on(servers, "yes", rate, trace, turns)
        seconds = shared.duration_s
        cells = [
            f"{servers:,}",
            f"{rate:,.0f}",
            f"{local.computed_s / seconds:,.0f}",
            f"{shared.computed_s / seconds:,.0f}",
            f"{shared.computed / seconds:,.1f}",
        ]
        if costs is not None:
            asked = load(shared, costs)
            bytes_a_day = shared.put_bytes + shared.computed * costs.overhead_bytes
            cells += [
                f"{asked.commands / seconds:,.0f}",
                f"{(asked.in_bytes + asked.out_bytes) / seconds / 1e6:,.2f}",
                f"{asked.server_us / seconds / 1e4:,.1f}",
                f"{bytes_a_day / seconds * 86_400 / 1e9:,.1f}",
            ]
        rows.append(cells)
        progress(cells)
    head = [
        "servers",
        "requests/s",
        "computing, local only",
        "computing, shared",
        "leases/s",
        "commands/s",
        "MB/s",
        "a core of Redis, %",
        "new entries, GB a day",
    ]
    table("More servers with more requests", head[: len(rows[0])], rows)


def small_redis(trace: Trace, costs: Costs, server: RedisServer) -> None:
    """The simulated `allkeys-lfu` beside the real one, on the same requests."""
    sizes = {key: size_bytes + costs.overhead_bytes for key, size_bytes, _ in trace}
    rows = []
    for part in (2, 5, 20):
        max_bytes = sum(sizes.values()) // part
        # It is over in seconds, so no counter is lowered.
        tier = SharedLfu(max_bytes, decay_min=0)
        hits = 0
        for key, _, _ in trace:
            if tier.get(key, 0.0):
                hits += 1
            else:
                tier.put(key, sizes[key], 0.0)
        real = real_hits(trace, max_bytes, server)
        rows.append(
            (f"1/{part}", f"{100 * hits / len(trace):.1f}", f"{100 * real / len(trace):.1f}")
        )
        progress(rows[-1])
    table("When Redis is small", ["maxmemory", "simulated, %", "redis-server, %"], rows)


def real_hits(trace: Trace, max_bytes: int, server: RedisServer) -> int:
    hits = 0
    with server.client() as client:
        client.flushall()
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory-policy", "allkeys-lfu")
        client.config_set("maxmemory", int(used) + max_bytes)
        for key, size_bytes, _ in trace:
            # As long as an entry's name.
            name = f"asteady:1:{key:>084}"
            if client.hget(name, "v") is not None:
                hits += 1
            else:
                client.hset(name, "v", bytes(size_bytes))
        client.config_set("maxmemory", 0)
    return hits


def real_sessions(trace: Trace, server: RedisServer, directory: Path) -> None:
    """The simulation beside real sessions."""
    trace = [(key, size_bytes, cost_s / REAL_FASTER) for key, size_bytes, cost_s in trace]
    routes = round_robin(trace, REAL_SERVERS)
    columns = []
    kinds: tuple[Sharing, ...] = ("no", "yes")
    for sharing in kinds:
        cluster = Cluster(servers=REAL_SERVERS, budget=REAL_BUDGET, sharing=sharing, rate=REAL_RATE)
        url = server.url if sharing == "yes" else None
        real = scale_real.replay(trace, routes, cluster, url, directory / sharing)
        columns += [replay(trace, routes, cluster, whole=True), asyncio.run(real)]
    rows = [
        (label, *(f"{counts.percent(name):.1f}" for counts in columns))
        for name, label in OUTCOMES.items()
    ]
    head = ["local only, simulated", "local only, real", "shared, simulated", "shared, real"]
    table("The simulation and real sessions", ["percent of requests", *head], rows)


def prefixes(prompts: Sequence[scale_prefixes.Prompt]) -> None:
    rows = []
    for replicas in REPLICAS:
        cells = [f"{replicas}"]
        for router in (
            scale_prefixes.in_turn,
            scale_prefixes.by_beginning,
            scale_prefixes.by_prefix,
        ):
            computed, busiest = scale_prefixes.replay(prompts, replicas, BLOCKS, router)
            cells += [f"{computed:.1f}", f"{busiest:.2f}"]
        rows.append(cells)
    head = [
        f"{name}{what}"
        for name in ("in turn", "by beginning", "by prefix")
        for what in (", %", ": the busiest")
    ]
    table("Replicas that keep prefixes", ["replicas", *head], rows)


def stored(trace: Trace) -> list[Access]:
    """The trace with the size that an answer has in Redis."""
    return [(key, packed_bytes(size_bytes), cost_s) for key, size_bytes, cost_s in trace]


def progress(row: Sequence[str]) -> None:
    print(*row, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", nargs="?", type=Path, help="of requests, .tsv.gz")
    parser.add_argument("--blocks", type=Path, help="a trace of blocks of prompts, .tsv.gz")
    parser.add_argument("--quick", action="store_true", help="a tenth of all")
    arguments = parser.parse_args()
    part = 10 if arguments.quick else 1
    whole = made_up(100_000) if arguments.trace is None else read(arguments.trace)
    trace = stored(whole[: len(whole) // part])
    costs = None
    with tempfile.TemporaryDirectory() as directory:
        if EXECUTABLE is None:
            print("there is no redis-server, so that no cost is measured", file=sys.stderr)
        else:
            with RedisServer(Path(directory)) as server:
                costs = asyncio.run(measure(server))
                costs_tables(costs)
                small_redis(trace[:LFU_ACCESSES], costs, server)
                real_sessions(whole[: REAL_ACCESSES // part], server, Path(directory) / "caches")
    one_trace(trace, costs)
    more_traffic(1000 // part, costs)
    if arguments.blocks is None:
        prompts = scale_prefixes.made_up_prompts(12_000 // part)
    else:
        prompts = list(scale_prefixes.prompts_of(read(arguments.blocks)))
    prefixes(prompts[: len(prompts) // part])


if __name__ == "__main__":
    main()
