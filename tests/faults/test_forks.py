"""Processes that fork while they use the cache: no answer is lost, nothing hangs or is damaged.

Each program runs in an interpreter of its own with a time limit, and forks from there.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.faults.campaign import LONG, rounds
from tests.faults.conftest import Tally

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

PREAMBLE = """
import asyncio, functools, os, signal, sys, threading, time
import asteady, asteady.blocking as blocking
from asteady.testing import FakeEngine

def new(**settings):
    # Long: where it counts what is lost, a busy machine must not make it give up.
    settings = {"generation_cache_capacity": 2000, "store_timeout_s": 60, **settings}
    return blocking.Session(engine=FakeEngine(), **settings)

def forked(fn):
    # The child's process id.
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(90)
        try:
            fn()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    return pid

def ended(*pids, limit_s=60):
    # Whether all of these children end well.
    deadline = time.monotonic() + limit_s
    for pid in pids:
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                break
            if time.monotonic() > deadline:
                os.kill(pid, 9)
                print("a child hangs")
                found, status = os.waitpid(pid, 0)
                break
            time.sleep(0.005)
        if status:
            return False
    return True

def missing(*names):
    with new() as session:
        return [name for name in names if not session.is_cached(name)]
"""


def run(program: str, directory: Path, limit_s: float = 120.0) -> str:
    """The output of a program, which prints no warning and leaves no child behind."""
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ASTEADY_CACHE_DIR": str(directory)},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=limit_s)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == 0, out + err
    assert not re.search("Traceback|Warning|damaged", err), err
    return out


def test_a_child_keeps_its_answers_when_its_parent_closes(tmp_path: Path, tally: Tally) -> None:
    for number in range(rounds(2, 50)):
        out = run(
            """
session = new().open()
session.generate("parent")
(told, tell), (heard, say) = os.pipe(), os.pipe()

def child():
    with new() as own:
        own.generate("child 1")
        os.write(say, b".")
        os.read(told, 1)
        own.generate("child 2")

pid = forked(child)
os.read(heard, 1)
session.close()
os.write(tell, b".")
print(ended(pid), missing("parent", "child 1", "child 2"))
""",
            tmp_path / str(number),
        )
        assert out == "True []\n"
        tally("answers", 3)


@pytest.mark.parametrize("small", [False, True], ids=["large", "small"])
def test_three_children_and_their_parent_write_at_once(
    tmp_path: Path, tally: Tally, small: bool
) -> None:
    settings = "dict(generation_cache_max_size_mb=0.05, generation_cache_capacity=40)"
    for number in range(rounds(1, 20)):
        out = run(
            f"""
settings = {settings if small else "{}"}

def work(session, name, count):
    for n in range(count):
        session.generate(f"{{name}} {{n}}")

def child(name):
    with new(**settings) as own:
        work(own, name, 112)

with new(**settings) as session:
    session.generate("first")
    pids = [forked(functools.partial(child, name)) for name in "abc"]
    work(session, "p", 113)
    size = session.cache.get_cache_stats()["generation"]["size"]
print(ended(*pids), 0 < size <= 450)
if not settings:
    names = [f"{{name}} {{n}}" for name in "abcp" for n in range(112)]
    print("lost", missing("first", *names))
""",
            tmp_path / str(number),
        )
        assert out == "True True\n" + ("" if small else "lost []\n")
        aside = [name for name in os.listdir(tmp_path / str(number)) if ".db." in name]
        assert aside == []
        tally("answers", 450)


@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_daemon_that_outlives_the_process_that_began_it(
    tmp_path: Path, tally: Tally, end: str
) -> None:
    for number in range(rounds(1, 20)):
        directory = tmp_path / str(number)
        # Returns when the daemon has closed its output.
        run(
            f"""
session = new().open()
session.generate("before")
gone, alive = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.alarm(90)
        os.close(alive)
        os.read(gone, 1)
        with new() as own:
            for n in range(20):
                own.generate(f"daemon {{n}}")
        sys.exit()
    {end}
sys.exit()
""",
            directory,
        )
        out = run('print(missing("before", *[f"daemon {n}" for n in range(20)]))', directory)
        assert out == "[]\n"
        tally("answers", 21)


def test_a_fork_while_the_database_opens(tmp_path: Path, tally: Tally) -> None:
    # Modules are imported and SQLite is used by other threads at that moment. Each program imports
    # them anew, and forks a little later than the one before.
    for number in range(rounds(8, 100)):
        out = run(
            f"""
threads = [threading.Thread(target=lambda: new().open().generate("parent"), daemon=True)
           for _ in range(2)]
for thread in threads:
    thread.start()
time.sleep({number % 25 * 0.004})

def child():
    with new() as own:
        own.generate("child")

print(ended(forked(child), forked(child)))
for thread in threads:
    thread.join()
print(missing("child", "parent"))
""",
            tmp_path / str(number),
        )
        assert out == "True\n[]\n"
        tally("forks", 2)


def test_forks_while_threads_read_write_and_close(tmp_path: Path, tally: Tally) -> None:
    forks = rounds(20, 300)
    out = run(
        f"""
done = threading.Event()
session = new().open()

def generate(name):
    n = 0
    while not done.is_set():
        session.generate(f"{{name}} {{n % 200}}")
        n += 1

def open_and_close():
    while not done.is_set():
        missing("a 0")

threads = [threading.Thread(target=generate, args=(name,)) for name in "ab"]
threads.append(threading.Thread(target=open_and_close))
for thread in threads:
    thread.start()

def child(n):
    with new() as own:
        own.generate(f"child {{n}}")

print(all(ended(forked(functools.partial(child, n))) for n in range({forks})))
done.set()
for thread in threads:
    thread.join()
session.close()
print(missing(*[f"child {{n}}" for n in range({forks})]))
""",
        tmp_path,
        600,
    )
    assert out == "True\n[]\n"
    tally("forks", forks)


def test_a_fork_while_another_process_keeps_the_database_locked(
    tmp_path: Path, tally: Tally
) -> None:
    out = run(
        """
import sqlite3
session = new().open()
session.generate("before")
path = os.environ["ASTEADY_CACHE_DIR"] + "/generation_cache.db"
(locked, lock), (unlock, free) = os.pipe(), os.pipe()

def locker():
    own = sqlite3.connect(path, isolation_level=None)
    own.execute("BEGIN IMMEDIATE")
    os.write(lock, b".")
    os.read(unlock, 1)
    own.execute("ROLLBACK")

holder = forked(locker)
os.read(locked, 1)
writing = threading.Thread(target=session.generate, args=("pending",))
writing.start()
# The transaction that waits for the lock is in SQLite now, and the fork waits for it.
threading.Timer(0.5, os.write, (free, b".")).start()

def child():
    with new() as own:
        own.generate("child")

print(ended(forked(child), holder))
writing.join()
session.close()
print(missing("before", "pending", "child"))
""",
        tmp_path,
    )
    assert out == "True\n[]\n"
    tally("answers", 3)


def test_a_child_of_a_fork_that_could_not_wait_does_without_the_database(tmp_path: Path) -> None:
    out = run(
        """
from asteady._base.forks import fork_gate
session = new().open()
session.generate("parent")
inside, leave = threading.Event(), threading.Event()
def stay():
    with fork_gate:
        inside.set()
        leave.wait()
threading.Thread(target=stay, daemon=True).start()
inside.wait()
fork_gate.limit_s = 0.2

def child():
    import logging
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level="WARNING")
    with new() as own:
        print(own.generate("child"))

print(ended(forked(child)))
leave.set()
session.generate("parent 2")
session.close()
print(missing("parent", "parent 2", "child"))
""",
        tmp_path,
    )
    assert "the cache is unusable in this process, which was forked while" in out
    *_, answer, ended, missing = out.splitlines()
    assert (answer, ended, missing) == ("You said: child", "True", "['child']")


PLACES = {
    "in a coroutine": """
async def main():
    async with asteady.Session(engine=FakeEngine()) as session:
        await session.generate("parent")
        assert ended(forked(functools.partial(child, session)))
        print(await session.generate("parent"), await session.generate("parent 2"))
asyncio.run(main())
""",
    "in a callback": """
async def main():
    async with asteady.Session(engine=FakeEngine()) as session:
        await session.generate("parent")
        pids = []
        asyncio.get_running_loop().call_soon(
            lambda: pids.append(forked(functools.partial(child, session))))
        await asyncio.sleep(0)
        assert ended(*pids)
        print(await session.generate("parent"), await session.generate("parent 2"))
asyncio.run(main())
""",
    "in another thread": """
async def main():
    async with asteady.Session(engine=FakeEngine()) as session:
        await session.generate("parent")
        pid = await asyncio.to_thread(forked, functools.partial(child, session))
        assert await asyncio.to_thread(ended, pid)
        print(await session.generate("parent"), await session.generate("parent 2"))
asyncio.run(main())
""",
    "on asteady's own loop": """
async def main():
    async with asteady.Session(engine=FakeEngine()) as session:
        await session.generate("parent")
        assert ended(forked(functools.partial(child, session)))
        print(await session.generate("parent"), await session.generate("parent 2"))
blocking.run(main)
""",
}


@pytest.mark.parametrize("program", PLACES.values(), ids=PLACES.keys())
def test_a_session_of_the_parent_is_refused_wherever_it_forks(tmp_path: Path, program: str) -> None:
    out = run(
        """
def child(session):
    async def use():
        print(session.is_open, repr(session).split()[1])
        for call in (lambda: session.generate("parent"), lambda: session.generate("new"),
                     session.cache.get_cache_stats, session.load):
            try:
                await call()
            except asteady.SessionError as error:
                print(str(error)[:45])
        await session.aclose()
        async with asteady.Session(engine=FakeEngine()) as own:
            print(await own.generate("parent"), await own.generate("child"))
    asyncio.run(use())
    with new() as own:
        print(own.generate("child 2"))
"""
        + program
        + 'print(missing("parent", "parent 2", "child", "child 2"))',
        tmp_path,
    )
    assert out.splitlines() == [
        "False closed:",
        *["this process was forked after the session was"] * 4,
        "You said: parent You said: child",
        "You said: child 2",
        "You said: parent You said: parent 2",
        "[]",
    ]


def test_default_sessions_begin_anew_in_a_child_but_not_in_its_parents_loop(
    tmp_path: Path,
) -> None:
    out = run(
        """
from asteady._session.models import GivenEngine, engine_source_override
with engine_source_override(lambda settings: GivenEngine(FakeEngine())):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(asteady.generate("parent"))
    manager = asteady.blocking.get_cache_manager()
    blocking.generate("parent 2")

    def child():
        print(asyncio.run(asteady.generate("child")), blocking.generate("child 2"))
        print(manager.get_cache_stats()["generation"]["size"])
        try:
            loop.run_until_complete(asteady.generate("parent"))
        except asteady.SessionError as error:
            print(error)
        # The parent's caches look at their files twice a second.
        loop.run_until_complete(asyncio.sleep(0.6))

    assert ended(forked(child))
    print(loop.run_until_complete(asteady.generate("parent 3")))
    loop.run_until_complete(asteady.aclose())
    loop.close()
""",
        tmp_path,
    )
    assert out.splitlines() == [
        "You said: child You said: child 2",
        "4",
        "this event loop had a session before this process was forked, and shares its selector with"
        " the parent's: use a new loop in the child, as asyncio.run does",
        "You said: parent 3",
    ]


def test_a_child_that_ends_leaves_the_locks_of_its_parents_computation(tmp_path: Path) -> None:
    out = run(
        """
engine = FakeEngine()
engine.hold()
session = blocking.Session(engine=engine).open()
thread = threading.Thread(target=session.generate, args=("slow",))
thread.start()
blocking.run(engine.wait_computed, 1)

import filelock, glob, subprocess
pid = os.fork()
if pid == 0:
    del session
    sys.exit()
print(ended(pid))
code = "import filelock, sys; filelock.FileLock(sys.argv[1]).acquire(blocking=False)"
files = glob.glob(os.environ["ASTEADY_CACHE_DIR"] + "/locks/0*.lock")
for file in files:
    tried = subprocess.run([sys.executable, "-c", code, file], stderr=subprocess.PIPE, text=True)
    print("Timeout" in tried.stderr)
engine.resume()
thread.join()
session.close()
print(missing("slow"))
""",
        tmp_path,
    )
    assert out == "True\nTrue\n[]\n"


def test_other_programs_start_without_closing_the_databases(tmp_path: Path) -> None:
    out = run(
        """
import multiprocessing, subprocess
from asteady._base.forks import fork_gate
forks = []
fork_gate.before_fork(lambda: forks.append("fork"))
session = new().open()
session.generate("parent")
subprocess.run(["true"])
os.waitpid(os.posix_spawn("/bin/true", ["true"], os.environ), 0)
print(forks)
subprocess.run(["true"], preexec_fn=lambda: None)
print(forks)
print(session.generate("parent 2"))
session.close()
print(missing("parent", "parent 2"))
""",
        tmp_path,
    )
    assert out == "[]\n['fork']\nYou said: parent 2\n[]\n"


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(tmp_path: Path, method: str, tally: Tally) -> None:
    script = tmp_path / "pool.py"
    script.write_text(
        f"""
import multiprocessing
import asteady.blocking as asteady

def work(n):
    return asteady.generate(f"say {{n}}", max_new_tokens=3)

if __name__ == "__main__":
    before = work(0)
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        first = pool.map(work, range(8))
        assert first[0] == before
        assert first == [work(n) for n in range(8)] == pool.map(work, range(8))
    manager = asteady.get_cache_manager()
    print(manager.get_cache_stats()["generation"]["size"])
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "ASTEADY_CACHE_DIR": str(tmp_path / "cache"), "ASTEADY_PROBE": "0"},
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("8\n", 0), done.stderr
    assert "damaged" not in done.stderr
    tally("answers", 8)


SERVED = """
import asteady.blocking as asteady

asteady.generate("before the fork", max_new_tokens=3)

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [asteady.generate(environ["PATH_INFO"], max_new_tokens=3).encode()]
"""

CACHED = """
import asteady.blocking as asteady
import sys
print([prompt for prompt in sys.argv[1:] if not asteady.is_cached(prompt, max_new_tokens=3)])
"""


def test_gunicorn_that_loads_the_app_before_it_forks(tmp_path: Path, tally: Tally) -> None:
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    (tmp_path / "served.py").write_text(SERVED)
    prompts = [f"/{n}" for n in range(rounds(12, 200))]
    server = [sys.executable, "-m", "gunicorn", "--preload", "-w", "3", "-b", "unix:socket"]
    env = {**os.environ, "ASTEADY_CACHE_DIR": str(tmp_path / "cache"), "ASTEADY_PROBE": "0"}
    with subprocess.Popen(
        [*server, "--no-control-socket", "served:app"],
        cwd=tmp_path,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            while "Booting worker" not in (line := process.stderr.readline()):
                assert line, "it ended"
            transport = httpx.HTTPTransport(uds=str(tmp_path / "socket"), retries=3)
            with httpx.Client(transport=transport, base_url="http://app", timeout=60) as client:
                answers = [client.get(prompt).text for prompt in prompts]
                assert answers == [client.get(prompt).text for prompt in prompts]
            process.terminate()
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "Traceback" not in err, err
    found = subprocess.run(
        [sys.executable, "-c", CACHED, "before the fork", *prompts],
        capture_output=True,
        text=True,
        env=env,
        check=True,
        timeout=60,
    )
    assert found.stdout == "[]\n"
    tally("answers", len(prompts))


TASKS = """
import celery, os
import asteady.blocking as asteady

folder = os.environ["ASTEADY_CACHE_DIR"] + "-queue"
os.makedirs(folder, exist_ok=True)
app = celery.Celery("tasks", broker="filesystem://", backend="file://" + folder)
app.conf.broker_transport_options = {"data_folder_in": folder, "data_folder_out": folder}
asteady.generate("before the fork", max_new_tokens=3)

@app.task
def generate(prompt):
    return asteady.generate(prompt, max_new_tokens=3)
"""

SENDS = """
import sys, tasks
print([result.get(timeout=90) != "" for result in map(tasks.generate.delay, sys.argv[1:])])
"""


@pytest.mark.skipif(not LONG, reason="of the long campaign only")
def test_workers_of_celery(tmp_path: Path, tally: Tally) -> None:
    pytest.importorskip("celery", reason="celery is not installed")
    (tmp_path / "tasks.py").write_text(TASKS)
    prompts = [f"/{n}" for n in range(100)]
    env = {**os.environ, "ASTEADY_CACHE_DIR": str(tmp_path / "cache"), "ASTEADY_PROBE": "0"}
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env.get("PYTHONPATH", "")])
    worker = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-P", "prefork", "-c", "3"]
    log = tmp_path / "log"
    with log.open("w") as out, subprocess.Popen(worker, env=env, stdout=out, stderr=out) as process:
        try:
            sent = subprocess.run(
                [sys.executable, "-c", SENDS, *prompts],
                capture_output=True,
                text=True,
                env=env,
                timeout=120,
                check=False,
            )
            process.terminate()
            process.wait(60)
        finally:
            process.kill()
    assert sent.stdout == f"{[True] * len(prompts)}\n", sent.stderr + log.read_text()
    found = subprocess.run(
        [sys.executable, "-c", CACHED, "before the fork", *prompts],
        capture_output=True,
        text=True,
        env=env,
        check=True,
        timeout=60,
    )
    assert found.stdout == "[]\n"
    tally("answers", len(prompts))
