"""The protocols between the pool and what computes: an `Engine` and its `Worker`\\ s.

An engine is one loaded model. It turns a request into a `Job` (`prepare`: validated against the
model and tokenised, any thread) and opens workers. A worker owns one context, belongs to the one
thread that opened it, and computes up to `Engine.width` jobs side by side, a step at a time::

    worker = engine.open_worker()
    slot = worker.admit(job)
    while not answered:
        for event in worker.step():      # ChunkEvents, then one AnswerEvent or ErrorEvent
            ...

All methods but `interrupt` may block, and are not called on the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import attrs

from asteady._base.activity import Activities
from asteady._base.messages import ToolCall
from asteady._base.public import public
from asteady._base.records import Record
from asteady._base.requests import (
    ChunkKind,
    Completion,
    DeclaredPrefix,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    Kind,
    TokenLogprob,
)

Request: TypeAlias = GenerateRequest | EmbedRequest
Answer: TypeAlias = Completion | Embedding

SlotId: TypeAlias = int
"""Identifies a job within its worker from `admit` until its answer, error or `release`."""


@public
@attrs.frozen
class ChunkEvent:
    """Text that the job in this slot has produced, or reasoning, which comes first.

    The chunks of each kind join to the `text` and the `reasoning` of the answer. `logprobs` are
    those of a `TextChunk`.
    """

    slot: SlotId
    text: str
    kind: ChunkKind = "text"
    logprobs: tuple[TokenLogprob, ...] = ()


@public
@attrs.frozen
class CallEvent:
    """The job in this slot has produced a whole call of a tool; after all text."""

    slot: SlotId
    call: ToolCall


@public
@attrs.frozen
class AnswerEvent:
    """The job in this slot is done and the slot is free again."""

    slot: SlotId
    answer: Answer


@public
@attrs.frozen
class ErrorEvent:
    """The job in this slot failed and the slot is free again.

    An error that is not one of asteady's reaches the caller as the cause of an `EngineError`, or
    with `as_is` as itself.
    """

    slot: SlotId
    error: Exception
    as_is: bool = False


Event: TypeAlias = ChunkEvent | CallEvent | AnswerEvent | ErrorEvent


@public
class Job(Protocol):
    """A request, validated against the model and tokenised. Immutable; made by `prepare`."""

    @property
    def request(self) -> Request: ...


@public
class Worker(Protocol):
    """One context, used by the one thread that opened it; that thread closes it."""

    def admit(self, job: Job) -> SlotId:
        """Take a job into a free slot; quick, computes nothing."""

    def step(self) -> list[Event]:
        """Compute for at most one decode step (or one piece of a prompt); events in order."""

    def release(self, slot: SlotId) -> None:
        """Forget a job that nobody waits for; its slot is free and clean afterwards."""

    def interrupt(self, slot: SlotId) -> None:
        """Make a `step` that is busy with this slot's prompt return early.

        The only method that any thread may call, at any time, also for a slot that is gone. The
        other slots' answers are unaffected. The owner thread still calls `release`.
        """

    def close(self) -> None: ...


@public
class Engine(Protocol):
    """One loaded model, shared by its workers; lives until `close`, which comes after theirs."""

    @property
    def model(self) -> str:
        """The reference that the user gave, such as "builtin" or a path."""

    @property
    def fingerprint(self) -> str:
        """Digest of everything in this engine that can change an answer."""

    @property
    def width(self) -> int:
        """How many jobs one worker computes side by side without changing any answer.

        It may grow; see `Widens`.
        """

    def prepare(self, request: Request) -> Job:
        """Check a request against the model and tokenise it; from any thread.

        Raises:
            PromptTooLongError: it has more tokens than the context.
            ModelCapabilityError: this model cannot serve this kind of request.
            InvalidRequestError: another argument does not fit the model.
        """

    def open_worker(self) -> Worker:
        """A new worker; call it on the thread that will use it."""

    def close(self) -> None: ...


@public
@attrs.frozen(kw_only=True)
class PrefixStatistics(Record):
    """The cached states of declared prefixes that a model's workers share, and their use.

    `states` are cached now, in `size_bytes` of at most `max_bytes`. `made` were added so far,
    `evicted` had to go for others, `too_large` would not have fitted alone. `reused` prompts began
    with one, and had `reused_tokens` fewer to compute.
    """

    states: int
    size_bytes: int
    max_bytes: int
    made: int
    evicted: int
    too_large: int
    reused: int
    reused_tokens: int


@public
@attrs.frozen(kw_only=True)
class MachineStatistics(Record):
    """What the models of a session share: cores, and memory for keys and values.

    `busy_workers` have something to compute, and each of their calls uses `threads` of the `cores`.
    Contexts take `context_bytes` of at most `max_context_bytes`; weights are not among them.
    """

    cores: int
    threads: int
    busy_workers: int
    context_bytes: int
    max_context_bytes: int


@runtime_checkable
class KnowsMachine(Protocol):
    """A source whose engines share what the machine has."""

    def machine(self) -> MachineStatistics | None:
        """At once, from any thread; None before the first model is loaded."""


@runtime_checkable
class HasWeights(Protocol):
    """An engine that knows how many bytes its weights take in memory."""

    @property
    def weights_bytes(self) -> int: ...


@runtime_checkable
class SharesPrefixes(Protocol):
    """An engine whose workers compute a declared prefix once for all prompts that begin with it."""

    def prepare_declared(self, request: Request, prefix: DeclaredPrefix) -> Job:
        """As `Engine.prepare`, for a prompt that is declared to begin with this prefix.

        The answer is the same, byte for byte, even if it does not.
        """

    def prefix_statistics(self) -> PrefixStatistics: ...


@runtime_checkable
class ChecksSize(Protocol):
    """An engine that knows, before it reads a text, whether its tokens can fit into the context."""

    def check_size(self, request: Request) -> None:
        """Quick, whatever the size; from any thread.

        Raises:
            PromptTooLongError: it has more characters than the longest tokens of a context hold.
        """


@runtime_checkable
class Widens(Protocol):
    """An engine whose `width` grows when requests wait for each other."""

    def widen(self, widened: Callable[[], None]) -> None:
        """Find out, in the background, how far `width` may grow; call `widened` when it has.

        Returns at once; only the first call has an effect.
        """

    def join_widening(self) -> None:
        """Block until that is found out; at once if `widen` was never called."""


@runtime_checkable
class Tokenizer(Protocol):
    """What knows the tokens of a model: an engine, or a model without its weights."""

    def tokenize(self, request: Request) -> list[int]:
        """All tokens of a request's prompt or text, however many; from any thread.

        Raises as `Engine.prepare` does, but for a prompt that is too long.
        """

    def piece(self, token: int) -> bytes:
        """The bytes of a token, also of one that is not shown in answers.

        Raises:
            InvalidRequestError: there is no such token.
        """


@runtime_checkable
class Spreads(Protocol):
    """An engine that knows over how many workers its answers are computed fastest."""

    def workers_for(self, jobs: int, workers: int) -> int:
        """Over how many of these workers so many running jobs should be spread; from any thread,
        at once."""


@runtime_checkable
class LimitsWorkers(Protocol):
    """An engine that has no use for as many workers as the settings allow."""

    @property
    def max_workers(self) -> int: ...


@runtime_checkable
class HasCache(Protocol):
    """An engine whose server may have a cache, and see to it that each answer is computed once.

    Its directory may be the one of this process, and its shared tier that of this session. So who
    asks it must not hold a lock that it takes too.
    """

    @property
    def takes_locks(self) -> bool:
        """Whether it takes locks in its directory, where two keys may have one lock."""

    def takes_lease(self, request: Request) -> bool:
        """Whether it computes this request under the key that it has here, for which it has the
        lease then; from any thread, at once."""


@runtime_checkable
class WaitsForEvents(Protocol):
    """A worker whose `step` waits for what computes elsewhere."""

    def wake(self) -> None:
        """Make a `step` return early: there is another job; from any thread, at once."""


@runtime_checkable
class KeepsPrompts(Protocol):
    """A worker that computes a prompt faster if it begins as one that it computed before."""

    def shared_tokens(self, job: Job) -> int:
        """How many tokens of this job's prompt need not be computed; from any thread, at once."""

    def shed(self) -> None:
        """Forget the prompts that no job uses now; from any thread, without waiting."""


def prepare(engine: Engine, request: Request, prefix: DeclaredPrefix | None) -> Job:
    """`Engine.prepare`, with the declared prefix if there is one and the engine can share it."""
    if prefix is not None and isinstance(engine, SharesPrefixes):
        return engine.prepare_declared(request, prefix)
    return engine.prepare(request)


class EngineSource(Protocol):
    """Where engines come from. Both methods block and run in worker threads."""

    def fingerprint(self, kind: Kind, reference: str) -> str:
        """The fingerprint of the engine that `load` returns, without loading the weights.

        Raises:
            ModelError: there is no such model, or its file cannot be used.
        """

    def load(self, kind: Kind, reference: str) -> Engine:
        """Load the model; raises as `fingerprint` does."""


@runtime_checkable
class KnowsDimensions(Protocol):
    """A source that knows the dimensions of a model's vectors without loading the weights."""

    def dimensions(self, reference: str) -> int:
        """Those of whole vectors, or 0 if unknown. Raises as `EngineSource.fingerprint` does."""


@runtime_checkable
class HasDimensions(Protocol):
    """An engine that knows the dimensions of its whole vectors."""

    @property
    def dimensions(self) -> int: ...


@runtime_checkable
class ReadsFiles(Protocol):
    """A source that may read a whole file to identify a model, and can load it meanwhile."""

    def identify(self, kind: Kind, reference: str, reading: Callable[[], None]) -> str:
        """As `EngineSource.fingerprint`; calls `reading` when such a file begins to be read."""


@runtime_checkable
class DescribesFingerprints(Protocol):
    """A source that knows what its fingerprints are made of."""

    def fingerprint_parts(self, kind: Kind, reference: str) -> Mapping[str, Any]:
        """What `EngineSource.fingerprint` is the digest of, by name and ready for JSON; blocks and
        raises as it does."""

    def portable_fingerprint(self, fingerprint: str) -> str:
        """The fingerprint without what depends on the CPU, of one that this process has computed
        or loaded. From any thread, at once."""


class ClosableTokenizer(Tokenizer, Protocol):
    def close(self) -> None: ...


@runtime_checkable
class LoadsTokenizers(Protocol):
    """A source that can load what tokenises without the weights."""

    def tokenizer(self, kind: Kind, reference: str) -> ClosableTokenizer:
        """Blocks for less than `EngineSource.load`, and raises as it does."""


@runtime_checkable
class ChecksReferences(Protocol):
    """A source that knows whether a reference can name a model at all."""

    def check_reference(self, reference: str) -> None:
        """Looks for a file, and reads none.

        Raises:
            ModelNotFoundError: it is no known name, and there is no such file.
        """


@runtime_checkable
class Reports(Protocol):
    """A source that says what it is busy with, and its engines too."""

    @property
    def activities(self) -> Activities: ...


@runtime_checkable
class Fetching(Protocol):
    """A source whose models may have to be downloaded first."""

    def fetch(self, reference: str, stopped: Callable[[], bool]) -> None:
        """Download the model's files unless they are here. Blocks for as long as that takes, but
        ends soon after `stopped` returns True. Raises as `EngineSource.fingerprint` does."""
