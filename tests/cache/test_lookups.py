"""Which look-ups travel together, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from asteady._cache.lookups import Found, Lookups

pytestmark = pytest.mark.anyio


class Server:
    """Has a value for each name, unless told otherwise; answers when it is not held."""

    def __init__(self, slots: int = 8) -> None:
        self.batches: list[list[str]] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.found: dict[str, Found] = {}
        self.error: Exception | None = None
        self._sent = asyncio.Semaphore(0)
        self.slots = asyncio.Semaphore(slots)
        self.tasks: list[asyncio.Task[None]] = []
        self.lookups = Lookups(self._fetch, self._begin, self.slots)

    async def wait_sent(self) -> None:
        """Wait until one more batch is sent."""
        await self._sent.acquire()

    async def ask(self, names: Sequence[str]) -> list[Found]:
        return list(await asyncio.gather(*map(self.lookups.get, names)))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    async def _fetch(self, names: Sequence[str]) -> Sequence[Found]:
        self.batches.append(list(names))
        self._sent.release()
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return [self.found.get(name, name.encode()) for name in names]


class EagerServer(Server):
    """On a loop whose tasks are eager, from Python 3.12 on, they take their first step at once."""

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        with pytest.raises(StopIteration):
            work.send(None)
        return asyncio.create_task(asyncio.sleep(0))


def names(count: int) -> list[str]:
    return [f"name {number}" for number in range(count)]


async def test_those_of_one_turn_travel_together_and_get_what_is_theirs() -> None:
    server = Server()
    server.found["name 3"] = None
    found = await server.ask(names(5))
    assert found == [b"name 0", b"name 1", b"name 2", None, b"name 4"]
    assert server.batches == [names(5)]


async def test_a_later_one_waits_for_no_batch_that_is_under_way() -> None:
    server = Server()
    server.answers.clear()
    first = asyncio.gather(*map(server.lookups.get, names(2)))
    await server.wait_sent()
    later = server.lookups.get("later")
    await server.wait_sent()
    assert server.batches == [names(2), ["later"]]
    server.answers.set()
    assert await later == b"later"
    assert await first == [b"name 0", b"name 1"]


async def test_those_that_come_while_a_batch_may_not_be_sent_join_it() -> None:
    server = Server(slots=1)
    server.answers.clear()
    asking = [server.lookups.get("first")]
    await server.wait_sent()
    for name in names(3):
        asking.append(server.lookups.get(name))
        await asyncio.sleep(0)
    server.answers.set()
    await asyncio.gather(*asking)
    assert server.batches == [["first"], names(3)]


async def test_a_batch_has_five_hundred_at_most() -> None:
    server = Server()
    await server.ask(names(1200))
    assert [len(batch) for batch in server.batches] == [500, 500, 200]
    assert [name for batch in server.batches for name in batch] == names(1200)


async def test_large_values_travel_in_small_batches_until_there_are_none() -> None:
    server = Server()
    server.found["large"] = bytes(2**18)
    await server.ask(["large"])
    server.batches.clear()
    await server.ask(names(8))
    assert [len(batch) for batch in server.batches] == [4, 4]
    # Half of what was there before is expected, and so on.
    await server.ask(names(1))
    server.batches.clear()
    await server.ask(names(64))
    assert len(server.batches[0]) == 32
    server.found["larger than any batch"] = bytes(2**21)
    await server.ask(["larger than any batch"])
    server.batches.clear()
    await server.ask(names(2))
    assert [len(batch) for batch in server.batches] == [1, 1]


async def test_one_that_is_given_up_before_it_is_sent_is_not_sent() -> None:
    server = Server()
    asking = [server.lookups.get(name) for name in names(3)]
    asking[1].cancel()
    assert await asking[0] == b"name 0"
    assert await asking[2] == b"name 2"
    assert server.batches == [["name 0", "name 2"]]


async def test_a_batch_that_everybody_gives_up_is_not_sent() -> None:
    server = Server()
    server.lookups.get("name").cancel()
    await asyncio.gather(*server.tasks)
    assert server.batches == []
    assert await server.ask(["another"]) == [b"another"]


async def test_one_that_is_given_up_on_its_way_harms_no_other() -> None:
    server = Server()
    server.answers.clear()
    asking = [server.lookups.get(name) for name in names(3)]
    await server.wait_sent()
    asking[1].cancel()
    server.answers.set()
    assert await asking[0] == b"name 0"
    assert await asking[2] == b"name 2"


async def test_an_error_is_of_one_or_of_all() -> None:
    server = Server()
    server.found["name 1"] = error = ValueError("of one")
    assert await server.ask(names(3)) == [b"name 0", error, b"name 2"]
    server.error = ConnectionError("of all")
    assert await server.ask(names(2)) == [server.error] * 2
    server.error = None
    assert await server.ask(["name 0"]) == [b"name 0"]


@pytest.mark.parametrize("turns", [0, 1, 2], ids=["not begun", "not sent", "on its way"])
async def test_the_end_of_a_batch_is_the_end_of_its_look_ups(turns: int) -> None:
    server = Server(slots=0 if turns == 1 else 1)
    server.answers.clear()
    asking = [server.lookups.get(name) for name in names(3)]
    for _ in range(turns):
        await asyncio.sleep(0)
    server.tasks[0].cancel()
    await asyncio.wait(asking)
    assert all(found.cancelled() for found in asking)
    assert len(server.batches) == (turns == 2)
    if turns == 1:
        server.slots.release()
    server.answers.set()
    assert await server.ask(["another"]) == [b"another"]


async def test_a_look_up_that_is_sent_before_its_task_is_there_is_answered() -> None:
    server = EagerServer()
    (found,) = await asyncio.gather(server.lookups.get("a"), return_exceptions=True)
    assert found == b"a"
    assert server.batches == [["a"]]
