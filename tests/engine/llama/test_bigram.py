"""The model that `write_bigram` writes: it answers with the pieces it was given, in order."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from asteady._engine.llama.engine import LlamaEngine
from tests.engine.conftest import load
from tests.engine.driving import generate
from tests.gguf_files import write_bigram


def loaded(directory: Path) -> LlamaEngine:
    return load(directory, "bigram.gguf")


def test_an_answer_is_the_chain_piece_by_piece(tmp_path: Path) -> None:
    write_bigram(
        tmp_path / "bigram.gguf",
        ["\n", "<tag>", "I", " should", "\n\n", b"\xc3", b"\xa9", "<hidden>", "!"],
        control=["<hidden>"],
        user_defined=["<tag>"],
    )
    engine = loaded(tmp_path)
    answer = generate(engine, "Hi", temperature=1.0)
    assert answer.chunks == ("<tag>", "I", " should", "\n\n", "é", "!")
    assert (answer.finish_reason, answer.completion_tokens) == ("stop", 8)
    assert generate(engine, "I", raw=True).chunks[:2] == (" should", "\n\n")
    engine.close()


def test_a_piece_has_one_follower(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a' is followed by two"):
        write_bigram(tmp_path / "bigram.gguf", ["a", "b"], ["a", "c"])
    write_bigram(tmp_path / "bigram.gguf", ["a", "b"], ["b", "c"])
    tokens = gguf.GGUFReader(tmp_path / "bigram.gguf").fields["tokenizer.ggml.tokens"].contents()
    assert len(set(tokens)) == len(tokens)
