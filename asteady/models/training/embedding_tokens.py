"""The student's WordPiece vocabulary, cut exactly as llama.cpp cuts it at run time.

llama.cpp has its own idea of "BERT normalisation" (`llm_tokenizer_wpm`): every code point becomes
the first one of its canonical decomposition and marks go, as in BERT, but ligatures, Hangul and
symbols differ. `words` follows that code, so training sees the tokens that run time sees.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)

# The list of llama.cpp's unicode_set_whitespace; str.isspace() also accepts U+001C to U+001F.
_WHITESPACE = frozenset(
    {0x20, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
    | {*range(0x09, 0x0E), *range(0x2000, 0x200B)}
)
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_SPLIT, _DROP, _ALONE, _JOIN = range(4)


@cache
def _classify(char: str) -> tuple[int, str]:
    base = unicodedata.normalize("NFD", char)[0]
    point = ord(base)
    category = unicodedata.category(base)
    if point in _WHITESPACE:
        return _SPLIT, ""
    # Marks and control characters go; code points that Unicode has not assigned stay.
    if point in (0, 0xFFFD) or category[0] == "M" or (category[0] == "C" and category != "Cn"):
        return _DROP, ""
    lower = base.lower()
    text = lower if len(lower) == 1 else base
    ascii_symbol = point < 0x7F and category[0] == "S"
    if category[0] == "P" or ascii_symbol or any(a <= point <= b for a, b in _CJK):
        return _ALONE, text
    return _JOIN, text


def words(text: str) -> str:
    """The words of a text as llama.cpp's WPM tokenizer sees them, joined by spaces."""
    out: list[str] = []
    for char in text:
        kind, mapped = _classify(char)
        if kind == _JOIN:
            out.append(mapped)
        elif kind == _ALONE:
            out.append(f" {mapped} ")
        elif kind == _SPLIT:
            out.append(" ")
    return " ".join("".join(out).split())


def _alphabet() -> list[str]:
    """Characters that always get a piece of their own, at a word's start and inside a word."""
    ranges = [
        (0x21, 0x7E),
        (0xA1, 0xFF),
        (0x370, 0x3FF),
        (0x430, 0x45F),
        (0x5D0, 0x5EA),
        (0x621, 0x64A),
        (0x905, 0x939),
        (0x1100, 0x1112),
        (0x2010, 0x2027),
        (0x20A0, 0x20BF),
        (0x2190, 0x2193),
        (0x3041, 0x30FF),
    ]
    chars = {chr(point) for low, high in ranges for point in range(low, high + 1)}
    # Signs that are not in one of the ranges; the first is the minus sign.
    chars |= set("\u2212łđħ\u0131œŋ≤≥≠≈∞√∑∏∫™★☆✓✗")
    seen = {piece for char in chars for piece in words(char).split()}
    return sorted(seen)


def train_vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """Train a vocabulary of `size` pieces ("##" marks the inside of a word), in its order."""
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=_alphabet(),
        limit_alphabet=len(_alphabet()),
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer.train_from_iterator((words(text) for text in texts), trainer)
    vocabulary = tokenizer.get_vocab()
    pieces = sorted(vocabulary, key=lambda piece: vocabulary[piece])
    # The trainer knows a continuation only where it met one; the letters that make up Latin
    # words must all have one, or an unusual word is unknown as a whole.
    known = set(pieces)
    missing = [
        form
        for char in _alphabet()
        if unicodedata.category(char)[0] in "LNM"
        for form in (char, f"##{char}")
        if form not in known
    ]
    keep = size - len(missing)
    return pieces[:keep] + missing


class Encoder:
    """Texts to token ids, `[CLS] ... [SEP]`, cut at `max_tokens`."""

    def __init__(self, pieces: Sequence[str], max_tokens: int = 512) -> None:
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        # llama.cpp has no limit on a word's length.
        model = WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=1_000_000)
        self._tokenizer = Tokenizer(model)
        self._tokenizer.pre_tokenizer = WhitespaceSplit()
        self._tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
        )
        self._tokenizer.enable_truncation(max_tokens)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        cut = [words(text) for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch(cut)]


def gguf_piece(piece: str) -> str:
    """A piece as GGUF stores it: U+2581 before a word's start, nothing before the inside."""
    if piece in SPECIAL:
        return piece
    return piece[2:] if piece.startswith("##") and len(piece) > 2 else "\u2581" + piece


def save(pieces: Sequence[str], path: Path) -> None:
    path.write_text("\n".join(pieces), encoding="utf-8")


def load(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")
