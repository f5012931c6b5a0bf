"""The probe of a model: do several sequences in one batch get the same bits as each alone?

A text, some random tokens and more positions than 512 are computed once. Each sequence gets a part
of that, by length, and decodes a few steps with nothing else in its batch. Then the same steps are
repeated 2 in a batch, then 3 and so on, until a bit of any logit differs.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import sys
import threading
from collections.abc import Sequence
from time import perf_counter, thread_time

import attrs
import llama_cpp

from asteady._engine.llama.context import Context, Interruptions, LoadedModel
from asteady._engine.llama.lib import Batch, check
from asteady._engine.llama.vocab import Vocab
from asteady._engine.plan import WidthReport, WidthResult

# A different order of sums shows in nearly every logit of the first step; more steps let the
# difference pass through the keys and values too.
STEPS = 3
_TIMED_STEPS = 4

# Beyond 512 positions attention may be split differently. The long ones are at both ends of the
# row and in its middle.
_LONG_TOKENS = 516
_LENGTHS = (_LONG_TOKENS, 3, 70, 17, _LONG_TOKENS, 130, 9, 48, 5, 33)
_CONTEXT_TOKENS = 768

_TEXT = (
    "A cache remembers what was computed once. Ask it twice, and the second answer costs nothing; "
    "ask it for something new, and it must wait like everyone else. "
)

# The only job of the probe's context.
_SLOT = 0


class _StoppedError(Exception):
    """The probe was stopped."""


@attrs.frozen
class _Alone:
    """What a sequence computes alone: its length before, the tokens that follow, and the logits
    after each of them."""

    position: int
    tokens: list[int]
    logits: list[bytes]


class Probe:
    """Probes a loaded model in a context of its own, with one thread; used once.

    `stop` ends it from any thread.
    """

    def __init__(self, model: LoadedModel, vocab: Vocab, limit: int) -> None:
        self._model = model
        self._vocab = vocab
        self._limit = limit
        self._interruptions = Interruptions()
        self._interruptions.enter(_SLOT)

    def stop(self) -> None:
        self._interruptions.interrupt(_SLOT)

    def run(self) -> WidthReport | None:
        """Blocks; None if it was stopped, or there is no memory for its context.

        Raises:
            EngineError: llama.cpp failed.
        """
        began = perf_counter()
        model = self._model
        if not model.reusable:
            return WidthReport(reason="its state cannot be wound back to repeat a step")
        size_bytes = model.kv_bytes * self._limit * _CONTEXT_TOKENS
        if not model.memory.reserve(size_bytes):
            return None
        try:
            self._context = Context(
                model,
                context_tokens=_CONTEXT_TOKENS,
                batch_tokens=model.piece_tokens,
                interruptions=self._interruptions,
                sequences=self._limit,
            )
            self._batch = Batch(model.piece_tokens, self._limit)
            try:
                widths = self._widths()
            finally:
                self._context.close()
        except _StoppedError:
            return None
        finally:
            model.memory.release(size_bytes)
        return WidthReport(widths=widths, took_s=perf_counter() - began)

    def _widths(self) -> tuple[WidthResult, ...]:
        alone = self._alone()
        equal = {1: True}
        for width in range(2, self._limit + 1):
            equal[width] = self._together(alone, width)
            if not equal[width]:
                break
        for sequence in range(self._limit):
            self._context.forget(sequence)
        return tuple(
            WidthResult(width=width, equal=same, step_s=self._step_s(width))
            for width, same in equal.items()
        )

    def _alone(self) -> list[_Alone]:
        room = min(_CONTEXT_TOKENS, self._model.context_tokens)
        draw = random.Random(20250101)
        lengths = [
            min(length, room - STEPS)
            for length in itertools.islice(itertools.cycle(_LENGTHS), self._limit)
        ]
        text = self._vocab.tokenize(_TEXT * 40, special=False)[: max(lengths) * 2 // 3]
        text += [draw.randrange(self._vocab.size) for _ in range(max(lengths) - len(text))]
        self._prefill(text)
        # Which keys and values they are makes no difference to whether bits depend on the width.
        state = self._context.save(0, complete=False)
        made = []
        for sequence, length in enumerate(lengths):
            self._context.restore(sequence, state)
            self._context.forget(sequence, length)
            tokens = [draw.randrange(self._vocab.size) for _ in range(STEPS)]
            logits = [
                self._step([(sequence, token, position)])[0]
                for position, token in enumerate(tokens, length)
            ]
            self._context.forget(sequence, length)
            made.append(_Alone(length, tokens, logits))
        return made

    def _together(self, alone: Sequence[_Alone], width: int) -> bool:
        """Whether `width` of them in one batch get the bits that they got alone."""
        equal = True
        every = range(len(alone))
        # Neighbours, as llama.cpp puts only these into one batch.
        for group in (every[:width], every[-width:]):
            for step in range(STEPS):
                logits = self._step(
                    [
                        (sequence, alone[sequence].tokens[step], alone[sequence].position + step)
                        for sequence in group
                    ]
                )
                equal = equal and logits == [alone[sequence].logits[step] for sequence in group]
            for sequence in group:
                self._context.forget(sequence, alone[sequence].position)
        return equal

    def _step_s(self, width: int) -> float:
        """The CPU time of a step of short sequences, in seconds: the least of several, as other
        programs can only add to it."""
        spent_s = []
        for position in range(_TIMED_STEPS):
            began = thread_time()
            self._step([(sequence, 0, position) for sequence in range(width)])
            spent_s.append(thread_time() - began)
        for sequence in range(width):
            self._context.forget(sequence)
        return min(spent_s)

    def _prefill(self, tokens: Sequence[int]) -> None:
        for first in range(0, len(tokens), self._model.piece_tokens):
            piece = tokens[first : first + self._model.piece_tokens]
            self._batch.fill(0, first, piece, outputs=1)
            self._compute()

    def _step(self, entries: Sequence[tuple[int, int, int]]) -> list[bytes]:
        """Decode (sequence, token, position) entries in one batch; returns each one's logits."""
        for place, (sequence, token, position) in enumerate(entries):
            self._batch.put(place, sequence, position, token)
        self._compute()
        return [self._logits(place) for place in range(len(entries))]

    def _compute(self) -> None:
        if not self._context.compute_for(_SLOT, llama_cpp.llama_decode, self._batch):
            raise _StoppedError

    def _logits(self, place: int) -> bytes:
        pointer = llama_cpp.llama_get_logits_ith(self._context.native, place)
        return ctypes.string_at(check(pointer, "give the logits"), self._vocab.size * 4)


def lower_priority() -> None:
    """Let other threads run first, where the system can do that.

    By a little only: this thread holds the GIL now and then, and all wait for it then.
    """
    # On Linux a thread has a priority of its own; elsewhere this would be the process's.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
