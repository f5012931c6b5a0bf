"""Single flight: one computation per key, whatever its callers do."""

from __future__ import annotations

import asyncio
import contextvars
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeAlias

import anyio
import pytest
from anyio.lowlevel import checkpoint

from asteady._base.errors import PromptTooLongError, SessionClosedError
from asteady._base.requests import Chunk
from asteady._session.flight import Flight, Flights
from asteady._session.lifetime import OwnedTasks, State

Ask: TypeAlias = Callable[[], Coroutine[Any, Any, str]]
Cancel: TypeAlias = Callable[[Ask], Coroutine[Any, Any, None]]


class Gate:
    """A computation that waits until the test opens it, and counts how often it was run."""

    def __init__(self, result: str | Exception = "answer") -> None:
        self.result = result
        self.opened = anyio.Event()
        self.runs = 0
        self.cancelled = 0

    async def compute(self, flight: Flight[str]) -> str:
        self.runs += 1
        try:
            await self.opened.wait()
        except BaseException:
            self.cancelled += 1
            raise
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
async def flights() -> AsyncIterator[Flights]:
    async def teardown() -> None:
        await fleet.close(5)

    owned = OwnedTasks()
    fleet = Flights(owned.spawn)
    owned.start(teardown)
    assert owned.opened()
    yield fleet
    await owned.stop()


async def ask(flights: Flights, gate: Gate, key: str = "key") -> str:
    flight, _ = flights.join(key, gate.compute)
    return await flight.wait()


@pytest.mark.anyio
async def test_callers_of_one_key_share_one_computation(flights: Flights) -> None:
    gate = Gate()
    tasks = [asyncio.create_task(ask(flights, gate)) for _ in range(100)]
    await anyio.wait_all_tasks_blocked()
    gate.opened.set()
    assert await asyncio.gather(*tasks) == ["answer"] * 100
    assert gate.runs == 1
    assert len(flights) == 0


@pytest.mark.anyio
async def test_different_keys_do_not_share(flights: Flights) -> None:
    first, second = Gate("1"), Gate("2")
    first.opened.set()
    second.opened.set()
    assert await ask(flights, first, "a") == "1"
    assert await ask(flights, second, "b") == "2"


async def cancel_by_task(wait: Ask) -> None:
    task = asyncio.ensure_future(wait())
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancel_by_wait_for(wait: Ask) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wait(), 0.001)


async def cancel_by_scope(wait: Ask) -> None:
    with anyio.move_on_after(0.001) as scope:
        await wait()
    assert scope.cancelled_caught


CANCELS = [cancel_by_task, cancel_by_wait_for, cancel_by_scope]


@pytest.mark.anyio
@pytest.mark.parametrize("cancel", CANCELS)
async def test_a_follower_survives_the_leaders_cancellation(
    flights: Flights, cancel: Cancel
) -> None:
    gate = Gate()

    async def lead() -> str:
        return await ask(flights, gate)

    async with asyncio.TaskGroup() as group:
        leading = group.create_task(cancel(lead))
        await checkpoint()
        following = group.create_task(ask(flights, gate))
        await leading
        assert gate.cancelled == 0
        gate.opened.set()
    assert following.result() == "answer"
    assert gate.runs == 1


@pytest.mark.anyio
@pytest.mark.parametrize("cancel", CANCELS)
async def test_the_last_waiter_to_leave_ends_the_computation(
    flights: Flights, cancel: Cancel
) -> None:
    gate = Gate()

    async def lead() -> str:
        return await ask(flights, gate)

    await cancel(lead)
    assert len(flights) == 0
    await anyio.wait_all_tasks_blocked()
    assert gate.cancelled == 1


@pytest.mark.anyio
async def test_a_later_caller_starts_afresh_and_the_dying_flight_cannot_remove_it(
    flights: Flights,
) -> None:
    died = anyio.Event()
    may_die = anyio.Event()

    async def slow_to_die(flight: Flight[str]) -> str:
        try:
            await anyio.sleep_forever()
        finally:
            await may_die.wait()
            died.set()
        raise AssertionError("not reached")

    dying, _ = flights.join("key", slow_to_die)
    await anyio.wait_all_tasks_blocked()
    dying.leave()
    gate = Gate()
    living, started = flights.join("key", gate.compute)
    assert started
    assert living is not dying
    may_die.set()
    await died.wait()
    await anyio.wait_all_tasks_blocked()
    again, started = flights.join("key", gate.compute)
    assert again is living
    assert not started
    gate.opened.set()
    again.leave()
    assert await living.wait() == "answer"


@pytest.mark.anyio
async def test_a_flight_does_not_inherit_the_leaders_context(flights: Flights) -> None:
    user = contextvars.ContextVar("user", default="nobody")

    async def compute(flight: Flight[str]) -> str:
        return user.get()

    async def lead() -> str:
        user.set("leader")
        flight, _ = flights.join("key", compute)
        return await flight.wait()

    assert await asyncio.create_task(lead()) == "nobody"


@pytest.mark.anyio
async def test_each_waiter_gets_an_exception_of_its_own(flights: Flights) -> None:
    gate = Gate(PromptTooLongError("9 tokens, and there is room for 8"))
    tasks = [asyncio.create_task(ask(flights, gate)) for _ in range(3)]
    await anyio.wait_all_tasks_blocked()
    gate.opened.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in errors] == [PromptTooLongError] * 3
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, PromptTooLongError)
        assert str(error) == "9 tokens, and there is room for 8"
        assert error.__cause__ is gate.result


class Awkward(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")
        self.first = first


class Unique(Exception):
    def __new__(cls, *, key: object) -> Unique:
        return super().__new__(cls, "unique")

    def __init__(self, *, key: object) -> None:
        pass


@pytest.mark.anyio
async def test_an_exception_of_any_class_keeps_its_class_and_traceback(flights: Flights) -> None:
    for error, copied in ((Awkward("a", "b"), True), (Unique(key=1), False)):
        gate = Gate(error)
        gate.opened.set()
        with pytest.raises(type(error)) as caught:
            await ask(flights, gate)
        own = caught.value
        assert (own is not error) == copied
        assert str(own) == str(error)
        assert vars(own) == vars(error)
        assert own.__cause__ is (error if copied else None)
        functions = [frame.name for frame in traceback.extract_tb(own.__traceback__)]
        assert "compute" in functions, "where it was raised"


@pytest.mark.anyio
async def test_a_failure_is_not_remembered(flights: Flights) -> None:
    failing, working = Gate(ValueError("no")), Gate()
    failing.opened.set()
    working.opened.set()
    with pytest.raises(ValueError, match="no"):
        await ask(flights, failing)
    assert await ask(flights, working) == "answer"


@pytest.mark.anyio
async def test_a_late_reader_replays_and_then_follows(flights: Flights) -> None:
    go_on = anyio.Event()

    async def compute(flight: Flight[str]) -> str:
        flight.emit("a", "b")
        await go_on.wait()
        flight.emit("c")
        return "abc"

    async def read(flight: Flight[str]) -> list[Chunk]:
        index = 0
        while await flight.wait_chunk(index):
            index += 1
        return flight.chunks[:index]

    flight, _ = flights.join("key", compute)
    early = asyncio.create_task(read(flight))
    await anyio.wait_all_tasks_blocked()
    late = asyncio.create_task(read(flight))
    await anyio.wait_all_tasks_blocked()
    go_on.set()
    assert await early == await late == ["a", "b", "c"]
    assert await flight.wait() == "abc"


@pytest.mark.anyio
async def test_closing_ends_flights_and_refuses_new_ones(flights: Flights) -> None:
    gate = Gate()
    waiting = asyncio.create_task(ask(flights, gate))
    await anyio.wait_all_tasks_blocked()
    await flights.close(5)
    with pytest.raises(SessionClosedError):
        await waiting
    assert gate.cancelled == 1
    with pytest.raises(SessionClosedError):
        flights.join("key", gate.compute)


@pytest.mark.anyio
async def test_closing_tells_whether_all_have_ended(flights: Flights) -> None:
    may_die = anyio.Event()

    async def slow_to_die(flight: Flight[str]) -> str:
        try:
            await anyio.sleep_forever()
        finally:
            await may_die.wait()
        return "answer"

    flights.join("key", slow_to_die)
    await anyio.wait_all_tasks_blocked()
    assert not await flights.close(0)
    may_die.set()
    assert await flights.close()


def test_owned_tasks_close_when_asyncio_run_ends() -> None:
    events: list[str] = []

    async def teardown() -> None:
        await checkpoint()
        events.append("torn down")

    async def main() -> OwnedTasks:
        owned = OwnedTasks()
        owned.start(teardown)
        assert owned.opened()
        owned.spawn(anyio.sleep_forever)
        await anyio.wait_all_tasks_blocked()
        return owned

    owned = asyncio.run(main())
    assert events == ["torn down"]
    assert not owned.left_open


@pytest.mark.anyio
async def test_what_another_thread_adds_while_it_opens_is_begun() -> None:
    begun = anyio.Event()

    class OpenedMeanwhile(OwnedTasks):
        """Opened, as if by its loop, when another thread has just read that it is not."""

        adding = False

        @property
        def state(self) -> State:
            before = self._state
            if self.adding:
                self.adding = False
                assert self.opened()
            return before

        @state.setter
        def state(self, state: State) -> None:
            self._state = state

    async def begin() -> None:
        begun.set()

    async def teardown() -> None:
        pass

    owned = OpenedMeanwhile()
    owned.start(teardown)
    owned.adding = True
    owned.spawn_when_open(begin)
    with anyio.fail_after(60):
        await begun.wait()
    await owned.stop()


@pytest.mark.anyio
async def test_stopping_is_not_cut_short_by_cancellation() -> None:
    go_on = anyio.Event()

    async def teardown() -> None:
        await go_on.wait()

    owned = OwnedTasks()
    owned.start(teardown)
    assert owned.opened()
    stopping = asyncio.create_task(owned.stop())
    await anyio.wait_all_tasks_blocked()
    stopping.cancel()
    await anyio.wait_all_tasks_blocked()
    assert not stopping.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await stopping
