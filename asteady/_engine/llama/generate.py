"""The worker of a generation model: up to `width` answers in one context, a step at a time.

Each prompt is computed alone, in pieces of `PIECE_TOKENS`; then each step decodes one token of
every running answer, in one batch. Requests share no state except the whole pieces of a declared
prefix, whose keys and values have the same bits in all of them and are copied.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
from time import perf_counter
from typing import Any

import attrs
import llama_cpp
import numpy as np

from asteady._base.errors import EngineError, ModelChangedError
from asteady._base.requests import Completion, FinishReason, GenerateRequest, TokenLogprob, Vector
from asteady._engine.api import (
    PIECE_TOKENS,
    AnswerEvent,
    ChunkEvent,
    ErrorEvent,
    Event,
    Job,
    SlotId,
)
from asteady._engine.llama.context import Context, LoadedModel
from asteady._engine.llama.lib import Batch, check, holding_gil
from asteady._engine.llama.text import TextStream
from asteady._engine.llama.vocab import Vocab
from asteady._engine.plan import Setup, divide
from asteady._engine.prefix_cache import PrefixCache

_log = logging.getLogger("asteady")

# Sampling walks the whole vocabulary: it takes microseconds for a small one, and a millisecond for
# a large one, during which the event loop needs the GIL.
_SMALL_VOCABULARY = 8192

# The penalties count this many of the answer's last tokens: llama.cpp's default.
_PENALTY_TOKENS = 64

# Below this a temperature counts as 0: it differs only where two logits are nearer to each other
# than float32 tells apart, and far below it logits divided by it overflow.
_LEAST_TEMPERATURE = 1e-6

# Logits are float32. One of this size can still be divided by the least temperature and the least
# repeat penalty without overflow.
_LARGEST_LOGIT = 1e30

# Probabilities so far below the largest one change no sum, but may underflow to 0, of which the
# typical sampler takes the logarithm: it would draw at random.
_LEAST_TYPICAL = 1e-30

# Up to this many largest values, repeated argmax is faster than a partition.
_FEW = 16


@attrs.frozen(kw_only=True)
class GenerateJob:
    """A tokenised prompt, and the most tokens that may follow it.

    The first `shared_tokens` belong to a declared prefix: whole pieces, never the last one.
    """

    request: GenerateRequest
    tokens: tuple[int, ...]
    limit: int
    shared_tokens: int = 0
    checked: int = 0
    """What `OpenModel.check` returned before."""


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
        self.logprobs: list[TokenLogprob] | None = None if job.request.logprobs is None else []
        self.cost_s = 0.0

    @property
    def decoding(self) -> bool:
        return self.computed == len(self.job.tokens)


class GenerateWorker:
    """A `Worker` with `setup.width` slots over one context."""

    def __init__(
        self, model: LoadedModel, vocab: Vocab, setup: Setup, prefixes: PrefixCache
    ) -> None:
        self._model = model
        self._vocab = vocab
        self._prefixes = prefixes
        width = setup.width
        self._batch_sizes = [divide(count, setup.step_s) for count in range(width + 1)]
        self._context = Context(
            model.native,
            context_tokens=model.context_tokens,
            batch_tokens=PIECE_TOKENS,
            threads=model.threads,
            sequences=width,
        )
        self._batch = Batch(PIECE_TOKENS, width)
        self._sample = llama_cpp.llama_sampler_sample
        if vocab.size <= _SMALL_VOCABULARY:
            self._sample = holding_gil(self._sample)
        self._free = list(range(width))
        self._slots: dict[SlotId, _Sequence] = {}
        self._next_slot = itertools.count()
        # Numbers that are none may be in the context's memory.
        self._tainted = False
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
        try:
            # At each step, or a file that is written to and back again would look untouched.
            self._model.files.check()
        except ModelChangedError as exc:
            slots = list(self._slots)
            for slot in slots:
                self.release(slot)
            return [ErrorEvent(slot, exc) for slot in slots]
        decoding = []
        newcomer = None
        for sequence in self._slots.values():
            if self._context.is_interrupted(sequence.slot):
                continue
            if sequence.decoding:
                decoding.append(sequence)
            elif newcomer is None:
                newcomer = sequence
        if self._tainted and not any(sequence.computed for sequence in self._slots.values()):
            self._context.clear()
            self._tainted = False
        if self._tainted and newcomer is not None and newcomer.computed == 0:
            # The running answers are finished first, as clearing removes them.
            newcomer = None
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
        last = first + piece == len(tokens)
        batch = self._batch
        batch.fill(sequence.number, first, tokens[first : first + piece], outputs=last)
        try:
            done = self._context.compute_for(sequence.slot, llama_cpp.llama_decode, batch)
        except EngineError as exc:
            self.release(sequence.slot)
            events.append(ErrorEvent(sequence.slot, exc))
            return
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
                self._model.files.check(since=sequence.job.checked)
                self._prefixes.put(sequence.job.tokens, sequence.computed, state)
        except (EngineError, MemoryError) as exc:
            _log.warning("the state of a prefix is not cached: %r", exc)

    def _decode(self, running: list[_Sequence], events: list[Event]) -> None:
        began = perf_counter()
        for place, sequence in enumerate(running):
            self._batch.put(place, sequence.number, sequence.position, sequence.token)
        self._context.decode(self._batch)
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
        logits = logits_at(context, place, self._vocab.size)
        # The maximum is NaN if any logit is, and costs 14 us for 262,144 of them, 1 us for 3,072.
        peak = float(logits.max())
        if not -_LARGEST_LOGIT < peak < _LARGEST_LOGIT:
            self._tainted = True
            sequence.token = -1
            self.release(sequence.slot)
            error = EngineError(
                f"the model {self._model.name!r} computed the logit {peak}, of which no token can "
                "be chosen: its file is damaged, or its numbers overflow. Convert or download it "
                "again, or use another model"
            )
            events.append(ErrorEvent(sequence.slot, error))
            return
        token = self._sample(sequence.sampler, context, place)
        sequence.token = token
        if self._vocab.is_end(token):
            return
        sequence.generated += 1
        if sequence.logprobs is not None:
            count = sequence.job.request.logprobs or 0
            sequence.logprobs.append(logprob_of(logits, token, count, self._vocab))
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
        self._emit(sequence, sequence.text.end(cut=reason == "length"), events)
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
            model=self._model.name,
            fingerprint=self._model.fingerprint,
            cost_s=sequence.cost_s,
        )
        self.release(sequence.slot)
        try:
            self._model.files.check(since=sequence.job.checked)
        except ModelChangedError as exc:
            events.append(ErrorEvent(sequence.slot, exc))
            return
        events.append(AnswerEvent(sequence.slot, answer))


def make_sampler(request: GenerateRequest, vocabulary_size: int) -> Any:
    """A native sampler chain for one answer; free it with ``llama_sampler_free``.

    llama.cpp's order: bias, penalties, top_k, typical_p, top_p, min_p, temperature, draw. The
    penalties count the answer's tokens, not the prompt's.
    """
    parameters = llama_cpp.llama_sampler_chain_default_params()
    parameters.no_perf = True
    chain = check(llama_cpp.llama_sampler_chain_init(parameters), "make a sampler")

    def add(sampler: Any) -> None:
        llama_cpp.llama_sampler_chain_add(chain, check(sampler, "make a sampler"))

    if request.logit_bias:
        pairs = [llama_cpp.llama_logit_bias(*pair) for pair in request.logit_bias]
        biases = (llama_cpp.llama_logit_bias * len(pairs))(*pairs)
        add(llama_cpp.llama_sampler_init_logit_bias(vocabulary_size, len(biases), biases))
    penalties = (request.repeat_penalty, request.frequency_penalty, request.presence_penalty)
    if penalties != (1.0, 0.0, 0.0):
        add(llama_cpp.llama_sampler_init_penalties(vocabulary_size, _PENALTY_TOKENS, *penalties))
    if request.temperature < _LEAST_TEMPERATURE:
        add(llama_cpp.llama_sampler_init_greedy())
        return chain
    if request.top_k:
        add(llama_cpp.llama_sampler_init_top_k(request.top_k))
    if request.typical_p < 1.0:
        add(llama_cpp.llama_sampler_init_min_p(_LEAST_TYPICAL, 1))
        add(llama_cpp.llama_sampler_init_typical(request.typical_p, 1))
    if request.top_p < 1.0:
        add(llama_cpp.llama_sampler_init_top_p(request.top_p, 1))
    if request.min_p > 0.0:
        add(llama_cpp.llama_sampler_init_min_p(request.min_p, 1))
    add(llama_cpp.llama_sampler_init_temp(request.temperature))
    add(llama_cpp.llama_sampler_init_dist(request.seed))
    return chain


def logits_at(context: Any, place: int, vocabulary_size: int) -> Vector:
    """The raw logits at one place of the last batch, valid until the context decodes again."""
    pointer = check(llama_cpp.llama_get_logits_ith(context, place), "give the logits")
    return np.ctypeslib.as_array(
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape=(vocabulary_size,)
    )


def logprob_of(raw: Vector, token: int, count: int, vocab: Vocab) -> TokenLogprob:
    """The log-probabilities, by the raw logits, of `token` and the `count` most likely tokens.

    Computed in float64; equal logits are ordered by token id.
    """
    logits = raw.astype(np.float64)
    peak = logits.max()
    total = float(peak + np.log(np.exp(logits - peak).sum()))
    top = tuple(
        (index, vocab.piece(index), float(logits[index]) - total)
        for index in _most_likely(raw, min(count, vocab.size))
    )
    return TokenLogprob(
        token_id=token,
        token=vocab.piece(token),
        logprob=float(logits[token]) - total,
        top=top,
    )


def _most_likely(raw: Vector, count: int) -> list[int]:
    """The indices of the `count` largest values, largest first; equal ones by index."""
    if count <= _FEW:
        rest = raw.copy()
        found = []
        for _ in range(count):
            index = int(rest.argmax())
            found.append(index)
            rest[index] = -np.inf
        return found
    # All values not below the smallest one wanted, so that of equal ones the first are chosen.
    least = np.partition(raw, raw.size - count)[raw.size - count]
    chosen = np.flatnonzero(raw >= least)
    order = np.lexsort((chosen, -raw[chosen]))[:count]
    return [int(index) for index in chosen[order]]
