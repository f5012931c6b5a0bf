"""asteady.blocking: the same calls without await, from any thread."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import asteady
from asteady import ReasoningChunk, StreamEvent, TextChunk, blocking
from asteady._session.generation import context_of
from asteady._session.lifetime import State
from asteady._session.observe import Observed
from asteady.blocking import _portal
from asteady.blocking._fast_path import HitCounter
from asteady.testing import FakeEngine
from tests.blocking.awake import awake


@pytest.fixture(autouse=True)
def _closed_afterwards() -> Iterator[None]:
    yield
    blocking.close()


@pytest.fixture
def session(engine: FakeEngine) -> Iterator[blocking.Session]:
    with awake(blocking.Session(engine=engine, workers=2)) as session:
        yield session
        engine.resume()


def round_trips(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every call that goes to the background loop from now on."""
    seen: list[object] = []
    call = _portal.Portal.call

    def counted(self: _portal.Portal, fn: object, *args: object) -> object:
        seen.append(fn)
        return call(self, fn, *args)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(_portal.Portal, "call", counted)
    return seen


# -- the functions -------------------------------------------------------------------------------


def test_the_functions_answer_as_the_asyncio_ones_do() -> None:
    async def awaited() -> tuple[str, asteady.Completion, bytes]:
        text = await asteady.generate("Write a haiku about caching", max_new_tokens=8)
        answer = await asteady.complete("Write a haiku about caching", max_new_tokens=8)
        return text, answer, (await asteady.embed("async cache")).tobytes()

    text, answer, vector = asyncio.run(awaited())
    assert blocking.generate("Write a haiku about caching", max_new_tokens=8) == text
    again = blocking.complete("Write a haiku about caching", max_new_tokens=8)
    assert again.cached
    assert again.chunks == answer.chunks
    assert tuple(blocking.generate_iter("Write a haiku about caching", max_new_tokens=8)) == (
        answer.chunks
    )
    assert blocking.embed("async cache").tobytes() == vector
    assert blocking.embed(["async cache", "queue"]).shape == (2, len(vector) // 4)
    assert blocking.is_cached("Write a haiku about caching", max_new_tokens=8)
    assert not blocking.is_cached("Write a haiku about caching", max_new_tokens=8, seed=7)


def test_warming_and_verifying_are_plain_calls_too(session: blocking.Session) -> None:
    report = session.warm(["a", "b", "a"], max_new_tokens=5)
    assert report.warmed == 2
    assert session.is_cached("b", max_new_tokens=5)
    blocking.generate("a", max_new_tokens=2)
    assert blocking.warm(["a"], max_new_tokens=2).warmed == 0
    assert blocking.verify(session, requests=2, max_new_tokens=2, second_process=False).ok


def test_the_module_and_its_background_loop_use_one_session() -> None:
    blocking.generate("hi", max_new_tokens=2)
    assert blocking.run(asteady.is_cached, "hi", max_new_tokens=2)


def test_the_cache_manager_can_be_used_first_and_outlives_close() -> None:
    manager = blocking.get_cache_manager()
    assert manager.get_cache_stats()["generation"]["size"] == 0
    blocking.generate("hi", max_new_tokens=2)
    assert manager.get_cache_stats()["generation"]["size"] == 1
    blocking.close()
    assert manager.get_cache_stats()["generation"]["size"] == 1
    assert manager.directory.name == "caches"
    manager.clear_all_caches()
    assert not blocking.is_cached("hi", max_new_tokens=2)


def test_settings_are_read_when_the_session_is_first_used(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = blocking.get_cache_manager()
    monkeypatch.setenv("STEADYTEXT_GENERATION_CACHE_CAPACITY", "1024")
    assert manager.get_cache_stats()["generation"]["capacity"] == 1024


def test_any_number_of_texts_are_embedded_in_batches(session: blocking.Session) -> None:
    done: list[int] = []
    batches = session.embed_batches((f"{n}" for n in range(5)), batch_size=2, progress=done.append)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert done[-1] == 5
    assert np.array_equal(session.embed(["0", "1"], progress=done.append)[0], session.embed("0"))
    started = session.embed_batches(["a", "b", "c"], batch_size=1)
    assert next(started).shape == (1, 8)
    started.close()  # type: ignore[attr-defined]  # it is a generator
    with pytest.raises(asteady.InvalidRequestError):
        next(session.embed_batches(["a"], batch_size=0))


def test_errors_are_those_of_the_asyncio_functions() -> None:
    with pytest.raises(asteady.InvalidRequestError, match="no option 'sede'"):
        blocking.generate("hi", sede=1)  # type: ignore[call-overload]  # the point of the test
    with pytest.raises(asteady.InvalidRequestError, match="did you mean"):
        blocking.generate("hi", stop_=["x"])  # type: ignore[call-overload]  # likewise
    with pytest.raises(asteady.CacheMissError):
        blocking.generate("never generated", cache="only")
    with pytest.raises(asteady.InvalidRequestError):
        blocking.embed([])


def test_close_before_the_first_call_is_allowed() -> None:
    blocking.close()
    blocking.close()


# -- hits on the caller's own thread -------------------------------------------------------------


def test_a_warm_hit_makes_no_round_trip_and_is_counted(
    session: blocking.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = session.generate("hi", seed=7, stop="x")
    vector = session.embed("hi", truncate=True)
    trips = round_trips(monkeypatch)
    for _ in range(100):
        assert session.generate("hi", seed=7, stop="x") == text
        assert session.embed("hi", truncate=True) is vector
    assert trips == []
    stats = session.cache.get_cache_stats()
    assert stats["generation"]["hits"] == 100
    assert stats["embedding"]["hits"] == 100
    assert stats["generation"]["misses"] == 1


def test_hits_are_counted_soon_even_without_another_call(
    session: blocking.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.generate("hi")
    counters = session.awaitable.cache.generation.counters
    counted = threading.Event()
    count = HitCounter.count

    def then_signal(self: HitCounter) -> None:
        count(self)
        if counters.hits:
            counted.set()

    monkeypatch.setattr(HitCounter, "count", then_signal)
    session.generate("hi")
    assert counted.wait(60)


def test_equal_numbers_of_other_types_are_other_requests(session: blocking.Session) -> None:
    session.generate("hi", seed=1)
    with pytest.raises(asteady.InvalidRequestError):
        session.generate("hi", seed=True)
    with pytest.raises(asteady.InvalidRequestError):
        session.generate("hi", seed=1.0)  # type: ignore[call-overload]  # the point of the test


def test_arguments_that_cannot_be_hashed_are_answered_from_the_cache(
    session: blocking.Session, engine: FakeEngine
) -> None:
    for _ in range(2):
        assert session.generate("hi", stop=["x"]) == "You said: hi"
    assert len(engine.computed) == 1


def test_other_cache_modes_and_observers_see_every_call(
    session: blocking.Session, engine: FakeEngine
) -> None:
    session.generate("hi")
    session.generate("hi", cache="bypass")
    assert len(engine.computed) == 2
    seen: list[Observed] = []
    with session.observe(seen.append):
        session.generate("hi")
        session.embed("hi")
    session.generate("hi")
    assert [observed.outcome for observed in seen] == ["memory", "computed"]
    with session.observe(seen.append, everywhere=True):
        session.generate("hi")
    assert len(seen) == 3


def test_a_cleared_cache_is_not_answered_from(
    session: blocking.Session, engine: FakeEngine
) -> None:
    session.generate("hi")
    session.generate("hi")
    session.cache.clear_all_caches()
    session.generate("hi")
    assert len(engine.computed) == 2


# -- streams -------------------------------------------------------------------------------------


def test_a_stream_yields_chunks_while_they_are_computed(
    session: blocking.Session, engine: FakeEngine
) -> None:
    engine.hold()
    with session.stream("a b") as stream:
        engine.step(1)
        assert next(stream) == "You "
        with pytest.raises(asteady.SessionError, match="read to its end"):
            _ = stream.answer
        engine.resume()
        assert "".join(stream) == "said: a b"
        assert stream.answer.text == "You said: a b"
    with session.stream("a b") as stream:
        assert stream.read().cached


def test_the_events_of_a_stream_tell_reasoning_from_text() -> None:
    engine = FakeEngine(reasoning=lambda request: "let us see")
    expected: list[StreamEvent] = [
        ReasoningChunk("let "),
        ReasoningChunk("us "),
        ReasoningChunk("see"),
    ]
    expected += [TextChunk("You "), TextChunk("said: "), TextChunk("a")]
    with blocking.Session(engine=engine) as session:
        with session.stream("a") as stream:
            assert list(stream.events()) == expected
            assert stream.answer.reasoning == "let us see"
        with session.stream("a") as stream:
            assert next(stream.events()) == expected[0]
            assert next(stream) == "You "
            assert list(stream.events()) == expected[4:]
        assert list(session.generate_iter("a")) == ["You ", "said: ", "a"]


def test_closing_the_generator_early_leaves_the_stream(
    session: blocking.Session, engine: FakeEngine
) -> None:
    engine.hold()
    chunks = session.generate_iter("a b c")
    engine.step(1)
    assert next(chunks) == "You "
    chunks.close()  # type: ignore[attr-defined]  # it is a generator
    blocking.run(engine.wait_released, 1)
    assert session.statistics().flights == 0


def test_dropping_the_generator_leaves_the_stream(
    session: blocking.Session, engine: FakeEngine
) -> None:
    engine.hold()
    chunks = session.generate_iter("a b c")
    engine.step(1)
    assert next(chunks) == "You "

    async def drop() -> None:
        nonlocal chunks
        del chunks
        gc.collect()

    blocking.run(drop)  # on the loop's own thread, where waiting would hang
    blocking.run(engine.wait_released, 1)


def test_a_stream_raises_when_it_cannot_be_opened(session: blocking.Session) -> None:
    stream = session.stream("")
    with pytest.raises(asteady.InvalidRequestError), stream:
        pass
    with pytest.raises(asteady.SessionError, match="only once"), stream:
        pass
    with pytest.raises(asteady.SessionError, match="open the stream first"):
        next(session.stream("hi"))


# -- threads and loops ---------------------------------------------------------------------------


def test_many_threads_share_one_computation(session: blocking.Session, engine: FakeEngine) -> None:
    engine.hold()
    with ThreadPoolExecutor(16) as executor:
        futures = [executor.submit(session.generate, f"{n % 4}") for n in range(16)]
        blocking.run(engine.wait_computed, 2)
        engine.resume()
        texts = [future.result() for future in futures]
    assert texts == [f"You said: {n % 4}" for n in range(16)]
    assert len(engine.computed) == 4


def test_many_threads_count_every_call(session: blocking.Session) -> None:
    session.generate("hi")

    def hammer() -> None:
        for _ in range(500):
            session.generate("hi")

    with ThreadPoolExecutor(8) as executor:
        for future in [executor.submit(hammer) for _ in range(8)]:
            future.result()
    assert session.cache.get_cache_stats()["generation"]["hits"] == 4000


@pytest.mark.anyio
async def test_it_works_in_a_thread_whose_own_loop_is_running(session: blocking.Session) -> None:
    assert session.generate("hi") == "You said: hi"
    assert blocking.run(asteady.is_cached, "hi") is False


def test_a_blocking_call_on_the_background_thread_is_refused(session: blocking.Session) -> None:
    async def within() -> None:
        session.complete("hi")

    with pytest.raises(asteady.SessionError, match="use the asyncio functions"):
        blocking.run(within)


def test_exceptions_reach_the_caller() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ZeroDivisionError):
        blocking.run(fails)
    with pytest.raises(asteady.SessionClosedError, match="cancelled"):
        blocking.run(cancelled)


# -- a session of one's own ----------------------------------------------------------------------


def test_a_session_opens_only_once(engine: FakeEngine) -> None:
    session = blocking.Session(engine=engine, workers=1)
    with pytest.raises(asteady.SessionNotOpenError, match="with Session"):
        session.generate("hi")
    session.close()
    with session:
        assert session.is_open
        assert session.settings.workers == 1
        assert "open" in repr(session)
        session.load()
        assert session.statistics().pools
        session.generate("hi")
        with pytest.raises(asteady.SessionError, match="opens only once"):
            session.open()
        with session.stream("hi") as stream:
            assert iter(stream) is stream
            with pytest.raises(asteady.SessionError, match="only once"):
                stream.__enter__()
    assert session.is_closed
    with pytest.raises(asteady.SessionClosedError):
        session.generate("hi")
    session.close()


def test_a_session_closed_before_it_was_opened_is_refused() -> None:
    session = blocking.Session()
    asyncio.run(session.awaitable.aclose())
    with pytest.raises(asteady.SessionClosedError, match="open a new one"):
        session.generate("hi")


def test_closing_ends_the_calls_that_wait(engine: FakeEngine) -> None:
    engine.hold()
    session = blocking.Session(engine=engine).open()
    with ThreadPoolExecutor(2) as executor:
        waiting = executor.submit(session.generate, "hi")
        blocking.run(engine.wait_computed, 1)
        session.close()
        with pytest.raises(asteady.SessionClosedError):
            waiting.result()


def test_a_session_that_is_dropped_open_warns_and_is_closed(engine: FakeEngine) -> None:
    sessions = [blocking.Session(engine=engine).open()]
    sessions[0].generate("hi")
    tasks = context_of(sessions[0].awaitable).tasks
    blocking.run(asyncio.sleep, 0)  # so that the loop has let go of the call
    gc.collect()  # so that nothing else is collected below
    with pytest.warns(ResourceWarning, match=r"was never closed; use `with`, or close\(\)"):
        sessions.clear()

    async def ended() -> None:
        assert tasks.state is not State.OPEN  # closing was posted to the loop before this
        await tasks.stop()

    blocking.run(ended)
    assert engine.closed


def test_settings_that_are_not_allowed_are_refused_at_once() -> None:
    with pytest.raises(asteady.SettingsError):
        blocking.Session(workers=0)


def test_entries_can_be_read_stored_and_deleted(session: blocking.Session) -> None:
    answer = session.complete("hi")
    vector = session.embedding("hi").vector
    cache = session.cache.generation
    (key,) = cache.keys()
    found = cache.get(key)
    assert found is not None
    assert found.text == "You said: hi"
    assert [entry.key for entry in cache.entries(10, "cost")] == [key]
    assert cache.statistics()["size"] == 1
    assert cache.put("0" * 64, answer)
    assert cache.delete("0" * 64)
    assert not cache.delete("0" * 64)
    assert cache.clear() == 1
    (embedded,) = session.cache.embedding.keys()
    again = session.cache.embedding.get(embedded)
    assert again is not None
    assert np.array_equal(again.vector, vector)
    assert "generation" in repr(cache)


def test_importing_it_starts_no_thread_and_loads_neither_llama_cpp_nor_numpy() -> None:
    program = """
import sys, threading
before = set(sys.modules)  # coverage loads sqlite3 for itself
import asteady.blocking
loaded = set(sys.modules) - before
print(threading.active_count(), {"llama_cpp", "numpy", "sqlite3"} & loaded)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"1 set()\n"


def test_a_namespace_tags_the_entries_of_calls_from_any_thread() -> None:
    engine = FakeEngine()
    with blocking.Session(engine=engine) as session:
        emails = session.namespace("emails")
        marketing = emails.namespace("marketing")
        assert repr(marketing) == "<blocking Namespace emails/marketing>"
        text = marketing.generate("hello")
        with ThreadPoolExecutor(8) as executor:
            texts = list(executor.map(lambda _: marketing.generate("hello"), range(100)))
        assert {*texts, session.generate("hello")} == {text}
        with marketing.stream("hello") as stream:
            assert stream.read().text == text
        vector = marketing.embed("hello")
        assert (marketing.embed("hello") == vector).all()
        assert marketing.is_cached("hello")
        report = emails.preload([{"subcategory": "sales", "prompt": "two"}])
        assert report.warmed == 1

        found = emails.statistics()
        assert (found.generation.entries, found.embedding.entries) == (2, 1)
        assert (found.generation.hits, found.generation.misses) == (101, 2)
        assert (found.embedding.hits, found.embedding.misses) == (1, 1)
        assert emails.children() == ["emails/marketing", "emails/sales"]
        assert len(marketing.entries()) == len(marketing.entries("embedding")) == 1
        assert len(session.cache.generation.entries(namespace="emails")) == 2
        assert list(session.cache.namespaces("emails/sales")) == ["emails/sales"]
        assert session.cache.namespace_size("emails").entries == 3

        assert marketing.clear() == 2
        marketing.generate("hello")
        assert session.cache.clear_namespace("emails") == 2
        assert session.cache.generation.keys() == []
        assert len(engine.computed) == 4


def test_a_warm_hit_under_a_namespace_is_answered_on_the_caller_s_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with awake(blocking.Session(engine=FakeEngine())) as session:
        emails, docs = session.namespace("emails"), session.namespace("docs")
        for _ in range(2):
            emails.generate("hello")
            emails.embed("hello")
        session.generate("hello")
        trips = round_trips(monkeypatch)
        assert emails.generate("hello") == "You said: hello"
        assert emails.embed("hello").shape == (8,)
        assert not trips
        assert session.cache.get_cache_stats()["generation"]["hits"] == 3
        assert emails.statistics().generation.hits == 2
        docs.generate("hello")
        assert len(trips) == 3  # in memory, but not tagged with this namespace
        assert docs.statistics().generation.entries == 1


def test_a_namespace_of_the_default_session_outlives_it() -> None:
    emails = blocking.namespace("emails")
    text = emails.generate("hello", max_new_tokens=4)
    blocking.close()
    assert emails.generate("hello", max_new_tokens=4) == text
    assert emails.statistics().generation.hits == 1
