"""The probe: do several sequences in one batch get the same bits as each alone?

Prompts of several lengths, of text and of random tokens, some longer than 512 positions, are
decoded for a few steps with nothing else in the context. Then the same steps are repeated with all
prompts in the context, 2 in a batch, then 3 and so on, until a bit of any logit differs.
"""

from __future__ import annotations

import ctypes
import itertools
import random
from collections.abc import Sequence
from contextlib import closing
from time import perf_counter, thread_time
from typing import Any

import attrs
import llama_cpp

from asteady._engine.api import PIECE_TOKENS
from asteady._engine.llama.context import Context, SequenceState
from asteady._engine.llama.lib import Batch, check, load_model
from asteady._engine.llama.vocab import Vocab
from asteady._engine.models.opened import OpenModel
from asteady._engine.models.resolve import ModelFile
from asteady._engine.plan import LayoutResult, WidthResult

# A different order of sums shows in nearly every logit of the first step; more steps let the
# difference pass through the keys and values too.
STEPS = 3
_TIMED_STEPS = 4

# Beyond 512 positions attention may be split differently. The other prompts are short, as a probe
# of a large model spends most of its time on prompts; the long one is copied, not computed twice.
_LONG_TOKENS = PIECE_TOKENS + 4
_SHORT_TOKENS = (3, 70, 17, 33, 130, 9, 48, 5)
_CONTEXT_TOKENS = 768

_TEXT = (
    "A cache remembers what was computed once. Ask it twice, and the second answer costs nothing; "
    "ask it for something new, and it must wait like everyone else. "
)


@attrs.frozen
class _Alone:
    """A prompt computed alone: its state, its length, the tokens that follow it, and the logits
    after each of them."""

    state: SequenceState
    position: int
    tokens: list[int]
    logits: list[bytes]


class Bench:
    """A context of `width` sequences, and single steps in it."""

    def __init__(self, model: Any, vocabulary_size: int, width: int, tokens: int, threads: int):
        self.context = Context(
            model,
            context_tokens=tokens,
            batch_tokens=PIECE_TOKENS,
            threads=threads,
            sequences=width,
        )
        self._batch = Batch(PIECE_TOKENS, width)
        self._logits_bytes = vocabulary_size * 4

    def prefill(self, sequence: int, tokens: Sequence[int]) -> bytes:
        """Compute a prompt as a worker does; returns the logits after it."""
        for first in range(0, len(tokens), PIECE_TOKENS):
            piece = tokens[first : first + PIECE_TOKENS]
            self._batch.fill(sequence, first, piece, outputs=1)
            self.context.decode(self._batch)
        return self._logits(len(piece) - 1)

    def step(self, entries: Sequence[tuple[int, int, int]]) -> list[bytes]:
        """Decode (sequence, token, position) entries in one batch; returns each one's logits."""
        for place, (sequence, token, position) in enumerate(entries):
            self._batch.put(place, sequence, position, token)
        self.context.decode(self._batch)
        return [self._logits(place) for place in range(len(entries))]

    def _logits(self, place: int) -> bytes:
        pointer = llama_cpp.llama_get_logits_ith(self.context.native, place)
        return ctypes.string_at(check(pointer, "give the logits"), self._logits_bytes)


def probe(
    file: ModelFile, limit: int, threads: int, *, repackable: bool, gpu_layers: int = 0
) -> tuple[tuple[LayoutResult, ...], float]:
    """The widths that hold with plain weights and, where that computes other sums, with repacked
    ones; and the seconds that the probe took.

    Raises:
        EngineError: llama.cpp failed.
        ModelChangedError: a file was replaced or written to since it was identified.
        ModelFormatError: llama.cpp cannot load the file.
    """
    began = perf_counter()
    results = []
    plain = None
    with closing(OpenModel(file)) as files:
        for repack in (False, True) if repackable else (False,):
            model = load_model(files, repack=repack, gpu_layers=gpu_layers)
            try:
                first = _first_logits(model, threads)
                if first == plain:
                    break  # Nothing of this model is repacked here.
                plain = first
                results.append(LayoutResult(repack=repack, widths=_widths(model, limit, threads)))
            finally:
                llama_cpp.llama_model_free(model)
        files.check(since=0)
    return tuple(results), perf_counter() - began


def _first_logits(model: Any, threads: int) -> bytes:
    vocab = Vocab(model)
    bench = Bench(model, vocab.size, 1, 256, threads)
    try:
        prompt, (token, *_) = _prompts(vocab, 1, 64)[0]
        return bench.prefill(0, prompt) + bench.step([(0, token, len(prompt))])[0]
    finally:
        bench.context.close()


def _prompts(vocab: Vocab, count: int, room: int) -> list[tuple[list[int], list[int]]]:
    """Prompts and the tokens that follow them; none goes past `room` positions."""
    draw = random.Random(20250101)
    text = vocab.tokenize(_TEXT * 40, special=False)
    lengths = [_LONG_TOKENS, *itertools.islice(itertools.cycle(_SHORT_TOKENS), count)]
    # The long one at both ends of the row.
    lengths.insert(len(lengths) // 2 + 1, _LONG_TOKENS)
    made = []
    for index, length in enumerate(lengths[:count]):
        length = min(length, room - STEPS)
        words = text[:length] if length == _LONG_TOKENS or index % 2 else []
        words += [draw.randrange(vocab.size) for _ in range(length - len(words))]
        made.append((words, [draw.randrange(vocab.size) for _ in range(STEPS)]))
    return made


def _widths(model: Any, limit: int, threads: int) -> tuple[WidthResult, ...]:
    vocab = Vocab(model)
    room = min(_CONTEXT_TOKENS, llama_cpp.llama_model_n_ctx_train(model) or _CONTEXT_TOKENS)
    if llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model):
        limit = 1  # Their state cannot be wound back to repeat a step.
    bench = Bench(model, vocab.size, limit, room, threads)
    try:
        alone = _alone(bench, _prompts(vocab, limit, room))
        for sequence, one in enumerate(alone):
            bench.context.restore(sequence, one.state)
        equal = {1: True}
        for width in range(2, limit + 1):
            equal[width] = _together(bench, alone, width)
            if not equal[width]:
                break
        for sequence in range(limit):
            bench.context.forget(sequence)
        results = [
            WidthResult(width=width, equal=same, step_s=_step_s(bench, width))
            for width, same in equal.items()
        ]
    finally:
        bench.context.close()
    return tuple(results)


def _step_s(bench: Bench, width: int) -> float:
    """The CPU time of a step of short sequences, in seconds: the least of several, as other
    programs can only add to it."""
    spent_s = []
    for position in range(_TIMED_STEPS):
        began = thread_time()
        bench.step([(sequence, 0, position) for sequence in range(width)])
        spent_s.append(thread_time() - began)
    for sequence in range(width):
        bench.context.forget(sequence)
    return min(spent_s)


def _alone(bench: Bench, prompts: Sequence[tuple[list[int], list[int]]]) -> list[_Alone]:
    """Each prompt's steps with nothing else in the context."""
    made = []
    states: dict[tuple[int, ...], SequenceState] = {}
    for sequence, (prompt, tokens) in enumerate(prompts):
        state = states.get(tuple(prompt))
        if state is None:
            bench.prefill(sequence, prompt)
            state = states[tuple(prompt)] = bench.context.save(sequence)
        else:
            bench.context.restore(sequence, state)
        logits = [
            bench.step([(sequence, token, position)])[0]
            for position, token in enumerate(tokens, len(prompt))
        ]
        bench.context.forget(sequence)
        made.append(_Alone(state, len(prompt), tokens, logits))
    return made


def _together(bench: Bench, alone: Sequence[_Alone], width: int) -> bool:
    """Whether `width` of them in one batch get the bits that they got alone."""
    equal = True
    # The first ones, which include a long prompt, and others in another order.
    chosen = list(range(len(alone)))
    for group in (chosen[:width], chosen[::-1][:width]):
        for step in range(STEPS):
            entries = [
                (sequence, alone[sequence].tokens[step], alone[sequence].position + step)
                for sequence in group
            ]
            logits = bench.step(entries)
            equal = equal and logits == [alone[sequence].logits[step] for sequence in group]
        for sequence in group:
            bench.context.forget(sequence, alone[sequence].position)
    return equal
