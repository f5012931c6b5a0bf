"""asteady.steadytext: SteadyText's own names and arguments."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from asteady import (
    InvalidRequestError,
    ModelCapabilityError,
    ModelError,
    Session,
    blocking,
    steadytext,
)
from asteady.testing import FakeEngine


@pytest.fixture(autouse=True)
def _closed_afterwards() -> Iterator[None]:
    yield
    steadytext.close()


def test_everything_exported_is_there_and_documented() -> None:
    for name in steadytext.__all__:
        assert getattr(steadytext, name).__doc__
    assert (steadytext.DEFAULT_SEED, steadytext.GENERATION_MAX_NEW_TOKENS) == (42, 512)


def test_generate_takes_steadytext_s_arguments_and_answers_as_asteady_does() -> None:
    text = steadytext.generate("Write a haiku about rain", 8)
    assert text == blocking.generate("Write a haiku about rain", max_new_tokens=8)
    defaults = dict.fromkeys(
        ("model", "model_repo", "model_filename", "size", "schema", "regex", "choices", "options")
    )
    again: Any = steadytext.generate(
        "Write a haiku about rain",
        max_new_tokens=8,
        return_logprobs=False,
        eos_string="[EOS]",
        seed=42,
        temperature=0.0,
        response_format=None,
        unsafe_mode=False,
        return_pydantic=False,
        **defaults,
    )
    assert again == text
    assert steadytext.get_cache_manager().get_cache_stats()["generation"]["size"] == 1
    assert steadytext.generate("Write a haiku about rain", 8, eos_string=text[3]) == text[:3]


def test_log_probabilities_come_beside_the_text() -> None:
    text, logprobs = steadytext.generate("hello", max_new_tokens=3, return_logprobs=True)
    tokens = logprobs["content"]
    assert len(tokens) == 3
    assert b"".join(bytes(token["bytes"]) for token in tokens).decode() == text
    assert "".join(token["token"] for token in tokens) == text
    for token in tokens:
        assert len(token["top_logprobs"]) == 5
        assert token["logprob"] == max(top["logprob"] for top in token["top_logprobs"]) <= 0


def test_the_chunks_of_an_answer() -> None:
    chunks = list(steadytext.generate_iter("hello", 5, include_logprobs=False, seed=42))
    assert len(chunks) > 1
    assert "".join(chunks) == steadytext.generate("hello", 5)


def test_the_chunks_of_an_answer_with_log_probabilities() -> None:
    chunks = list(steadytext.generate_iter("hello", 5, include_logprobs=True))
    assert len(chunks) > 1
    text, logprobs = steadytext.generate("hello", 5, return_logprobs=True)
    assert "".join(chunk["token"] for chunk in chunks) == text
    assert [token for chunk in chunks for token in chunk["logprobs"]["content"]] == logprobs[
        "content"
    ]
    for chunk in chunks:
        assert chunk["token"] == "".join(token["token"] for token in chunk["logprobs"]["content"])


def test_log_probabilities_come_with_their_chunk_while_the_next_one_is_not_computed(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "opened_by", lambda opener: Session(engine=engine))
    engine.hold()
    engine.step(1)
    chunks = steadytext.generate_iter("a b", include_logprobs=True, timeout=60)
    first = next(chunks)
    assert (first["token"], len(first["logprobs"]["content"])) == ("You ", 1)
    engine.resume()
    assert [chunk["token"] for chunk in chunks] == ["said: ", "a ", "b"]


def test_none_and_an_empty_end_stand_for_the_defaults() -> None:
    given: dict[str, Any] = {"seed": None, "temperature": None, "eos_string": ""}
    assert steadytext.generate("hello", 5, **given) == steadytext.generate("hello", 5)
    assert not steadytext.is_cached("hello", None, **given)
    assert steadytext.is_cached("hello", 5, **given)
    assert list(steadytext.generate_iter("hello", 5, **given))
    assert steadytext.get_cache_manager().get_cache_stats()["generation"]["size"] == 1
    assert steadytext.embed("rain", seed=None).shape  # type: ignore[arg-type]


def test_above_temperature_0_it_samples_as_steadytext() -> None:
    text = steadytext.generate("hello", 5, temperature=0.8)
    sampling: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
    assert blocking.is_cached("hello", max_new_tokens=5, **sampling)
    assert not blocking.is_cached("hello", max_new_tokens=5, temperature=0.8)
    assert steadytext.is_cached("hello", 5, temperature=0.8)
    assert steadytext.is_cached("hello", 5, temperature=Decimal("0.8"))
    with pytest.raises(InvalidRequestError, match=r"temperature='0.8' .*a number"):
        steadytext.generate("hello", 5, temperature="0.8")
    assert "".join(steadytext.generate_iter("hello", 5, temperature=0.8)) == text
    steadytext.generate("hello", 5, temperature=0.8, top_k=3)
    assert blocking.is_cached("hello", max_new_tokens=5, **{**sampling, "top_k": 3})
    steadytext.generate("hello", 5, temperature=0)
    assert blocking.is_cached("hello", max_new_tokens=5)


def test_blank_texts_are_no_texts() -> None:
    rain = steadytext.embed(text_input="rain")
    for blank in ("", "  ", [], ["", "\n"]):
        vector = steadytext.embed(blank)
        assert vector.shape == rain.shape
        assert vector.dtype == np.float32
        assert not vector.any()
    assert np.array_equal(steadytext.embed(["", "rain", " "]), rain)
    for wrong in (b"rain", 7, ["rain", 7]):
        with pytest.raises(InvalidRequestError):
            steadytext.embed(wrong)  # type: ignore[arg-type]


def test_the_dimension_is_that_of_the_model() -> None:
    assert len(steadytext.embed("rain")) == steadytext.EMBEDDING_DIMENSION
    with pytest.raises(AttributeError, match="EMBEDDING_DIMENSIONS"):
        steadytext.EMBEDDING_DIMENSIONS  # type: ignore[attr-defined]  # noqa: B018


def test_a_list_of_texts_is_embedded_as_one_vector() -> None:
    one, two = steadytext.embed("rain", seed=7), steadytext.embed("snow")
    both = steadytext.embed(["rain", "snow"])
    assert both.shape == one.shape
    assert both.dtype == np.float32
    assert np.linalg.norm(both) == pytest.approx(1.0)
    assert both == pytest.approx((one + two) / np.linalg.norm(one + two), abs=1e-6)
    with pytest.raises(ModelCapabilityError, match="mode='document' is not supported"):
        steadytext.embed("rain", mode="passage")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "small"}, "there are no sizes"),
        ({"schema": {"type": "object"}}, "asteady.blocking.generate takes"),
        ({"regex": "[0-9]+"}, "asteady.blocking.generate takes"),
        ({"choices": ["yes", "no"]}, "asteady.blocking.generate takes"),
        ({"unsafe_mode": True}, "models are local"),
        ({"model_repo": "owner/name"}, "give both"),
        ({"sede": 1}, "did you mean 'seed'"),
    ],
)
def test_what_asteady_does_not_have_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        steadytext.generate("hello", **arguments)
    with pytest.raises(InvalidRequestError, match=message):
        next(steadytext.generate_iter("hello", **arguments))


def test_a_model_is_named_by_repository_and_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"hf:owner/name/model\.gguf"):
        steadytext.generate("hello", model_repo="owner/name", model_filename="model.gguf")


def test_models_can_be_loaded_before_they_are_needed(caplog: pytest.LogCaptureFixture) -> None:
    async def loaded() -> set[str]:
        from asteady._session.default import default_session

        return set((await default_session()).statistics().pools)

    with caplog.at_level(logging.INFO, logger="asteady"), steadytext.use_daemon():
        steadytext.preload_models(skip_embeddings=True)
        assert blocking.run(loaded) == {"generation:builtin"}
        steadytext.preload_models(verbose=True)
        assert blocking.run(loaded) == {"generation:builtin", "embedding:builtin"}
    assert "loaded the models for generation and embedding" in caplog.text


def test_the_directory_of_downloaded_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/models")
    assert steadytext.get_model_cache_dir() == "/models"


def test_process_pools_can_send_the_functions() -> None:
    assert pickle.loads(pickle.dumps(steadytext.generate)) is steadytext.generate
