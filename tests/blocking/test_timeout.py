"""Time limits of blocking calls, and exceptions that are raised into a thread that waits."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from asteady import InvalidRequestError, blocking
from asteady.blocking import _portal
from asteady.testing import FakeEngine
from tests.blocking.awake import awake

SHORT_S = 0.05


@pytest.fixture
def session(engine: FakeEngine) -> Iterator[blocking.Session]:
    with awake(blocking.Session(engine=engine)) as session:
        yield session
        engine.resume()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def read(stream: blocking.Stream) -> None:
    with stream:
        stream.read()


CALLS: dict[str, Callable[[blocking.Session], Any]] = {
    "generate": lambda session: session.generate("hi", timeout=SHORT_S),
    "messages": lambda session: session.generate(
        messages=[{"role": "user", "content": "hi"}], timeout=SHORT_S
    ),
    "complete": lambda session: session.complete("hi", timeout=SHORT_S),
    "stream": lambda session: read(session.stream("hi", timeout=SHORT_S)),
    "generate_iter": lambda session: list(session.generate_iter("hi", timeout=SHORT_S)),
    "embed": lambda session: session.embed("hi", timeout=SHORT_S),
    "embed many": lambda session: session.embed(["a", "b"], timeout=SHORT_S),
    "embed_batches": lambda session: list(session.embed_batches(["a", "b"], timeout=SHORT_S)),
    "warm": lambda session: session.warm(["a", "b"], timeout=SHORT_S),
    "namespace": lambda session: session.namespace("n").generate("hi", timeout=SHORT_S),
    "prefix": lambda session: session.prefix("Be brief.").generate("hi", timeout=SHORT_S),
    "verify": lambda session: blocking.verify(session, timeout=SHORT_S),
    "warm_cache_parallel": lambda session: blocking.warm_cache_parallel(
        ["a"], session=session, timeout=SHORT_S
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_call_whose_time_is_up_raises_and_stops_its_computation(
    call: Callable[[blocking.Session], Any], session: blocking.Session, engine: FakeEngine
) -> None:
    engine.hold()
    with pytest.raises(TimeoutError, match=r"more than 0\.05 s"):
        call(session)
    until(lambda: session.statistics().flights == 0)
    engine.resume()
    assert session.generate("hi", timeout=60) == "You said: hi"


def test_a_computation_that_others_wait_for_goes_on(
    session: blocking.Session, engine: FakeEngine
) -> None:
    engine.hold()
    texts: list[str] = []
    patient = threading.Thread(target=lambda: texts.append(session.generate("hi")))
    patient.start()
    until(lambda: session.statistics().flights == 1)
    with pytest.raises(TimeoutError):
        session.generate("hi", timeout=SHORT_S)
    engine.resume()
    patient.join(60)
    assert texts == ["You said: hi"]
    assert len(engine.computed) == 1


def test_the_time_of_an_iteration_is_for_all_of_it(
    session: blocking.Session, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.hold()
    engine.step()
    chunks = session.generate_iter("a b c", timeout=1000)
    assert next(chunks) == "You "
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 1000)
    monkeypatch.setattr(_portal, "time", later)
    with pytest.raises(TimeoutError):
        next(chunks)
    assert list(chunks) == []
    until(lambda: session.statistics().flights == 0)


def test_a_remembered_answer_needs_no_time(session: blocking.Session, engine: FakeEngine) -> None:
    session.generate("hi")
    engine.hold()
    assert session.generate("hi", timeout=0) == "You said: hi"
    with pytest.raises(TimeoutError):
        session.generate("other", timeout=0)


@pytest.mark.parametrize("timeout", [-1, "soon", float("nan"), True])
def test_what_is_no_time_is_refused(session: blocking.Session, timeout: Any) -> None:
    with pytest.raises(InvalidRequestError, match=r"timeout=.* is not allowed: .*seconds"):
        session.generate("hi", timeout=timeout)
    with pytest.raises(InvalidRequestError, match=r"timeout=.* is not allowed: .*seconds"):
        list(session.generate_iter("hi", timeout=timeout))


class LimitExceededError(BaseException):
    """As the time limits of Dramatiq and others raise into the thread of a task."""


WAITS: dict[str, Callable[[blocking.Session], Any]] = {
    "generate": lambda session: session.generate("hi"),
    "generate_iter": lambda session: list(session.generate_iter("hi")),
    "embed_batches": lambda session: list(session.embed_batches(["hi"])),
    "with a time limit": lambda session: session.generate("hi", timeout=600),
    "run": lambda session: blocking.run(session.awaitable.generate, "hi"),
}


@pytest.mark.parametrize("call", WAITS.values(), ids=WAITS.keys())
def test_an_exception_raised_into_the_waiting_thread_ends_the_call(
    call: Callable[[blocking.Session], Any], session: blocking.Session, engine: FakeEngine
) -> None:
    engine.hold()
    raised: list[BaseException] = []

    def work() -> None:
        try:
            call(session)
        except LimitExceededError as exc:
            raised.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: session.statistics().flights == 1)
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(LimitExceededError)
    )
    thread.join(60)
    try:
        assert not thread.is_alive()
        assert len(raised) == 1
        until(lambda: session.statistics().flights == 0)
    finally:
        engine.resume()
        thread.join()
