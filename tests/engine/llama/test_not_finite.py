"""Models that compute numbers that are none, and options with extreme values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asteady import EngineError, Session
from asteady._base.errors import InvalidRequestError
from asteady._base.requests import Completion, EmbedRequest, GenerateRequest
from asteady._engine.api import AnswerEvent, ErrorEvent, Worker
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.plan import Setup
from tests.engine.conftest import load
from tests.engine.driving import digest, drain, generate
from tests.gguf_files import BERT_WORDS, with_values, write_bert, write_llama

NAN, INFINITY = math.nan, math.inf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("not-finite")
    write_llama(folder / "good.gguf", weights="F32")
    write_bert(folder / "good-bert.gguf")
    return folder


@pytest.fixture(scope="module")
def good(folder: Path) -> Iterator[LlamaEngine]:
    engine = load(folder, "good.gguf", setup=Setup(width=2))
    yield engine
    engine.close()


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ([("output.weight", (7, 3), NAN)], "nan"),
        ([("blk.1.ffn_down.weight", 5, NAN)], "nan"),
        # One factor of each product, so that all logits overflow to the same side.
        ([("output_norm.weight", 0, 1e3), ("output.weight", (slice(None), 0), 3e38)], "-?inf"),
        ([("output_norm.weight", 0, -1e3), ("output.weight", (slice(None), 0), 3e38)], "-?inf"),
        # They are numbers, but a repeat penalty or a temperature would make them none.
        ([("output.weight", slice(None), 1e35)], r"-?\d.*e\+3\d"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"temperature": 1}, {"logprobs": 2}])
def test_no_answer_is_made_of_logits_that_are_no_numbers(
    folder: Path,
    good: LlamaEngine,
    weights: list[tuple[str, Any, float]],
    named: str,
    options: dict[str, float],
) -> None:
    with_values(folder / "good.gguf", folder / "bad.gguf", *weights)
    engine = load(folder, "bad.gguf")
    message = rf"bad\.gguf' computed the logit {named}, .*damaged.*another model"
    try:
        with pytest.raises(EngineError, match=message):
            generate(engine, "Hi", max_new_tokens=3, **options)
    finally:
        engine.close()


def test_one_infinite_logit_is_an_error_and_one_of_minus_infinity_is_never_chosen(
    folder: Path, good: LlamaEngine
) -> None:
    answers, errors = [], []
    for factor in (1e3, -1e3):
        changes = [("output_norm.weight", 0, factor), ("output.weight", (7, 0), 3e38)]
        with_values(folder / "good.gguf", folder / "bad.gguf", *changes)
        engine = load(folder, "bad.gguf")
        try:
            answers.append(generate(engine, "Hi", max_new_tokens=1, logprobs=100))
        except EngineError as exc:
            errors.append(str(exc))
        engine.close()
    (answer,), (error,) = answers, errors
    assert "computed the logit inf" in error
    assert answer.logprobs is not None
    numbers = [answer.logprobs[0].logprob, *(entry[2] for entry in answer.logprobs[0].top)]
    assert np.isfinite(numbers).all()


@pytest.fixture
def one_bad_token(folder: Path, good: LlamaEngine) -> Iterator[tuple[LlamaEngine, str]]:
    """A model in which one token is NaN, and a prompt that has this token."""
    (token,) = good.vocab.tokenize("z", special=False)
    with_values(folder / "good.gguf", folder / "one.gguf", ("token_embd.weight", token, NAN))
    engine = load(folder, "one.gguf", setup=Setup(width=2))
    yield engine, "z" + "a b c" * 40
    engine.close()


def ask(prompt: str) -> GenerateRequest:
    return GenerateRequest.of(prompt, raw=True, max_new_tokens=40, logit_bias={122: -100})


def test_numbers_that_are_none_reach_no_other_answer(
    one_bad_token: tuple[LlamaEngine, str], good: LlamaEngine
) -> None:
    engine, bad = one_bad_token
    worker = engine.open_worker()
    prompts = ["b", "a b c" * 20, "d e f" * 10]
    expected = [alone(good, prompt) for prompt in prompts]
    running = worker.admit(engine.prepare(ask(prompts[0])))
    worker.step()
    failing = worker.admit(engine.prepare(ask(bad)))
    errors: list[ErrorEvent] = []
    while not errors:
        errors = [event for event in worker.step() if isinstance(event, ErrorEvent)]
    assert errors[0].slot == failing
    # This one gets the memory of the one that failed.
    later = worker.admit(engine.prepare(ask(prompts[1])))
    answers, _ = drain(worker, running, later)
    last = worker.admit(engine.prepare(ask(prompts[2])))
    answers |= drain(worker, last)[0]
    worker.close()
    assert [text(answers[slot]) for slot in (running, later, last)] == expected


def text(answer: object) -> str:
    assert isinstance(answer, Completion)
    return answer.text


def alone(engine: LlamaEngine, prompt: str) -> str:
    worker = engine.open_worker()
    slot = worker.admit(engine.prepare(ask(prompt)))
    answers, _ = drain(worker, slot)
    worker.close()
    return text(answers[slot])


def step(worker: Worker, engine: LlamaEngine, text: str) -> AnswerEvent | ErrorEvent:
    worker.admit(engine.prepare(EmbedRequest.of(text)))
    (event,) = worker.step()
    assert isinstance(event, AnswerEvent | ErrorEvent)
    return event


def test_a_vector_of_numbers_that_are_none_is_an_error_of_its_text_alone(folder: Path) -> None:
    engine = load(folder, "good-bert.gguf")
    last = -1 - BERT_WORDS[::-1].index("world")
    with_values(
        folder / "good-bert.gguf", folder / "bad-bert.gguf", ("token_embd.weight", last, NAN)
    )
    bad = load(folder, "bad-bert.gguf")
    worker, other = bad.open_worker(), engine.open_worker()
    try:
        expected = step(other, engine, "the cache")
        event = step(worker, bad, "hello world of the cache")
        assert isinstance(event, ErrorEvent)
        assert isinstance(event.error, EngineError)
        assert "bad-bert.gguf' computed a vector of length nan" in str(event.error)
        event = step(worker, bad, "the cache")
        assert isinstance(event, AnswerEvent)
        assert isinstance(expected, AnswerEvent)
        assert digest(event.answer) == digest(expected.answer)
    finally:
        worker.close()
        other.close()
        bad.close()
        engine.close()


@pytest.mark.anyio
async def test_such_answers_are_never_stored(
    one_bad_token: tuple[LlamaEngine, str], folder: Path, tmp_path: Path
) -> None:
    _, bad = one_bad_token
    model = str(folder / "one.gguf")
    async with Session(generation_model=model, cache_dir=tmp_path, probe=False) as session:
        for _ in range(2):
            with pytest.raises(EngineError, match="nan"):
                await session.generate(bad, raw=True)
            with pytest.raises(EngineError, match="nan"):
                await session.complete(bad, raw=True, logprobs=1)
        assert not await session.is_cached(bad, raw=True)


# Probabilities of 1e-40 are denormal in float32, those of 1e-320 in float64.
TINY = (0.0, 5e-324, 1e-320, 1e-50, 1e-40, 1e-30, 1e-9)


@pytest.mark.parametrize("bias", [None, {122: 100}])
def test_the_smallest_values_of_an_option_are_their_limit(
    good: LlamaEngine, bias: dict[int, float] | None
) -> None:
    def answer(**options: float) -> str:
        return generate(good, "Hi", max_new_tokens=20, logit_bias=bias, **options).text

    greedy = answer()
    sampled = answer(temperature=1)
    for tiny in TINY:
        assert answer(temperature=tiny) == greedy
        assert answer(temperature=1, top_p=tiny) == greedy
        assert answer(temperature=1, min_p=1 - tiny) == greedy
        assert answer(temperature=1, min_p=tiny) == sampled
        assert answer(temperature=1, top_p=1 - tiny) == sampled
        assert answer(temperature=1, typical_p=1 - tiny) == sampled
        assert answer(temperature=1, presence_penalty=tiny, frequency_penalty=-tiny) == sampled
        assert answer(temperature=1, repeat_penalty=1 + tiny) == sampled
        if bias:
            # A single token has all the probability, and is the only typical one.
            assert answer(temperature=1, typical_p=tiny) == greedy == "z" * 20
    assert answer(temperature=1e-6) == greedy


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY, 1e308, -1e308])
@pytest.mark.parametrize(
    "option",
    [
        "temperature",
        "top_p",
        "min_p",
        "typical_p",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
    ],
)
def test_an_option_that_is_no_number_of_its_range_is_refused(option: str, value: float) -> None:
    with pytest.raises(InvalidRequestError, match=f"{option}={re.escape(repr(value))} .*a number"):
        GenerateRequest.of("Hi", **{option: value})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match=r"logit_bias\[5\]=.*a number from -100"):
        GenerateRequest.of("Hi", logit_bias={5: value})


def test_a_logarithm_of_a_probability_that_underflows_is_a_number(good: LlamaEngine) -> None:
    answer = generate(good, "Hi", max_new_tokens=5, logit_bias={122: 100}, logprobs=100)
    for entry in answer.logprobs or ():
        numbers = [entry.logprob, *(logprob for _, _, logprob in entry.top)]
        assert np.isfinite(numbers).all()
