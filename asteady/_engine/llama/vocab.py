"""A model's vocabulary: text to tokens, and tokens to their bytes."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import llama_cpp

from asteady._base.errors import EngineError, InvalidRequestError, PromptTooLongError
from asteady._engine.llama.lib import holding_gil
from asteady._engine.llama.special import Span, SpecialTexts
from asteady._engine.preparer import LONGEST_STRETCH, check_wanted

# What is shorter is tokenised at once.
_PART_CHARACTERS = 1024
_STRETCH = re.compile(r"\s+|\S+")

_PARSED = (
    llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
    | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
    | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
)


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
        # Texts that may be special though llama.cpp does not parse them, and those that are tokens.
        self._expected: set[str] = set()
        self._unparsed: dict[str, int] = {}

    def tokenize(self, text: str, *, special: bool, add_special: bool = False) -> list[int]:
        """The tokens of a text.

        `special`: the text of a control token becomes that token. `add_special`: add the tokens
        that the model expects around a text.
        """
        if special and not add_special and len(text) > _PART_CHARACTERS:
            parts = self.special.parts(text, _PART_CHARACTERS)
            return [token for part in parts for token in self._tokenize(part, True, False)]
        return self._tokenize(text, special, add_special)

    def _tokenize(self, text: str, special: bool, add_special: bool) -> list[int]:
        check_wanted()
        if len(text) > LONGEST_STRETCH and not self.is_lossy:
            self._check_stretches(text)
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

    def _check_stretches(self, text: str) -> None:
        longest = max(match.end() - match.start() for match in _STRETCH.finditer(text))
        if longest > LONGEST_STRETCH:
            raise PromptTooLongError(
                f"the text has {longest:,} characters in a row without white space, or of it, and "
                f"llama.cpp's pre-tokenizers can overflow the stack with more than "
                f"{LONGEST_STRETCH:,}: shorten it"
            )

    @functools.cached_property
    def special(self) -> SpecialTexts:
        """The texts that llama.cpp turns into tokens before it tokenises what is between them.

        White space and single characters are left out: such tokens mark nothing, and are how the
        models that have them write ordinary text.
        """
        texts: set[str] = set()
        exact: set[str] = set()
        expected = {text.encode() for text in self._expected}
        attributes_of = holding_gil(llama_cpp.llama_vocab_get_attr)
        text_of = holding_gil(llama_cpp.llama_vocab_get_text)
        for token in range(self.size):
            attributes = attributes_of(self._vocab, token)
            if not attributes & _PARSED:
                if expected and not attributes & llama_cpp.LLAMA_TOKEN_ATTR_BYTE:
                    written = text_of(self._vocab, token)
                    if written in expected:
                        self._unparsed[written.decode()] = token
            else:
                raw = text_of(self._vocab, token).decode("utf-8", "replace")
                # A space of the text becomes this character in SentencePiece vocabularies.
                spaced = raw.replace("\u2581", " ")
                if len(raw) > 1 and spaced.strip():
                    texts |= {raw, spaced}
                    if not attributes & llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP:
                        exact.add(raw)
        return SpecialTexts(texts | set(self._unparsed), exact)

    def expect(self, texts: Iterable[str]) -> None:
        """Take these texts, as far as they are tokens, for special ones whatever their type is.

        Files exist in which tokens that begin and end turns are of an ordinary type. To be called
        before `special` is used.
        """
        self._expected.update(texts)

    def tokenize_message(self, text: str, trusted: Sequence[Span] = ()) -> list[int]:
        """The tokens of a text whose special tokens count at the `trusted` spans only.

        Others are cut behind their first character, and the pieces are tokenised apart: there is
        no way to tell llama.cpp that the text of a USER_DEFINED token is none.
        """
        special = self.special
        tokens: list[int] = []
        begin, inside = 0, []
        for start, end in trusted:
            token = self._unparsed.get(text[start:end])
            if token is None:
                inside.append((start - begin, end - begin))
            else:
                tokens += self._tokenize_pieces(special.split(text[begin:start], inside))
                tokens.append(token)
                begin, inside = end, []
        return tokens + self._tokenize_pieces(special.split(text[begin:], inside))

    def _tokenize_pieces(self, pieces: Sequence[str]) -> list[int]:
        first, *rest = pieces
        tokens = self.tokenize(first, special=True)
        for piece in rest:
            # SentencePiece vocabularies put a space before a text: here before the line feed.
            inside = self.tokenize("\n" + piece, special=True)
            if inside[: len(self._line_feed)] == self._line_feed:
                tokens += inside[len(self._line_feed) :]
            else:
                tokens += self.tokenize(piece, special=True)
        return tokens

    @functools.cached_property
    def _line_feed(self) -> list[int]:
        return self.tokenize("\n", special=False)

    @functools.cached_property
    def longest_piece_bytes(self) -> int:
        """The length of the longest token's text: n tokens hold at most n times as many bytes."""
        text_of = holding_gil(llama_cpp.llama_vocab_get_text)
        # What the file has is as long or longer: a space takes two or three bytes there.
        lengths = [(len(text_of(self._vocab, token)), token) for token in range(self.size)]
        longest = 1
        for length, token in sorted(lengths, reverse=True):
            if length <= longest:
                break
            longest = max(longest, len(self._to_piece(token, special=True)))
        return longest

    @property
    def is_lossy(self) -> bool:
        """Whether a token may stand for any number of bytes (unknown words, white space)."""
        kind = llama_cpp.llama_vocab_type(self._vocab)
        return kind not in (llama_cpp.LLAMA_VOCAB_TYPE_BPE, llama_cpp.LLAMA_VOCAB_TYPE_SPM)

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

    def whole_piece(self, token: int) -> bytes:
        """The bytes of a token, those of a control token too.

        Raises:
            InvalidRequestError: the model has no such token.
        """
        if not 0 <= token < self.size:
            raise InvalidRequestError(
                f"the token {token} is not allowed: the model's tokens are 0 to {self.size - 1}"
            )
        return self._to_piece(token, special=True)

    def control_texts_in(self, texts: Sequence[str]) -> dict[int, str]:
        """The control tokens that these texts have, and their own texts."""
        return {
            token: self.text(token)
            for text in texts
            for token in self.tokenize(text, special=True)
            if llama_cpp.llama_vocab_get_attr(self._vocab, token)
            & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
        }

    def text(self, token: int) -> str:
        """A token as a template writes it, control tokens too; "" for a negative number (none)."""
        return "" if token < 0 else self._to_piece(token, special=True).decode("utf-8", "replace")

    def ends(self) -> list[int]:
        """All tokens with which the model may end its answer; walks the vocabulary."""
        return [token for token in range(self.size) if self.is_end(token)]

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
