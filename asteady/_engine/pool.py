"""The bounded pool: requests in, first come first served; worker threads compute; answers out.

The loop's thread and the worker threads share one lock, held for microseconds and never across a
call into the engine (except `Worker.interrupt`, which returns at once). Who waits and who runs is
decided under it, in `_assign`: the oldest waiting job goes to the worker with the fewest. Workers
(`_worker_loop`) reach the loop only through an `Outbox`, so a slow loop delays no worker.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import logging
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import attrs

from asteady._base.errors import AsteadyError, EngineError, QueueFullError
from asteady._base.requests import DeclaredPrefix
from asteady._engine.api import (
    Answer,
    Engine,
    ErrorEvent,
    PrefixStatistics,
    Request,
    SharesPrefixes,
    prepare,
)
from asteady._engine.lane import Emit, Lane, Outbox, Task
from asteady._engine.worker_loop import WorkerLoop, closed_error

T = TypeVar("T")

_log = logging.getLogger("asteady")

# Long enough for a decode step of a large model; after that the interpreter exits regardless.
_EXIT_JOIN_S = 5.0


@attrs.frozen(kw_only=True)
class PoolStatistics:
    """What a pool was doing at one moment, and what it has done so far.

    `running` jobs have a slot of a worker, `pending` ones wait for one; `cancelled` counts jobs
    whose caller left, `failed` those that the engine failed on, `refused` those that never entered
    the queue (it was full, or the request did not fit the model), `restarted` workers that were
    closed and replaced after a failure.
    """

    workers: int
    width: int
    max_pending: int
    busy: int
    running: int
    pending: int
    started: int
    finished: int
    cancelled: int
    failed: int
    refused: int
    restarted: int


class Pool:
    """Worker threads over one engine, and the queue before them.

    Threads start when they are first needed. Whoever made the pool closes it with `aclose`, which
    closes the engine too. Only tasks that outlive their callers (a session's flights) should await
    `run`. Not usable in a forked child.
    """

    def __init__(self, engine: Engine, workers: int, max_pending: int) -> None:
        self._engine = engine
        self._max_pending = max_pending
        self._width = engine.width
        self._lock = threading.Lock()
        self._lanes = [Lane(index, self._lock) for index in range(workers)]
        self._queue: OrderedDict[Task, None] = OrderedDict()
        self._preparing = 0
        self._helper = ThreadPoolExecutor(1, thread_name_prefix="asteady-prepare")
        self._outbox: Outbox | None = None
        self._closing = False
        self._closed: asyncio.Future[None] | None = None
        self._pid = os.getpid()
        self._started = self._finished = self._cancelled = 0
        self._failed = self._refused = self._restarted = 0
        _pools.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._closing else "open"
        numbers = self.statistics()
        return (
            f"<Pool {state} workers={numbers.workers} width={numbers.width} "
            f"running={numbers.running} pending={numbers.pending}>"
        )

    def statistics(self) -> PoolStatistics:
        # In a forked child the lock may be held for ever, by a thread that is not there.
        own = os.getpid() == self._pid
        with self._lock if own else contextlib.nullcontext():
            return PoolStatistics(
                workers=len(self._lanes),
                width=self._width,
                max_pending=self._max_pending,
                busy=sum(lane.load > 0 for lane in self._lanes),
                running=sum(lane.load for lane in self._lanes),
                pending=self._preparing + len(self._queue),
                started=self._started,
                finished=self._finished,
                cancelled=self._cancelled,
                failed=self._failed,
                refused=self._refused,
                restarted=self._restarted,
            )

    def prefix_statistics(self) -> PrefixStatistics | None:
        """What declared prefixes were good for; None if the engine makes no use of them."""
        engine = self._engine
        return engine.prefix_statistics() if isinstance(engine, SharesPrefixes) else None

    async def run(
        self, request: Request, emit: Emit | None = None, prefix: DeclaredPrefix | None = None
    ) -> Answer:
        """Compute an answer; `emit` gets its chunks on the loop's thread, in order. `prefix` says
        what the prompt begins with, so that its state can be shared.

        Cancelling takes a waiting job out of the queue at once; a running one is interrupted, and
        its worker is free within a step.

        Raises:
            QueueFullError: every slot is taken and `max_pending` requests are waiting.
            EngineError: the engine failed, or this process was forked from the one with the pool.
            SessionClosedError: the pool was closed, before the call or meanwhile.
            AsteadyError: whatever `Engine.prepare` says of the request.
        """
        self._enter()
        loop = asyncio.get_running_loop()
        try:
            job = await self._off_loop(functools.partial(prepare, self._engine, request, prefix))
        except Exception as exc:
            with self._lock:
                self._preparing -= 1
                self._refused += 1
            if isinstance(exc, AsteadyError):
                raise
            raise EngineError(f"the engine failed to prepare a request: {exc!r}") from exc
        except BaseException:
            with self._lock:
                self._preparing -= 1
                self._cancelled += 1
            raise
        if self._outbox is None or self._outbox.loop is not loop:
            self._outbox = Outbox(loop)
        task = Task(job, self._outbox, emit)
        try:
            with self._lock:
                self._preparing -= 1
                if self._closing:
                    raise closed_error()
                self._queue[task] = None
                self._assign()
            return await task.future
        except BaseException:
            self._abandon(task)
            raise

    def _off_loop(self, fn: Callable[[], T]) -> asyncio.Future[T]:
        """`fn` on the helper's thread; or here, in a program whose main thread has ended: executors
        take nothing any more, while other threads may still ask."""
        loop = asyncio.get_running_loop()
        try:
            return loop.run_in_executor(self._helper, fn)
        except RuntimeError:
            if threading.main_thread().is_alive():
                raise
        future: asyncio.Future[T] = loop.create_future()
        try:
            future.set_result(fn())
        except Exception as exc:
            future.set_exception(exc)
        return future

    def _enter(self) -> None:
        if os.getpid() != self._pid:
            raise EngineError(
                "this process was forked after the pool was made, and threads do not survive a "
                "fork: open a session in the child process instead"
            )
        with self._lock:
            if self._closing:
                raise closed_error()
            running = sum(lane.load for lane in self._lanes)
            present = self._preparing + len(self._queue) + running
            slots = len(self._lanes) * self._width
            if present >= slots + self._max_pending:
                self._refused += 1
                raise QueueFullError(
                    f"{present - running} requests are waiting (max_pending={self._max_pending}) "
                    f"for {slots} slots: send fewer at once, or raise max_pending"
                )
            self._preparing += 1

    def _assign(self) -> None:
        """Give waiting jobs to workers, oldest first, fewest first. Under the lock."""
        while self._queue and not self._closing:
            lane = min(self._lanes, key=lambda lane: lane.load)
            if lane.load >= self._width:
                return
            if lane.thread is None:
                lane.thread = threading.Thread(
                    target=WorkerLoop(self, lane).run, name=f"asteady-worker-{lane.index}"
                )
                lane.thread.daemon = True
                lane.thread.start()
            task, _ = self._queue.popitem(last=False)
            task.lane = lane
            lane.load += 1
            lane.inbox.append(task)
            lane.wake.notify()

    def _abandon(self, task: Task) -> None:
        """The caller has left; a no-op when the task is done."""
        with self._lock:
            if task.done or task.abandoned:
                return
            task.abandoned = True
            lane = task.lane
            if lane is None:
                if task in self._queue:
                    del self._queue[task]
                    self._cancelled += 1
            elif task in lane.inbox:
                lane.inbox.remove(task)
                self._leave(task, lane)
            else:
                lane.left.append(task)
                if task.slot is not None and lane.worker is not None:
                    lane.worker.interrupt(task.slot)

    def _leave(self, task: Task, lane: Lane, *, failed: bool = False) -> None:
        """The task's slot is free. Under the lock."""
        task.done = True
        lane.load -= 1
        if task.abandoned:
            self._cancelled += 1
        elif failed:
            self._failed += 1
        else:
            self._finished += 1
        self._assign()

    # Closing.

    def _begin_close(self) -> list[threading.Thread]:
        with self._lock:
            self._closing = True
            queued = list(self._queue)
            self._queue.clear()
            self._cancelled += len(queued)
            for task in queued:
                task.done = True
                task.outbox.post([(task, ErrorEvent(-1, closed_error()))])
            for lane in self._lanes:
                if lane.worker is not None:
                    for slot in lane.tasks:
                        lane.worker.interrupt(slot)
                lane.wake.notify()
            return [lane.thread for lane in self._lanes if lane.thread is not None]

    def _join(self, threads: list[threading.Thread], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    async def aclose(self, timeout_s: float = 10.0) -> None:
        """Refuse new requests, interrupt the running ones, join the threads, close the engine.

        Whatever waits or runs raises `SessionClosedError`. When the threads do not end within
        `timeout_s` seconds (a very long step), a warning is logged and the engine stays loaded,
        as they still use it. Cancelling stops waiting; the closing goes on in a thread. Idempotent.
        """
        if os.getpid() != self._pid:
            return
        if self._closed is None:
            threads = self._begin_close()
            self._closed = self._off_loop(functools.partial(self._finish_close, threads, timeout_s))
            self._helper.shutdown(wait=False)
        await asyncio.shield(self._closed)

    def _finish_close(self, threads: list[threading.Thread], timeout_s: float) -> None:
        if self._join(threads, timeout_s):
            self._engine.close()
        else:
            _log.warning("a worker did not stop within %.1f s; its model stays loaded", timeout_s)
        _pools.discard(self)


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _at_exit() -> None:
    """Stop native code before the interpreter goes: a thread that comes back from llama.cpp into
    a dead interpreter can end the process with a crash."""
    for pool in list(_pools):
        if pool._pid == os.getpid() and not pool._closing:
            pool._join(pool._begin_close(), _EXIT_JOIN_S)


atexit.register(_at_exit)
