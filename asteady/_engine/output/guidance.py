"""llguidance: which tokens a grammar allows, through the library's C interface.

Its Python interface builds a vocabulary while it holds the GIL: 0.2 s for 49,152 tokens, 1.7 s for
262,144, in which no other thread runs and the event loop stands still. The C interface is in the
same file, and ctypes releases the GIL for each of its calls.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from asteady._base.errors import EngineError
from asteady._base.forks import fork_gate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask: TypeAlias = NDArray[np.uint32]
else:
    Mask = Any

Language: TypeAlias = Literal["json_schema", "regex", "lark"]

# Four for each optional property of an object. By default it is 2,000, and an answer fails at its
# second token; a mask of 12,000 takes 60 ms.
_MOST_ITEMS = 20_000

# In front of a token's bytes: it is special, and no text.
_SPECIAL = b"\xff"
_MESSAGE_BYTES = 4096


class _TokenizerInit(ctypes.Structure):
    """LlgTokenizerInitV2. The library reads as much of it as `struct_size` says."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("vocab_size", ctypes.c_uint32),
        ("tok_eos", ctypes.c_uint32),
        ("token_lens", ctypes.c_void_p),
        ("token_bytes", ctypes.c_char_p),
        ("tokenizer_json", ctypes.c_char_p),
        ("tokenize_assumes_string", ctypes.c_bool),
        ("tokenize_fn", ctypes.c_void_p),
        ("use_approximate_greedy_tokenize_fn", ctypes.c_bool),
        ("tokenize_user_data", ctypes.c_void_p),
        ("slices", ctypes.c_void_p),
        ("tok_eos_extra", ctypes.c_void_p),
        ("tok_eos_extra_count", ctypes.c_uint32),
    )


class _Limits(ctypes.Structure):
    """LlgParserLimits."""

    _fields_ = (
        ("max_items_in_row", ctypes.c_size_t),
        ("initial_lexer_fuel", ctypes.c_uint64),
        ("step_lexer_fuel", ctypes.c_uint64),
        ("step_max_items", ctypes.c_size_t),
        ("max_lexer_states", ctypes.c_size_t),
        ("max_grammar_size", ctypes.c_size_t),
        ("precompute_large_lexemes", ctypes.c_bool),
        ("verbose_errors", ctypes.c_bool),
    )


class _MatcherInit(ctypes.Structure):
    """LlgConstraintInit, with room for what later versions may append."""

    _fields_ = (
        ("tokenizer", ctypes.c_void_p),
        ("log_buffer_level", ctypes.c_uint32),
        ("log_stderr_level", ctypes.c_uint32),
        ("ff_tokens_ok", ctypes.c_bool),
        ("backtrack_ok", ctypes.c_bool),
        ("limits", _Limits),
        ("room", ctypes.c_uint8 * 256),
    )


_POINTER, _TEXT, _SIZE, _INT, _BOOL = (
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
    ctypes.c_int32,
    ctypes.c_bool,
)
# The functions that are used: what they return, and what they take.
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llg_new_tokenizer_v2": (_POINTER, (ctypes.POINTER(_TokenizerInit), _TEXT, _SIZE)),
    "llg_free_tokenizer": (None, (_POINTER,)),
    "llg_constraint_init_set_defaults": (None, (ctypes.POINTER(_MatcherInit), _POINTER)),
    "llg_new_matcher": (_POINTER, (ctypes.POINTER(_MatcherInit), _TEXT, _TEXT)),
    "llg_validate_grammar": (
        _INT,
        (ctypes.POINTER(_MatcherInit), _TEXT, _TEXT, _TEXT, _SIZE),
    ),
    "llg_clone_matcher": (_POINTER, (_POINTER,)),
    "llg_free_matcher": (None, (_POINTER,)),
    "llg_matcher_compute_mask_into": (_INT, (_POINTER, _POINTER, _SIZE)),
    "llg_matcher_consume_token": (_INT, (_POINTER, ctypes.c_uint32)),
    "llg_matcher_get_error": (_TEXT, (_POINTER,)),
    "llg_matcher_is_accepting": (_BOOL, (_POINTER,)),
    "llg_matcher_is_stopped": (_BOOL, (_POINTER,)),
}


@functools.cache
def _library() -> Any:
    with fork_gate:
        import llguidance._lib

    library = ctypes.CDLL(llguidance._lib.__file__)
    try:
        for name, (returned, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = returned, arguments
    except AttributeError as exc:
        raise EngineError(
            "answers with a form need llguidance's C interface, which the installed version does "
            f"not have ({exc}): python -m pip install 'llguidance>=1.9,<2'"
        ) from exc
    return library


class Tokens:
    """A vocabulary as the library reads it. Thread-safe. It lives as long as its matchers."""

    def __init__(
        self,
        pieces: Sequence[bytes],
        special: Sequence[bytes],
        ends: Sequence[int],
        max_states: int,
    ) -> None:
        """`pieces` are the bytes that the tokens stand for; those of the tokens that stand for none
        are empty, and `special` has names for these. An answer ends with one of `ends`; the
        automaton of its form has at most `max_states`.

        Takes a second for 262,144 tokens.

        Raises:
            EngineError: the library cannot be used.
        """
        self._library = _library()
        whole = [piece or _SPECIAL + name for piece, name in zip(pieces, special, strict=True)]
        lengths = np.fromiter(map(len, whole), np.uint32, len(whole))
        more = np.array(ends[1:], np.uint32)
        init = _TokenizerInit(
            struct_size=ctypes.sizeof(_TokenizerInit),
            vocab_size=len(whole),
            tok_eos=ends[0],
            token_lens=lengths.ctypes.data,
            token_bytes=b"".join(whole),
            # So it forces no tokens: the model chooses among all that spell what must come.
            use_approximate_greedy_tokenize_fn=True,
            tok_eos_extra=more.ctypes.data if len(more) else None,
            tok_eos_extra_count=len(more),
        )
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        self.size = len(whole)
        self.missing_bytes = frozenset(range(256)) - set(b"".join(pieces))
        """Those that no token has: no text with one of them can be written."""
        self._native = self._library.llg_new_tokenizer_v2(init, message, _MESSAGE_BYTES)
        if not self._native:
            raise EngineError(f"llguidance cannot use the model's vocabulary: {_text(message)}")
        self._init = _MatcherInit()
        self._library.llg_constraint_init_set_defaults(self._init, self._native)
        self._init.log_stderr_level = 0
        self._init.limits.max_items_in_row = _MOST_ITEMS
        # Of the library's limits this is the one on memory, for each answer.
        self._init.limits.max_lexer_states = max_states
        self._init.limits.verbose_errors = False

    def matcher(self, language: Language, source: str) -> Matcher:
        """At the beginning of a text of this grammar. Takes milliseconds, up to about a second.

        Ask for its `error`: there is one if the grammar is not allowed.
        """
        native = self._library.llg_new_matcher(self._init, language.encode(), source.encode())
        return Matcher(self._library, native, self)

    def error_in(self, language: Language, source: str) -> str:
        """What is wrong with a grammar; "" if nothing is. Faster than a `Matcher`."""
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        code = self._library.llg_validate_grammar(
            self._init, language.encode(), source.encode(), message, _MESSAGE_BYTES
        )
        return _text(message) if code < 0 else ""

    def __del__(self) -> None:
        if native := getattr(self, "_native", None):
            self._library.llg_free_tokenizer(native)


class Matcher:
    """How far a text has come in its grammar. For one thread at a time.

    An error is for good: it allows no token any more.
    """

    def __init__(self, library: Any, native: int, tokens: Tokens) -> None:
        self._library = library
        self._native = native
        self._tokens = tokens

    def copy(self) -> Matcher:
        """One that shares nothing with it: what one costs depends on no other."""
        native = self._library.llg_clone_matcher(self._native)
        return Matcher(self._library, native, self._tokens)

    @property
    def error(self) -> str:
        """What the library fails on; "" if nothing."""
        message: bytes | None = self._library.llg_matcher_get_error(self._native)
        return "" if message is None else message.decode("utf-8", "replace")

    def new_mask(self) -> Mask:
        """Memory for `mask_into`."""
        return np.zeros((self._tokens.size + 31) // 32, np.uint32)

    def mask_into(self, mask: Mask) -> bool:
        """Write the tokens that are allowed next, a bit for each; False if that is an error."""
        code: int = self._library.llg_matcher_compute_mask_into(
            self._native, mask.ctypes.data, mask.nbytes
        )
        return code == 0

    def accept(self, token: int) -> bool:
        """Go on with this token; False if that is an error."""
        code: int = self._library.llg_matcher_consume_token(self._native, token)
        return code == 0

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""
        return bool(self._library.llg_matcher_is_accepting(self._native))

    @property
    def stopped(self) -> bool:
        """Whether nothing but its end may follow; also after an error."""
        return bool(self._library.llg_matcher_is_stopped(self._native))

    def __del__(self) -> None:
        self._library.llg_free_matcher(self._native)


def _text(message: Any) -> str:
    value: bytes = message.value
    return value.decode("utf-8", "replace")
