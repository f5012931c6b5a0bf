"""Records the answers of real models and replays them, through engines put below the cache."""

from __future__ import annotations

import difflib
import functools
import hashlib
import os
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Literal, TypeAlias

import attrs

from asteady._base.errors import AsteadyError, InvalidRequestError, ModelError, ModelNotFoundError
from asteady._base.files import atomic_write
from asteady._base.messages import ToolCall
from asteady._base.public import public
from asteady._base.requests import Chunk, Completion, Kind, ReasoningChunk, TextChunk
from asteady._base.settings import Settings
from asteady._engine.api import (
    Answer,
    AnswerEvent,
    CallEvent,
    ChunkEvent,
    ClosableTokenizer,
    Engine,
    EngineSource,
    Event,
    Job,
    Request,
    SlotId,
    Worker,
)
from asteady._engine.models.hub import find_model, parse_reference
from asteady._engine.sources import ModelSource
from asteady._session import default as _default
from asteady._session.models import engine_source_override
from asteady.testing._format import ModelRequest, Recorded, RecordedError, dumps, loads, nearest

Mode: TypeAlias = Literal["replay", "record", "live"]

# Replaying takes no time, so a wider batch would gain nothing.
_REPLAY_WIDTH = 8


@public
class MissingAnswerError(AsteadyError):
    """The recording has no answer to a request; the message shows the nearest recorded request."""


@public
class Recording:
    """A file of recorded answers for every session that is constructed in its ``with`` block.

    ::

        with Recording("tests/answers.toml"):
            assert "Paris" in blocking.generate("What is the capital of France?")

    In the mode "replay" no model is loaded: a recorded request gets its answer, any other raises
    `MissingAnswerError`. Requests match by the model's reference (of a path, the file
    name) and by all parameters, but not by the model file, the build or the CPU. Tokens are not
    recorded: counting them reads the vocabulary of the model, which must be on this machine.

    In the mode "record" the real models answer, also where the file has an answer already. At the
    end of the block their answers are added to the file. In the mode "live" the real models answer
    and the file is not changed.

    Sessions with an ``engine`` argument are not affected. Open default sessions are closed at both
    ends of the block, so that none is used both inside and outside. Use a new cache directory for
    each recording: an answer from the cache is neither recorded nor replayed.

    Raises:
        RecordingError: the file cannot be read.
        InvalidRequestError: the mode is none of the three.
    """

    def __init__(self, path: str | os.PathLike[str], mode: Mode = "replay") -> None:
        if mode not in ("replay", "record", "live"):
            raise InvalidRequestError(f'mode={mode!r} is not allowed: "replay", "record" or "live"')
        self.path = Path(path)
        self.mode = mode
        self.missing: list[MissingAnswerError] = []
        """Every `MissingAnswerError` raised so far, including those that the program caught."""
        self.recorded: Recorded = self._read()
        self._new: Recorded = {}
        # Sessions of different recordings never share cache entries.
        self._fingerprint = hashlib.sha256(uuid.uuid4().bytes).hexdigest()
        self._models_in = Settings.from_environment().cache_dir

    def __repr__(self) -> str:
        return f"<Recording {self.mode} {self.path}: {len(self.recorded)} answers>"

    def __enter__(self) -> Recording:
        _close_default_sessions()
        self._override = engine_source_override(self._source)
        self._override.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._override.__exit__(None, None, None)
        _close_default_sessions()
        self.write()

    def write(self) -> None:
        """Add new answers to the file. Other processes may do the same at the same time. Blocks."""
        if not self._new:
            return
        import filelock

        name = hashlib.sha256(bytes(self.path.absolute())).hexdigest()[:16]
        with filelock.FileLock(Path(tempfile.gettempdir()) / f"asteady-recording-{name}.lock"):
            self.recorded = {**self._read(), **self._new}
            self._new = {}
            with atomic_write(self.path, private=False) as file:
                file.write(dumps(self.recorded).encode())

    def answer(self, model_request: ModelRequest) -> Answer:
        """The recorded answer.

        Raises:
            MissingAnswerError: there is none.
            AsteadyError: the model raised this error when it was recorded.
        """
        found = self.recorded.get(model_request)
        if found is None:
            error = MissingAnswerError(self._missing_message(model_request))
            self.missing.append(error)
            raise error
        if isinstance(found, RecordedError):
            raise found.as_error()
        return found

    def note(self, model_request: ModelRequest, answer: Answer | RecordedError) -> None:
        """Keep an answer of the real model for `write`."""
        if self.mode == "record":
            self._new[model_request] = answer

    def _source(self, settings: Settings) -> EngineSource:
        # Probe results and converted models are taken from the user's cache directory: that of the
        # test is empty, and they take long to make.
        real = ModelSource(attrs.evolve(settings, cache_dir=self._models_in))
        if self.mode == "replay":
            return _Source(
                self._fingerprint,
                lambda kind, model, fingerprint: ReplayEngine(self, fingerprint, kind, model),
                functools.partial(self._tokenizer_here, real),
            )
        return _Source(
            self._fingerprint,
            lambda kind, model, fingerprint: RecordingEngine(
                real.load(kind, model), fingerprint, kind, model, self.note
            ),
            real.tokenizer,
        )

    def _tokenizer_here(self, real: ModelSource, kind: Kind, reference: str) -> ClosableTokenizer:
        """That of a model on this machine: replaying downloads nothing."""
        hub = parse_reference(reference) if reference.startswith("hf:") else None
        if hub is not None and find_model(hub, self._models_in) is None:
            raise ModelNotFoundError(
                f"the tokens of {reference} cannot be counted: they are not recorded, and the "
                f"model is not on this machine: asteady models pull {reference}"
            )
        return real.tokenizer(kind, reference)

    def _read(self) -> Recorded:
        try:
            return loads(self.path.read_text(encoding="utf-8"), self.path)
        except FileNotFoundError:
            return {}

    def _missing_message(self, model_request: ModelRequest) -> str:
        lines = [f"no answer is recorded in {self.path} for this {model_request.kind} request:", ""]
        lines += [f"    {line}" for line in str(model_request).splitlines()]
        near = nearest(model_request, self.recorded)
        if near is None:
            lines += ["", f"The file has no {model_request.kind} requests."]
        else:
            diff = difflib.ndiff(str(near).splitlines(), str(model_request).splitlines())
            lines += ["", "Difference from the nearest recorded request (-) to this one (+):", ""]
            lines += [f"    {line.rstrip()}" for line in diff]
        return "\n".join([*lines, "", "Run pytest --asteady-record to record it."])


def _close_default_sessions() -> None:
    blocking = sys.modules.get("asteady.blocking")
    if blocking is not None:
        blocking.close()
    _default.forget_all()


@attrs.frozen
class _Source:
    """An `EngineSource` whose fingerprints depend on the recording and the model's reference."""

    _fingerprint: str
    _load: Callable[[Kind, str, str], Engine]
    tokenizer: Callable[[Kind, str], ClosableTokenizer]

    def fingerprint(self, kind: Kind, reference: str) -> str:
        return hashlib.sha256(f"{self._fingerprint} {kind} {reference}".encode()).hexdigest()

    def load(self, kind: Kind, reference: str) -> Engine:
        return self._load(kind, reference, self.fingerprint(kind, reference))


def _portable(reference: str) -> str:
    """The reference to record; of a path, which differs between machines, the name."""
    path = PurePath(reference)
    return path.name if path.is_absolute() else reference


# -- replaying -----------------------------------------------------------------------------------


@attrs.frozen
class ReplayJob:
    request: Request
    answer: Answer


class ReplayEngine:
    """An `Engine` that answers from a recording and loads no model."""

    width = _REPLAY_WIDTH

    def __init__(self, recording: Recording, fingerprint: str, kind: Kind, model: str) -> None:
        self.model = model
        self.fingerprint = fingerprint
        self._recording = recording
        self._kind = kind

    def prepare(self, request: Request) -> ReplayJob:
        model_request = ModelRequest(self._kind, _portable(self.model), request)
        answer = self._recording.answer(model_request)
        return ReplayJob(request, attrs.evolve(answer, fingerprint=self.fingerprint))

    def open_worker(self) -> ReplayWorker:
        return ReplayWorker()

    def close(self) -> None:
        pass


class ReplayWorker:
    """A `Worker` that finishes every job in one step."""

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
            if isinstance(job.answer, Completion):
                events += [_event(slot, chunk) for chunk in job.answer.all_chunks()]
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

Note: TypeAlias = Callable[[ModelRequest, Answer | RecordedError], None]


class RecordingEngine:
    """A real `Engine` whose answers and errors are recorded."""

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
            self.note(request, RecordedError(type(exc).__name__, str(exc)))
            raise

    def open_worker(self) -> RecordingWorker:
        return RecordingWorker(self._engine.open_worker(), self.note)

    def close(self) -> None:
        self._engine.close()

    def note(self, request: Request, answer: Answer | RecordedError) -> None:
        self._note(ModelRequest(self._kind, self._model, request), answer)


class RecordingWorker:
    """A real `Worker` whose answers are recorded."""

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


def _event(slot: SlotId, chunk: Chunk) -> Event:
    match chunk:
        case ToolCall():
            return CallEvent(slot, chunk)
        case ReasoningChunk(text):
            return ChunkEvent(slot, text, "reasoning")
        case TextChunk(text, logprobs):
            return ChunkEvent(slot, text, logprobs=logprobs)
        case str():
            return ChunkEvent(slot, chunk)
