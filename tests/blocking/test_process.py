"""asteady.blocking where processes end, fork, and are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

PREAMBLE = """
import asyncio, os, sys, threading, time, signal
import asteady, asteady.blocking as blocking
from asteady.testing import FakeEngine
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", PREAMBLE + program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def finish(child: subprocess.Popen[str]) -> tuple[str, str]:
    """What else it prints; it does not outlive the test."""
    try:
        return child.communicate(timeout=60)
    finally:
        child.kill()


def test_the_first_calls_of_many_threads_start_one_loop() -> None:
    done = run("""
barrier = threading.Barrier(8)
def first():
    barrier.wait()
    blocking.run(asyncio.sleep, 0)
threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sum(thread.name == "asteady-blocking" for thread in threading.enumerate()))
""")
    assert done.stdout == "1\n", done.stderr


# -- exits ---------------------------------------------------------------------------------------

EXITS = {
    "after nothing": "",
    "after a call": """
blocking.generate("hi", max_new_tokens=2)
""",
    "with a session left open": """
session = blocking.Session(engine=FakeEngine()).open()
session.generate("hi")
session.generate("hi")
""",
    "with a stream left open": """
engine = FakeEngine()
session = blocking.Session(engine=engine).open()
engine.hold(); engine.step()
chunks = session.generate_iter("a b c")
assert next(chunks) == "You "
""",
    "with a model half way through an answer": """
chunks = blocking.generate_iter("hi", max_new_tokens=2000, temperature=3.0)
next(chunks)
""",
    "with daemon threads that wait": """
engine = FakeEngine()
engine.hold()
session = blocking.Session(engine=engine).open()
for n in range(4):
    threading.Thread(target=session.generate, args=(str(n),), daemon=True).start()
blocking.run(engine.wait_computed, 1)
""",
    "by sys.exit inside a session": """
with blocking.Session(engine=FakeEngine()) as session:
    session.generate("hi")
    print("end")
    sys.exit(0)
""",
    "with the module's session and two others": """
sessions = [blocking.Session(engine=FakeEngine()).open() for _ in range(2)]
blocking.embed("hi")
for session in sessions:
    session.generate("hi")
""",
    "after its modules were reloaded": """
import importlib, asteady.operate, asteady.steadytext
blocking.embed("hi")
fronts = (asteady, asteady.operate, blocking, asteady.steadytext, asteady.testing)
parts = (sys.modules["asteady.blocking._portal"], sys.modules["asteady.blocking._session"])
for module in (*fronts, *parts, *fronts):
    assert importlib.reload(module) is module
    blocking.embed("hi")
    blocking.embed(module.__name__)
assert [t.name for t in threading.enumerate()].count("asteady-blocking") == 1
""",
    "with a hook that was registered before and still calls": """
import atexit
blocking.generate("hi", max_new_tokens=2)
atexit.register(lambda: print("hook", blocking.is_cached("hi", max_new_tokens=2)))
""",
}


@pytest.mark.parametrize("program", EXITS.values(), ids=EXITS.keys())
def test_the_interpreter_exits_quietly(program: str) -> None:
    done = run(program + "\nprint('end')")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "end" in done.stdout


def test_an_exception_in_the_program_is_the_only_output() -> None:
    done = run("blocking.generate('hi', max_new_tokens=2)\nraise ZeroDivisionError('mine')")
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.rstrip().endswith("ZeroDivisionError: mine")


def test_threads_that_are_not_daemons_finish_their_calls_after_the_main_one_has_ended() -> None:
    done = run("""
blocking.generate("warm up", max_new_tokens=2)
blocking.embed("warm up")
def work():
    threading.main_thread().join()
    print(len(blocking.generate("after", max_new_tokens=4)) > 0, blocking.embed("after").shape)
    with blocking.Session(engine=FakeEngine()) as session:
        session.generate("hi")
threading.Thread(target=work).start()
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True (256,)\n", done.stderr
    assert done.stderr == ""


def test_hits_and_answers_are_on_disk_after_the_exit() -> None:
    run("for _ in range(5): blocking.generate('hi', max_new_tokens=2)")
    done = run("print(blocking.get_cache_manager().get_cache_stats()['generation']['all_hits'])")
    assert done.stdout == "4\n"


def test_calls_after_the_exit_hook_are_refused() -> None:
    done = run("""
from asteady.blocking._session import close_at_exit
blocking.is_cached("hi")
session = blocking.Session(engine=FakeEngine()).open()
close_at_exit()
for call in (blocking.generate, session.generate):
    try:
        call("hi")
    except asteady.SessionClosedError as error:
        print(error)
stream = session.stream("hi")
""")
    assert done.stdout == "the interpreter is exiting\n" * 2, done.stderr


def test_exit_does_not_wait_for_a_session_that_does_not_close() -> None:
    done = run("""
import atexit
from asteady.blocking._session import close_at_exit
session = blocking.Session(engine=FakeEngine()).open()
async def stuck():
    await asyncio.Event().wait()
session.awaitable.cache.aclose = stuck
atexit.unregister(close_at_exit)
atexit.register(lambda: print("end"))
atexit.register(close_at_exit, limit_s=0.5)
""")
    assert done.stdout == "end\n", done.stderr
    assert done.returncode == 0


def test_a_session_that_fails_to_close_at_exit_is_logged() -> None:
    done = run("""
session = blocking.Session(engine=FakeEngine()).open()
other = blocking.Session(engine=FakeEngine()).open()
async def fails():
    raise ZeroDivisionError
session.awaitable.aclose = fails
""")
    assert "closing a session at exit failed" in done.stderr
    assert done.returncode == 0


# -- forks ---------------------------------------------------------------------------------------

FORK = """
def in_child(fn):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            print(fn(), flush=True)
        except BaseException as error:
            print(type(error).__name__, error, flush=True)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_has_a_session_of_its_own_and_the_parent_keeps_its() -> None:
    done = run(
        FORK
        + """
text = blocking.generate("hi", max_new_tokens=4)
manager = blocking.get_cache_manager()
for _ in range(2):
    in_child(lambda: blocking.generate("hi", max_new_tokens=4) == text)
    in_child(lambda: len(blocking.generate("new", max_new_tokens=4)) > 0)
    in_child(lambda: manager.get_cache_stats()["generation"]["size"])
print(blocking.generate("other", max_new_tokens=4) != "", blocking.generate("new", cache="only",
      max_new_tokens=4) != "")
"""
    )
    assert done.stdout == "True\nTrue\n2\n" * 2 + "True True\n", done.stderr
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_session_of_the_parent_is_refused_in_the_child() -> None:
    done = run(
        FORK
        + """
session = blocking.Session(engine=FakeEngine()).open()
session.generate("hi")
session.generate("hi")
stream = session.stream("a b").__enter__()
in_child(lambda: session.generate("hi"))
in_child(lambda: session.cache.get_cache_stats())
in_child(lambda: next(stream))
in_child(lambda: stream.__exit__(None, None, None))
in_child(lambda: session.close())
in_child(lambda: blocking.Session(engine=FakeEngine()).open().generate("child"))
print(session.generate("hi"), "".join(stream))
session.close()
"""
    )
    lines = done.stdout.splitlines()
    refused = [line for line in lines if "this process was forked" in line]
    assert len(refused) == 4, done.stdout + done.stderr
    assert all(line.startswith("SessionError") for line in refused)
    assert lines[3] == "None"
    assert lines[5:] == ["You said: child", "You said: hi You said: a b"]
    assert done.stderr == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_while_a_thread_starts_the_loop_does_not_hang_the_child() -> None:
    done = run(
        FORK
        + """
from asteady.blocking import _portal
with _portal._starting:
    in_child(lambda: blocking.is_cached("hi", max_new_tokens=4))
"""
    )
    assert done.stdout == "False\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_process_pool_that_forks_works() -> None:
    done = run("""
import multiprocessing
blocking.embed("parent")
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print([v.shape for v in pool.map(blocking.embed, ["a", "b", "c"])])
""")
    assert done.stdout == "[(256,), (256,), (256,)]\n", done.stderr


# -- Ctrl-C --------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize(
    "call", ["session.generate('a b')", "next(session.generate_iter('a b'))"], ids=["call", "chunk"]
)
def test_ctrl_c_cancels_the_request_and_the_session_stays_open(call: str) -> None:
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PREAMBLE
            + f"""
engine = FakeEngine()
engine.hold()
with blocking.Session(engine=engine) as session:
    async def tell():
        await engine.wait_computed(1)
        print("waiting", flush=True)
    threading.Thread(target=blocking.run, args=(tell,)).start()
    try:
        {call}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    blocking.run(engine.wait_released, 1)
    engine.resume()
    print(session.generate("a b"))
""",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n"
    child.send_signal(signal.SIGINT)
    out, err = finish(child)
    assert (child.returncode, err) == (0, "")
    assert out == "interrupted\nYou said: a b\n"


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_a_script_that_does_not_catch_it() -> None:
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PREAMBLE
            + """
chunks = blocking.generate_iter("hi", max_new_tokens=2000, temperature=3.0)
next(chunks)
print("waiting", flush=True)
while True:
    blocking.generate("again", max_new_tokens=2000, temperature=3.0, cache="bypass")
""",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n"
    child.send_signal(signal.SIGINT)
    _, err = finish(child)
    assert child.returncode in (-signal.SIGINT, 130)
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")
