"""A bounded pool: requests are computed on worker threads, first come, first served.

The event loop's thread and the worker threads share one lock, held for microseconds and never
during a call into the engine (except those that return at once: `Worker.interrupt`,
`KeepsPrompts.shared_tokens`, `WaitsForEvents.wake` and `Widens.widen`). `_assign` decides under it
which worker computes what.
Workers reach the loop only through an `_Outbox`, so a slow loop delays no worker.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import logging
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import TypeAlias, TypeVar

import attrs

from asteady._base.errors import (
    AsteadyError,
    EngineError,
    ModelCapabilityError,
    PromptTooLongError,
    QueueFullError,
    SessionClosedError,
)
from asteady._base.forks import FORKED
from asteady._base.public import public
from asteady._base.records import Record
from asteady._base.requests import (
    LARGE_CHARACTERS,
    Chunk,
    Completion,
    DeclaredPrefix,
    ReasoningChunk,
    TextChunk,
    characters_of,
)
from asteady._base.tasks import run_in_daemon
from asteady._base.threads import join_all, start_daemon
from asteady._engine.api import (
    Answer,
    AnswerEvent,
    CallEvent,
    ChecksSize,
    ChunkEvent,
    Engine,
    ErrorEvent,
    Event,
    HasCache,
    HasWeights,
    Job,
    KeepsPrompts,
    LimitsWorkers,
    PrefixStatistics,
    Request,
    SharesPrefixes,
    SlotId,
    Spreads,
    Tokenizer,
    WaitsForEvents,
    Widens,
    Worker,
    prepare,
)
from asteady._engine.counting import AskTokenizer
from asteady._engine.preparer import Preparer

T = TypeVar("T")

Emit: TypeAlias = Callable[[Chunk], None]
"""Takes the chunks of an answer, in order, on the event loop's thread."""

_log = logging.getLogger("asteady")

# Long enough for the rest of a decode step, which an interruption ends; after that the interpreter
# exits regardless of what is still in native code (`_base/threads.py`).
_EXIT_JOIN_S = 1.0


@public
@attrs.frozen(kw_only=True)
class PoolStatistics(Record):
    """What a pool was doing at one moment, and what it has done so far.

    `running` jobs have a slot of a worker, `pending` ones wait for one; `cancelled` counts jobs
    whose caller left, `failed` those that the engine failed on, `refused` those that never entered
    the queue (it was full, or the request did not fit the model), `restarted` workers that were
    closed and replaced after a failure. The prompts (or texts) of answered jobs had
    `prompt_tokens`, of which `reused_tokens` were not computed again, and their answers
    `answer_tokens`. The model's weights take `weights_bytes`, None if the engine does not say; see
    `MachineStatistics` for the contexts.
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
    prompt_tokens: int
    reused_tokens: int
    answer_tokens: int
    weights_bytes: int | None


class _Outbox:
    """Events on their way from worker threads to one event loop, gathered into few wake-ups."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._events: deque[tuple[_Run, Event]] = deque()
        self._woken = False

    def post(self, events: Iterable[tuple[_Run, Event]]) -> bool:
        """From any thread; False when the loop is closed."""
        self._events.extend(events)
        # The order matters: append, then read the flag; `_drain` lowers the flag, then takes. So
        # an event is either taken by a drain that is due, or makes another one due.
        if self._woken and not self.loop.is_closed():
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
            run, event = self._events.popleft()
            run.deliver(event)


class _Run:
    """One call of `Pool.run`, from when its job is prepared until its slot is free again."""

    def __init__(self, job: Job, outbox: _Outbox, emit: Emit | None) -> None:
        self.job = job
        self.outbox = outbox
        self.future: asyncio.Future[Answer] = outbox.loop.create_future()
        self.emit = emit
        # Guarded by the pool's lock.
        self.state: _WorkerState | None = None
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
        elif self.emit is not None:
            try:
                self.emit(_chunk_of(event))
            except Exception as exc:
                self.future.set_exception(exc)


def _chunk_of(event: ChunkEvent | CallEvent) -> Chunk:
    if isinstance(event, CallEvent):
        return event.call
    if event.kind == "reasoning":
        return ReasoningChunk(event.text)
    return TextChunk(event.text, event.logprobs) if event.logprobs else event.text


class _WorkerState:
    """A worker thread of the pool and its runs; all of it is guarded by the pool's lock."""

    def __init__(self, index: int, lock: threading.Lock) -> None:
        self.index = index
        self.wake = threading.Condition(lock)
        self.thread: threading.Thread | None = None
        self.worker: Worker | None = None
        self.load = 0  # runs that have a slot, or are about to get one
        self.inbox: list[_Run] = []
        self.entering: _Run | None = None  # out of the inbox, and not yet in a slot
        self.runs: dict[SlotId, _Run] = {}
        self.left: list[_Run] = []  # admitted, and their callers have left

    def abandon(self, run: _Run) -> None:
        """The caller of an admitted run has left."""
        run.abandoned = True
        self.left.append(run)


class Pool:
    """Worker threads over one engine, and the queue in front of them.

    Threads start when they are first needed and end in `aclose`, which closes the engine too.
    Only tasks that outlive their callers (a session's flights) should await `run`. Not usable in a
    forked child.
    """

    def __init__(self, engine: Engine, workers: int, max_pending: int) -> None:
        self._engine = engine
        self._max_pending = max_pending
        self._lock = threading.Lock()
        if isinstance(engine, LimitsWorkers):
            workers = min(workers, engine.max_workers)
        self._states = [_WorkerState(index, self._lock) for index in range(workers)]
        self._queue: OrderedDict[_Run, None] = OrderedDict()
        self._preparing = 0
        self._preparer = Preparer()
        self._outbox: _Outbox | None = None
        self._closing = False
        self._closed: asyncio.Future[None] | None = None
        self._ending: list[threading.Thread] = []
        self._pid = os.getpid()
        self._started = self._finished = self._cancelled = 0
        self._failed = self._refused = self._restarted = 0
        self._prompt_tokens = self._reused_tokens = self._answer_tokens = 0
        self._weights_bytes = engine.weights_bytes if isinstance(engine, HasWeights) else None
        _pools.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._closing else "open"
        numbers = self.statistics()
        return (
            f"<Pool {state} workers={numbers.workers} width={numbers.width} "
            f"running={numbers.running} pending={numbers.pending}>"
        )

    @property
    def fingerprint(self) -> str:
        """That of the engine, and so of all answers."""
        return self._engine.fingerprint

    @property
    def takes_locks(self) -> bool:
        """Whether the engine's server does; see `HasCache`."""
        return isinstance(self._engine, HasCache) and self._engine.takes_locks

    def takes_lease(self, request: Request) -> bool:
        """Whether the engine's server does; see `HasCache`."""
        return isinstance(self._engine, HasCache) and self._engine.takes_lease(request)

    def statistics(self) -> PoolStatistics:
        # In a forked child the lock may be held for ever, by a thread that is not there.
        own = os.getpid() == self._pid
        with self._lock if own else contextlib.nullcontext():
            return PoolStatistics(
                workers=len(self._states),
                width=self._engine.width,
                max_pending=self._max_pending,
                busy=sum(state.load > 0 for state in self._states),
                running=sum(state.load for state in self._states),
                pending=self._preparing + len(self._queue),
                started=self._started,
                finished=self._finished,
                cancelled=self._cancelled,
                failed=self._failed,
                refused=self._refused,
                restarted=self._restarted,
                prompt_tokens=self._prompt_tokens,
                reused_tokens=self._reused_tokens,
                answer_tokens=self._answer_tokens,
                weights_bytes=self._weights_bytes,
            )

    def prefix_statistics(self) -> PrefixStatistics | None:
        """The use of declared prefixes; None if the engine does not share them."""
        engine = self._engine
        return engine.prefix_statistics() if isinstance(engine, SharesPrefixes) else None

    def forget_prompts(self) -> None:
        """Let idle workers forget all prompts, so that the next ones are computed whole."""
        with self._lock:
            workers = [state.worker for state in self._states]
        for worker in workers:
            if isinstance(worker, KeepsPrompts):
                worker.shed()

    # Called on the event loop's thread.

    async def widen(self) -> None:
        """Find out now how far the engine's width may grow, which else begins when jobs wait."""
        if isinstance(self._engine, Widens):
            with self._lock:
                if not self._closing:  # else the model is being freed
                    self._engine.widen(self._widened)
            await run_in_daemon("asteady-widen", self._engine.join_widening)

    async def run(
        self, request: Request, emit: Emit | None = None, prefix: DeclaredPrefix | None = None
    ) -> Answer:
        """Compute an answer; `emit` gets its chunks. The prompt begins with `prefix`, whose state
        can be shared.

        Cancelling takes a waiting job out of the queue at once; a running one is interrupted, and
        its worker is free within a step.

        Raises:
            QueueFullError: every slot is taken and `max_pending` requests are waiting.
            EngineError: the engine failed, or this process was forked from the one with the pool.
            SessionClosedError: the pool was closed, before the call or meanwhile.
            AsteadyError: what `Engine.prepare` raises.
        """
        characters = characters_of(request)
        if characters > LARGE_CHARACTERS and isinstance(self._engine, ChecksSize):
            # Refused at once, instead of after the long texts before it.
            await self._check_size(self._engine, request)
        self._enter()
        loop = asyncio.get_running_loop()
        try:
            job = await self._preparer.submit(
                functools.partial(prepare, self._engine, request, prefix), characters
            )
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
            self._outbox = _Outbox(loop)
        run = _Run(job, self._outbox, emit)
        try:
            with self._lock:
                self._preparing -= 1
                if self._closing:
                    raise _closed_error()
                self._queue[run] = None
                self._assign()
            return await run.future
        except BaseException:
            self._abandon(run)
            raise

    @property
    def counts_tokens(self) -> bool:
        """Whether the engine knows its tokens, so that `ask_tokenizer` can be called."""
        return isinstance(self._engine, Tokenizer)

    def ask_tokenizer(self, ask: AskTokenizer[T], characters: int) -> asyncio.Future[T]:
        """What `ask` finds in a text of so many characters. Needs no worker.

        Raises:
            ModelCapabilityError: the engine has no tokens.
            SessionClosedError: the pool was closed, before the call or meanwhile.
            AsteadyError: what `ask` raises.
        """
        self._check_usable()
        engine = self._engine
        if not isinstance(engine, Tokenizer):
            raise ModelCapabilityError(f"the engine of {engine.model} does not count tokens")
        return self._preparer.submit(functools.partial(ask, engine), characters)

    async def _check_size(self, engine: ChecksSize, request: Request) -> None:
        self._check_usable()
        try:
            await self._preparer.submit(functools.partial(engine.check_size, request), 0)
        except PromptTooLongError:
            with self._lock:
                self._refused += 1
            raise

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise EngineError(FORKED)
        if self._closing:
            raise _closed_error()

    def _enter(self) -> None:
        self._check_usable()
        with self._lock:
            running = sum(state.load for state in self._states)
            present = self._preparing + len(self._queue) + running
            slots = len(self._states) * self._engine.width
            if present >= slots + self._max_pending:
                self._refused += 1
                raise QueueFullError(
                    f"{present - running} requests are waiting (max_pending={self._max_pending}) "
                    f"for {slots} slots: send fewer at once, or raise max_pending"
                )
            self._preparing += 1

    def _abandon(self, run: _Run) -> None:
        """The caller has left; does nothing when the run is done."""
        with self._lock:
            if run.done or run.abandoned:
                return
            run.abandoned = True
            state = run.state
            if state is None:
                if run in self._queue:
                    del self._queue[run]
                    self._cancelled += 1
            elif run in state.inbox:
                state.inbox.remove(run)
                self._leave(run, state)
            else:
                state.left.append(run)
                if run.slot is not None and state.worker is not None:
                    state.worker.interrupt(run.slot)

    # Called under the lock, on any thread.

    def _assign(self) -> None:
        """Give waiting runs to workers, the oldest first."""
        while self._queue and not self._closing:
            state = self._free_state(next(iter(self._queue)).job)
            if state is None:
                if isinstance(self._engine, Widens):
                    self._engine.widen(self._widened)
                return
            if state.thread is None:
                name = f"asteady-worker-{state.index}"
                state.thread = start_daemon(name, self._work, state)
            run, _ = self._queue.popitem(last=False)
            run.state = state
            state.load += 1
            state.inbox.append(run)
            state.wake.notify()
            if isinstance(state.worker, WaitsForEvents):
                state.worker.wake()

    def _free_state(self, job: Job) -> _WorkerState | None:
        """The worker for a job: the one that has most of its prompt, else the one that computes
        least, or an idle one while the engine wants more of them to compute."""
        engine, states = self._engine, self._states
        width = engine.width
        free = [state for state in states if state.load < width]
        running = sum(state.load for state in states)
        busy = sum(state.load > 0 for state in states)
        wanted = engine.workers_for(running + 1, len(states)) if isinstance(engine, Spreads) else 1

        def shared(state: _WorkerState) -> int:
            worker = state.worker
            return worker.shared_tokens(job) if isinstance(worker, KeepsPrompts) else 0

        return max(
            free,
            key=lambda state: (
                shared(state),
                (state.load == 0) == (busy < wanted),
                -state.load,
                state.thread is not None,
                -state.index,
            ),
            default=None,
        )

    def _widened(self) -> None:
        """The engine's width has grown; called by a thread of its own."""
        with self._lock:
            self._assign()

    def _leave(self, run: _Run, state: _WorkerState, *, failed: bool = False) -> None:
        """The run's slot is free again."""
        run.done = True
        state.load -= 1
        if run.abandoned:
            self._cancelled += 1
        elif failed:
            self._failed += 1
        else:
            self._finished += 1
        self._assign()

    # Called on a worker's thread.

    def _work(self, state: _WorkerState) -> None:
        """A worker's thread, from its first run until the pool is closed."""
        while True:
            with self._lock:
                while not (state.inbox or state.left or state.runs or self._closing):
                    state.wake.wait()
                if self._closing:
                    break
                left, state.left = state.left, []
            try:
                self._release(state, left)
                self._admit(state)
                if state.runs and state.worker is not None:
                    self._distribute(state, state.worker.step())
            # A worker's failure, of any kind, must not cost the pool a thread.
            except BaseException as exc:
                self._replace(state, exc)
        self._end(state, self._close_worker(state), _closed_error, failed=False)

    def _release(self, state: _WorkerState, left: list[_Run]) -> None:
        for run in left:
            if run.done:
                continue
            assert state.worker is not None
            assert run.slot is not None
            state.worker.release(run.slot)
            with self._lock:
                del state.runs[run.slot]
                self._leave(run, state)

    def _admit(self, state: _WorkerState) -> None:
        while True:
            with self._lock:
                if not state.inbox or self._closing:
                    return
                run = state.entering = state.inbox.pop(0)
            if state.worker is None:
                worker = self._engine.open_worker()
                with self._lock:
                    state.worker = worker
            slot = state.worker.admit(run.job)
            with self._lock:
                state.entering = None
                state.runs[slot] = run
                run.slot = slot
                self._started += 1
                if run.outbox.loop.is_closed() and not run.abandoned:
                    state.abandon(run)
                if run.abandoned or self._closing:
                    state.worker.interrupt(slot)

    def _distribute(self, state: _WorkerState, events: list[Event]) -> None:
        if not events:
            return
        posts: dict[_Outbox, list[tuple[_Run, Event]]] = {}
        with self._lock:
            for event in events:
                run = state.runs[event.slot]
                if not isinstance(event, ChunkEvent | CallEvent):
                    del state.runs[event.slot]
                    if isinstance(event, ErrorEvent) and not event.as_is:
                        event = ErrorEvent(event.slot, _engine_error(event.error))
                    self._leave(run, state, failed=isinstance(event, ErrorEvent))
                    if isinstance(event, AnswerEvent):
                        self._count_tokens(event.answer)
                elif run.emit is None and not run.outbox.loop.is_closed():
                    continue
                posts.setdefault(run.outbox, []).append((run, event))
        for outbox, posted in posts.items():
            if not outbox.post(posted):
                with self._lock:
                    for run in state.runs.values():
                        if run.outbox is outbox and not run.abandoned:
                            state.abandon(run)

    def _count_tokens(self, answer: Answer) -> None:
        if isinstance(answer, Completion):
            self._prompt_tokens += answer.prompt_tokens
            self._reused_tokens += answer.reused_tokens
            self._answer_tokens += answer.completion_tokens
        else:
            self._prompt_tokens += answer.tokens

    def _replace(self, state: _WorkerState, exc: BaseException) -> None:
        """The worker failed: its runs fail, and the next one gets a new worker."""
        with self._lock:
            self._restarted += 1
        runs = self._close_worker(state)
        message = "worker %d failed on %d jobs and is replaced: %r"
        _log.error(message, state.index, len(runs), exc, exc_info=exc)
        self._end(state, runs, lambda: _engine_error(exc), failed=True)

    def _close_worker(self, state: _WorkerState) -> list[_Run]:
        """Returns the runs that the worker had, or was about to get."""
        with self._lock:
            runs = [*state.runs.values(), *state.inbox]
            if state.entering is not None:
                runs.append(state.entering)
            state.runs, state.inbox, state.entering = {}, [], None
            worker, state.worker = state.worker, None
        if worker is not None:
            try:
                worker.close()
            except Exception:
                _log.exception("a worker could not be closed")
        return runs

    def _end(
        self, state: _WorkerState, runs: list[_Run], error: Callable[[], Exception], *, failed: bool
    ) -> None:
        with self._lock:
            for run in runs:
                run.abandoned |= not failed
                self._leave(run, state, failed=failed)
        for run in runs:
            run.outbox.post([(run, ErrorEvent(-1, error()))])

    # Closing.

    async def aclose(self, timeout_s: float = 2.0) -> None:
        """Refuse new requests, interrupt the running ones, join the threads, close the engine.

        All callers of `run` get a `SessionClosedError`. If threads do not end within `timeout_s`
        seconds (native code that cannot be interrupted), a warning names them, and the engine is
        closed when they have ended. Cancelling stops waiting; closing continues in a thread.
        Idempotent.
        """
        if os.getpid() != self._pid:
            return
        if self._closed is None:
            self._ending = self._begin_close()
            self._closed = run_in_daemon("asteady-close", self._end_engine, self._ending)
        await asyncio.wait([self._closed], timeout=timeout_s)
        if self._closed.done():
            self._closed.result()
            return
        names = ", ".join(thread.name for thread in self._ending if thread.is_alive())
        message = "%s did not stop within %.1f s; the model of %s is freed when they do"
        _log.warning(message, names or "the engine", timeout_s, self._engine.model)

    def _begin_close(self) -> list[threading.Thread]:
        with self._lock:
            self._closing = True
            queued = list(self._queue)
            self._queue.clear()
            self._cancelled += len(queued)
            for run in queued:
                run.done = True
                run.outbox.post([(run, ErrorEvent(-1, _closed_error()))])
            for state in self._states:
                if state.worker is not None:
                    for slot in state.runs:
                        state.worker.interrupt(slot)
                state.wake.notify()
            threads = [state.thread for state in self._states if state.thread is not None]
        return threads + self._preparer.close()

    def _end_engine(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join()
        self._engine.close()
        _pools.discard(self)

    def stop_at_exit(self) -> list[threading.Thread]:
        """At the end of the interpreter: the threads that were told to stop."""
        if self._pid == os.getpid() and not self._closing:
            return self._begin_close()
        return []


def _closed_error() -> SessionClosedError:
    return SessionClosedError("the session was closed, so nothing more is computed")


def _engine_error(exc: BaseException) -> AsteadyError:
    """As an error of ours, a new one for each job."""
    if isinstance(exc, AsteadyError):
        copy = type(exc)(*exc.args)
    else:
        copy = EngineError(f"the engine failed: {exc!r}")
    copy.__cause__ = exc
    return copy


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _at_exit() -> None:
    """Stop native code before the interpreter goes."""
    threads = [thread for pool in list(_pools) for thread in pool.stop_at_exit()]
    join_all(threads, _EXIT_JOIN_S)


atexit.register(_at_exit)
