"""The pool on real llama.cpp: cancellation in native code, the loop's life, the process's end."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from asteady._base.requests import Completion, EmbedRequest, GenerateRequest
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.plan import Setup
from asteady._engine.pool import Pool
from tests.engine.conftest import load
from tests.engine.driving import digest, generate
from tests.engine.pooled import OpenPool, settle
from tests.gguf_files import write_llama
from tests.waiting import until

pytestmark = pytest.mark.anyio

LONG = "a long prompt, " * 130


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    """A model of which a piece of a prompt takes some tenths of a second."""
    directory = tmp_path_factory.mktemp("heavy")
    write_llama(
        directory / "heavy.gguf",
        layers=8,
        width=256,
        heads=8,
        kv_heads=8,
        feed_forward=1024,
        context=2048,
    )
    engine = load(directory, "heavy.gguf", setup=Setup(width=2))
    yield engine
    engine.close()


class Watch:
    """Stands in for ``llama_decode``, notes what it returned, and can pause it at a graph node.

    Only a worker that is opened after it was made is watched in the middle of a call.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.codes: list[int] = []
        self.entered: Callable[[int], None] = lambda tokens: None
        self.left: Callable[[int], None] = lambda tokens: None
        self.nodes = 0
        """How many nodes the current call has begun."""
        self.pause_at = 0
        """The node of a prompt's piece at which it waits for `proceed`; 0 for none."""
        self.paused, self.proceed = threading.Event(), threading.Event()
        self._tokens = 0
        self._decode = llama_cpp.llama_decode
        self._set_callback = llama_cpp.llama_set_abort_callback
        self._callbacks: list[Any] = []
        monkeypatch.setattr(llama_cpp, "llama_decode", self)
        monkeypatch.setattr(llama_cpp, "llama_set_abort_callback", self._watch_nodes)

    def __call__(self, context: Any, batch: Any) -> int:
        self.nodes, self._tokens = 0, batch.n_tokens
        self.entered(batch.n_tokens)
        code: int = self._decode(context, batch)
        self.left(batch.n_tokens)
        self.codes.append(code)
        return code

    def _watch_nodes(self, context: Any, flagged: Any, data: Any) -> None:
        def begin_node(_: Any) -> bool:
            self.nodes += 1
            if self.nodes == self.pause_at and self._tokens > 2:
                self.pause_at = 0
                self.paused.set()
                assert self.proceed.wait(60)
            return bool(flagged(data))

        self._callbacks.append(llama_cpp.ggml_abort_callback(begin_node))
        self._set_callback(context, self._callbacks[-1], data)

    async def cancel_at(self, node: int, task: asyncio.Task[Any]) -> None:
        """Cancel a task while the piece of its prompt is at this node."""
        self.paused.clear()
        self.proceed.clear()
        self.pause_at = node
        assert await asyncio.to_thread(self.paused.wait, 60)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        self.proceed.set()


async def idle(pool: Pool) -> None:
    await until(lambda: not pool.statistics().running)


class Lent:
    """Keeps the pool from closing an engine that the next test uses."""

    def __init__(self, engine: LlamaEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def close(self) -> None:
        pass


async def test_cancelling_stops_a_prompt_in_the_middle_of_a_piece(
    heavy: LlamaEngine, monkeypatch: pytest.MonkeyPatch, open_pool: OpenPool
) -> None:
    request = GenerateRequest.of(LONG, max_new_tokens=8, logprobs=3)
    expected = generate(heavy, "Hi", max_new_tokens=8, logprobs=3)
    watch = Watch(monkeypatch)
    nodes: list[int] = []
    watch.left = lambda tokens: nodes.append(watch.nodes)
    pool = open_pool(Lent(heavy), 1, 10)
    whole = await pool.run(request)
    assert watch.codes == [0] * (-(-whole.prompt_tokens // 64) + 7)  # type: ignore[union-attr]
    assert nodes[0] > 60
    watch.codes.clear()
    await watch.cancel_at(30, asyncio.ensure_future(pool.run(request)))
    await idle(pool)
    assert watch.codes == [2]
    assert nodes[-1] == 30
    assert digest(await pool.run(GenerateRequest.of("Hi", max_new_tokens=8, logprobs=3))) == (
        digest(expected)
    )
    assert digest(await pool.run(request)) == digest(whole)


async def test_a_neighbour_of_a_cancelled_prompt_is_answered_as_ever(
    heavy: LlamaEngine, monkeypatch: pytest.MonkeyPatch, open_pool: OpenPool
) -> None:
    watch = Watch(monkeypatch)
    pool = open_pool(Lent(heavy), 1, 10)
    request = GenerateRequest.of("Hi there", max_new_tokens=60, logprobs=2)
    expected = digest(await pool.run(request))
    watch.codes.clear()
    decoding, prompted = threading.Event(), threading.Event()

    def entered(tokens: int) -> None:
        # Alone, the neighbour waits for the next prompt, however long this thread takes for it.
        if tokens > 2:
            prompted.clear()
        else:
            decoding.set()
            assert prompted.wait(60)

    watch.entered = entered
    neighbour = asyncio.ensure_future(pool.run(request))
    assert await asyncio.to_thread(decoding.wait, 60)
    for node in (1, 20, 60):
        task = asyncio.ensure_future(pool.run(GenerateRequest.of(LONG)))
        await settle(pool, lambda now: now.running == 2)
        # When the next line has said where to pause.
        asyncio.get_running_loop().call_soon(prompted.set)
        await watch.cancel_at(node, task)
    assert not neighbour.done()
    prompted.set()
    assert digest(await neighbour) == expected
    assert watch.codes.count(2) == 3


async def test_a_cancelled_answer_ends_within_a_step(
    models: Path, monkeypatch: pytest.MonkeyPatch, open_pool: OpenPool
) -> None:
    pool = open_pool(load(models, "gpt2.gguf"), 1, 10)
    watch = Watch(monkeypatch)
    reached, proceed = threading.Event(), threading.Event()

    def entered(tokens: int) -> None:
        if len(watch.codes) == 20:
            reached.set()
            assert proceed.wait(60)

    watch.entered = entered
    task = asyncio.ensure_future(pool.run(GenerateRequest.of("Hi", max_new_tokens=900)))
    assert await asyncio.to_thread(reached.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    proceed.set()
    await idle(pool)
    assert len(watch.codes) == 21
    assert pool.statistics().cancelled == 1


async def test_the_loop_runs_while_every_worker_computes(
    heavy: LlamaEngine, monkeypatch: pytest.MonkeyPatch, open_pool: OpenPool
) -> None:
    watch = Watch(monkeypatch)
    turns = 0
    began: dict[int, int] = {}
    turns_in_piece = []

    def entered(tokens: int) -> None:
        began[threading.get_ident()] = turns

    def left(tokens: int) -> None:
        if tokens > 2:
            turns_in_piece.append(turns - began[threading.get_ident()])

    watch.entered, watch.left = entered, left
    pool = open_pool(Lent(heavy), 2, 10)
    tasks = [
        asyncio.ensure_future(pool.run(GenerateRequest.of(f"{LONG}{number}", max_new_tokens=20)))
        for number in range(4)
    ]
    while not all(task.done() for task in tasks):
        turns += 1
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    # A call that keeps the interpreter's lock would leave no turn in any of them.
    assert len(turns_in_piece) >= 4
    assert sorted(turns_in_piece)[len(turns_in_piece) // 2] >= 10


async def test_embedding_through_the_pool(models: Path, open_pool: OpenPool) -> None:
    pool = open_pool(load(models, "bert.gguf"), 2, 100)
    assert pool.statistics().width == 1
    texts = ["hello world", "the cache", "async loops"] * 20
    answers = await asyncio.gather(*[pool.run(EmbedRequest.of(text)) for text in texts])
    assert len({digest(answer) for answer in answers}) == 3
    assert [digest(answer) for answer in answers] == [digest(answer) for answer in answers[:3]] * 20


async def test_cancelling_embeddings_changes_no_other(models: Path, open_pool: OpenPool) -> None:
    pool = open_pool(load(models, "bert.gguf"), 2, 1000)
    expected = digest(await pool.run(EmbedRequest.of("the cache")))
    tasks = [
        asyncio.ensure_future(pool.run(EmbedRequest.of("the cache " * 30, truncate=True)))
        for _ in range(100)
    ]
    await asyncio.wait(tasks[:1])
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert digest(await pool.run(EmbedRequest.of("the cache"))) == expected
    await idle(pool)


async def test_a_closed_pool_is_forgotten_with_its_threads(models: Path) -> None:
    before = set(threading.enumerate())
    engine = load(models, "gpt2.gguf")
    pool = Pool(engine, 2, 10)
    answers = await asyncio.gather(
        *[pool.run(GenerateRequest.of(str(number), max_new_tokens=5)) for number in range(4)]
    )
    assert all(isinstance(answer, Completion) for answer in answers)
    await pool.aclose()
    await until(
        lambda: not any(t.name.startswith("asteady-") for t in {*threading.enumerate()} - before)
    )
    ghost = weakref.ref(engine)
    del pool, engine
    gc.collect()
    assert ghost() is None


PRELUDE = """
import asyncio, atexit, os, sys, threading

def count_workers():
    names = [thread.name for thread in threading.enumerate()]
    print(sum(name.startswith("asteady-worker") for name in names), "workers left")

atexit.register(count_workers)  # Before the pool's own, so it runs after that.
from pathlib import Path
from asteady._base.errors import EngineError
from asteady._base.requests import GenerateRequest
from asteady._engine import pool as module
from asteady._engine.pool import Pool
from tests.engine.conftest import load

module._EXIT_JOIN_S = 60.0  # a busy machine may need more than a second
pool = Pool(load(Path(sys.argv[1]), "gpt2.gguf"), 2, 10)
request = GenerateRequest.of("Hi", max_new_tokens=5)
"""


def python(models: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PRELUDE + code, str(models)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
        check=False,
    )


def test_a_process_may_end_while_workers_compute(models: Path) -> None:
    done = python(
        models,
        """
async def main():
    started = asyncio.Event()
    long = GenerateRequest.of("Hi", max_new_tokens=900)
    global tasks
    tasks = [asyncio.ensure_future(pool.run(long, lambda _: started.set())) for _ in range(6)]
    await started.wait()
    print("bye")
    sys.stdout.flush()
    for task in tasks:
        task._log_destroy_pending = False
    raise SystemExit(7)

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
""",
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "bye\n0 workers left\n", "")


def test_a_forked_child_gets_an_error_and_ends(models: Path) -> None:
    done = python(
        models,
        """
asyncio.run(pool.run(request))
sys.stdout.flush()
child = os.fork()
if child == 0:
    try:
        asyncio.run(pool.run(request))
    except EngineError as exc:
        print("child:", exc)
    asyncio.run(pool.aclose())
    print(pool)
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
print("parent:", asyncio.run(pool.run(request)).completion_tokens)
asyncio.run(pool.aclose())
""",
    )
    assert (done.returncode, done.stderr) == (0, "")
    child, state, _, parent, left = done.stdout.splitlines()
    assert left == "0 workers left"
    assert "forked" in child
    assert "session in the child" in child
    assert "Pool" in state
    assert parent == "parent: 5"
