"""Models that nobody uses are unloaded, and loaded again when they are needed."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from asteady import Session, SettingsError
from asteady._base.requests import Kind
from asteady._engine.api import Engine
from asteady._session.generation import context_of
from asteady._session.models import engine_source_override
from asteady.testing import FakeEngine
from tests.waiting import until

pytestmark = pytest.mark.anyio

IDLE_S = 0.05


def loaded(session: Session) -> set[str]:
    return set(session.statistics().pools)


async def test_an_idle_model_is_unloaded_and_loaded_again_with_the_same_answers() -> None:
    options: dict[str, Any] = {"max_new_tokens": 4, "cache": "bypass"}
    async with Session(idle_unload_s=IDLE_S) as session:
        text = await session.generate("hi", **options)
        await session.embed("hi")
        await until(lambda: not loaded(session))
        # Bypasses the cache, so it is computed by a model that was loaded again.
        assert await session.generate("hi", **options) == text


async def test_a_model_that_was_loaded_for_nobody_is_unloaded_too(engine: FakeEngine) -> None:
    async with Session(engine=engine, idle_unload_s=IDLE_S) as session:
        await session.load()
        await until(lambda: not loaded(session))
        # Closed on a thread, a moment later.
        await until(lambda: engine.closed)


def test_a_timer_unloads_where_sniffio_is_installed(engine: FakeEngine) -> None:
    async def main() -> None:
        async with Session(engine=engine, idle_unload_s=IDLE_S) as session:
            await session.generate("hi")
            await until(lambda: not loaded(session))

    # Not in a task of the pytest plugin, whose context tells sniffio and anyio what runs; in
    # programs they ask for the current task, and a timer has none.
    contextvars.Context().run(asyncio.run, main())


class HeldEngines:
    """A source that loads a new engine each time, which is held."""

    def __init__(self) -> None:
        self.given: dict[Kind, FakeEngine] = {}

    def fingerprint(self, kind: Kind, reference: str) -> str:
        return "the same"

    def load(self, kind: Kind, reference: str) -> Engine:
        engine = self.given[kind] = FakeEngine(fingerprint="the same")
        engine.hold()
        return engine


async def test_a_model_that_computes_is_not_idle() -> None:
    source = HeldEngines()
    with engine_source_override(lambda _: source):
        session = Session(idle_unload_s=IDLE_S, workers=3)
    async with session:
        asked = [asyncio.create_task(session.generate(f"a {n}")) for n in range(3)]
        # A busy machine may unload it before they begin, and load it again.
        await until(lambda: "generation" in source.given)
        await until(lambda: len(source.given["generation"].computed) == 3)
        engine = source.given["generation"]
        asked[0].cancel()
        await asyncio.wait(asked[:1])
        # The other model is idle from now on, and unloaded in its time; so would this one be, if
        # the caller who left had made it idle.
        await session.load("embedding")
        await until(lambda: "embedding:builtin" not in loaded(session))
        assert loaded(session) == {"generation:builtin"}
        assert not engine.closed
        engine.resume()
        assert await asyncio.gather(*asked[1:]) == ["You said: a 1", "You said: a 2"]
        await until(lambda: engine.closed)


async def test_a_remembered_answer_keeps_no_model_loaded(engine: FakeEngine) -> None:
    async with Session(engine=engine, idle_unload_s=IDLE_S) as session:
        await session.generate("hi")
        await until(lambda: not loaded(session))
        await session.generate("hi")
        assert not loaded(session)


async def test_without_the_setting_nothing_is_unloaded(engine: FakeEngine) -> None:
    async with Session(engine=engine) as session:
        await session.generate("hi")
        assert not context_of(session).models._idle._timers
        assert loaded(session) == {"generation:builtin"}


async def test_closing_while_a_model_is_unloaded_leaves_nothing(engine: FakeEngine) -> None:
    session = await Session(engine=engine, idle_unload_s=IDLE_S).open()
    await session.generate("hi")
    context_of(session).models._unload(("generation", "builtin"))
    await session.aclose()
    await until(lambda: engine.closed)
    assert not context_of(session).models._idle._timers


async def test_a_model_whose_time_is_up_while_the_session_closes_is_closed_with_it(
    engine: FakeEngine,
) -> None:
    session = await Session(engine=engine).open()
    await session.generate("hi")
    await context_of(session).flights.close()
    context_of(session).models._unload(("generation", "builtin"))
    assert loaded(session) == {"generation:builtin"}
    await session.aclose()
    assert engine.closed


@pytest.mark.parametrize("value", [-1, "soon", float("nan"), True])
def test_what_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(
        SettingsError, match=r"idle_unload_s=.* is not allowed: a number of seconds"
    ):
        Session(idle_unload_s=value)
