"""Which tokens the form of an answer allows next.

The mask of the next token depends on the tokens before it only, so one that takes long is computed
in a thread of its own while llama.cpp computes the logits that it is for.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from asteady._base.constraints import Constraint
from asteady._base.errors import EngineError, InvalidRequestError
from asteady._base.settings import FORM_MAX_STATES
from asteady._base.threads import start_daemon
from asteady._base.validation import refuse, shorten
from asteady._engine.output.guidance import Language, Matcher, Tokens
from asteady._engine.output.schemas import grammar_of, place_of

if TYPE_CHECKING:
    from asteady._base.requests import Vector

_log = logging.getLogger("asteady")

# Compiling takes milliseconds, up to a second for a large form; copying what was compiled takes
# microseconds. It is about as large as a hundred times its text.
_KEPT = 64
_KEPT_CHARACTERS = 2**20
# To wake a thread takes up to 0.2 ms; most masks take 10 to 50 us.
_WAKING_S = 1e-4
_TOO_DEEP = "it is nested too deep"
_TOO_MANY_STATES = "too many states"
_TOO_LARGE = "it takes too much memory: simplify it, or raise form_max_states (1 to 2 KB each)"
_NAMES = {"json": "schema", "choices": "choices", "regex": "regex", "lark": "grammar"}

# In the library's messages: where in a grammar, and what of a regular expression.
_POSITION = re.compile(r"(?:at )?(\d+)\((\d+)\): ")
_GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)
_LOOK_AROUND = re.compile(r"lookarounds not supported yet; (Start|End)?")
_IN_REGEX = re.compile(r".*?\n(?P<line>.*)\n(?P<marks> *\^+)\nerror: (?P<error>.*)", re.DOTALL)


class Vocabulary(Protocol):
    """The tokens of a model."""

    size: int
    eos: int

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; b"" for a control token."""

    def whole_piece(self, token: int) -> bytes:
        """The bytes of a token, a control token's text too."""

    def ends(self) -> list[int]:
        """All tokens with which an answer may end."""


class Grammars:
    """The compiled forms of one model's answers. Thread-safe; compiling blocks."""

    def __init__(self, vocab: Vocabulary, max_states: int = FORM_MAX_STATES) -> None:
        self._vocab = vocab
        self._max_states = max_states
        self._tokens: Tokens | None = None
        self._making_tokens = threading.Lock()
        self._lock = threading.Lock()
        self._compiled: OrderedDict[Constraint, Matcher] = OrderedDict()

    def compile(self, constraint: Constraint) -> Matcher:
        """The matcher that those of answers are copied from.

        Raises:
            InvalidRequestError: the form is not valid, not supported, or too large, or no text has
                it.
        """
        with self._lock:
            known = self._compiled.get(constraint)
            if known is not None:
                self._compiled.move_to_end(constraint)
                return known
        matcher = _compiled(self._known_tokens(), constraint)
        with self._lock:
            self._compiled[constraint] = matcher
            characters = sum(len(other.source) for other in self._compiled)
            while len(self._compiled) > _KEPT or (
                len(self._compiled) > 1 and characters > _KEPT_CHARACTERS
            ):
                other, _ = self._compiled.popitem(last=False)
                characters -= len(other.source)
        return matcher

    def _known_tokens(self) -> Tokens:
        with self._making_tokens:
            if self._tokens is None:
                vocab = self._vocab
                pieces = [vocab.piece(token) for token in range(vocab.size)]
                # What stands for no bytes is special, and is never allowed by a form.
                names = [
                    b"" if piece else vocab.whole_piece(token) or b"<%d>" % token
                    for token, piece in enumerate(pieces)
                ]
                ends = sorted(vocab.ends(), key=lambda token: (token != vocab.eos, token))
                self._tokens = Tokens(pieces, names, ends, self._max_states)
            return self._tokens


def _compiled(tokens: Tokens, constraint: Constraint) -> Matcher:
    name = _NAMES[constraint.kind]
    if "\0" in constraint.source:
        raise InvalidRequestError(f"{name} is not allowed: it has the character U+0000")
    if constraint.kind == "choices":
        _check_spelling(constraint.choices, tokens.missing_bytes)
    language, source = _grammar(constraint)
    matcher = tokens.matcher(language, source)
    # The first mask tells whether any text has the form, and is computed for all answers.
    if not matcher.error and matcher.mask_into(matcher.new_mask()):
        return matcher
    reason, where = _reason(matcher.error, constraint), ""
    if constraint.kind == "json" and reason != _TOO_DEEP:
        place = place_of(json.loads(source), lambda text: tokens.error_in(language, text))
        where = "" if place == "#" else f" at {place}"
    raise InvalidRequestError(f"{name} is not allowed{where}: {reason}")


def _check_spelling(choices: Iterable[str], missing_bytes: frozenset[int]) -> None:
    """Raises:
    InvalidRequestError: the model has no token for a character of a choice.
    """
    for text in choices if missing_bytes else ():
        if not missing_bytes.isdisjoint(text.encode()):
            char = next(c for c in text if not missing_bytes.isdisjoint(c.encode()))
            raise refuse("choices", text, f"the model has no token for {char!r}")


def _grammar(constraint: Constraint) -> tuple[Language, str]:
    if constraint.kind == "json":
        return "json_schema", grammar_of(constraint.source)
    if constraint.kind == "choices":
        return "regex", "|".join(map(_escaped, constraint.choices))
    return ("regex" if constraint.kind == "regex" else "lark"), constraint.source


def _escaped(text: str) -> str:
    """The regular expression that only this text matches."""
    return re.sub(r"[^\w ]", lambda found: f"\\x{{{ord(found[0]):x}}}", text)


def _reason(error: str, constraint: Constraint) -> str:
    """The library's message in one line."""
    text = error.split("\n<")[0].strip()
    if text.startswith("panic"):
        return "llguidance cannot compile it: it is too large, or nested too deep"
    if text.startswith("recursion limit"):
        return _TOO_DEEP
    if text.startswith("Unimplemented keys: ["):
        keywords = text.splitlines()[0].removeprefix("Unimplemented keys: [").rstrip("]")
        return f"llguidance cannot follow {keywords}: leave it out"
    if not text or text == "NoExtensionBias":
        return "no text has this form"
    if text.startswith("oneOf constraints"):
        return "llguidance cannot follow a oneOf whose cases may overlap: use anyOf"
    if _TOO_MANY_STATES in text:
        return _TOO_LARGE
    if constraint.kind == "lark" and _GBNF.search(constraint.source):
        return "it is GBNF: llguidance.gbnf_to_lark.gbnf_to_lark(grammar) makes Lark's syntax of it"
    if found := _LOOK_AROUND.search(text):
        what = "^ and $ inside of it" if found[1] else "word boundaries"
        pattern = shorten(text.partition(" in regex ")[2].splitlines()[0], 60)
        return f"{what} are not supported, in {pattern}"
    where = ""
    if position := _POSITION.match(text):
        text = text[position.end() :]
        if constraint.kind == "lark":
            where = f"line {position[1]}, column {position[2]}: "
    if found := _IN_REGEX.match(text):
        start, end = found["marks"].index("^"), len(found["marks"])
        part = shorten(found["line"][start:end], 40)
        return f"{where}{found['error'].splitlines()[0]}, in {part!r}"
    return where + text.splitlines()[0].rpartition(" (in regex): ")[2]


class Form:
    """How far an answer has come in its form, and the mask of its next token.

    For the worker's thread: `begin_mask` before the logits are computed, `apply` when they are
    there, `accept` with the token that was sampled.
    """

    def __init__(self, matcher: Matcher, masks: MaskThread) -> None:
        self._matcher = matcher.copy()
        self._mask = self._matcher.new_mask()
        self._masks = masks
        self._begun = False
        self._computed: threading.Event | None = None
        self._valid = False
        self._took_s = 0.0

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return self._matcher.accepting

    def begin_mask(self) -> None:
        """Compute the mask beside what follows, or now if the last one took no longer than waking a
        thread."""
        self._begun, self._valid = True, False
        if self._took_s < _WAKING_S:
            self._compute()
        else:
            self._computed = self._masks.submit(self._compute)

    def apply(self, logits: Vector, *, also: int = -1) -> None:
        """Set the logits of all tokens that are not allowed to minus infinity; `also` is a token
        that is allowed too.

        Raises:
            EngineError: the library failed, or the form allows no token.
        """
        if not self._begun:
            self._compute()
        elif self._computed is not None:
            self._computed.wait()
        self._begun, self._computed = False, None
        if not self._valid:
            raise self._failed()
        refused = np.unpackbits(~self._mask.view(np.uint8), count=logits.size, bitorder="little")
        if also >= 0:
            refused[also] = 0
        np.copyto(logits, -np.inf, where=refused.view(np.bool_))

    def begin(self, tokens: Iterable[int]) -> bool:
        """Begin with tokens that are there already; whether the form allows them."""
        return all(self._matcher.accept(token) for token in tokens)

    @property
    def ended(self) -> bool:
        """Whether the form allows no more."""
        return self._matcher.stopped

    def accept(self, token: int) -> bool:
        """The answer goes on with this token; whether it ends, as the form allows no more.

        Raises:
            EngineError: the library failed, or the form does not allow the token.
        """
        if not self._matcher.accept(token):
            raise self._failed()
        if not self._matcher.stopped:
            return False
        if not self._matcher.accepting:
            raise self._failed()
        return True

    def _compute(self) -> None:
        began = perf_counter()
        self._valid = self._matcher.mask_into(self._mask)
        self._took_s = perf_counter() - began

    def _failed(self) -> EngineError:
        reason = self._matcher.error.split("\n<")[0].strip() or "llguidance gives no reason"
        if reason == "NoExtensionBias":
            reason = "the model has no token for what must come next"
        if _TOO_MANY_STATES in reason:
            reason = _TOO_LARGE
        return EngineError(f"the form of the answer cannot be followed: {reason}")


class MaskThread:
    """A thread that computes masks, from the first one until `close`."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], None], threading.Event] | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None

    def submit(self, compute: Callable[[], None]) -> threading.Event:
        """Have it called; the event is set when that is done."""
        done = threading.Event()
        try:
            if self._thread is None:
                self._thread = start_daemon("asteady-masks", self._run)
        except EngineError:
            compute()  # the system has no room for a thread
            done.set()
            return done
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
            except Exception:
                _log.exception("a mask could not be computed")
            finally:
                done.set()
            del work, compute, done  # or an answer's form would live until the next one's mask
