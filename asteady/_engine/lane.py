"""What passes between the loop's thread and a worker thread of the pool."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

from asteady._engine.api import (
    Answer,
    AnswerEvent,
    ErrorEvent,
    Event,
    Job,
    SlotId,
    Worker,
)

Emit: TypeAlias = Callable[[str], None]


class Outbox:
    """Events on their way from worker threads to one event loop, gathered into few wake-ups."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._events: deque[tuple[Task, Event]] = deque()
        self._woken = False

    def post(self, events: Iterable[tuple[Task, Event]]) -> bool:
        """From a worker thread; False when the loop is closed."""
        self._events.extend(events)
        # Order matters: append, then look at the flag; `_drain` lowers it, then takes. So an event
        # is either taken by a drain that is due, or makes another one due.
        if self._woken:
            return True
        self._woken = True
        try:
            self.loop.call_soon_threadsafe(self._drain)
        except RuntimeError:
            self._events.clear()
            return False
        return True

    def _drain(self) -> None:
        self._woken = False
        while self._events:
            task, event = self._events.popleft()
            task.deliver(event)


class Task:
    """One `run`, from the moment its job is ready until its slot is free again."""

    def __init__(self, job: Job, outbox: Outbox, emit: Emit | None) -> None:
        self.job = job
        self.outbox = outbox
        self.future: asyncio.Future[Answer] = outbox.loop.create_future()
        self._emit = emit
        self.listening = emit is not None
        # Guarded by the pool's lock.
        self.lane: Lane | None = None
        self.slot: SlotId | None = None
        self.abandoned = False
        self.done = False

    def deliver(self, event: Event) -> None:
        """On the loop's thread; nothing reaches a caller that has left."""
        if self.future.done():
            return
        if isinstance(event, AnswerEvent):
            self.future.set_result(event.answer)
        elif isinstance(event, ErrorEvent):
            self.future.set_exception(event.error)
        elif self._emit is not None:
            try:
                self._emit(event.text)
            except Exception as exc:
                self.future.set_exception(exc)


class Lane:
    """A worker thread's place in the pool; everything in it is guarded by the pool's lock."""

    def __init__(self, index: int, lock: threading.Lock) -> None:
        self.index = index
        self.wake = threading.Condition(lock)
        self.thread: threading.Thread | None = None
        self.worker: Worker | None = None
        self.load = 0  # jobs that have a slot, or are about to get theirs
        self.inbox: list[Task] = []
        self.entering: Task | None = None  # out of the inbox, and not yet in a slot
        self.tasks: dict[SlotId, Task] = {}
        self.left: list[Task] = []  # admitted, and nobody waits for them any more
