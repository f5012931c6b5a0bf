"""Which tokens the form of an answer allows next, by llguidance.

The mask of the next token depends on the tokens before it only, so it is computed in a thread of
its own while llama.cpp computes the logits that it is for.
"""

from __future__ import annotations

import functools
import json
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from asteady._base.constraints import Constraint
from asteady._base.errors import EngineError, InvalidRequestError
from asteady._base.forks import fork_gate
from asteady._base.threads import start_daemon

if TYPE_CHECKING:
    from asteady._base.requests import Vector

# Compiling a schema takes milliseconds, a hundred for a large one; copying it microseconds.
_KEPT = 64
# Four for each optional property of an object. By default it is 2,000, and an answer fails at its
# second token; a mask of 12,000 takes 60 ms.
_MOST_ITEMS = 20_000
# What json.dumps writes, which models have seen most; with free white space a small model may
# write nothing else until its tokens are used up.
_JSON: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_NAMES = {"json": "schema", "choices": "choices", "regex": "regex", "lark": "grammar"}


class Vocabulary(Protocol):
    """The tokens of a model."""

    size: int
    bos: int
    eos: int

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; b"" for a control token."""

    def whole_piece(self, token: int) -> bytes:
        """The bytes of a token, a control token's text too."""

    def ends(self) -> list[int]:
        """All tokens with which an answer may end."""

    def tokenize(self, text: str, *, special: bool) -> list[int]: ...


class Grammars:
    """The compiled forms of one model's answers. Thread-safe; compiling blocks."""

    def __init__(self, vocab: Vocabulary) -> None:
        self._vocab = vocab
        self._lock = threading.Lock()
        self._compiled: OrderedDict[Constraint, Any] = OrderedDict()

    def compile(self, constraint: Constraint) -> Any:
        """The matcher that those of answers are copied from.

        Raises:
            InvalidRequestError: the form is not valid, not supported, or too large.
        """
        with self._lock:
            known = self._compiled.get(constraint)
            if known is not None:
                self._compiled.move_to_end(constraint)
                return known
        with fork_gate:
            import llguidance

        name = _NAMES[constraint.kind]
        try:
            grammar = _grammar(llguidance.LLMatcher, constraint)
        except ValueError as exc:
            raise InvalidRequestError(f"{name} is not allowed: {exc}") from None
        limits = llguidance.LLParserLimits(max_items_in_row=_MOST_ITEMS)
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise InvalidRequestError(f"{name} is not allowed: {_first_line(matcher.get_error())}")
        with self._lock:
            self._compiled[constraint] = matcher
            while len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return matcher

    @functools.cached_property
    def _tokenizer(self) -> Any:
        import llguidance

        return llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Pieces(self._vocab)), eos_token=self._vocab.ends()
        )


class _Pieces:
    """A vocabulary as llguidance takes it."""

    def __init__(self, vocab: Vocabulary) -> None:
        self._vocab = vocab
        ends = vocab.ends()
        self.eos_token_id = vocab.eos if vocab.eos in ends else ends[0]
        self.bos_token_id = vocab.bos if vocab.bos >= 0 else None
        self.tokens = [vocab.piece(token) for token in range(vocab.size)]
        # What stands for no bytes is special, and is never allowed by a form.
        self.special_token_ids = [token for token, piece in enumerate(self.tokens) if not piece]
        for token in self.special_token_ids:
            self.tokens[token] = vocab.whole_piece(token) or b"<%d>" % token

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return self._vocab.tokenize(text, special=False)


def _grammar(matcher: Any, constraint: Constraint) -> str:
    grammar: str
    if constraint.kind == "json":
        grammar = matcher.grammar_from_json_schema(constraint.source, overrides=_JSON)
    elif constraint.kind == "regex":
        grammar = matcher.grammar_from_regex(constraint.source)
    elif constraint.kind == "choices":
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in constraint.choices)
        grammar = matcher.grammar_from_lark(f"start: {texts}")
    else:
        grammar = matcher.grammar_from_lark(constraint.source)
    return grammar


def _first_line(error: str) -> str:
    return error.strip().splitlines()[0] if error.strip() else "the library gives no reason"


class Form:
    """How far an answer has come in its form, and the mask of its next token.

    For the worker's thread: `begin_mask` before the logits are computed, `apply` when they are
    there, `accept` with the token that was sampled.
    """

    def __init__(self, matcher: Any, size: int, masks: MaskThread) -> None:
        self._matcher = matcher.deep_copy()
        self._bits = np.zeros((size + 31) // 32, np.int32)
        self._size = size
        self._masks = masks
        self._computed: threading.Event | None = None

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())

    def begin_mask(self) -> None:
        """Compute the mask beside what follows."""
        self._computed = self._masks.submit(self._compute)

    def apply(self, logits: Vector, *, also: int = -1) -> None:
        """Set the logits of all tokens that are not allowed to minus infinity; `also` is a token
        that is allowed too.

        Raises:
            EngineError: the library failed, or the form allows no token.
        """
        if self._computed is None:
            self._compute()
        else:
            self._computed.wait()
            self._computed = None
        if self._matcher.is_error():
            raise self._failed()
        allowed = np.unpackbits(self._bits.view(np.uint8), count=self._size, bitorder="little")
        if also >= 0:
            allowed[also] = 1
        if not allowed.any():
            raise EngineError("the form of the answer allows no token of the model's vocabulary")
        np.copyto(logits, -np.inf, where=allowed.view(np.bool_) ^ True)

    def accept(self, token: int) -> bool:
        """The answer goes on with this token; whether it ends, as the form allows no more.

        Raises:
            EngineError: the library failed.
        """
        if not self._matcher.consume_token(token):
            raise self._failed()
        return bool(self._matcher.is_stopped())

    def _compute(self) -> None:
        bits = self._bits
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)

    def _failed(self) -> EngineError:
        return EngineError(
            f"the form of the answer cannot be followed: {_first_line(self._matcher.get_error())}"
        )


class MaskThread:
    """A thread that computes masks, from the first one until `close`."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], None], threading.Event] | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None

    def submit(self, compute: Callable[[], None]) -> threading.Event:
        """Have it called; the event is set when that is done."""
        if self._thread is None:
            self._thread = start_daemon("asteady-masks", self._run)
        done = threading.Event()
        self._work.put((compute, done))
        return done

    def close(self) -> None:
        if self._thread is not None:
            self._work.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            compute, done = work
            try:
                compute()
            finally:
                done.set()


def most_tokens(constraint: Constraint, tokenize: Callable[[str], Sequence[int]]) -> int | None:
    """How many tokens an answer of this form has at most; None if that is not bounded, or not
    known."""
    if constraint.kind != "choices":
        return None
    # A model may take other tokens than the tokenizer, at worst one for each byte.
    longest = max(constraint.choices, key=lambda text: len(text.encode()))
    return max(len(tokenize(longest)), len(longest.encode()))
