"""What a real redis-server does for the shared tier: commands, bytes, its CPU time, its memory.

The tier is the package's own, on the loopback interface, and one event comes after the other.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs

from asteady._base.requests import Completion
from asteady._cache.counters import Counters
from asteady._cache.packed import pack
from asteady._cache.redis import RedisTier
from asteady._cache.shared_entry import SharedEntry
from asteady._cache.store.codec import CompletionCodec
from tests.benchmarks.cache_peers import key_of
from tests.redis_server import RedisServer

FINGERPRINT = "f" * 64
CODEC = CompletionCodec()
TOKENS = (50, 200, 2000)
WAITING = 20
AT_ONCE = 50
HIT, COMPUTED, WAITED = "hit, 200 tokens", "computed, 200 tokens", "waited for, 200 tokens"
LOOK, RENEWAL = "look of one that waits", "renewal of a lease"


@attrs.frozen
class Cost:
    """What one event takes. `server_us` is the CPU time of the server's main thread, `client_us`
    that of this process."""

    commands: float
    in_bytes: float
    out_bytes: float
    server_us: float
    client_us: float
    wall_us: float


@attrs.frozen(kw_only=True)
class Costs:
    """By event; `entry_bytes` by tokens: the size of a value, and the memory of its entry."""

    events: dict[str, Cost]
    entry_bytes: dict[int, tuple[int, int]]
    connection_bytes: float

    @property
    def overhead_bytes(self) -> int:
        """The memory of an entry of 200 tokens beside its value."""
        value_bytes, memory_bytes = self.entry_bytes[200]
        return memory_bytes - value_bytes


class Machine(RedisTier):
    """The shared tier of one machine; tells when what it does in the background is done."""

    def __init__(self, url: str) -> None:
        super().__init__(url, timeout_s=60.0, lease_s=60.0)
        self.subscribed = asyncio.Event()
        self._background: list[asyncio.Task[Any]] = []

    def spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        task = super().spawn(work)
        self._background.append(task)
        return task

    @asynccontextmanager
    async def released(self, name: str) -> AsyncIterator[asyncio.Event]:
        async with super().released(name) as event:
            self.subscribed.set()
            yield event

    async def wait_done(self) -> None:
        while self._background:
            await self._background.pop()

    def name_of(self, number: object) -> str:
        return self.name("generation", FINGERPRINT, key_of(number))

    def entry(self, number: object) -> SharedEntry[Completion]:
        return SharedEntry(self, self.name_of(number), key_of(number), CODEC, Counters(), None)


def answer(tokens: int) -> Completion:
    """A completion of so many tokens, of 4 bytes each."""
    chunks = tuple(f"{number % 1000:03} " for number in range(tokens))
    return Completion(
        text="".join(chunks),
        chunks=chunks,
        finish_reason="stop",
        prompt_tokens=1000,
        completion_tokens=tokens,
        seed=42,
        model="builtin",
        fingerprint=FINGERPRINT,
        cost_s=1.0 + 0.02 * tokens,
    )


def packed_bytes(size_bytes: int) -> int:
    """How large the value in Redis is of a text of this size.

    A text of 4 bytes a token has one byte more for each, and what does not depend on its length.
    """
    fixed = len(pack(CODEC, key_of(0), answer(200), 1.0)) - 1000
    return fixed + size_bytes + size_bytes // 4


class Meter:
    """Compares what the server says of itself before and after."""

    def __init__(self, server: RedisServer) -> None:
        self._client = server.client()

    def aclose(self) -> None:
        self._client.close()

    def entry_bytes(self, name: str) -> tuple[int, int]:
        """The size of a value, and the memory that its entry takes."""
        memory = self._client.memory_usage(name)
        assert memory is not None
        return self._client.hstrlen(name, "v"), memory

    def connection_bytes(self) -> float:
        """The memory of a connection that has been used, in the mean."""
        clients: list[dict[str, str]] = self._client.client_list()
        return statistics.mean(int(client["tot-mem"]) for client in clients)

    async def cost(self, run: Callable[[], Awaitable[object]], events: int) -> Cost:
        """Per event; what the reading itself takes is taken off."""
        earlier, before = self._read(), self._read()
        await run()
        after = self._read()
        return Cost(
            *(
                (end - begin - (begin - early)) / events
                for early, begin, end in zip(earlier, before, after, strict=True)
            )
        )

    def _read(self) -> tuple[float, ...]:
        info: dict[str, float] = self._client.info()
        return (
            info["total_commands_processed"],
            info["total_net_input_bytes"],
            info["total_net_output_bytes"],
            1e6 * (info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]),
            1e6 * time.process_time(),
            1e6 * time.perf_counter(),
        )


class Events:
    """Lets each event happen so many times."""

    def __init__(self, url: str, calls: int) -> None:
        self._calls = calls
        self._machine = Machine(url)
        self._others = [Machine(url) for _ in range(WAITING)]
        self._names = itertools.count()

    async def open(self) -> None:
        """Connect all, so that no event does."""
        for machine in (self._machine, *self._others):
            for _ in range(2):
                await self._compute(machine, next(self._names), 50)
            async with machine.released("nothing"):
                machine.subscribed.clear()
            await machine.wait_done()
        for tokens in TOKENS:
            await self._compute(self._machine, f"hit {tokens}", tokens)
        self._lease = await self._others[0].lease(self._machine.name_of("leased"), 60.0)
        # The server gets a script when it is first used.
        await self._others[0].renew(self._lease)

    async def aclose(self) -> None:
        for machine in (self._machine, *self._others):
            await machine.aclose()

    async def hits(self, tokens: int) -> None:
        for _ in range(self._calls):
            assert await self._machine.entry(f"hit {tokens}").get() is not None

    async def hits_at_once(self, tokens: int) -> None:
        """As many at a time as there are requests in a busy app: they travel together."""
        for _ in range(self._calls // AT_ONCE):
            await asyncio.gather(
                *(self._machine.entry(f"hit {tokens}").get() for _ in range(AT_ONCE))
            )

    async def computed(self) -> None:
        for _ in range(self._calls):
            await self._compute(self._machine, next(self._names), 200)

    async def waited(self) -> None:
        """Other machines wait for the one that computes; `WAITING` to one computation."""
        for _ in range(self._calls // WAITING):
            name = next(self._names)
            leased, release = asyncio.Event(), asyncio.Event()

            async def hold(
                leased: asyncio.Event = leased, release: asyncio.Event = release
            ) -> None:
                leased.set()
                await release.wait()

            computing = asyncio.create_task(self._compute(self._machine, name, 200, hold))
            await leased.wait()
            waiting = [asyncio.create_task(self._wait(other, name)) for other in self._others]
            for other in self._others:
                await other.subscribed.wait()
                other.subscribed.clear()
            # Each looks once more when it has subscribed.
            await asyncio.sleep(0.03)
            release.set()
            await asyncio.gather(computing, *waiting)

    async def looks(self) -> None:
        """What one that waits does from time to time."""
        for _ in range(self._calls):
            assert await self._machine.entry("leased").get() is None
            assert await self._machine.lease(self._machine.name_of("leased"), 60.0) is None
        await self._machine.wait_done()

    async def renewals(self) -> None:
        for _ in range(self._calls):
            assert await self._others[0].renew(self._lease)

    def name_of_hit(self, tokens: int) -> str:
        return self._machine.name_of(f"hit {tokens}")

    async def _compute(
        self,
        machine: Machine,
        number: object,
        tokens: int,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        entry = machine.entry(number)
        assert await entry.get() is None
        async with entry.computing() as found:
            assert found is None
            if meanwhile is not None:
                await meanwhile()
            made = answer(tokens)
            entry.put(made, made.cost_s, ())
        await machine.wait_done()

    async def _wait(self, machine: Machine, number: object) -> None:
        entry = machine.entry(number)
        assert await entry.get() is None
        async with entry.computing() as found:
            assert found is not None
        await machine.wait_done()


def least(costs: list[Cost]) -> Cost:
    """What an event takes when nothing else is in its way, of several rounds."""
    return Cost(*map(min, zip(*map(attrs.astuple, costs), strict=True)))


async def measure(server: RedisServer, rounds: int = 25, calls: int = 200) -> Costs:
    meter, events = Meter(server), Events(server.url, calls)
    found: dict[str, list[Cost]] = {}
    try:
        await events.open()
        runs: dict[str, Callable[[], Awaitable[None]]] = {
            **{f"hit, {tokens:,} tokens": partial(events.hits, tokens) for tokens in TOKENS},
            "hit, 200 tokens, 50 at once": partial(events.hits_at_once, 200),
            COMPUTED: events.computed,
            WAITED: events.waited,
            LOOK: events.looks,
            RENEWAL: events.renewals,
        }
        for _ in range(rounds):
            for name, run in runs.items():
                found.setdefault(name, []).append(await meter.cost(run, calls))
        connection_bytes = meter.connection_bytes()
        entry_bytes = {tokens: meter.entry_bytes(events.name_of_hit(tokens)) for tokens in TOKENS}
    finally:
        await events.aclose()
        meter.aclose()
    costs = {name: least(times) for name, times in found.items()}
    # Those that wait had one to wait for.
    costs[WAITED] = Cost(
        *(
            wait - computed / WAITING
            for wait, computed in zip(
                attrs.astuple(costs[WAITED]), attrs.astuple(costs[COMPUTED]), strict=True
            )
        )
    )
    return Costs(
        events=costs,
        entry_bytes=entry_bytes,
        connection_bytes=connection_bytes,
    )
