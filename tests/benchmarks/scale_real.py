"""A replay on real sessions and a real Redis, to hold the simulation against.

The sessions are in one process, each with a cache directory of its own, as on machines of their
own. The engine is a fake one, which takes as long as the trace says.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from asteady import Session
from asteady._base.requests import GenerateRequest
from asteady._session.observe import Observed
from asteady.testing import FakeEngine
from tests.benchmarks.scale_model import Cluster, Counts, Trace

# So many computations at a time in one session; no request may wait for another.
WORKERS = 128


async def replay(
    trace: Trace, routes: Sequence[int], cluster: Cluster, url: str | None, directory: Path
) -> Counts:
    """Takes as long as the trace at its rate. `url` is that of the shared tier, if there is one."""
    costs_s = {key: cost_s for key, _, cost_s in trace}
    outcomes: Counter[str] = Counter()

    def answer(request: GenerateRequest) -> str:
        time.sleep(costs_s[str(request.conversation()[-1].content)])
        return "answer"

    def count(observed: Observed) -> None:
        outcomes[observed.outcome] += 1

    async with AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(
                Session(
                    engine=FakeEngine(answer),
                    cache_dir=directory / str(number),
                    generation_cache_capacity=cluster.budget.max_entries,
                    workers=WORKERS,
                    shared_cache=url,
                )
            )
            for number in range(cluster.servers)
        ]
        for session in sessions:
            stack.enter_context(session.observe(count))
        calls = []
        began_s = time.perf_counter()
        for number, (key, _, _) in enumerate(trace):
            await asyncio.sleep(began_s + number / cluster.rate - time.perf_counter())
            calls.append(asyncio.create_task(sessions[routes[number]].complete(key)))
        await asyncio.gather(*calls)
        statistics = [await session.cache.get_cache_stats() for session in sessions]
    waited = sum(stats["generation"]["coalesced_across_machines"] for stats in statistics)
    return Counts(
        requests=len(trace),
        local=outcomes["memory"] + outcomes["disk"],
        coalesced=outcomes["coalesced"],
        fetched=outcomes["shared"] - waited,
        waited=waited,
        computed=outcomes["computed"],
    )
