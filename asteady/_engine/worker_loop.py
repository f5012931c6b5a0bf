"""What a worker's thread of the pool does: takes jobs in, steps, and tells what came of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from asteady._base.errors import AsteadyError, EngineError, SessionClosedError
from asteady._engine.api import ChunkEvent, ErrorEvent, Event
from asteady._engine.lane import Lane, Outbox, Task

if TYPE_CHECKING:
    from asteady._engine.pool import Pool

_log = logging.getLogger("asteady")


class WorkerLoop:
    """The loop of one thread: lives from its first job until the pool is closed."""

    def __init__(self, pool: Pool, lane: Lane) -> None:
        self._pool = pool
        self._lane = lane

    def run(self) -> None:
        pool, lane = self._pool, self._lane
        while True:
            with pool._lock:
                while not (lane.inbox or lane.left or lane.tasks or pool._closing):
                    lane.wake.wait()
                if pool._closing:
                    break
                left, lane.left = lane.left, []
            try:
                self._release(left)
                self._admit()
                if lane.tasks and lane.worker is not None:
                    self._distribute(lane.worker.step())
            # A worker's failure, whatever it is, must not cost the pool a thread.
            except BaseException as exc:
                self._replace(exc)
        self._end(self._empty(), closed_error, failed=False)

    def _release(self, left: list[Task]) -> None:
        pool, lane = self._pool, self._lane
        for task in left:
            if task.done:
                continue
            assert lane.worker is not None
            assert task.slot is not None
            lane.worker.release(task.slot)
            with pool._lock:
                del lane.tasks[task.slot]
                pool._leave(task, lane)

    def _admit(self) -> None:
        pool, lane = self._pool, self._lane
        while True:
            with pool._lock:
                if not lane.inbox or pool._closing:
                    return
                task = lane.entering = lane.inbox.pop(0)
            if lane.worker is None:
                worker = pool._engine.open_worker()
                with pool._lock:
                    lane.worker = worker
            slot = lane.worker.admit(task.job)
            with pool._lock:
                lane.entering = None
                lane.tasks[slot] = task
                task.slot = slot
                pool._started += 1
                if task.outbox.loop.is_closed() and not task.abandoned:
                    task.abandoned = True
                    lane.left.append(task)
                if task.abandoned or pool._closing:
                    lane.worker.interrupt(slot)

    def _distribute(self, events: list[Event]) -> None:
        if not events:
            return
        pool, lane = self._pool, self._lane
        posts: dict[Outbox, list[tuple[Task, Event]]] = {}
        with pool._lock:
            for event in events:
                task = lane.tasks[event.slot]
                if not isinstance(event, ChunkEvent):
                    del lane.tasks[event.slot]
                    failed = isinstance(event, ErrorEvent)
                    if isinstance(event, ErrorEvent):
                        event = ErrorEvent(event.slot, engine_error(event.error))
                    pool._leave(task, lane, failed=failed)
                elif not task.listening and not task.outbox.loop.is_closed():
                    continue
                posts.setdefault(task.outbox, []).append((task, event))
        for outbox, posted in posts.items():
            if not outbox.post(posted):
                with pool._lock:
                    for task in lane.tasks.values():
                        if task.outbox is outbox and not task.abandoned:
                            task.abandoned = True
                            lane.left.append(task)

    def _replace(self, exc: BaseException) -> None:
        """The worker failed: its jobs fail, and the next job gets a new worker."""
        pool, lane = self._pool, self._lane
        with pool._lock:
            pool._restarted += 1
        tasks = self._empty()
        _log.error(
            "worker %d failed on %d jobs and is replaced: %r",
            lane.index,
            len(tasks),
            exc,
            exc_info=exc,
        )
        self._end(tasks, lambda: engine_error(exc), failed=True)

    def _empty(self) -> list[Task]:
        """Close the worker; the jobs that it had, or was about to get."""
        lane = self._lane
        with self._pool._lock:
            tasks = [*lane.tasks.values(), *lane.inbox]
            if lane.entering is not None:
                tasks.append(lane.entering)
            lane.tasks, lane.inbox, lane.entering = {}, [], None
            worker, lane.worker = lane.worker, None
        if worker is not None:
            try:
                worker.close()
            except Exception:
                _log.exception("a worker could not be closed")
        return tasks

    def _end(self, tasks: list[Task], error: Callable[[], Exception], *, failed: bool) -> None:
        pool, lane = self._pool, self._lane
        with pool._lock:
            for task in tasks:
                task.abandoned |= not failed
                pool._leave(task, lane, failed=failed)
        for task in tasks:
            task.outbox.post([(task, ErrorEvent(-1, error()))])


def closed_error() -> SessionClosedError:
    return SessionClosedError("the session was closed, so nothing more is computed")


def engine_error(exc: BaseException) -> AsteadyError:
    """As an error of ours, a new one for each job."""
    if isinstance(exc, AsteadyError):
        copy = type(exc)(*exc.args)
    else:
        copy = EngineError(f"the engine failed: {exc!r}")
    copy.__cause__ = exc
    return copy
