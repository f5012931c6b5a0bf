"""An engine without a model: answers by a function, and can be held and resumed.

Everything else is the real thing: the cache, the flights, the worker threads.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import threading
from collections.abc import Callable

import attrs

from asteady._base.errors import PromptTooLongError
from asteady._base.public import public
from asteady._base.requests import Completion, Embedding, EmbedRequest, GenerateRequest
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

_DIMENSIONS = 8


def _echo(request: GenerateRequest) -> str:
    prompt = request.prompt if request.prompt is not None else request.messages[-1][1]
    return f"You said: {prompt}"


@attrs.frozen
class FakeJob:
    request: Request


@public
class FakeEngine:
    """Answers by a function, in chunks of a word; embeds by a hash; can be held and resumed.

    Args:
        answer: gives the text for a `GenerateRequest`, or raises what the computation shall
            raise; called on a worker thread. Default: echoes the prompt.
        width: how many jobs a worker computes side by side.
        context: prompts with more words than this raise `PromptTooLongError`.
        fingerprint: part of every key.
    """

    model = "fake"

    def __init__(
        self,
        answer: Callable[[GenerateRequest], str] = _echo,
        *,
        width: int = 1,
        context: int = 100_000,
        fingerprint: str = "fake-1",
    ) -> None:
        self.width = width
        self.fingerprint = fingerprint
        self.computed: list[Request] = []
        """The requests whose computation was begun, in order."""
        self.released: list[Request] = []
        """The requests that were cancelled while being computed, in order."""
        self.peak = 0
        """The largest number of jobs that were being computed at one moment."""
        self.closed = False
        self._answer = answer
        self._context = context
        self._lock = threading.Condition()
        self._permits: int | None = None
        self._running = 0
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    # -- for the test ----------------------------------------------------------------------------

    def hold(self) -> None:
        """From now on every job waits before each of its steps, until `step` or `resume`."""
        with self._lock:
            self._permits = 0

    def step(self, count: int = 1) -> None:
        """Let jobs that are held take `count` steps in all, a chunk or the answer each."""
        with self._lock:
            if self._permits is not None:
                self._permits += count
                self._lock.notify_all()

    def resume(self) -> None:
        """Hold nothing any more."""
        with self._lock:
            self._permits = None
            self._lock.notify_all()

    async def wait_computed(self, count: int) -> None:
        """Wait until the computation of `count` requests in all was begun."""
        await self._wait(lambda: len(self.computed) >= count)

    async def wait_released(self, count: int) -> None:
        """Wait until `count` computations in all were given up."""
        await self._wait(lambda: len(self.released) >= count)

    async def wait_idle(self) -> None:
        """Wait until nothing is being computed."""
        await self._wait(lambda: self._running == 0)

    # -- for the pool ------------------------------------------------------------------------------

    def prepare(self, request: Request) -> Job:
        text = request.text if isinstance(request, EmbedRequest) else request.prompt or ""
        words = len(text.split())
        if words > self._context:
            raise PromptTooLongError(
                f"the prompt has {words} words, and the context has room for {self._context}"
            )
        return FakeJob(request)

    def open_worker(self) -> Worker:
        return FakeWorker(self)

    def close(self) -> None:
        self.closed = True

    # -- within ------------------------------------------------------------------------------------

    async def _wait(self, condition: Callable[[], bool]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if condition():
                return
            self._watchers.append((condition, future))
        await future

    def _began(self, request: Request) -> None:
        with self._lock:
            self.computed.append(request)
            self._running += 1
            self.peak = max(self.peak, self._running)
            self._tell_watchers()

    def _ended(self, request: Request, *, given_up: bool) -> None:
        with self._lock:
            self._running -= 1
            if given_up:
                self.released.append(request)
            self._tell_watchers()

    def _tell_watchers(self) -> None:
        for watcher in [w for w in self._watchers if w[0]()]:
            self._watchers.remove(watcher)
            future = watcher[1]
            future.get_loop().call_soon_threadsafe(_resolve, future)

    def _take_permit(self, interrupted: Callable[[], bool]) -> bool:
        """Wait while held; False if interrupted meanwhile."""
        with self._lock:
            self._lock.wait_for(lambda: self._permits != 0 or interrupted())
            if interrupted():
                return False
            if self._permits is not None:
                self._permits -= 1
            return True


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class FakeWorker:
    """A worker of a `FakeEngine`; its jobs take one step each in turn."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._jobs: dict[SlotId, _Running] = {}
        self._interrupted: set[SlotId] = set()
        self._slots = 0

    def admit(self, job: Job) -> SlotId:
        self._slots += 1
        self._jobs[self._slots] = _Running(job.request)
        self._engine._began(job.request)
        return self._slots

    def step(self) -> list[Event]:
        events: list[Event] = []
        for slot, job in list(self._jobs.items()):
            if not self._engine._take_permit(lambda slot=slot: slot in self._interrupted):  # type: ignore[misc]  # binds the loop's value
                break
            try:
                text = job.next_chunk(self._engine._answer)
            except Exception as exc:
                events.append(ErrorEvent(slot, exc))
                self._end(slot, given_up=False)
                continue
            if text is not None:
                events.append(ChunkEvent(slot, text))
            else:
                events.append(AnswerEvent(slot, job.answer(self._engine)))
                self._end(slot, given_up=False)
        return events

    def release(self, slot: SlotId) -> None:
        self._end(slot, given_up=True)

    def interrupt(self, slot: SlotId) -> None:
        with self._engine._lock:
            self._interrupted.add(slot)
            self._engine._lock.notify_all()

    def close(self) -> None:
        for slot in list(self._jobs):
            self._end(slot, given_up=True)

    def _end(self, slot: SlotId, *, given_up: bool) -> None:
        job = self._jobs.pop(slot)
        self._interrupted.discard(slot)
        self._engine._ended(job.request, given_up=given_up)


@attrs.define
class _Running:
    request: Request
    chunks: list[str] | None = None
    index: int = 0

    def next_chunk(self, answer: Callable[[GenerateRequest], str]) -> str | None:
        if isinstance(self.request, EmbedRequest):
            return None
        if self.chunks is None:
            self.chunks = re.findall(r"\S+\s*|\s+", answer(self.request))
        if self.index == len(self.chunks):
            return None
        self.index += 1
        return self.chunks[self.index - 1]

    def answer(self, engine: FakeEngine) -> Completion | Embedding:
        if isinstance(self.request, EmbedRequest):
            return _embedding(self.request, engine.fingerprint)
        chunks = tuple(self.chunks or ())
        return Completion(
            text="".join(chunks),
            chunks=chunks,
            finish_reason="stop",
            prompt_tokens=len((self.request.prompt or "").split()),
            completion_tokens=len(chunks),
            seed=self.request.seed,
            model=engine.model,
            fingerprint=engine.fingerprint,
            cost_s=0.001 * (1 + len(chunks)),
        )


def _embedding(request: EmbedRequest, fingerprint: str) -> Embedding:
    import numpy as np

    digest = hashlib.sha256(repr(attrs.astuple(request)).encode()).digest()
    raw = np.frombuffer(digest, dtype="<i4").astype(np.float64)[:_DIMENSIONS]
    vector = (raw / np.linalg.norm(raw)).astype(np.float32)
    vector.flags.writeable = False
    return Embedding(
        vector=vector,
        tokens=len(request.text.split()),
        model=FakeEngine.model,
        fingerprint=fingerprint,
        cost_s=0.001,
    )
