"""A context with room for several sequences, which keep their prompts after their answers.

A prompt is computed in pieces of a fixed size. When a sequence is cut at the end of a piece and
continued, every logit has the same bits as computed from the beginning: the freed cells are taken
again in the same places. So a new prompt begins where it differs, by whole pieces, from what a
sequence holds. What was decoded token by token has other bits, and is not kept.
"""

from __future__ import annotations

import logging

from asteady._base.errors import EngineError
from asteady._engine.llama.context import Context, Interruptions, LoadedModel
from asteady._engine.llama.lib import Batch
from asteady._engine.plan import RoomShape

_log = logging.getLogger("asteady")

Tokens = tuple[object, ...]
"""Compared only; the first one may be marked as that of an isolated namespace."""


class Room:
    """Sequences in one context; used by the worker's thread, which closes it.

    The memory for it is reserved by whoever makes it, and released by `close`. `tainted` is set
    when numbers that are none may be in the context: it takes no new sequences then.
    """

    def __init__(self, model: LoadedModel, shape: RoomShape, interruptions: Interruptions) -> None:
        self._model = model
        self.shape = shape
        self.context = Context(
            model,
            context_tokens=shape.tokens,
            batch_tokens=model.piece_tokens,
            interruptions=interruptions,
            sequences=shape.sequences,
        )
        self.batch = Batch(model.piece_tokens, shape.sequences)
        self.held: list[Tokens] = [()] * shape.sequences
        """The tokens that each sequence holds, in whole pieces of a prompt; read by any thread."""
        self.busy: set[int] = set()
        self.tainted = False
        self._uses = 0
        self._last_use = [0] * shape.sequences

    def shared_tokens(self, tokens: Tokens) -> int:
        """The most tokens of this prompt that any sequence holds; from any thread."""
        return max(self._shared(held, tokens) for held in self.held)

    def has_place(self, needed_tokens: int) -> bool:
        """Whether a request with so many positions can be taken now."""
        return (
            not self.tainted
            and needed_tokens <= self.shape.tokens
            and len(self.busy) < self.shape.sequences
        )

    def would_evict(self, tokens: Tokens) -> bool:
        """Whether taking this prompt removes another one that is held."""
        idle = [number for number in range(self.shape.sequences) if number not in self.busy]
        return all(self.held[number] for number in idle) and not any(
            self._shared(self.held[number], tokens) for number in idle
        )

    def take(self, tokens: Tokens) -> tuple[int, int]:
        """Take a sequence for this prompt: its number, and how many tokens are there already.

        It is the idle one that holds the most of the prompt; of equal ones, one beside the busy
        ones (llama.cpp computes neighbours in one batch), and the one used longest ago. What only
        another sequence holds is copied from there, which is far cheaper than computing it.
        """
        idle = [number for number in range(self.shape.sequences) if number not in self.busy]
        number = max(
            idle,
            key=lambda each: (
                self._shared(self.held[each], tokens),
                not self.busy or each - 1 in self.busy or each + 1 in self.busy,
                -self._last_use[each],
                -each,
            ),
        )
        count = self._shared(self.held[number], tokens)
        source = max(range(self.shape.sequences), key=lambda n: self._shared(self.held[n], tokens))
        if self._shared(self.held[source], tokens) > count and self.context.can_save(source):
            count = self._copy(source, number, tokens)
        self.context.forget(number, count)
        self.held[number] = tokens[:count]
        self.busy.add(number)
        self._uses += 1
        self._last_use[number] = self._uses
        return number, count

    def begin_with(self, number: int, tokens: Tokens, state: bytes) -> bool:
        """Give a taken sequence the state of these tokens; False, and logged, if that fails."""
        try:
            self.context.restore(number, state)
        except EngineError as exc:
            _log.warning("a prompt is computed without its cached prefix: %s", exc)
            self.held[number] = ()
            return False
        self.held[number] = tokens
        return True

    def cut(self, number: int, count: int) -> None:
        """Keep only so many tokens of a taken sequence, in whole pieces."""
        self.context.forget(number, count)
        self.held[number] = self.held[number][:count]

    def computed(self, number: int, tokens: Tokens) -> None:
        """A taken sequence holds these tokens of its prompt now."""
        whole = len(tokens) - len(tokens) % self._model.piece_tokens
        if self._model.reusable and whole > len(self.held[number]):
            self.held[number] = tokens[:whole]

    def leave(self, number: int) -> None:
        """Give a sequence back; it keeps the whole pieces of its prompt."""
        self.busy.discard(number)
        self.context.forget(number, len(self.held[number]))

    def adopt(self, other: Room, number: int) -> None:
        """Copy what an idle sequence of another room holds to an empty one here, if there is one.

        Fails silently: it is only computed again then.
        """
        tokens = other.held[number]
        if not tokens or other.tainted or len(tokens) > self.shape.tokens:
            return
        if not other.context.can_save(number):
            return
        for place in range(self.shape.sequences):
            if place not in self.busy and not self.held[place]:
                try:
                    self.context.restore(place, other.context.save(number))
                except (EngineError, MemoryError) as exc:
                    _log.debug("a prompt is not kept in a larger context: %s", exc)
                    return
                self.held[place] = tokens
                return

    def close(self) -> None:
        self.context.close()
        self._model.memory.release(self.shape.sequences * self.shape.tokens * self._model.kv_bytes)

    def _copy(self, source: int, number: int, tokens: Tokens) -> int:
        count = self._shared(self.held[source], tokens)
        try:
            self.context.restore(number, self.context.save(source))
        except (EngineError, MemoryError) as exc:
            _log.debug("a prompt is not copied from another sequence: %s", exc)
            self.context.forget(number)
            return 0
        return count

    def _shared(self, held: Tokens, tokens: Tokens) -> int:
        """The whole pieces that both begin with, in tokens; never all of the prompt, as the logits
        after it are needed."""
        piece = self._model.piece_tokens
        count = 0
        most = min(len(held), len(tokens) - 1)
        while (end := count + piece) <= most and held[count:end] == tokens[count:end]:
            count = end
        return count
