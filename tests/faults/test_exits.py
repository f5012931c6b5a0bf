"""However a program is ended, and whatever its threads are doing: the process ends, and soon.

In each child process a computation is where nothing can interrupt it, for longer than the test may
take: in native code, or in Python code that does not return.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys

import pytest

from tests.faults.campaign import LONG, rounds
from tests.faults.conftest import Tally

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")

# The stages take 600 s; an end that waits for one takes far longer than this on any machine.
_LIMIT_S = 60

PREAMBLE = """
import asyncio, ctypes, os, signal, sys, threading, time
import asteady, asteady.blocking as blocking
from asteady.testing import FakeEngine
from asteady._session.models import engine_source_override

sleep = ctypes.CDLL(None).sleep  # native code that lets go of the GIL, as llama.cpp does

def reach(stuck):
    print("reached", flush=True)
    reached.set()
    stuck()

def native():
    sleep(600)

def python():
    while True:
        time.sleep(0.01)

reached = threading.Event()
engine = FakeEngine()
"""

STAGES = {
    "native code that prepares": "engine.prepare = lambda request: reach(native)",
    "python code that prepares": "engine.prepare = lambda request: reach(python)",
    "a decode step": """
opened = engine.open_worker
def open_worker():
    worker = opened()
    worker.step = lambda: reach(native)
    return worker
engine.open_worker = open_worker
""",
    "a load": """
class Source:
    def fingerprint(self, kind, reference):
        return "fingerprint"
    def load(self, kind, reference):
        reach(native)
engine = None
override = engine_source_override(lambda settings: Source())
override.__enter__()
""",
}

BLOCKING = """
session = blocking.Session(engine=engine).open()
"""
IN_A_THREAD = (
    BLOCKING
    + """
threading.Thread(target=session.generate, args=("hi",), daemon=True).start()
reached.wait()
"""
)
ASYNC = """
async def main():
    async with asteady.Session(engine=engine) as session:
        task = asyncio.ensure_future(session.generate("hi"))
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.to_thread(reached.wait)
        {then}
asyncio.run(main())
"""

# CPython forgets that it was interrupted when a module is imported after that.
_INTERRUPTED = (-signal.SIGINT, 130, 1)

# The program, the signal that it gets when the stage is reached, and how it then ends.
ENDS: dict[str, tuple[str, signal.Signals | None, tuple[int, ...]]] = {
    "Ctrl-C in a blocking call": (
        BLOCKING + "session.generate('hi')",
        signal.SIGINT,
        _INTERRUPTED,
    ),
    "SIGTERM in a blocking call": (
        BLOCKING + "session.generate('hi')",
        signal.SIGTERM,
        (-signal.SIGTERM,),
    ),
    "Ctrl-C within with": (
        "\nwith blocking.Session(engine=engine) as session:\n    session.generate('hi')",
        signal.SIGINT,
        _INTERRUPTED,
    ),
    "sys.exit while a thread calls": (IN_A_THREAD + "sys.exit(3)", None, (3,)),
    "an exception while a thread calls": (IN_A_THREAD + "raise ZeroDivisionError", None, (1,)),
    "the end while a thread calls": (IN_A_THREAD, None, (0,)),
    "Ctrl-C in asyncio.run": (
        ASYNC.format(then="await task"),
        signal.SIGINT,
        _INTERRUPTED,
    ),
    "sys.exit in asyncio.run": (ASYNC.format(then="sys.exit(3)"), None, (3,)),
    "an exception in asyncio.run": (ASYNC.format(then="raise ZeroDivisionError"), None, (1,)),
    "a loop that is left as it is": (
        """
loop = asyncio.new_event_loop()
async def main():
    session = await asteady.Session(engine=engine).open()
    kept.append((session, asyncio.ensure_future(session.generate("hi"))))
    await asyncio.to_thread(reached.wait)
kept = []
loop.run_until_complete(main())
""",
        None,
        (0,),
    ),
}

# llama.cpp's destructors take away the tables that its tokenizer reads.
TOKENISES = """
import llama_cpp
from asteady._engine.llama.lib import start_backend
from asteady._engine.models.resolve import BUILTIN, BUILTIN_FOLDER

start_backend()
parameters = llama_cpp.llama_model_default_params()
parameters.vocab_only = True
model = llama_cpp.llama_model_load_from_file(
    str(BUILTIN_FOLDER / BUILTIN["generation"]).encode(), parameters
)
vocab = llama_cpp.llama_model_get_vocab(model)
text = "É und Ü, ".encode() * 2_000_000
tokens = (ctypes.c_int32 * len(text))()
def tokenise():
    for _ in range(100):
        llama_cpp.llama_tokenize(vocab, text, len(text), tokens, len(text), False, True)
engine.prepare = lambda request: reach(tokenise)
session = blocking.Session(engine=engine).open()
threading.Thread(target=session.generate, args=("hi",), daemon=True).start()
reached.wait()
time.sleep({wait_s})
sys.exit(3)
"""

_ALL = list(itertools.product(STAGES, ENDS))
# In the suite each stage and each end once or more.
_SOME = [
    (stage, end)
    for (at, stage), (to, end) in itertools.product(enumerate(STAGES), enumerate(ENDS))
    if (to - at) % len(STAGES) == 0
]


@pytest.mark.parametrize(("stage", "end"), _ALL if LONG else _SOME)
def test_the_process_ends(stage: str, end: str, tally: Tally) -> None:
    program, sent, codes = ENDS[end]
    with subprocess.Popen(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", PREAMBLE + STAGES[stage] + program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "reached\n"
            if sent is not None:
                child.send_signal(sent)
            _, err = child.communicate(timeout=_LIMIT_S)
        finally:
            child.kill()
    assert child.returncode in codes, err
    assert "Fatal" not in err
    if sent is None and 1 not in codes:
        assert "Traceback" not in err
    tally("processes ended", 1)


@pytest.mark.parametrize("round_", range(rounds(2, 40)))
def test_llama_cpp_does_not_crash_when_the_process_ends_while_it_tokenises(
    round_: int, tally: Tally
) -> None:
    child = subprocess.run(
        [sys.executable, "-c", PREAMBLE + TOKENISES.format(wait_s=0.01 * round_)],
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert child.returncode == 3, (child.returncode, child.stderr)
    assert child.stdout == "reached\n"
    tally("processes ended", 1)


# Loading, tokenising, prompts and answers of the real model, from the first import on.
MIXED = """
print("begun", flush=True)
import asyncio, random, sys
import asteady, asteady.blocking as blocking

random.seed(int(sys.argv[1]))

def prompt():
    return "tide and moon " * random.choice([2, 400, 4000, 100000])

async def work():
    async with asteady.Session() as session:
        while True:
            calls = [session.generate(prompt(), max_new_tokens=50) for _ in range(3)]
            calls += [session.embed(prompt(), truncate=True) for _ in range(2)]
            await asyncio.gather(*calls, return_exceptions=True)

if sys.argv[2] == "async":
    asyncio.run(work())
while True:
    try:
        blocking.generate(prompt(), max_new_tokens=50)
        blocking.embed(prompt(), truncate=True)
    except asteady.PromptTooLongError:
        pass
"""


def interrupt(child: subprocess.Popen[str]) -> str:
    """Press Ctrl-C; returns what the child wrote to standard error by its end.

    CPython drops an interrupt that strikes a finalizer or a weak reference's callback, of which
    each import has one, and says so. Then it is pressed again, as a user would.
    """
    while True:
        child.send_signal(signal.SIGINT)
        try:
            return child.communicate(timeout=_LIMIT_S)[1]
        except subprocess.TimeoutExpired as exc:
            if b"Exception ignored" not in (exc.stderr or b""):
                raise


@pytest.mark.parametrize("round_", range(rounds(2, 100)))
@pytest.mark.parametrize("api", ["async", "blocking"])
def test_ctrl_c_at_any_moment_ends_the_process(round_: int, api: str, tally: Tally) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MIXED, str(round_), api],
        env={**os.environ, "ASTEADY_PROBE": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "begun\n"
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(random.Random(round_).uniform(0, 2.5))
            err = interrupt(child)
        finally:
            child.kill()
    assert child.returncode in _INTERRUPTED, (child.returncode, err)
    assert "KeyboardInterrupt" in err
    assert "Fatal" not in err
    tally("processes ended", 1)
