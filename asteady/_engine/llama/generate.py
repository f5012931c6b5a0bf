"""The worker of a generation model: up to `width` answers in one context, a step at a time.

Each prompt is computed alone, in pieces of `PIECE_TOKENS`; then each step decodes one token of
every running answer, in one batch. Requests share no state except the whole pieces of a declared
prefix, whose keys and values have the same bits in all of them and are copied.
"""

from __future__ import annotations

import itertools
import logging
from time import perf_counter
from typing import Any

import attrs
import llama_cpp

from asteady._base.errors import EngineError
from asteady._base.requests import Completion, FinishReason, GenerateRequest, TokenLogprob
from asteady._engine.api import (
    PIECE_TOKENS,
    AnswerEvent,
    ChunkEvent,
    ErrorEvent,
    Event,
    Job,
    SlotId,
)
from asteady._engine.llama.context import Context
from asteady._engine.llama.lib import Batch, SequenceIds, holding_gil
from asteady._engine.llama.sampling import logprob_of, make_sampler
from asteady._engine.llama.vocab import TextStream, Vocab
from asteady._engine.plan import Setup, divide
from asteady._engine.prefix_cache import PrefixCache

_log = logging.getLogger("asteady")

# Sampling walks the whole vocabulary: it takes microseconds for a small one, and a millisecond for
# a large one, during which the event loop needs the GIL.
_SMALL_VOCABULARY = 8192


@attrs.frozen(kw_only=True)
class GenerateJob:
    """A tokenised prompt, and the most tokens that may follow it.

    The first `shared_tokens` belong to a declared prefix: whole pieces, never the last one.
    """

    request: GenerateRequest
    tokens: tuple[int, ...]
    limit: int
    shared_tokens: int = 0


class _Sequence:
    """A job in a slot and its state; `number` is its sequence id in the context."""

    def __init__(self, slot: SlotId, number: int, job: GenerateJob, sampler: Any) -> None:
        self.slot = slot
        self.number = number
        self.job = job
        self.sampler = sampler
        self.text = TextStream(job.request.stop)
        self.chunks: list[str] = []
        self.computed = 0  # prompt tokens in the context
        self.position = 0  # of the next token
        self.token = -1  # sampled, not yet in the context
        self.generated = 0
        self.logprobs: list[TokenLogprob] | None = None
        if job.request.logprobs is not None:
            self.logprobs = []
        self.cost_s = 0.0

    @property
    def decoding(self) -> bool:
        return self.computed == len(self.job.tokens)


class GenerateWorker:
    """A `Worker` with `setup.width` slots over one context."""

    def __init__(
        self,
        model: Any,
        vocab: Vocab,
        *,
        context_tokens: int,
        threads: int,
        setup: Setup,
        prefixes: PrefixCache,
        model_name: str,
        fingerprint: str,
    ) -> None:
        self._vocab = vocab
        self._prefixes = prefixes
        self._model_name = model_name
        self._fingerprint = fingerprint
        width = setup.width
        self._batch_sizes = [divide(count, setup.step_s) for count in range(width + 1)]
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context_tokens * width
        parameters.n_seq_max = width
        parameters.n_batch = PIECE_TOKENS
        parameters.n_ubatch = PIECE_TOKENS
        parameters.n_threads = threads
        parameters.n_threads_batch = threads
        self._context = Context(model, parameters)
        self._prompt_batch = Batch(PIECE_TOKENS)
        self._step_batch = Batch(width)
        for place in range(width):
            self._step_batch.outputs[place] = 1
        self._sample = llama_cpp.llama_sampler_sample
        if vocab.size <= _SMALL_VOCABULARY:
            self._sample = holding_gil(self._sample)
        self._sequence_ids = SequenceIds(width)
        self._free = list(range(width))
        self._slots: dict[SlotId, _Sequence] = {}
        self._next_slot = itertools.count()
        # Prompt tokens computed since the last decode step: at most one piece's worth, which
        # bounds how long a new prompt delays the running answers.
        self._since_step = 0

    def admit(self, job: Job) -> SlotId:
        assert isinstance(job, GenerateJob)
        sampler = make_sampler(job.request, self._vocab.size)
        # The lowest free one, so that equal histories use equal sequences.
        self._free.sort()
        slot = next(self._next_slot)
        self._context.enter(slot)
        self._slots[slot] = _Sequence(slot, self._free.pop(0), job, sampler)
        return slot

    def interrupt(self, slot: SlotId) -> None:
        self._context.interrupt(slot)

    def release(self, slot: SlotId) -> None:
        sequence = self._slots.pop(slot, None)
        if sequence is not None:
            llama_cpp.llama_sampler_free(sequence.sampler)
            self._free.append(sequence.number)
            self._context.leave(slot, sequence.number)

    def close(self) -> None:
        for slot in list(self._slots):
            self.release(slot)
        self._context.close()

    def step(self) -> list[Event]:
        context = self._context
        decoding = []
        newcomer = None
        for sequence in self._slots.values():
            if context.is_interrupted(sequence.slot):
                continue
            if sequence.decoding:
                decoding.append(sequence)
            elif newcomer is None:
                newcomer = sequence
        events: list[Event] = []
        if newcomer is not None:
            piece = min(PIECE_TOKENS, len(newcomer.job.tokens) - newcomer.computed)
            if not decoding or self._since_step + piece <= PIECE_TOKENS:
                self._prefill(newcomer, events)
                return events
        self._since_step = 0
        first = 0
        for size in self._batch_sizes[len(decoding)]:
            self._decode(decoding[first : first + size], events)
            first += size
        return events

    def _prefill(self, sequence: _Sequence, events: list[Event]) -> None:
        began = perf_counter()
        if sequence.computed == 0 and sequence.job.shared_tokens:
            self._restore_prefix(sequence)
        first, tokens = sequence.computed, sequence.job.tokens
        piece = min(PIECE_TOKENS, len(tokens) - first)
        self._since_step += piece
        batch = self._prompt_batch
        batch.tokens[:piece] = list(tokens[first : first + piece])
        batch.positions[:piece] = list(range(first, first + piece))
        pointer = self._sequence_ids[sequence.number]
        for place in range(piece):
            batch.sequences[place] = pointer
        last = first + piece == len(tokens)
        batch.outputs[piece - 1] = last
        try:
            done = self._context.compute_for(sequence.slot, llama_cpp.llama_decode, batch, piece)
        except EngineError as exc:
            self.release(sequence.slot)
            events.append(ErrorEvent(sequence.slot, exc))
            return
        finally:
            batch.outputs[piece - 1] = 0
        if done:
            sequence.computed += piece
            if sequence.computed == sequence.job.shared_tokens:
                self._cache_prefix(sequence)
            if last:
                sequence.position = len(tokens)
                self._sample_token(sequence, piece - 1, events)
        sequence.cost_s += perf_counter() - began
        self._finish_if_done(sequence, events)

    def _restore_prefix(self, sequence: _Sequence) -> None:
        """Begin with the longest cached state of the declared prefix, if there is one."""
        job = sequence.job
        found = self._prefixes.find(job.tokens, job.shared_tokens)
        if found is None:
            return
        count, state = found
        try:
            self._context.restore(sequence.number, state)
        except EngineError as exc:
            # The state is replaced when the prefix has been computed.
            _log.warning("a prompt is computed without its cached prefix: %s", exc)
            return
        sequence.computed = count
        self._prefixes.count_reuse(count)

    def _cache_prefix(self, sequence: _Sequence) -> None:
        """Cache the state of the declared prefix; exactly its tokens are computed."""
        try:
            if self._prefixes.fits(self._context.state_bytes(sequence.number)):
                state = self._context.save(sequence.number)
                self._prefixes.put(sequence.job.tokens, sequence.computed, state)
        except (EngineError, MemoryError) as exc:
            _log.warning("the state of a prefix is not cached: %r", exc)

    def _decode(self, running: list[_Sequence], events: list[Event]) -> None:
        began = perf_counter()
        batch = self._step_batch
        for place, sequence in enumerate(running):
            batch.tokens[place] = sequence.token
            batch.positions[place] = sequence.position
            batch.sequences[place] = self._sequence_ids[sequence.number]
        self._context.decode(batch, len(running))
        for place, sequence in enumerate(running):
            sequence.position += 1
            self._sample_token(sequence, place, events)
        share = (perf_counter() - began) / len(running)
        for sequence in running:
            sequence.cost_s += share
            self._finish_if_done(sequence, events)

    def _sample_token(self, sequence: _Sequence, place: int, events: list[Event]) -> None:
        """Sample the token after the one at this place of the last batch, and emit its text."""
        context = self._context.native
        token = self._sample(sequence.sampler, context, place)
        sequence.token = token
        if self._vocab.is_end(token):
            return
        sequence.generated += 1
        if sequence.logprobs is not None:
            count = sequence.job.request.logprobs or 0
            sequence.logprobs.append(logprob_of(context, place, token, count, self._vocab))
        data = self._vocab.piece(token)
        if data:
            self._emit(sequence, sequence.text.add(data), events)

    def _emit(self, sequence: _Sequence, text: str, events: list[Event]) -> None:
        if text:
            sequence.chunks.append(text)
            events.append(ChunkEvent(sequence.slot, text))

    def _finish_if_done(self, sequence: _Sequence, events: list[Event]) -> None:
        if sequence.token < 0:
            return
        reason: FinishReason
        if sequence.text.stopped or self._vocab.is_end(sequence.token):
            reason = "stop"
        elif sequence.generated == sequence.job.limit:
            reason = "length"
        else:
            return
        self._emit(sequence, sequence.text.end(), events)
        if sequence.text.stopped:
            reason = "stop"
        request = sequence.job.request
        answer = Completion(
            text="".join(sequence.chunks),
            chunks=tuple(sequence.chunks),
            finish_reason=reason,
            prompt_tokens=len(sequence.job.tokens),
            completion_tokens=sequence.generated,
            logprobs=None if sequence.logprobs is None else tuple(sequence.logprobs),
            seed=request.seed,
            model=self._model_name,
            fingerprint=self._fingerprint,
            cost_s=sequence.cost_s,
        )
        self.release(sequence.slot)
        events.append(AnswerEvent(sequence.slot, answer))
