"""Embedding by llama.cpp on a small random model."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import gguf
import llama_cpp
import numpy as np
import pytest

from asteady._base.errors import (
    EngineError,
    InvalidRequestError,
    ModelCapabilityError,
    PromptTooLongError,
)
from asteady._base.requests import Embedding, EmbedRequest, GenerateRequest
from asteady._engine.api import AnswerEvent, ErrorEvent
from asteady._engine.llama.embed import EmbedJob, normalised, with_instruction
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.plan import EngineOptions
from tests.engine.conftest import load
from tests.engine.driving import digest, together
from tests.gguf_files import write_bert

TEXTS = ["hello world", "the cache", "a", "async loops of the world", "hello world"]


def embed(engine: LlamaEngine, text: str, **options: object) -> Embedding:
    (answer,) = together(engine, [EmbedRequest.of(text, **options)])  # type: ignore[arg-type]
    assert isinstance(answer, Embedding)
    return answer


def test_a_vector_has_length_one_and_cannot_be_changed(bert: LlamaEngine) -> None:
    began = perf_counter()
    answer = embed(bert, "hello world")
    assert 0 < answer.cost_s <= perf_counter() - began
    assert answer.vector.dtype == np.float32
    assert answer.vector.shape == (64,)
    assert np.linalg.norm(answer.vector.astype(np.float64)) == pytest.approx(1, abs=1e-6)
    assert answer.tokens == 4
    assert not answer.truncated
    assert (answer.model, answer.fingerprint) == (bert.model, bert.fingerprint)
    with pytest.raises(ValueError, match="read-only"):
        answer.vector[0] = 0


def test_a_vector_does_not_depend_on_what_ran_before_or_on_threads(
    bert: LlamaEngine, models: Path
) -> None:
    alone = {text: digest(embed(bert, text)) for text in TEXTS}
    assert len(set(alone.values())) == 4
    for order in (TEXTS, TEXTS[::-1], TEXTS * 2):
        answers = together(bert, [EmbedRequest.of(text) for text in order])
        assert [digest(answer) for answer in answers] == [alone[text] for text in order]
    threaded = load(models, "bert.gguf", EngineOptions(threads=2, probe=False))
    assert {text: digest(embed(threaded, text)) for text in TEXTS} == alone
    threaded.close()


@pytest.mark.parametrize("pooling", [gguf.PoolingType.MEAN, gguf.PoolingType.CLS])
def test_a_text_is_pooled_as_the_metadata_says(
    tmp_path: Path, bert: LlamaEngine, pooling: gguf.PoolingType
) -> None:
    write_bert(tmp_path / "bert.gguf", pooling=pooling)
    engine = load(tmp_path, "bert.gguf")
    same = digest(embed(engine, "hello world")) == digest(embed(bert, "hello world"))
    assert same == (pooling == gguf.PoolingType.MEAN)
    engine.close()


def test_fewer_dimensions_are_the_first_ones_with_length_one(bert: LlamaEngine) -> None:
    whole = embed(bert, "hello world").vector.astype(np.float64)
    short = embed(bert, "hello world", dimensions=8).vector
    np.testing.assert_allclose(short, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)
    assert embed(bert, "hello world", dimensions=64).vector.tobytes() == (
        embed(bert, "hello world").vector.tobytes()
    )
    with pytest.raises(InvalidRequestError, match=r"dimensions=65.*64"):
        embed(bert, "hello world", dimensions=65)


def test_a_text_longer_than_the_context_is_refused_with_the_counts(bert: LlamaEngine) -> None:
    assert embed(bert, "a " * 62).tokens == 64
    with pytest.raises(PromptTooLongError, match=r"65 tokens.*holds 64.*truncate=True"):
        embed(bert, "a " * 63)


def test_a_truncated_text_keeps_its_end_token(bert: LlamaEngine) -> None:
    cut = embed(bert, "a " * 100, truncate=True)
    assert (cut.tokens, cut.truncated) == (64, True)
    assert digest(cut) == digest(embed(bert, "a " * 62))
    assert not embed(bert, "a", truncate=True).truncated


def test_text_of_control_tokens_stays_text(bert: LlamaEngine) -> None:
    job = bert.prepare(EmbedRequest.of("a [SEP] b"))
    assert isinstance(job, EmbedJob)
    texts = [bert.vocab.text(token) for token in job.tokens]
    assert texts[0] == "[CLS]"
    assert texts[-1] == "[SEP]"
    assert "[SEP]" not in texts[:-1]


def test_a_text_of_no_tokens_is_refused(bert: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert embed(bert, "").tokens == 2
    monkeypatch.setattr(bert.vocab, "tokenize", lambda *_, **__: [])
    with pytest.raises(InvalidRequestError, match="no token"):
        embed(bert, "")


def test_a_mode_needs_a_model_that_is_known_for_it(bert: LlamaEngine, tmp_path: Path) -> None:
    with pytest.raises(ModelCapabilityError, match=r"mode='query'.*'random'"):
        embed(bert, "hello", mode="query")
    write_bert(tmp_path / "bert.gguf", name="E5 small v2", context=128)
    engine = load(tmp_path, "bert.gguf")
    assert digest(embed(engine, "hello", mode="query")) == digest(embed(engine, "query: hello"))
    assert digest(embed(engine, "hello", mode="document")) == (
        digest(embed(engine, "passage: hello"))
    )
    engine.close()


def test_a_known_model_may_want_no_prefix_for_documents() -> None:
    assert with_instruction("BGE small en v1.5", "document", "x") == "x"
    assert with_instruction("BGE small en v1.5", "query", "x").endswith("passages: x")
    assert with_instruction("anything", None, "x") == "x"


def test_an_embedding_model_cannot_generate(bert: LlamaEngine) -> None:
    assert bert.kind == "embedding"
    with pytest.raises(ModelCapabilityError, match=r"cannot generate.*generation_model"):
        bert.prepare(GenerateRequest.of("Hi"))


def test_an_interrupted_text_leaves_the_worker_clean(bert: LlamaEngine) -> None:
    worker = bert.open_worker()
    slot = worker.admit(bert.prepare(EmbedRequest.of("the cache")))
    worker.interrupt(slot)
    assert worker.step() == []
    worker.release(slot)
    assert worker.step() == []
    worker.release(slot)
    worker.interrupt(slot)
    worker.admit(bert.prepare(EmbedRequest.of("hello world")))
    (event,) = worker.step()
    assert isinstance(event, AnswerEvent)
    assert digest(event.answer) == digest(embed(bert, "hello world"))
    worker.close()


@pytest.mark.parametrize(
    ("function", "result", "reason"),
    [("llama_encode", -3, "code -3"), ("llama_get_embeddings_seq", None, "no embedding")],
)
def test_a_text_that_llama_cpp_fails_on_is_an_error(
    bert: LlamaEngine,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    result: object,
    reason: str,
) -> None:
    monkeypatch.setattr(llama_cpp, function, lambda *_: result)
    worker = bert.open_worker()
    worker.admit(bert.prepare(EmbedRequest.of("hello world")))
    (event,) = worker.step()
    assert isinstance(event, ErrorEvent)
    assert isinstance(event.error, EngineError)
    assert reason in str(event.error)
    # The slot is free again.
    worker.admit(bert.prepare(EmbedRequest.of("hello world")))
    worker.close()


@pytest.mark.parametrize("values", [[0, 0], [np.nan, 1], [np.inf, 1]])
def test_a_vector_without_a_direction_is_an_error(values: list[float]) -> None:
    with pytest.raises(EngineError, match=r"the model 'm' .*length (0|nan|inf).*another model"):
        normalised(np.array(values, np.float32), "m")


def test_contexts_are_made_with_the_parameters_that_answers_depend_on(
    bert: LlamaEngine, gpt2: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = llama_cpp.llama_init_from_model

    def noted(model, parameters):  # type: ignore[no-untyped-def]
        seen.append((parameters.flash_attn_type, parameters.kv_unified, parameters.n_threads))
        return original(model, parameters)

    monkeypatch.setattr(llama_cpp, "llama_init_from_model", noted)
    for engine, request in ((bert, EmbedRequest.of("hi")), (gpt2, GenerateRequest.of("hi"))):
        worker = engine.open_worker()
        worker.admit(engine.prepare(request))
        worker.step()
        worker.close()
    assert seen == [(0, False, 1), (0, False, 1)]
