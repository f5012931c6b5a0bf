"""The worker of a generation model: several answers in one context, a step at a time.

Each prompt is computed alone, in pieces of a fixed size; then each step decodes one token of every
running answer, in one batch. Requests share no state except whole pieces of their prompts, whose
keys and values have the same bits in all of them.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import threading
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import attrs
import llama_cpp
import numpy as np

from asteady._base.activity import Running
from asteady._base.errors import EngineError, IncompleteAnswerError, ModelChangedError
from asteady._base.messages import ToolCall
from asteady._base.requests import (
    ChunkLogprobs,
    Completion,
    FinishReason,
    GenerateRequest,
    TokenLogprob,
    Vector,
    call_id,
)
from asteady._engine.api import (
    AnswerEvent,
    CallEvent,
    ChunkEvent,
    ErrorEvent,
    Event,
    Job,
    SlotId,
)
from asteady._engine.cores import ThreadChooser
from asteady._engine.llama.context import Interruptions, LoadedModel
from asteady._engine.llama.lib import check, holding_gil
from asteady._engine.llama.prompt import Thinking
from asteady._engine.llama.room import Room, Tokens
from asteady._engine.llama.vocab import Vocab
from asteady._engine.output.calls import CallPlan, CallSplitter
from asteady._engine.output.cut import ENDED_IN_REASONING, cut_message
from asteady._engine.output.grammar import Form, MaskThread
from asteady._engine.output.text import TextStream
from asteady._engine.output.thinking import ReasoningSplitter
from asteady._engine.plan import RoomShape, divide, room_shape
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

# At most so many prompt tokens are computed between two decode steps of the running answers.
_TOKENS_BETWEEN_STEPS = 256

# How long a worker that has no memory for a context waits before it asks again.
_MEMORY_WAIT_S = 0.05

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
    thinking: Thinking | None = None
    matcher: Any = None
    """The compiled form of the answer, if it has one."""
    calls: CallPlan | None = None
    checked: int = 0
    """What `OpenModel.check` returned before."""
    marked_tokens: Tokens = attrs.field(init=False)
    """The tokens as they are found again: those of an isolated namespace only from within it."""

    @marked_tokens.default
    def _mark_isolated(self) -> Tokens:
        isolation = self.request.isolation
        return self.tokens if isolation is None else ((isolation, self.tokens[0]), *self.tokens[1:])


class _Sequence:
    """A job in a slot and its state; `number` is its sequence id in its room's context."""

    def __init__(self, slot: SlotId, job: GenerateJob, sampler: Any) -> None:
        self.slot = slot
        self.job = job
        self.sampler = sampler
        self.room: Room | None = None
        self.number = -1
        thinking = job.thinking
        splitter = None
        self.hidden: Mapping[int, str] = {}
        if thinking is not None:
            splitter = ReasoningSplitter(thinking.tags, opened=thinking.opened)
            self.hidden = thinking.hidden
        self.call_tokens: frozenset[int] = frozenset()
        calls = None
        if job.calls is not None:
            calls = CallSplitter(job.calls.format)
            self.call_tokens = job.calls.start_tokens
        self.calls = calls
        self.text = TextStream(job.request.stop, splitter, calls)
        self.tool_calls: list[ToolCall] = []
        self.form: Form | None = None
        self.ended = False  # its form allows no more
        self.chunks: list[str] = []
        self.reasoning_chunks: list[str] = []
        self.reasoning_tokens = 0
        self.computed = 0  # prompt tokens in the context
        self.reused = 0  # of them, those that were there before
        self.position = 0  # of the next token
        self.token = -1  # sampled, not yet in the context
        self.generated = 0
        self.logprobs: list[TokenLogprob] | None = None if job.request.logprobs is None else []
        self.chunk_logprobs = ChunkLogprobs()
        self.cost_s = 0.0
        self.activity: Running | None = None  # while the prompt is computed

    @property
    def decoding(self) -> bool:
        return self.computed == len(self.job.tokens)

    @property
    def form_now(self) -> Form | None:
        """What the next token must follow: reasoning has no form."""
        return None if self.text.in_reasoning else self.form

    @property
    def reasoning_start(self) -> int:
        """The token by which the answer may begin with reasoning in place of its form, or -1."""
        thinking = self.job.thinking
        return -1 if self.generated or thinking is None else thinking.start_token

    def logprobs_of(self, chunk: str) -> tuple[TokenLogprob, ...]:
        """Those of the next chunk of text, if they are wanted."""
        if self.logprobs is None:
            return ()
        return self.chunk_logprobs.take(chunk, self.logprobs, self.reasoning_tokens)

    @property
    def needed_tokens(self) -> int:
        return len(self.job.tokens) + self.job.limit


class GenerateWorker:
    """A `Worker` whose slots are sequences in a room, or in several while it moves to a larger one.

    A slot gets its sequence when its prompt is first computed, so that what the prompts before it
    leave behind can be used. A prompt that no room has a place for gets a larger room; running
    answers finish in the old one, which is closed then.
    """

    def __init__(self, model: LoadedModel, vocab: Vocab, prefixes: PrefixCache) -> None:
        self._model = model
        self._vocab = vocab
        self._prefixes = prefixes
        self._interruptions = Interruptions()
        self._threads = ThreadChooser(model.cores)
        self._masks = MaskThread()
        self._sample = llama_cpp.llama_sampler_sample
        if vocab.size <= _SMALL_VOCABULARY:
            self._sample = holding_gil(self._sample)
        # The newest last. Replaced, never changed, as other threads read it.
        self._rooms: tuple[Room, ...] = ()
        self._slots: dict[SlotId, _Sequence] = {}
        self._next_slot = itertools.count()
        # Prompt tokens computed since the last decode step: their number bounds how long a new
        # prompt delays the running answers.
        self._since_step = 0
        # Held while this worker uses its rooms, so that another thread closes none of them.
        self._stepping = threading.Lock()
        model.memory.join(self)

    def admit(self, job: Job) -> SlotId:
        assert isinstance(job, GenerateJob)
        sampler = make_sampler(job.request, self._vocab.size)
        slot = next(self._next_slot)
        sequence = _Sequence(slot, job, sampler)
        if job.matcher is not None:
            sequence.form = Form(job.matcher, self._masks)
        self._interruptions.enter(slot)
        if not self._slots:
            self._model.cores.enter()
            self._model.division.enter()
        self._slots[slot] = sequence
        return slot

    def interrupt(self, slot: SlotId) -> None:
        self._interruptions.interrupt(slot)

    def shared_tokens(self, job: Job) -> int:
        assert isinstance(job, GenerateJob)
        return max((room.shared_tokens(job.marked_tokens) for room in self._rooms), default=0)

    def release(self, slot: SlotId) -> None:
        with self._stepping:
            self._release(slot)

    def _release(self, slot: SlotId) -> None:
        sequence = self._slots.pop(slot, None)
        if sequence is None:
            return
        if sequence.activity is not None:
            self._model.activities.end(sequence.activity)
        if sequence.sampler is not None:
            llama_cpp.llama_sampler_free(sequence.sampler)
        self._interruptions.leave(slot)
        if sequence.room is not None:
            self._vacate(sequence.room, sequence.number)
        if not self._slots:
            self._model.cores.leave()
            self._model.division.leave()

    def _vacate(self, room: Room, number: int) -> None:
        room.leave(number)
        newest = self._rooms[-1]
        if room is not newest:
            newest.adopt(room, number)
            self._close_rooms([] if room.busy else [room])

    def shed(self) -> None:
        if self._stepping.acquire(blocking=False):
            try:
                self._close_rooms([room for room in self._rooms if not room.busy])
            finally:
                self._stepping.release()

    def close(self) -> None:
        with self._stepping:
            for slot in list(self._slots):
                self._release(slot)
            self._close_rooms(list(self._rooms))
            self._masks.close()

    def step(self) -> list[Event]:
        with self._stepping:
            try:
                # At each step, or a file that is written to and back again would look untouched.
                self._model.files.check()
            except ModelChangedError as exc:
                slots = list(self._slots)
                for slot in slots:
                    self._release(slot)
                return [ErrorEvent(slot, exc) for slot in slots]
            return self._step()

    def _step(self) -> list[Event]:
        decoding = []
        newcomer = None
        for sequence in self._slots.values():
            if sequence.slot in self._interruptions:
                continue
            if sequence.decoding:
                decoding.append(sequence)
            elif newcomer is None:
                newcomer = sequence
        events: list[Event] = []
        if newcomer is not None and (newcomer.room is not None or self._place(newcomer, events)):
            piece = min(self._model.piece_tokens, len(newcomer.job.tokens) - newcomer.computed)
            if not decoding or self._since_step + piece <= _TOKENS_BETWEEN_STEPS:
                self._prefill(newcomer, events)
                return events
        self._since_step = 0
        began = perf_counter()
        for room in self._rooms:
            running = [sequence for sequence in decoding if sequence.room is room]
            # llama.cpp computes neighbours in one batch only if they are in order.
            running.sort(key=lambda sequence: sequence.number)
            first = 0
            for size in divide(len(running), self._threads.mean_s):
                self._decode(room, running[first : first + size], events)
                first += size
        if decoding:
            self._model.division.record(len(decoding), perf_counter() - began)
        return events

    def _place(self, sequence: _Sequence, events: list[Event]) -> bool:
        """Give a slot its sequence in the newest room, or in a new one; False if it must wait."""
        tokens = sequence.job.marked_tokens
        room = self._rooms[-1] if self._rooms else None
        must = room is None or not room.has_place(sequence.needed_tokens)
        if must or (room is not None and room.would_evict(tokens)):
            try:
                room = self._larger_room(sequence, must=must) or room
            except EngineError as exc:
                self._release(sequence.slot)
                events.append(ErrorEvent(sequence.slot, exc))
                return False
        if room is None or not room.has_place(sequence.needed_tokens):
            if not any(other.room is not None for other in self._slots.values()):
                # Another worker has the memory; its answers end some time.
                self._model.memory.wait(_MEMORY_WAIT_S)
            return False
        sequence.room = room
        sequence.number, sequence.computed = room.take(tokens)
        if sequence.job.shared_tokens:
            self._begin_with_prefix(room, sequence)
        sequence.reused = sequence.computed
        sequence.activity = self._model.activities.begin(
            "prompt", self._model.name, len(tokens) - sequence.computed
        )
        return True

    def _begin_with_prefix(self, room: Room, sequence: _Sequence) -> None:
        """Begin with the cached state of the declared prefix, or cache it if it is here already."""
        tokens, declared = sequence.job.tokens, sequence.job.shared_tokens
        found = self._prefixes.find(tokens, declared)
        cached = 0 if found is None else found[0]
        size_bytes = declared * self._model.kv_bytes
        if cached < declared <= sequence.computed and self._prefixes.fits(size_bytes):
            room.cut(sequence.number, declared)
            sequence.computed = declared
            self._cache_prefix(room, sequence)
        elif found is not None and cached > sequence.computed:
            done = room.begin_with(sequence.number, sequence.job.marked_tokens[:cached], found[1])
            sequence.computed = cached if done else 0
        if sequence.computed:
            self._prefixes.count_reuse(min(declared, sequence.computed))

    def _larger_room(self, sequence: _Sequence, *, must: bool) -> Room | None:
        """A new room with a place for this slot, and with what the last one holds; None if there
        is none that memory has room for.

        Unless it must, no other room makes way for it.

        Raises:
            EngineError: llama.cpp could not make the context.
        """
        model = self._model
        last = self._rooms[-1] if self._rooms else None
        shape = self._room_shape(sequence, last)
        if last is not None and shape == last.shape and not last.tainted:
            return None
        smallest = attrs.evolve(self._room_shape(sequence, None), sequences=1)
        while not model.memory.reserve(
            shape.sequences * shape.tokens * model.kv_bytes, shed_for=self if must else None
        ):
            idle = [room for room in self._rooms if not room.busy]
            if not must or shape == smallest:
                return None
            if idle:
                # What it holds is lost: there is no memory for both.
                self._close_rooms(idle)
                last = None
            elif shape.sequences > 1:
                shape = attrs.evolve(shape, sequences=shape.sequences // 2)
            else:
                shape = smallest
        try:
            room = Room(model, shape, self._interruptions)
        except BaseException:
            model.memory.release(shape.sequences * shape.tokens * model.kv_bytes)
            raise
        if last is not None:
            for number in range(last.shape.sequences):
                if number not in last.busy:
                    room.adopt(last, number)
        self._rooms = (*self._rooms, room)
        self._close_rooms([other for other in self._rooms[:-1] if not other.busy])
        return room

    def _room_shape(self, sequence: _Sequence, last: Room | None) -> RoomShape:
        return room_shape(
            None if last is None else last.shape,
            needed_tokens=sequence.needed_tokens,
            busy=0 if last is None else len(last.busy),
            context_tokens=self._model.context_tokens,
            kv_bytes=self._model.kv_bytes,
            weights_bytes=self._model.weights_bytes,
        )

    def _close_rooms(self, rooms: list[Room]) -> None:
        self._rooms = tuple(room for room in self._rooms if room not in rooms)
        for room in rooms:
            room.close()

    def _prefill(self, sequence: _Sequence, events: list[Event]) -> None:
        room = sequence.room
        assert room is not None
        began = perf_counter()
        first, tokens = sequence.computed, sequence.job.tokens
        piece = min(self._model.piece_tokens, len(tokens) - first)
        self._since_step += piece
        last = first + piece == len(tokens)
        batch = room.batch
        batch.fill(sequence.number, first, tokens[first : first + piece], outputs=last)
        threads = self._threads.choose("prompt")
        room.context.use_threads(threads)
        if last and (form := sequence.form_now) is not None:
            form.begin_mask()
        try:
            done = room.context.compute_for(sequence.slot, llama_cpp.llama_decode, batch)
        except EngineError as exc:
            self._release(sequence.slot)
            events.append(ErrorEvent(sequence.slot, exc))
            return
        if done:
            self._threads.record("prompt", threads, (perf_counter() - began) / piece)
            sequence.computed += piece
            if sequence.activity is not None:
                sequence.activity.done += piece
            room.computed(sequence.number, sequence.job.marked_tokens[: sequence.computed])
            if sequence.computed == sequence.job.shared_tokens:
                self._cache_prefix(room, sequence)
            if last:
                if sequence.activity is not None:
                    self._model.activities.end(sequence.activity)
                sequence.position = len(tokens)
                self._sample_token(sequence, piece - 1, events)
        sequence.cost_s += perf_counter() - began
        self._finish_if_done(sequence, events)

    def _cache_prefix(self, room: Room, sequence: _Sequence) -> None:
        """Cache the state of the declared prefix; exactly its tokens are computed."""
        if not room.context.can_save(sequence.number):
            return
        try:
            if self._prefixes.fits(room.context.state_bytes(sequence.number)):
                state = room.context.save(sequence.number)
                self._model.files.check(since=sequence.job.checked)
                self._prefixes.put(sequence.job.tokens, sequence.computed, state)
        except (EngineError, MemoryError) as exc:
            _log.warning("the state of a prefix is not cached: %r", exc)

    def _decode(self, room: Room, running: list[_Sequence], events: list[Event]) -> None:
        began = perf_counter()
        for place, sequence in enumerate(running):
            room.batch.put(place, sequence.number, sequence.position, sequence.token)
            if (form := sequence.form_now) is not None:
                form.begin_mask()
        threads = self._threads.choose(len(running))
        room.context.use_threads(threads)
        room.context.decode(room.batch)
        self._threads.record(len(running), threads, perf_counter() - began)
        for place, sequence in enumerate(running):
            sequence.position += 1
            self._sample_token(sequence, place, events)
        share = (perf_counter() - began) / len(running)
        for sequence in running:
            sequence.cost_s += share
            self._finish_if_done(sequence, events)

    def _sample_token(self, sequence: _Sequence, place: int, events: list[Event]) -> None:
        """Sample the token after the one at this place of the last batch, and emit its text."""
        room = sequence.room
        assert room is not None
        context = room.context.native
        logits = logits_at(context, place, self._vocab.size)
        # The first of the largest, or the first NaN. It costs 14 us for 262,144, 1 us for 3,072.
        likeliest = int(logits.argmax())
        peak = float(logits[likeliest])
        if not -_LARGEST_LOGIT < peak < _LARGEST_LOGIT:
            room.tainted = True
            sequence.token = -1
            self._release(sequence.slot)
            error = EngineError(
                f"the model {self._model.name!r} computed the logit {peak}, of which no token can "
                "be chosen: its file is damaged, or its numbers overflow. Convert or download it "
                "again, or use another model"
            )
            events.append(ErrorEvent(sequence.slot, error))
            return
        raw, form, think = logits, sequence.form_now, sequence.reasoning_start
        try:
            if form is not None:
                if sequence.logprobs is not None:
                    raw = logits.copy()
                form.apply(logits, also=think)
                likeliest = int(logits.argmax())
            if sequence.sampler is None:
                token = likeliest
            else:
                token = self._sample(sequence.sampler, context, place)
            sequence.token = token
            if form is not None and token != think:
                sequence.ended = form.accept(token)
            if self._vocab.is_end(token):
                if form is not None and not sequence.ended:
                    raise EngineError("the form of the answer goes on after the model's end token")
                return
        except EngineError as exc:
            sequence.token = -1
            self._release(sequence.slot)
            events.append(ErrorEvent(sequence.slot, exc))
            return
        sequence.generated += 1
        if sequence.logprobs is not None:
            count = sequence.job.request.logprobs or 0
            sequence.logprobs.append(logprob_of(raw, token, count, self._vocab))
        stream, began = sequence.text, sequence.text.in_reasoning
        text = ""
        if token in sequence.hidden:
            text = stream.add_hidden(sequence.hidden[token])
        elif stream.calling or token in sequence.call_tokens:
            text = stream.add(self._vocab.whole_piece(token))
        elif data := self._vocab.piece(token):
            text = stream.add(data)
        if began or stream.in_reasoning:
            sequence.reasoning_tokens = sequence.generated
            if sequence.form is not None:
                text = ""  # behind the end tag in the same token, where the form has not begun
        if stream.calling and sequence.form is None:
            text += self._begin_calls(sequence)
        self._emit(sequence, text, events)

    def _begin_calls(self, sequence: _Sequence) -> str:
        """From here on the answer has the form of calls, unless that does not allow what is there
        of it already: then that is text."""
        plan, calls = sequence.job.calls, sequence.calls
        assert plan is not None
        assert calls is not None
        tokens: list[int] = []
        rest = calls.written
        for tag, token in plan.tokens.items():
            if rest.startswith(tag):
                tokens, rest = [token], rest.removeprefix(tag)
        if rest:
            tokens += self._vocab.tokenize(rest, special=False)
        form = Form(plan.matcher, self._masks)
        if not form.begin(tokens):
            return sequence.text.reject_calls()
        sequence.form, sequence.ended = form, form.ended
        return ""

    def _emit(self, sequence: _Sequence, text: str, events: list[Event]) -> None:
        """Emit the reasoning, then the text, that the last call of the stream completed."""
        if reasoning := sequence.text.take_reasoning():
            sequence.reasoning_chunks.append(reasoning)
            events.append(ChunkEvent(sequence.slot, reasoning, "reasoning"))
        if text:
            sequence.chunks.append(text)
            events.append(ChunkEvent(sequence.slot, text, logprobs=sequence.logprobs_of(text)))
        if sequence.calls is not None:
            for name, arguments in sequence.calls.take():
                key = sequence.job.request.key(self._model.fingerprint)
                call = ToolCall(
                    name=name,
                    arguments_json=arguments,
                    id=call_id(key, len(sequence.tool_calls)),
                )
                sequence.tool_calls.append(call)
                events.append(CallEvent(sequence.slot, call))

    def _finish_if_done(self, sequence: _Sequence, events: list[Event]) -> None:
        if sequence.token < 0:
            return
        reason: FinishReason
        if sequence.text.stopped or sequence.ended or self._vocab.is_end(sequence.token):
            reason = "stop"
        elif sequence.generated == sequence.job.limit:
            reason = "length"
        else:
            return
        self._emit(sequence, sequence.text.end(cut=reason == "length"), events)
        if sequence.text.stopped:
            reason = "stop"
        cut = reason == "length"
        if self._lacks(sequence, cut=cut):
            self._release(sequence.slot)
            error = self._incomplete(sequence, cut=cut)
            events.append(ErrorEvent(sequence.slot, error, as_is=True))
            return
        request = sequence.job.request
        answer = Completion(
            text="".join(sequence.chunks),
            chunks=tuple(sequence.chunks),
            reasoning="".join(sequence.reasoning_chunks) or None,
            reasoning_chunks=tuple(sequence.reasoning_chunks),
            reasoning_tokens=sequence.reasoning_tokens,
            finish_reason="tool_calls" if sequence.tool_calls else reason,
            tool_calls=tuple(sequence.tool_calls),
            prompt_tokens=len(sequence.job.tokens),
            completion_tokens=sequence.generated,
            logprobs=None if sequence.logprobs is None else tuple(sequence.logprobs),
            seed=request.seed,
            model=self._model.name,
            fingerprint=self._model.fingerprint,
            cost_s=sequence.cost_s,
            reused_tokens=sequence.reused,
        )
        self._release(sequence.slot)
        try:
            self._model.files.check(since=sequence.job.checked)
        except ModelChangedError as exc:
            events.append(ErrorEvent(sequence.slot, exc))
            return
        events.append(AnswerEvent(sequence.slot, answer))

    def _lacks(self, sequence: _Sequence, *, cut: bool) -> bool:
        """Whether the answer does not have its form; a part of a number or of a choice does not."""
        form, constraint = sequence.form, sequence.job.request.constraint
        if form is None:
            return False
        if sequence.text.in_reasoning or not form.complete:
            return True
        return cut and constraint is not None and constraint.kind in ("json", "choices")

    def _incomplete(self, sequence: _Sequence, *, cut: bool) -> IncompleteAnswerError:
        request, limit = sequence.job.request, sequence.job.limit
        what = ENDED_IN_REASONING
        if cut:
            what = cut_message(
                request.constraint,
                limit,
                reasoned=sequence.reasoning_tokens > 0,
                context_full=limit < request.max_new_tokens,
            )
        error = IncompleteAnswerError(what)
        error.text = "".join(sequence.chunks)
        error.reasoning = "".join(sequence.reasoning_chunks) or None
        error.prompt_tokens = len(sequence.job.tokens)
        error.completion_tokens = sequence.generated
        return error


def make_sampler(request: GenerateRequest, vocabulary_size: int) -> Any:
    """A native sampler chain for one answer; free it with ``llama_sampler_free``. None if the
    answer's tokens are the likeliest ones by the raw logits.

    llama.cpp's order: bias, penalties, top_k, typical_p, top_p, min_p, temperature, draw. The
    penalties count the answer's tokens, not the prompt's.
    """
    penalties = (request.repeat_penalty, request.frequency_penalty, request.presence_penalty)
    penalised = penalties != (1.0, 0.0, 0.0)
    if request.temperature < _LEAST_TEMPERATURE and not request.logit_bias and not penalised:
        return None  # llama.cpp copies the logits first: 51 us for 49,152 of them, 269 for 262,144
    parameters = llama_cpp.llama_sampler_chain_default_params()
    parameters.no_perf = True
    chain = check(llama_cpp.llama_sampler_chain_init(parameters), "make a sampler")

    def add(sampler: Any) -> None:
        llama_cpp.llama_sampler_chain_add(chain, check(sampler, "make a sampler"))

    if request.logit_bias:
        pairs = [llama_cpp.llama_logit_bias(*pair) for pair in request.logit_bias]
        biases = (llama_cpp.llama_logit_bias * len(pairs))(*pairs)
        add(llama_cpp.llama_sampler_init_logit_bias(vocabulary_size, len(biases), biases))
    if penalised:
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
