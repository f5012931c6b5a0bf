"""Text to tokens and tokens to text: a model's vocabulary, and the text stream of one answer."""

from __future__ import annotations

import codecs
import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp

from asteady._base.errors import EngineError


class Vocab:
    """The vocabulary of a loaded model, usable from any thread for as long as the model is."""

    def __init__(self, model: Any) -> None:
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self.size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.bos: int = llama_cpp.llama_vocab_bos(self._vocab)
        self.eos: int = llama_cpp.llama_vocab_eos(self._vocab)
        self.add_bos: bool = llama_cpp.llama_vocab_get_add_bos(self._vocab)
        self._ends = frozenset({self.eos, llama_cpp.llama_vocab_sep(self._vocab)})
        # Filled on first use: most of a large vocabulary is never met. Threads that fill the same
        # place at once write the same value.
        self._pieces: list[bytes | None] = [None] * self.size
        self._is_end: dict[int, bool] = {}

    def tokenize(self, text: str, *, special: bool, add_special: bool = False) -> list[int]:
        """The tokens of a text.

        `special`: the text of a control token becomes that token. `add_special`: add the tokens
        that the model expects around a text.
        """
        data = text.encode()
        room = len(data) // 2 + 16
        while True:
            tokens = (ctypes.c_int32 * room)()
            count = llama_cpp.llama_tokenize(
                self._vocab, data, len(data), tokens, room, add_special, special
            )
            if count >= 0:
                return list(tokens[:count])
            if -count <= room:  # pragma: no cover  # more than 2**31 tokens
                raise EngineError(f"llama.cpp could not tokenise a text of {len(data)} bytes")
            room = -count

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; b"" for a control token."""
        known = self._pieces[token]
        if known is None:
            known = self._pieces[token] = self._to_piece(token, special=False)
        return known

    def _to_piece(self, token: int, *, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            count = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            room = -count

    def text(self, token: int) -> str:
        """A token as a template writes it, control tokens too; "" for a negative number (none)."""
        return "" if token < 0 else self._to_piece(token, special=True).decode("utf-8", "replace")

    def is_control(self, token: int) -> bool:
        """Whether this is a control token, such as the end of a turn."""
        return bool(llama_cpp.llama_vocab_is_control(self._vocab, token))

    def is_end(self, token: int) -> bool:
        """Whether the model ends its answer with this token."""
        known = self._is_end.get(token)
        if known is None:
            known = bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))
            self._is_end[token] = known
        return known

    def truncate(self, tokens: list[int], limit: int) -> list[int]:
        """The first `limit` tokens, of which the last is the model's end token if it was before."""
        if tokens[-1] in self._ends:
            return [*tokens[: limit - 1], tokens[-1]]
        return tokens[:limit]


class TextStream:
    """Turns the bytes of one answer's tokens into chunks of text.

    An incomplete UTF-8 sequence waits for its last byte; bytes that can never become a character
    turn into U+FFFD, as with ``bytes.decode(errors="replace")``. Text that may be the beginning of
    a stop string waits too. The text ends before the stop string that is complete first (of two
    that end at the same character, the longer one). So it does not depend on how the text was cut
    into tokens.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stops = stops
        self._beginnings = {stop[:length] for stop in stops for length in range(1, len(stop))}
        self._longest = max((len(stop) for stop in stops), default=0)
        self._waiting = ""
        self.stopped = False

    def add(self, data: bytes) -> str:
        """The text that these bytes complete; may be ""."""
        text = self._decode(data)
        return self._scan(text) if self._stops else text

    def end(self) -> str:
        """The rest of the text, when no more bytes follow."""
        text = self._decode(b"", True)
        if not self._stops:
            return text
        shown = self._scan(text)
        if not self.stopped:
            shown, self._waiting = shown + self._waiting, ""
        return shown

    def _scan(self, text: str) -> str:
        if not text or self.stopped:
            return ""
        text = self._waiting + text
        self._waiting = ""
        matches = [
            (start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0
        ]
        if matches:
            self.stopped = True
            return text[: min(matches)[1]]
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if text[-length:] in self._beginnings:
                self._waiting = text[-length:]
                return text[:-length]
        return text
