"""Texts of any length: cut where no token changes, and refused before anything slow happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import llama_cpp
import pytest
from hypothesis import given, settings, strategies as st

from asteady._base.errors import PromptTooLongError
from asteady._base.requests import EmbedRequest, GenerateRequest
from asteady._engine.llama import vocab as vocab_module
from asteady._engine.llama.embed import EmbedJob
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.llama.special import SpecialTexts
from asteady._engine.plan import EngineOptions
from tests.engine.conftest import load
from tests.gguf_files import write_llama

# Some overlap each other, some are white space or begin with it.
MORE = ["<tool>", "</tool>", "<|im_start|>", "[INST]", "El", "El><", "]]", "  ", "\n\n", " <b>"]
PIECES = [*MORE, "<|user|>", "<|end|>", "<tool", "tool>", "]", "[", "<", ">", " ", "\n", "ab", "é"]


@pytest.fixture(scope="module", params=["gpt2", "spm"])
def overlapping(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlamaEngine]:
    directory = tmp_path_factory.mktemp("models")
    tokens = dict.fromkeys(MORE, gguf.TokenType.USER_DEFINED)
    write_llama(directory / "it.gguf", vocabulary=request.param, more_tokens=tokens)
    engine = load(directory, "it.gguf")
    yield engine
    engine.close()


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), st.integers(1, 8))
@settings(max_examples=300, deadline=None)
def test_the_parts_of_a_text_have_the_tokens_of_the_whole(
    overlapping: LlamaEngine, text: str, size: int
) -> None:
    vocab = overlapping.vocab
    parts = list(vocab.special.parts(text, size))
    assert "".join(parts) == text
    whole = vocab.tokenize(text, special=True)
    assert [token for part in parts for token in vocab.tokenize(part, special=True)] == whole


def test_a_long_text_is_tokenised_in_parts(
    gpt2: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp's own search takes 19 s for this text: its time is quadratic."""
    sizes = []
    tokenize = llama_cpp.llama_tokenize

    def noting(vocab: object, data: bytes, *rest: object) -> int:
        sizes.append(len(data))
        return tokenize(vocab, data, *rest)  # type: ignore[no-any-return]

    text = "<|user|>x" * 40_000
    monkeypatch.setattr(llama_cpp, "llama_tokenize", noting)
    tokens = gpt2.vocab.tokenize(text, special=True)
    assert len(tokens) == 80_000
    assert sum(sizes) == len(text)
    assert max(sizes) < 2048


def test_only_what_nothing_overlaps_begins_a_part() -> None:
    texts = ["<a>", "<a><b>", "<c>", "x<", "<d>", "in<d>side", " <e>"]
    special = SpecialTexts([*texts, "<loose>"], texts)
    assert list(special.parts("1<a>2<c>3x<c>4<d>5 <e>6<loose>7", 1)) == [
        "1<a>2<c>3x<c>4<d>5 <e>6<loose>7"
    ]
    apart = SpecialTexts(["<a>", "<c>", "<"], ["<a>", "<c>", "<"])
    assert list(apart.parts("<a>1<c>2<3<a><a>", 1)) == ["<a>1", "<c>2<3", "<a>", "<a>"]
    assert list(apart.parts("<a>1<c>2<3<a><a>", 5)) == ["<a>1<c>2<3", "<a><a>"]


@pytest.mark.parametrize("white", [True, False])
def test_a_stretch_that_could_overflow_the_stack_is_refused(
    gpt2: LlamaEngine, monkeypatch: pytest.MonkeyPatch, white: bool
) -> None:
    monkeypatch.setattr(vocab_module, "LONGEST_STRETCH", 20)
    character = " " if white else "A"
    gpt2.vocab.tokenize(("A" * 20 + " " * 20) * 3, special=False)
    with pytest.raises(PromptTooLongError, match="21 characters in a row"):
        gpt2.vocab.tokenize(("A" if white else " ") + character * 21, special=False)


LARGE = "word " * 200_000


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (GenerateRequest.of(LARGE), "the prompt has 1,000,000 characters"),
        (GenerateRequest.of(LARGE, raw=True), "the prompt has 1,000,000 characters"),
        (
            GenerateRequest.of(messages=[{"role": "user", "content": LARGE}]),
            "the conversation has 1,000,004 characters",
        ),
    ],
    ids=["prompt", "raw", "messages"],
)
def test_what_cannot_fit_is_refused_unread(
    gpt2: LlamaEngine, monkeypatch: pytest.MonkeyPatch, request_: GenerateRequest, what: str
) -> None:
    monkeypatch.delattr(llama_cpp, "llama_tokenize")
    for check in (gpt2.check_size, gpt2.prepare):
        with pytest.raises(PromptTooLongError, match=f"{what}.*1,024 tokens.* at most 65,536 "):
            check(request_)


def test_no_prompt_that_fits_is_refused(models: Path) -> None:
    write_llama(models / "wide.gguf", context=20_000)
    engine = load(models, "wide.gguf", EngineOptions(context_tokens=20_000, probe=False))
    longest = engine.vocab.longest_piece_bytes
    assert longest == len("<|assistant|>")
    prompt = "<|assistant|>" * 19_000
    job = engine.prepare(GenerateRequest.of(prompt, raw=True))
    assert len(job.tokens) == 19_001  # type: ignore[attr-defined]
    with pytest.raises(PromptTooLongError, match="at most 260,000 "):
        engine.prepare(GenerateRequest.of("x" * 260_001, raw=True))
    engine.close()


def test_an_embedding_text_that_cannot_fit_is_refused_or_truncated(bert: LlamaEngine) -> None:
    text = "the cache " * 150_000
    with pytest.raises(PromptTooLongError, match="the text has 1,500,000 characters"):
        bert.prepare(EmbedRequest.of(text))
    bert.check_size(EmbedRequest.of(text, truncate=True))
    job = bert.prepare(EmbedRequest.of(text, truncate=True))
    assert isinstance(job, EmbedJob)
    assert job.truncated
    assert job.tokens == bert.prepare(EmbedRequest.of("the cache " * 2000, truncate=True)).tokens  # type: ignore[attr-defined]


@given(
    st.lists(st.sampled_from(["the", "cache", " ", "\n", "  ", "é", "hello ", "x"]), max_size=60),
    st.integers(1, 60),
)
@settings(max_examples=200, deadline=None)
def test_a_text_is_truncated_as_if_all_of_it_were_read(
    bert: LlamaEngine, words: list[str], size: int
) -> None:
    text = "".join(words) * 30 + "the"
    request = EmbedRequest.of(text, truncate=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bert, "context_tokens", 6)
        patch.setitem(bert.__dict__, "_max_characters", len(text))
        whole = bert.prepare(request)
        patch.setitem(bert.__dict__, "_max_characters", size)
        assert bert.prepare(request) == whole
