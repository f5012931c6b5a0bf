"""Loops and threads in every combination that a program can make, each in a process of its own.

A program prints what it counted as ``name=number``; it ends within a time limit, with exit code 0
and nothing on standard error.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from tests.faults.campaign import rounds
from tests.faults.conftest import Tally

_LIMIT_S = 120

PREAMBLE = """
import asyncio, ctypes, gc, os, random, sys, threading, time
import asteady, asteady.blocking as blocking
from asteady import SessionClosedError, SessionError
from asteady.testing import FakeEngine
from asteady._session.generation import context_of
from asteady._session.models import GivenEngine, engine_source_override

ROUNDS = int(sys.argv[1])

def in_thread(fn, *arguments):
    "Call it on a thread; returns a function that waits for its result."
    outcome = []
    def work():
        try:
            outcome.append((fn(*arguments), None))
        except BaseException as exc:
            outcome.append((None, exc))
    thread = threading.Thread(target=work)
    thread.start()
    def result():
        thread.join(60)
        assert not thread.is_alive(), "stuck"
        value, error = outcome[0]
        if error is not None:
            raise error
        return value
    return result

def refused(fn):
    try:
        fn()
    except SessionError as exc:
        assert "another event loop" in str(exc), exc
        return
    raise AssertionError("not refused")

def own_threads():
    names = ("asteady-worker", "asteady-prepare", "asteady-close", "_connection_worker")
    return [t.name for t in threading.enumerate() if any(name in t.name for name in names)]

def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)
"""

LIBRARIES = {
    "asyncio": "new_loop = asyncio.new_event_loop",
    "sniffio": "import sniffio; new_loop = asyncio.new_event_loop",
    "uvloop": "import uvloop; new_loop = uvloop.new_event_loop",
    "nest_asyncio": """
import nest_asyncio, warnings
nest_asyncio.apply()
warnings.simplefilter("ignore", ResourceWarning)  # it makes loops in threads and leaves them open
new_loop = asyncio.new_event_loop
""",
    "gevent": "import gevent; new_loop = asyncio.new_event_loop",
}


def run(program: str, count: int, tally: Tally) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREAMBLE + program, str(count)],
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for line in done.stdout.splitlines():
        name, _, number = line.partition("=")
        tally(name, int(number))


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return LIBRARIES[name]


FOREIGN = """
AWAITED = {
    "warm": lambda session: session.generate("warm"),
    "cold": lambda session: session.generate("cold"),
    "embed": lambda session: session.embed("warm"),
    "stream": lambda session: session.stream("warm").__aenter__(),
    "warming": lambda session: session.warm(["warm"]),
    "statistics": lambda session: session.cache.get_cache_stats(),
    "clear": lambda session: session.cache.clear_all_caches(),
}

def run_in(loop, coroutine):
    try:
        return loop.run_until_complete(asyncio.wait_for(coroutine, 60))
    finally:
        loop.close()

def closed_from_elsewhere(state, cancel):
    "A session whose loop runs, stands still or is closed, and what another loop can do with it."
    engine = FakeEngine()
    loop = new_loop()
    session = loop.run_until_complete(asteady.Session(engine=engine, cache_dir=folder).open())
    loop.run_until_complete(session.load())
    for call in (session.generate, session.embed):
        loop.run_until_complete(call("warm"))
    for cache in (session.cache.generation, session.cache.embedding):
        loop.call_soon(cache.flush)
    loop.run_until_complete(asyncio.sleep(0.01))
    waiting = None
    if state == "runs":
        owner = in_thread(loop.run_forever)
        engine.hold()
        waiting = asyncio.run_coroutine_threadsafe(session.generate("waiting"), loop)
        until(lambda: session.statistics().flights == 1)
    elif state == "is closed":
        loop.close()
    for call in AWAITED.values():
        refused(in_thread(lambda: run_in(new_loop(), call(session))))
    assert session.state == "open" and repr(session) and session.statistics()

    async def close():
        if cancel:
            closing = asyncio.ensure_future(session.aclose())
            await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([closing])
        await session.aclose()

    in_thread(lambda: run_in(new_loop(), close()))()
    assert session.is_closed, session
    assert engine.closed
    if waiting is not None:
        try:
            waiting.result(60)
        except SessionClosedError:
            pass
        loop.call_soon_threadsafe(loop.stop)
        owner()
    if state != "is closed":
        loop.close()
    until(lambda: not own_threads())

import tempfile
combinations = 0
with tempfile.TemporaryDirectory() as folder:
    for state in ("runs", "stands still", "is closed"):
        for cancel in (False, True):
            closed_from_elsewhere(state, cancel)
            combinations += 1
print(f"combinations={combinations}")
"""


def test_a_session_is_refused_and_closed_on_foreign_loops(library: str, tally: Tally) -> None:
    run(f"{library}\n{FOREIGN}", 1, tally)


DEFAULT_SESSIONS = """
def work():
    for n in range(ROUNDS):
        loop = new_loop()
        try:
            text = loop.run_until_complete(asteady.generate(f"prompt {n % 5}"))
            assert text == f"You said: prompt {n % 5}", text
            if n % 2:
                loop.run_until_complete(asteady.aclose())
            elif n % 3:
                loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()  # now and then with its session open
    return ROUNDS

with engine_source_override(lambda settings: GivenEngine(FakeEngine())):
    print(f"loops={sum(result() for result in [in_thread(work) for _ in range(8)])}")
"""


def test_default_sessions_of_many_threads_and_loops(library: str, tally: Tally) -> None:
    run(f"{library}\n{DEFAULT_SESSIONS}", rounds(5, 60), tally)


EVERYTHING = """
async def main():
    for n in range(ROUNDS):
        engine = FakeEngine()
        async with asteady.Session(engine=engine, idle_unload_s=0.02) as session:
            assert await session.generate("hi", cache="bypass") == "You said: hi"
            await session.warm(["a", "b"])
            async with session.stream(f"stream {n}") as stream:
                assert "".join([chunk async for chunk in stream]) == f"You said: stream {n}"
            # A blocking call in a running loop, and in a thread of it.
            await asyncio.to_thread(blocking_calls)
            blocking_calls()
            async with asyncio.timeout(60):
                while session.statistics().pools or not engine.closed:
                    await asyncio.sleep(0.005)

def blocking_calls():
    assert behind.generate("hi", timeout=60) == "You said: hi"
    assert list(behind.generate_iter("a b")) == ["You ", "said: ", "a ", "b"]

with blocking.Session(engine=FakeEngine(), idle_unload_s=0.02) as behind:
    loop = new_loop()
    loop.run_until_complete(main())
    loop.close()
    until(lambda: not behind.statistics().pools)
print(f"sessions={ROUNDS}")
"""


def test_all_calls_and_unloading_beside_other_async_libraries(library: str, tally: Tally) -> None:
    run(f"{library}\n{EVERYTHING}", rounds(2, 50), tally)


TRIO = """
import trio
async def main():
    assert behind.generate("hi", cache="bypass") == "You said: hi"
    for n in range(ROUNDS):
        text = await trio.to_thread.run_sync(behind.generate, f"thread {n}")
        assert text == f"You said: thread {n}"
    until(lambda: not behind.statistics().pools)

with blocking.Session(engine=FakeEngine(), idle_unload_s=0.02) as behind:
    trio.run(main)
print(f"calls={ROUNDS}")
"""


def test_blocking_calls_in_trio(tally: Tally) -> None:
    pytest.importorskip("trio")
    run(TRIO, rounds(5, 500), tally)


GEVENT = """
import gevent
with blocking.Session(engine=FakeEngine(), idle_unload_s=0.02) as behind:
    greenlets = [gevent.spawn(behind.generate, str(n), timeout=60) for n in range(ROUNDS)]
    assert [one.get() for one in greenlets] == [f"You said: {n}" for n in range(ROUNDS)]
print(f"calls={ROUNDS}")
"""


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()\n"])
def test_blocking_calls_in_gevent(patch: str, tally: Tally) -> None:
    pytest.importorskip("gevent")
    run(patch + PREAMBLE + GEVENT, rounds(5, 500), tally)


RAISED_INTO = """
class Limit(BaseException):
    pass

CALLS = (
    lambda n: session.generate(f"p {n}"),
    lambda n: session.generate(f"p {n}", timeout=random.choice([0, 0.001, 0.01, 60])),
    lambda n: list(session.generate_iter(f"p {n}")),
    lambda n: session.embed([f"p {n}", f"q {n}"]),
    lambda n: list(session.embed_batches([f"p {n}"], timeout=60)),
    lambda n: session.warm([f"p {n}"]),
    lambda n: session.complete(f"p {n % 3}", cache="bypass"),
)

calling, lock = set(), threading.Lock()

def work(n):
    own = threading.get_ident()
    try:
        try:
            calling.add(own)
            CALLS[n % len(CALLS)](n)
        finally:
            # From here on nothing is raised into it; what was, is raised by this call at last.
            with lock:
                calling.discard(own)
    except (Limit, TimeoutError) as exc:
        return type(exc)
    return None

def raise_into(thread):
    "Only where `work` catches it: in the code of threading it would be printed."
    with lock:
        if thread.ident in calling:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(Limit)
            )

def report(ignored):
    "Of a finalizer or a weak reference's callback CPython prints what is raised, and goes on."
    if ignored.exc_type is not Limit:
        sys.__unraisablehook__(ignored)

sys.unraisablehook = report
random.seed(7)
ended = {Limit: 0, TimeoutError: 0, None: 0}
engine = FakeEngine()
with blocking.Session(engine=engine, workers=2) as session:
    for turn in range(ROUNDS):
        held = turn % 3 > 0
        if held:
            engine.hold()
            engine.step(random.randrange(20))
        outcomes = []
        threads = [
            threading.Thread(target=lambda n=n: outcomes.append(work(n)))
            for n in range(turn * 14, turn * 14 + 14)
        ]
        for thread in threads:
            thread.start()
        time.sleep(random.random() * 0.02)
        # All that wait are ended; none of them would end by itself while the engine is held.
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                raise_into(thread)
            for thread in threads:
                thread.join(0.05)
        for outcome in outcomes:
            ended[outcome] += 1
        until(lambda: session.statistics().flights == 0)
        engine.resume()
        assert session.generate("after", cache="bypass") == "You said: after"
print(f"ended by an exception={ended[Limit]}")
print(f"ended by their timeout={ended[TimeoutError]}")
"""


def test_blocking_calls_are_ended_by_timeouts_and_exceptions_raised_into_them(
    tally: Tally,
) -> None:
    run(RAISED_INTO, rounds(6, 300), tally)


READERS = """
async def use(n):
    async with asteady.Session(engine=FakeEngine(), workers=2) as session:
        sessions.append(session)
        await asyncio.gather(*(session.generate(f"{n} {i}") for i in range(20)), session.embed("x"))
        sessions.remove(session)

def read():
    while not done.is_set():
        for session in list(sessions):
            assert session.state in ("open", "closing", "closed")
            assert session.statistics().flights >= 0
            repr(session), repr(session.cache)
        time.sleep(0)

sessions, done = [], threading.Event()
readers = [in_thread(read) for _ in range(3)]
try:
    for n in range(ROUNDS):
        asyncio.run(use(n))
finally:
    done.set()
for reader in readers:
    reader()
print(f"sessions={ROUNDS}")
"""


def test_statistics_are_read_on_other_threads_while_sessions_come_and_go(tally: Tally) -> None:
    run(READERS, rounds(5, 200), tally)


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from asteady.cli import main
sys.argv = ["asteady", "models", "--help"]
print("ready", flush=True)
code = main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_the_command_is_interrupted_at_random_moments_of_its_imports(tally: Tally) -> None:
    random.seed(11)
    interrupted = 0
    count = rounds(4, 200)
    for _ in range(count):
        with subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(random.random() * 0.3)
            child.send_signal(signal.SIGINT)
            try:
                _, stderr = child.communicate(timeout=60)
            finally:
                child.kill()
        if child.returncode == 130:
            assert stderr == "asteady: interrupted\n"
            interrupted += 1
        else:
            # It had printed its help already, or Python was ending.
            assert child.returncode in (0, -signal.SIGINT)
    tally("interrupted", interrupted)
