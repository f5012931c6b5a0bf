"""An engine without a model, whose steps happen when the test says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import attrs

from asteady._base.requests import Completion, GenerateRequest
from asteady._engine.api import (
    AnswerEvent,
    ChunkEvent,
    ErrorEvent,
    Event,
    Job,
    Request,
    SlotId,
    Worker,
)


def ask(name: str, chunks: int = 0) -> GenerateRequest:
    """A request that takes `chunks` steps with a chunk each, and one with the answer."""
    return GenerateRequest.of(name, max_new_tokens=chunks + 1)


@attrs.frozen
class GatedJob:
    request: GenerateRequest

    @property
    def name(self) -> str:
        assert self.request.prompt is not None
        return self.request.prompt


class GatedEngine:
    """Closed at first: a step does nothing until `open` or `let` has allowed it.

    `log` tells in order what the workers were told: "admit a", "release a", "close", ..., and when
    a step of a deaf one waits: "deaf".
    """

    model = "gated"
    fingerprint = "gated"

    def __init__(self, width: int = 1, *, opened: bool = False) -> None:
        self.width = width
        self.log: list[str] = []
        self.fail_open: Exception | None = None
        self.fail_admit: Exception | None = None
        self.fail_step: BaseException | None = None
        self.fail_close: Exception | None = None
        self.fail_job: Exception | None = None
        self.fail_prepare: Exception | None = None
        self.deaf = False
        """Whether a step that waits ignores `interrupt`, as a long decode step does."""
        self.workers: dict[str, str] = {}
        """The thread of the worker that each job was admitted to."""
        self.held: dict[str, str] = {}
        """The beginning of a prompt that the worker of each thread holds; see `KeepsPrompts`."""
        self.running = 0
        self.peak = 0
        self.changed = threading.Condition()
        self._permits: float = float("inf") if opened else 0

    def note(self, text: str) -> None:
        with self.changed:
            self.log.append(text)
            self.changed.notify_all()

    def let(self, steps: float) -> None:
        with self.changed:
            self._permits += steps
            self.changed.notify_all()

    def open(self) -> None:
        self.let(float("inf"))

    def shut(self) -> None:
        with self.changed:
            self._permits = 0

    def permit(self, given_up: Callable[[], bool]) -> bool:
        """Whether a step may happen. While closed a step ends soon without a result, so that the
        pool can admit more jobs; a deaf one waits for its permission whatever happens."""
        with self.changed:
            if self.deaf:
                self.note("deaf")
                self.changed.wait_for(lambda: self._permits >= 1)
            else:
                self.changed.wait_for(lambda: self._permits >= 1 or given_up(), 0.002)
            if self._permits < 1:
                return False
            self._permits -= 1
            return True

    async def happens(self, *texts: str) -> None:
        """Wait until the log holds all these; the loop runs on meanwhile."""

        def wait() -> None:
            with self.changed:
                done = self.changed.wait_for(lambda: set(texts) <= set(self.log), 60)
                assert done, f"{texts} did not happen: {self.log}"

        await asyncio.to_thread(wait)

    def prepare(self, request: Request) -> GatedJob:
        assert isinstance(request, GenerateRequest)
        self.note(f"prepare {request.prompt}")
        if self.fail_prepare is not None:
            raise self.fail_prepare
        return GatedJob(request)

    def open_worker(self) -> Worker:
        self.note(f"open on {threading.current_thread().name}")
        if self.fail_open is not None:
            raise self.fail_open
        return GatedWorker(self)

    def close(self) -> None:
        self.note("engine closed")


class WideningEngine(GatedEngine):
    """Notes that it is asked to find a larger width; `grow` is when it has."""

    def __init__(self) -> None:
        super().__init__()
        self._widened: Callable[[], None] | None = None

    def widen(self, widened: Callable[[], None]) -> None:
        self.note("widen")
        self._widened = widened

    def join_widening(self) -> None:
        pass

    def grow(self, width: int) -> None:
        assert self._widened is not None
        self.width = width
        self._widened()


class GatedWorker:
    def __init__(self, engine: GatedEngine) -> None:
        self._engine = engine
        self._thread = threading.get_ident()
        self._name = threading.current_thread().name
        self._jobs: dict[SlotId, GatedJob] = {}
        self._steps: dict[SlotId, int] = {}
        self._interrupted: set[SlotId] = set()
        self._next = 0

    def _own(self) -> None:
        assert threading.get_ident() == self._thread

    def admit(self, job: Job) -> SlotId:
        self._own()
        assert isinstance(job, GatedJob)
        assert len(self._jobs) < self._engine.width
        if self._engine.fail_admit is not None:
            raise self._engine.fail_admit
        self._next += 1
        self._jobs[self._next] = job
        self._steps[self._next] = 0
        with self._engine.changed:
            self._engine.running += 1
            self._engine.peak = max(self._engine.peak, self._engine.running)
        self._engine.workers[job.name] = self._name
        self._engine.note(f"admit {job.name}")
        return self._next

    def step(self) -> list[Event]:
        self._own()
        assert self._jobs
        if not self._engine.permit(lambda: bool(self._interrupted)):
            return []
        if self._engine.fail_step is not None:
            raise self._engine.fail_step
        events: list[Event] = []
        for slot, job in list(self._jobs.items()):
            if slot in self._interrupted:
                continue
            step = self._steps[slot]
            self._steps[slot] += 1
            if self._engine.fail_job is not None:
                self._drop(slot)
                events.append(ErrorEvent(slot, self._engine.fail_job))
            elif step < job.request.max_new_tokens - 1:
                events.append(ChunkEvent(slot, f"{job.name}{step} "))
            else:
                self._drop(slot)
                events.append(AnswerEvent(slot, self._answer(job)))
        return events

    def _answer(self, job: GatedJob) -> Completion:
        self._engine.note(f"answer {job.name}")
        chunks = tuple(f"{job.name}{step} " for step in range(job.request.max_new_tokens - 1))
        return Completion(
            text="".join(chunks),
            chunks=chunks,
            finish_reason="stop",
            prompt_tokens=1,
            completion_tokens=len(chunks),
            seed=0,
            model="gated",
            fingerprint="gated",
            cost_s=1.0,
        )

    def _drop(self, slot: SlotId) -> None:
        del self._jobs[slot]
        self._interrupted.discard(slot)
        with self._engine.changed:
            self._engine.running -= 1

    def release(self, slot: SlotId) -> None:
        self._own()
        job = self._jobs[slot]
        self._drop(slot)
        self._engine.note(f"release {job.name}")

    def interrupt(self, slot: SlotId) -> None:
        with self._engine.changed:
            if slot in self._jobs:
                self._interrupted.add(slot)
                self._engine.note(f"interrupt {self._jobs[slot].name}")

    def shared_tokens(self, job: Job) -> int:
        assert isinstance(job, GatedJob)
        held = self._engine.held.get(self._name, "")
        return len(held) if job.name.startswith(held) else 0

    def shed(self) -> None:
        self._engine.held.pop(self._name, None)

    def close(self) -> None:
        self._own()
        for slot in list(self._jobs):
            self._drop(slot)
        self._engine.note("close")
        if self._engine.fail_close is not None:
            raise self._engine.fail_close
