"""The simulation behind docs/scale.md does what it says, and a request what it says of it."""

from __future__ import annotations

import pytest

from asteady._base.settings import Settings
from asteady._cache.policy import Budget
from tests.benchmarks import scale_prefixes
from tests.benchmarks.policy import ours
from tests.benchmarks.scale_costs import COMPUTED, HIT, LOOK, RENEWAL, measure
from tests.benchmarks.scale_lfu import SharedLfu
from tests.benchmarks.scale_model import (
    Access,
    Cluster,
    LocalCache,
    Sharing,
    by_key,
    made_up,
    replay,
)
from tests.redis_server import RedisServer

BUDGET = Budget(64, 2**30)


def test_a_simulated_server_keeps_what_the_store_keeps() -> None:
    trace = made_up(4000)
    cache, hits = LocalCache(BUDGET), 0
    for key, size_bytes, cost_s in trace:
        if cache.get(key):
            hits += 1
        else:
            cache.put(key, size_bytes, cost_s)
    percent, _ = ours("tide")(trace, BUDGET)
    assert 100 * hits / len(trace) == pytest.approx(percent, abs=1e-9)
    assert 0 < hits < len(trace) * 0.85


@pytest.mark.parametrize(
    ("sharing", "keyed", "computed", "waited", "coalesced"),
    [
        ("no", False, 3, 0, 1),
        ("without leases", False, 3, 0, 1),
        ("yes", False, 1, 2, 1),
        ("no", True, 1, 0, 3),
    ],
)
def test_what_servers_ask_for_at_once_is_computed_once_if_they_share(
    sharing: Sharing, *, keyed: bool, computed: int, waited: int, coalesced: int
) -> None:
    # Four requests within two seconds, by the servers 0, 1, 2 and 0; the first half is not counted.
    trace: list[Access] = [(f"before {number}", 10, 0.0) for number in range(3)]
    trace += [("last before", 10, 0.0), *[("asked", 100, 2.0)] * 4]
    routes = by_key(trace, 3) if keyed else [0, 1, 2, 0, 0, 1, 2, 0]
    counts = replay(trace, routes, Cluster(servers=3, budget=BUDGET, sharing=sharing, rate=2.0))
    assert counts.requests == 4
    assert (counts.computed, counts.waited, counts.coalesced) == (computed, waited, coalesced)
    assert counts.computed_s == 2.0 * computed
    # Two waited for 1.5 and 1 s, and looked at 0.1, 0.3 and 0.7 s.
    assert counts.looks == (6 if waited else 0)


def test_an_answer_is_fetched_once_by_each_server_that_did_not_compute_it() -> None:
    trace: list[Access] = [("asked", 100, 0.1)] * 8
    # Computed by the server 0 in the first half.
    routes = [0, 0, 0, 0, 0, 1, 1, 2]
    cluster = Cluster(servers=3, budget=BUDGET, sharing="yes", rate=1.0)
    counts = replay(trace, routes, cluster)
    assert (counts.local, counts.fetched, counts.computed) == (2, 2, 0)
    assert counts.got_bytes == 200
    assert counts.busiest == pytest.approx(1.5)


def test_a_lease_is_renewed_at_a_third() -> None:
    trace: list[Access] = [("before", 10, 0.0), ("long", 10, 9.0)]
    cluster = Cluster(servers=1, budget=BUDGET, sharing="yes", rate=1.0)
    assert replay(trace, [0, 0], cluster).renewals == 2
    assert cluster.lease_s == Settings().shared_cache_lease_s


def test_a_small_shared_tier_keeps_what_is_used_most() -> None:
    tier = SharedLfu(1000)
    tier.put("used", 100, 0.0)
    for _ in range(2000):
        assert tier.get("used", 0.0)
    for number in range(500):
        tier.put(f"once {number}", 100, 0.0)
        assert tier.size_bytes <= 1000
    assert tier.get("used", 0.0)
    assert len(tier) == 10
    assert tier.evicted == 491
    # Not for ever: an hour later it counts for nothing, as all others do, and chance decides.
    for number in range(500):
        tier.put(f"later {number}", 100, 3600.0 * 24)
    assert not tier.get("used", 3600.0 * 24)


def test_a_router_that_knows_prefixes_computes_a_prompt_once() -> None:
    prompts = [["0", "a", "b"], ["0", "c", "d"]] * 2
    prompts = [*prompts, *reversed(prompts)]
    every = sum(map(len, prompts))
    assert list(scale_prefixes.prompts_of([(block, 1, 1.0) for p in prompts for block in p])) == (
        prompts
    )
    in_turn, _ = scale_prefixes.replay(prompts, 2, 100, scale_prefixes.in_turn)
    known, _ = scale_prefixes.replay(prompts, 2, 100, scale_prefixes.by_prefix)
    # In turn, either replica gets both sooner or later; else one has both from the beginning.
    assert in_turn == pytest.approx(100 * 10 / every)
    assert known == pytest.approx(100 * 5 / every)
    assert scale_prefixes.replay(prompts, 1, 2, scale_prefixes.in_turn)[0] > 50


@pytest.mark.anyio
async def test_what_the_page_says_of_commands(redis_server: RedisServer) -> None:
    costs = await measure(redis_server, rounds=1, calls=20)
    commands = {name: cost.commands for name, cost in costs.events.items()}
    assert commands[HIT] == 1
    # Two looks, lease, answer, publishing, and the release: a script of three.
    assert commands[COMPUTED] == 8
    assert commands[LOOK] == 2
    assert commands[RENEWAL] == 3
    assert costs.events[COMPUTED].in_bytes > costs.entry_bytes[200][0]
