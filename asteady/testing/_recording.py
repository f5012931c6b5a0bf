"""Recording answers of real models, and replaying them: engines on the library's own seam."""

from __future__ import annotations

import difflib
import hashlib
import os
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path, PurePath
from types import TracebackType
from typing import Literal, TypeAlias

import attrs

from asteady._base.errors import AsteadyError, InvalidRequestError, ModelError
from asteady._base.public import public
from asteady._base.requests import Kind
from asteady._base.settings import Settings
from asteady._engine.api import (
    Answer,
    AnswerEvent,
    ChunkEvent,
    Engine,
    EngineSource,
    Event,
    Job,
    Request,
    SlotId,
    Worker,
)
from asteady._engine.loader import LlamaSource
from asteady._session import default as _default
from asteady._session.models import engine_source_override
from asteady.testing._format import Asked, Recorded, Refusal, dumps, loads, nearest

Mode: TypeAlias = Literal["replay", "record", "live"]

# More makes no difference to a reader.
_REPLAY_WIDTH = 8


@public
class MissingAnswerError(AsteadyError):
    """A replay was asked for an answer that was not recorded; the message shows the nearest."""


@public
class Recording:
    """A file of answers, used by every session that is constructed within a ``with`` block.

    ::

        with Recording("tests/answers.toml"):
            assert "Paris" in blocking.generate("What is the capital of France?")

    Replaying, no model is loaded: a request that was recorded gets its answer, and another one
    raises `MissingAnswerError`. It matches on the model, as the program names it (of an absolute
    path, the file's name), and on the parameters; not on the model file, the build or the CPU.

    Recording, the real models answer, and at the end of the block what they said is written to the
    file, beside what is there already. Answers that are in the file are computed anew. In the mode
    "live" the real models answer, and the file is left alone.

    Sessions given an ``engine`` of their own take no part. Default sessions that are open are
    closed at both ends of the block, so that none of them works across it. Use a cache directory
    that lives no longer than the recording; what a cache remembers is not asked for.

    Raises:
        RecordingError: the file cannot be read.
        InvalidRequestError: there is no such mode.
    """

    def __init__(self, path: str | os.PathLike[str], mode: Mode = "replay") -> None:
        if mode not in ("replay", "record", "live"):
            raise InvalidRequestError(f'mode={mode!r} is not allowed: "replay", "record" or "live"')
        self.path = Path(path)
        self.mode = mode
        self.missing: list[MissingAnswerError] = []
        """What a replay was asked for in vain, also where the program caught the error."""
        self.recorded: Recorded = self._read()
        self._new: Recorded = {}
        # What one recording's sessions remember is of no use to those of another.
        self._fingerprint = hashlib.sha256(uuid.uuid4().bytes).hexdigest()
        self._models_in = Settings.from_environment().cache_dir

    def __repr__(self) -> str:
        return f"<Recording {self.mode} {self.path}: {len(self.recorded)} answers>"

    def __enter__(self) -> Recording:
        _close_default_sessions()
        self._override = engine_source_override(self._source)
        self._override.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._override.__exit__(None, None, None)
        _close_default_sessions()
        self.write()

    def write(self) -> None:
        """Write what was recorded since; safe beside other processes that do the same."""
        if not self._new:
            return
        import filelock

        name = hashlib.sha256(bytes(self.path.absolute())).hexdigest()[:16]
        with filelock.FileLock(Path(tempfile.gettempdir()) / f"asteady-recording-{name}.lock"):
            self.recorded = {**self._read(), **self._new}
            self._new = {}
            draft = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
            draft.write_text(dumps(self.recorded), encoding="utf-8", newline="\n")
            draft.replace(self.path)

    def answer(self, asked: Asked) -> Answer:
        """The recorded answer.

        Raises:
            MissingAnswerError: there is none.
            AsteadyError: what was recorded is a refusal.
        """
        found = self.recorded.get(asked)
        if found is None:
            error = MissingAnswerError(self._complaint(asked))
            self.missing.append(error)
            raise error
        if isinstance(found, Refusal):
            raise found.raised()
        return attrs.evolve(found, fingerprint=self._fingerprint)

    def note(self, asked: Asked, answer: Answer | Refusal) -> None:
        """Remember what the real model said, to be written."""
        if self.mode == "record":
            self._new[asked] = answer

    def _source(self, settings: Settings) -> EngineSource:
        if self.mode == "replay":
            return _Source(self._fingerprint, lambda kind, model: ReplayEngine(self, kind, model))
        # What is known of models, and those that were converted, stays where it is, whatever the
        # tests' cache directory.
        real = LlamaSource(attrs.evolve(settings, cache_dir=self._models_in))
        return _Source(
            self._fingerprint,
            lambda kind, model: RecordingEngine(
                real.load(kind, model), self._fingerprint, kind, model, self.note
            ),
        )

    def _read(self) -> Recorded:
        try:
            return loads(self.path.read_text(encoding="utf-8"), self.path)
        except FileNotFoundError:
            return {}

    def _complaint(self, asked: Asked) -> str:
        lines = [f"no answer is recorded in {self.path} for this {asked.kind} request:", ""]
        lines += [f"    {line}" for line in str(asked).splitlines()]
        near = nearest(asked, self.recorded)
        if near is None:
            lines += ["", f"There is no other {asked.kind} request in it."]
        else:
            diff = difflib.ndiff(str(near).splitlines(), str(asked).splitlines())
            lines += ["", "The nearest one that is (-), against it (+):", ""]
            lines += [f"    {line.rstrip()}" for line in diff]
        return "\n".join([*lines, "", "pytest --asteady-record records what is missing."])


def _close_default_sessions() -> None:
    blocking = sys.modules.get("asteady.blocking")
    if blocking is not None:
        blocking.close()
    _default.forget_all()


@attrs.frozen
class _Source:
    """An `EngineSource` in which all models have one fingerprint, as their references differ."""

    _fingerprint: str
    _load: Callable[[Kind, str], Engine]

    def fingerprint(self, kind: Kind, reference: str) -> str:
        return hashlib.sha256(f"{self._fingerprint} {kind} {reference}".encode()).hexdigest()

    def load(self, kind: Kind, reference: str) -> Engine:
        return self._load(kind, reference)


def _portable(reference: str) -> str:
    """The reference as it is recorded: an absolute path differs from one checkout to the next."""
    path = PurePath(reference)
    return path.name if path.is_absolute() else reference


# -- replaying -----------------------------------------------------------------------------------


@attrs.frozen
class ReplayJob:
    request: Request
    answer: Answer


class ReplayEngine:
    """An `Engine` that answers from a recording. Loads nothing."""

    width = _REPLAY_WIDTH

    def __init__(self, recording: Recording, kind: Kind, model: str) -> None:
        self.model = model
        self.fingerprint = recording._fingerprint
        self._recording = recording
        self._kind = kind

    def prepare(self, request: Request) -> ReplayJob:
        asked = Asked(self._kind, _portable(self.model), request)
        return ReplayJob(request, self._recording.answer(asked))

    def open_worker(self) -> ReplayWorker:
        return ReplayWorker()

    def close(self) -> None:
        pass


class ReplayWorker:
    """A `Worker` whose jobs are done within a step."""

    def __init__(self) -> None:
        self._jobs: dict[SlotId, ReplayJob] = {}
        self._slots = 0

    def admit(self, job: Job) -> SlotId:
        assert isinstance(job, ReplayJob)
        self._slots += 1
        self._jobs[self._slots] = job
        return self._slots

    def step(self) -> list[Event]:
        events: list[Event] = []
        for slot, job in self._jobs.items():
            events += [ChunkEvent(slot, chunk) for chunk in getattr(job.answer, "chunks", ())]
            events.append(AnswerEvent(slot, job.answer))
        self._jobs.clear()
        return events

    def release(self, slot: SlotId) -> None:
        self._jobs.pop(slot, None)

    def interrupt(self, slot: SlotId) -> None:
        pass

    def close(self) -> None:
        self._jobs.clear()


# -- recording -----------------------------------------------------------------------------------

Note: TypeAlias = Callable[[Asked, Answer | Refusal], None]


class RecordingEngine:
    """A real `Engine`, and a note of everything it says."""

    def __init__(
        self, engine: Engine, fingerprint: str, kind: Kind, model: str, note: Note
    ) -> None:
        self.model = engine.model
        self.width = engine.width
        self.fingerprint = fingerprint
        self._engine = engine
        self._kind: Kind = kind
        self._model = _portable(model)
        self._note = note

    def prepare(self, request: Request) -> Job:
        try:
            return self._engine.prepare(request)
        except (InvalidRequestError, ModelError) as exc:
            self.note(request, Refusal(type(exc).__name__, str(exc)))
            raise

    def open_worker(self) -> RecordingWorker:
        return RecordingWorker(self._engine.open_worker(), self.note)

    def close(self) -> None:
        self._engine.close()

    def note(self, request: Request, answer: Answer | Refusal) -> None:
        self._note(Asked(self._kind, self._model, request), answer)


class RecordingWorker:
    """A real `Worker`, and a note of its answers."""

    def __init__(self, worker: Worker, note: Callable[[Request, Answer], None]) -> None:
        self._worker = worker
        self._note = note
        self._requests: dict[SlotId, Request] = {}
        self.release = worker.release
        self.interrupt = worker.interrupt
        self.close = worker.close

    def admit(self, job: Job) -> SlotId:
        slot = self._worker.admit(job)
        self._requests[slot] = job.request
        return slot

    def step(self) -> list[Event]:
        events = self._worker.step()
        for event in events:
            if isinstance(event, AnswerEvent):
                self._note(self._requests.pop(event.slot), event.answer)
        return events
